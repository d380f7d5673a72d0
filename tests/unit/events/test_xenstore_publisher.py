from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from adapters.dbus.signals import SignalQueue
from gateway.core import interfaces
from gateway.core.dbus.target import Subscription
from gateway.core.routing.publication import NodeSet, NodeTemplate, Publication, Text, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Event, EventsLost, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.xenstore.paths import template
from gateway.events import xenstore_publisher
from gateway.events.xenstore_publisher import PublicationHub
from gateway.mapping.table import Table
from tests.kit.backends import toy_route
from tests.kit.cases import each_case
from tests.kit.logs import logged
from tests.kit.programs import TIMEOUT

NAME = "org.example"
VM = "org.example.VM1"
MANAGER = "org.freedesktop.DBus.ObjectManager"
OWNED = EventsLost(NAME, ":1.1", "it came")

READ, READ_ALL = toy_route("GetAll"), toy_route("GetManagedObjects")
CHANGES = Subscription(NAME, "/vm", VM, properties={"Memory": "t"}, below=True)
ALL = Publication(
    "store",
    NodeTemplate(template("/d/{vm}"), {("memory",): Text("{Memory}"), ("name",): Text("{Name}")}),
    (CHANGES,),
    "/vm/{vm}",
    read=READ,
    read_all=READ_ALL,
    fingerprint="all",
)
ONE = Publication(
    "store", NodeTemplate(template("/free"), {(): Text("{Free}")}), (CHANGES,), "/host", read=READ, fingerprint="one"
)
SIGNAL = Publication(
    "store",
    NodeTemplate(template("/told/{who}"), {(): Text("{what}")}),
    (Subscription(NAME, "/host", VM, "Told", "ss"),),
    "/host",
    arguments=("who", "what"),
    fingerprint="signal",
)


class Source:
    """Feeds, one for each publication, and what reading finds: by route and object."""

    def __init__(self) -> None:
        self.feeds: list[SignalQueue] = []
        self.found: dict[tuple[str, str], Outcome] = {}
        self.reads: list[tuple[str, str]] = []
        self.hangs = 0  # reads that are never answered

    @asynccontextmanager
    async def subscribe(self, *_: Subscription) -> AsyncIterator[SignalQueue]:
        feed = SignalQueue()
        self.feeds.append(feed)
        try:
            yield feed
        finally:
            self.feeds.remove(feed)

    async def call(self, route: Route, call: Call) -> Outcome:
        asked = (route.method, str(call.named.get("vm", "")))
        self.reads.append(asked)
        if self.hangs:
            self.hangs -= 1
            await asyncio.Event().wait()
        return self.found.get(asked, Fault(FaultCode.NOT_FOUND, "no such object"))

    def finds(self, vm: str = "", **properties: Value) -> None:
        self.found["GetAll", vm] = Reply(dict(properties))

    def finds_all(self, **objects: Value) -> None:
        """Of all objects, by number; then the service has its name."""
        self.found["GetManagedObjects", ""] = Reply({name[1:]: each for name, each in objects.items()})
        self.feeds[0].miss(OWNED)

    def tells(self, *events: Event) -> None:
        for event in events:
            self.feeds[0].put(event)


class Board(interfaces.NodePublisher):
    def __init__(self) -> None:
        self.shown: dict[str, NodeSet] = {}
        self.bells: list[str] = []
        self.news: asyncio.Queue[str] = asyncio.Queue()

    def show(self, key: str, picture: NodeSet) -> None:
        self.shown[key] = picture
        self.news.put_nowait(key)

    def forget(self, key: str) -> None:
        self.shown.pop(key, None)
        self.news.put_nowait(key)

    def register(self, trigger: WatchTrigger) -> None:
        self.bells.append(trigger.fingerprint)

    def unregister(self, trigger: WatchTrigger) -> None:
        self.bells.remove(trigger.fingerprint)

    async def hears(self, key: str) -> dict[str, bytes | None]:
        """The leaves of this picture after it has changed."""
        async with asyncio.timeout(TIMEOUT):
            while await self.news.get() != key:
                pass
        return dict(self.shown[key].leaves) if key in self.shown else {}


