from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.publish.publisher import XenstorePublisher
from gateway.core.routing.publication import NodeSet, Text, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Outcome, Reply
from gateway.core.xenstore.paths import template
from tests.kit.backends import toy_route
from tests.kit.cases import each_case
from tests.kit.programs import TIMEOUT
from tests.kit.stores import connected, until, xenstored

TRIGGER = WatchTrigger("store", template("/a/b"), toy_route("Ring"), {"value": Text("{value}")}, fingerprint="watcher")


class Heard:
    def __init__(self) -> None:
        self.values: asyncio.Queue[object] = asyncio.Queue()
        self.pictures: asyncio.Queue[str] = asyncio.Queue()

        self.held: asyncio.Event | None = None
        self.finished = 0

    async def fire(self, _route: Route, call: Call) -> Outcome:
        self.values.put_nowait(call.named["value"])
        if self.held is not None:
            await self.held.wait()
        self.finished += 1
        return Reply(None)


@asynccontextmanager
async def board() -> AsyncIterator[tuple[XenstorePublisher, XenstoreClient, Heard]]:
    heard = Heard()
    with xenstored() as server:
        async with connected(server.path) as store:
            made = XenstorePublisher(store, heard.fire, heard.pictures.put_nowait)
            made.start()
            try:
                yield made, store, heard
            finally:
                await made.stop()


async def test_what_is_shown_rings_nothing_and_what_is_rung_tells_whose_picture_it_was() -> None:
    async with board() as (made, store, heard), asyncio.timeout(TIMEOUT):
        made.register(TRIGGER)
        made.show("mine", NodeSet({"/a/b": b"1"}))
        await until(store, "/a/b", b"1")
        await store.write("/a/b", b"2")
        assert await heard.values.get() == "2"
        assert await heard.pictures.get() == "mine"
        made.show("mine", NodeSet({"/a/b": b"3"}))
        await until(store, "/a/b", b"3")
        await store.write("/a/b", b"4")
        assert await heard.values.get() == "4"
        assert made.written == 2


async def test_a_bell_that_is_taken_down_rings_no_more_and_can_be_hung_again() -> None:
    async with board() as (made, store, heard), asyncio.timeout(TIMEOUT):
        for value in (b"1", b"2", b"3"):
            made.register(TRIGGER)
            await store.write("/a/b", value)
            assert await heard.values.get() == value.decode()
            await until(store, "/tool/xcp-gateway/processed/a/b", lambda found: found is not None and found[:1] != b"?")
            made.unregister(TRIGGER)
            await store.write("/a/b", value + b"!")
        made.show("mine", NodeSet({"/a/b": b"ours", "/a/c": b""}))
        await until(store, "/a/b", b"ours")
        assert heard.values.empty()


async def test_what_is_being_rung_is_heard_out_before_another_bell_hangs_there() -> None:
    async with board() as (made, store, heard), asyncio.timeout(TIMEOUT):
        heard.held = asyncio.Event()
        made.register(TRIGGER)
        await store.write("/a/b", b"1")
        assert await heard.values.get() == "1"
        made.unregister(TRIGGER)
        made.register(replace(TRIGGER, fingerprint="another"))
        await store.write("/a/b", b"2")
        await until(store, "/a/b", b"2")
        assert heard.values.empty()
        heard.held.set()
        assert await heard.values.get() == "2"


@each_case(("grace", "finishes"), [(TIMEOUT, 1), (0.01, 0)])
async def test_a_stop_waits_a_while_for_what_is_being_rung(grace: float, finishes: int) -> None:
    async with board() as (made, store, heard), asyncio.timeout(TIMEOUT):
        heard.held = asyncio.Event()
        made.register(TRIGGER)
        await store.write("/a/b", b"1")
        await heard.values.get()
        if finishes:
            asyncio.get_running_loop().call_later(0.05, heard.held.set)
        assert await made.stop(grace) == 1 - finishes
        assert heard.finished == finishes


async def test_a_bell_that_is_taken_down_at_once_never_rings() -> None:
    async with board() as (made, store, heard):
        made.register(TRIGGER)
        made.unregister(TRIGGER)
        await store.write("/a/b", b"1")
        made.show("mine", NodeSet({"/a/c": b""}))
        await until(store, "/a/c", b"")
        assert heard.values.empty()


async def test_a_picture_that_is_forgotten_stays_and_is_written_no_more() -> None:
    async with board() as (made, store, _):
        made.show("mine", NodeSet({"/a/b": b"1"}))
        await until(store, "/a/b", b"1")
        made.forget("mine")
        await store.write("/a/b", b"2")
        made.show("other", NodeSet({"/a/c": b"1"}))
        await until(store, "/a/c", b"1")
        assert await store.read("/a/b") == b"2"
