"""Styles whose answer is a word or none, and harm in the middle: no write is executed twice, no answer is wrong.

A client of these styles has one node, and writes the next word when the last is acknowledged. What it cannot see is
whether a node that is gone was answered so or forgotten by a store that came back empty: then the outcome is unknown.
The service keeps a journal of its writes; it is the judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from adapters.codecs.xenstore import FAULT_CODES
from adapters.xenstore.client.client import StoreError, StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from gateway.core.rpc.model import FaultCode
from tests.kit.ledger import BUS_NAME, Ledger, ledger
from tests.kit.stores import BOTH
from tests.soak import service

pytestmark = pytest.mark.bus

T = TypeVar("T")

PATIENCE = 100.0  # seconds
CLIENTS = 16
TOKENS = 160
HARMED_AT = (40, 100)  # answers
UNKNOWN = "unknown"
NO_REPLY = str(FAULT_CODES[FaultCode.NO_REPLY]).encode()

MAPPING = f"""\
mapping: 1
service: words
dbus: {{bus_name: {BUS_NAME}, object_path: {service.OBJECT_PATH}, interface: {service.INTERFACE}, idl: ledger.xml}}
expose:
  - {{listener: store, codec: xenstore, style: word, path: "/word/{{number}}/shutdown", method: say, methods: [say]}}
  - listener: store
    codec: xenstore
    style: deletion
    path: "/deletion/{{number}}/action"
    method: act
    methods: [act]
    parameters: [token]
    states: {{node: status, done: made, failed: not-made}}
defaults: {{timeout: 20s, coerce: legacy, effect: write}}
methods:
  say: {{member: Write, params: [{{name: number, drop: true}}, {{name: value, to: token}}], args: {{pause: 20}}}}
  act:
    member: Write
    params: [{{name: number, drop: true}}, token]
    args: {{pause: 20}}
    result: {{done: done}}
"""


class Style(NamedTuple):
    """How a client of one style asks with a token, which node it watches, and what it takes from what it finds."""

    word: str
    request: Callable[[str], Mapping[str, bytes]]
    beside: Sequence[str]
    heard: Callable[[bytes | None, Mapping[str, bytes | None]], str | None]


def word_heard(word: bytes | None, _: Mapping[str, bytes | None]) -> str | None:
    """What is said by the word alone; None while it stands there."""
    return UNKNOWN if word is None else None if word else "done"


def deletion_heard(word: bytes | None, beside: Mapping[str, bytes | None]) -> str | None:
    """What is said beside a word that is gone."""
    if word is not None:
        return None
    match beside:
        case {"code": None, "status": b"made", "done": bytes(done)}:
            return done.decode()
        case {"code": code, "status": b"not-made"} if code == NO_REPLY:
            return UNKNOWN
        case {"code": None, "status": None, "done": None}:
            return UNKNOWN  # the store knows nothing
    return f"an answer that is none: {beside}"


STYLES: Mapping[str, Style] = {
    "word": Style("shutdown", lambda token: {"shutdown": token.encode()}, (), word_heard),
    "deletion": Style(
        "action",
        lambda token: {"token": token.encode(), "action": b"act"},
        ("code", "description", "status", "done"),
        deletion_heard,
    ),
}


class Client:
    """Asks with one token after the other; `told` has the answers to all clients."""

    def __init__(self, store: XenstoreClient, folder: str, style: Style, told: dict[str, str]) -> None:
        self._store = store
        self._folder = folder
        self._style = style
        self._told = told

    async def run(self, left: list[str], progress: asyncio.Condition) -> None:
        while left:
            token = left.pop()
            await self._store.until_connected()
            try:
                told = await self._ask(token)
            except StoreLostError:
                told = UNKNOWN
            async with progress:
                self._told[token] = told
                progress.notify_all()

    async def _ask(self, token: str) -> str:
        watch = self._store.watch(f"{self._folder}/{self._style.word}")
        try:
            await self._transact(lambda nodes: self._write(nodes, token))
            async for _ in watch:
                told = await self._transact(self._heard)
                if told is not None:
                    return told
        finally:
            watch.close()
        raise AssertionError("nobody else closes this watch")

    async def _transact(self, work: Callable[[StoreOperations], Awaitable[T]]) -> T:
        """However often others get in between."""
        while True:
            try:
                return await self._store.transaction(work)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise

    async def _write(self, nodes: StoreOperations, token: str) -> None:
        for name in self._style.beside:
            await nodes.remove(f"{self._folder}/{name}")
        for name, value in self._style.request(token).items():
            await nodes.write(f"{self._folder}/{name}", value)

    async def _heard(self, nodes: StoreOperations) -> str | None:
        word = await nodes.read(f"{self._folder}/{self._style.word}")
        return self._style.heard(
            word, {name: await nodes.read(f"{self._folder}/{name}") for name in self._style.beside}
        )


def kill_gateway(world: Ledger) -> None:
    """As a crash does; another is started."""
    world.kill_gateway()
    world.start_gateway()


HARMS: Mapping[str, Callable[[Ledger], None]] = {
    "the gateway is killed": kill_gateway,
    "the store is killed": lambda world: world.store.restart(),
    "the store is changed": lambda world: world.store.live_update(),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(("style", "name"), [*zip(STYLES, BOTH, strict=True)])
async def test_no_write_is_executed_twice_and_none_is_told_wrong(
    tmp_path: Path, style: str, harm: str, name: str
) -> None:
    asked = [f"w{number}" for number in range(TOKENS)]
    told: dict[str, str] = {}
    progress, left = asyncio.Condition(), [*reversed(asked)]

    async def client(number: int) -> None:
        async with XenstoreClient(world.store.path) as store:
            await Client(store, f"/{style}/{number}", STYLES[style], told).run(left, progress)

    with ledger(tmp_path, MAPPING, name) as world:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(number))
            for count in HARMED_AT:
                async with progress:
                    await progress.wait_for(lambda count=count: len(told) >= count)  # type: ignore[misc] # as it is now
                await asyncio.to_thread(HARMS[harm], world)
        journal = world.journal
    assert told.keys() == set(asked)
    unknown = {token for token, answer in told.items() if answer == UNKNOWN}
    right = {token: "done" if style == "word" else f"done:{token}" for token in asked}
    assert {token: answer for token, answer in told.items() if token not in unknown and answer != right[token]} == {}
    assert set(journal.values()) == {1}, "each at most once"
    assert set(asked) - unknown <= journal.keys(), "what was told to be done is done"
    # The word under way, and one that is written before the client has noticed that its connection is lost.
    assert len(unknown) <= len(HARMED_AT) * CLIENTS * 2, "of each harm at most two of each client"
    assert bool(unknown) is (harm != "the store is changed"), "a kill finds writes in flight, a change harms none"