@asynccontextmanager
async def hub(
    *publications: Publication, triggers: tuple[WatchTrigger, ...] = ()
) -> AsyncIterator[tuple[PublicationHub, Source, Board]]:
    source, board = Source(), Board()
    made = PublicationHub(source, {"store": board})
    await made.follow(Table({}, "r", publications=publications, triggers=triggers))
    await asyncio.sleep(0)
    try:
        yield made, source, board
    finally:
        await made.stop()


def change(path: str = "/vm/_35", *invalidated: str, **properties: Value) -> Event:
    return Event(NAME, path, VM, properties=properties, invalidated=frozenset(invalidated))


def said(*arguments: str) -> Event:
    return Event(NAME, "/host", VM, "Told", arguments)


async def test_a_signal_is_shown_as_it_comes_and_a_bug_costs_one_change(caplog: pytest.LogCaptureFixture) -> None:
    async with hub(SIGNAL) as (_, source, board):
        source.feeds[0].miss(OWNED)
        for what in ("one", "two"):
            source.tells(said("too few"), said("me", what))
            assert await board.hears("signal /told/me") == {"/told/me": what.encode()}
        source.tells(said("you", "three"))
        await board.hears("signal /told/you")
        assert (len(board.shown), source.reads) == (2, [])
    assert "a bug prevented an event from being published" in caplog.text


async def test_ever_new_nodes_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xenstore_publisher, "MAX_NODE_SETS", 2)
    async with hub(SIGNAL) as (_, source, board):
        for who in ("a", "b", "c"):
            source.tells(said(who, "x"))
            await board.hears(f"signal /told/{who}")
        await board.hears("signal /told/a")
        assert board.shown.keys() == {"signal /told/b", "signal /told/c"}


async def test_properties_are_read_then_heard_and_stay_while_nobody_owns_the_name() -> None:
    async with hub(ONE) as (_, source, board):
        source.finds(Free=7)
        source.feeds[0].miss(OWNED)
        assert await board.hears("one ") == {"/free": b"7"}
        source.tells(change("/host", Free=8))
        assert await board.hears("one ") == {"/free": b"8"}
        assert source.reads == [("GetAll", "")]
        source.finds(Free=9)
        source.tells(change("/host", "Free"))  # invalidated: it is read
        assert await board.hears("one ") == {"/free": b"9"}
        source.feeds[0].miss(EventsLost(NAME, "", "it went"))
        await asyncio.sleep(0)
        assert board.shown["one "].leaves == {"/free": b"9"}
        source.finds(Free=1)
        source.feeds[0].miss(OWNED)
        assert await board.hears("one ") == {"/free": b"1"}
        assert len(source.reads) == 3


async def test_all_objects_are_shown_as_they_come_change_and_go() -> None:
    async with hub(ALL) as (_, source, board):
        source.finds_all(_5={"Memory": 1, "Name": "a"}, _6={"Memory": 2})
        assert await board.hears("all 5") == {"/d/5/memory": b"1", "/d/5/name": b"a"}
        assert await board.hears("all 6") == {"/d/6/memory": b"2"}
        source.tells(change("/vm/_36", Memory=3))
        assert await board.hears("all 6") == {"/d/6/memory": b"3"}
        source.finds("7", Memory=4)
        source.tells(Event(NAME, "/vm", MANAGER, "InterfacesAdded", ("/vm/_37", {VM: {}})))
        assert await board.hears("all 7") == {"/d/7/memory": b"4"}
        source.tells(Event(NAME, "/vm", MANAGER, "InterfacesRemoved", ("/vm/_35", [VM])))
        assert await board.hears("all 5") == {}
        source.finds("5", Memory=1, Name="a")
        source.tells(change(Memory=9))  # not known: it is read
        assert await board.hears("all 5") == {"/d/5/memory": b"1", "/d/5/name": b"a"}
        source.found["GetAll", "5"] = Fault(FaultCode.NOT_FOUND, "gone")
        source.tells(change("/vm/_35", "Memory"))
        assert await board.hears("all 5") == {}
        source.finds_all(_7={"Memory": 5})
        assert await board.hears("all 7") == {"/d/7/memory": b"5"}
        assert board.shown.keys() == {"all 7"}


@each_case(
    "event",
    [
        change("/elsewhere/_35", Memory=1),
        change("/vm/_35/below", Memory=1),
        Event(NAME, "/vm", MANAGER, "InterfacesAdded", ("/vm/_35", {"org.example.Other1": {}})),
        Event(NAME, "/vm", MANAGER, "InterfacesAdded", ("/elsewhere/_35", {VM: {}})),
        Event(NAME, "/vm", MANAGER, "InterfacesRemoved", ("/vm/_36", ["org.example.Other1"])),
    ],
)
async def test_what_is_said_of_other_objects_is_passed_over(event: Event) -> None:
    async with hub(ALL) as (_, source, board):
        source.finds("6", Memory=1)
        source.tells(event, change("/vm/_36", Memory=1))
        await board.hears("all 6")
        assert source.reads == [("GetAll", "6")]


@pytest.mark.parametrize("hangs", [0, 1])
async def test_what_cannot_be_read_now_is_read_later(hangs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xenstore_publisher, "FIRST_PAUSE", 0.01)
    async with hub(replace(ONE, read=replace(READ, timeout=0.01))) as (_, source, board):
        source.hangs = hangs
        source.found["GetAll", ""] = Fault(FaultCode.UNAVAILABLE, "not now")
        source.feeds[0].miss(OWNED)
        while len(source.reads) < 3:  # noqa: ASYNC110 - the source is asked by a timer
            await asyncio.sleep(0)
        source.finds(Free=7)
        assert await board.hears("one ") == {"/free": b"7"}


async def test_a_value_that_no_node_can_say_costs_its_own_node(caplog: pytest.LogCaptureFixture) -> None:
    async with hub(ALL) as (_, source, board):
        source.finds_all(_5={"Memory": [1]}, _6={"Memory": 2})
        assert await board.hears("all 6") == {"/d/6/memory": b"2"}
        assert board.shown.keys() == {"all 5", "all 6"}
    (told,) = [fields for event, fields in logged(caplog) if event == "node left out of a publication"]
    assert "/d/5/memory (Memory): $.Memory: expected a simple value, which a node can hold" in told["node"]
    assert told["object"] == "5"


async def test_after_a_ring_the_service_is_asked_and_shown() -> None:
    async with hub(ALL) as (made, source, board):
        source.finds_all(_5={"Memory": 1})
        await board.hears("all 5")
        source.finds("5", Memory=1)
        made.on_fired("all 5")
        assert await board.hears("all 5") == {"/d/5/memory": b"1"}
        made.on_fired("all 9")
        made.on_fired("nothing")
        assert source.reads == [("GetManagedObjects", ""), ("GetAll", "5")]


async def test_so_many_rings_that_the_queue_is_full_cost_no_object_its_read() -> None:
    async with hub(ALL) as (made, source, board):
        source.feeds[0]._bound = 2
        source.finds_all(_5={"Memory": 1}, _6={"Memory": 1}, _7={"Memory": 1})
        await board.hears("all 7")
        for vm in "567":
            source.finds(vm, Memory=2)
            made.on_fired(f"all {vm}")
        source.found["GetManagedObjects", ""] = Reply({vm: {"Memory": 2} for vm in "567"})
        assert await board.hears("all 7") == {"/d/7/memory": b"2"}


async def test_a_reload_leaves_alone_what_stays() -> None:
    bells = tuple(WatchTrigger("store", template(f"/{n}"), READ, {}, fingerprint=n) for n in "abc")
    async with hub(ONE, SIGNAL, triggers=bells[:2]) as (made, source, board):
        source.finds(Free=7)
        for feed in source.feeds:
            feed.miss(OWNED)
        await board.hears("one ")
        source.feeds[1].put(said("me", "x"))
        await board.hears("signal /told/me")
        kept = source.feeds[0]
        await made.follow(Table({}, "s", publications=(ALL, ONE), triggers=bells[1:]))
        await asyncio.sleep(0)
        assert source.feeds[0] is kept
        assert len(source.feeds) == 2
        assert board.shown.keys() == {"one "}
        assert board.bells == ["b", "c"]
        assert source.reads == [("GetAll", "")]


async def test_what_names_a_listener_without_a_store_is_left_out() -> None:
    elsewhere = WatchTrigger("rpc", template("/a"), READ, {}, fingerprint="x")
    async with hub(replace(ONE, listener="rpc"), triggers=(elsewhere,)) as (_, source, board):
        assert source.feeds == []
        assert board.bells == []
