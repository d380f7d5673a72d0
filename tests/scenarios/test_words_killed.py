"""Styles whose answer is a word or none, and harm in the middle: no write is executed twice, no answer is wrong.

A client of these styles has one node, and writes the next word when the last is acknowledged. What it cannot see is
whether a node that is gone was answered so or forgotten by a store that came back empty: then the outcome is unknown.
The service keeps a journal of its writes; it is the judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

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


WORDS = {"word": "shutdown", "deletion": "action"}  # by style: the node that a client writes and watches
BESIDE = ("code", "description", "status", "done")


def heard(style: str, word: bytes | None, beside: Mapping[str, bytes | None]) -> str | None:
    """What is said by the word, or beside a word that is gone; None: nothing yet."""
    if style == "word":
        return UNKNOWN if word is None else None if word else "done"
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


async def transact(store: XenstoreClient, work: Callable[[StoreOperations], Awaitable[T]]) -> T:
    """However often others get in between."""
    while True:
        try:
            return await store.transaction(work)
        except StoreError as error:
            if error.name != "EAGAIN":
                raise


async def ask(store: XenstoreClient, style: str, folder: str, token: str) -> str:
    """Write a word with this token; what is said in the end."""

    async def write(nodes: StoreOperations) -> None:
        for name in BESIDE:
            await nodes.remove(f"{folder}/{name}")
        if style == "deletion":
            await nodes.write(f"{folder}/token", token.encode())
        await nodes.write(f"{folder}/{WORDS[style]}", b"act" if style == "deletion" else token.encode())

    async def look(nodes: StoreOperations) -> str | None:
        word = await nodes.read(f"{folder}/{WORDS[style]}")
        return heard(style, word, {name: await nodes.read(f"{folder}/{name}") for name in BESIDE})

    watch = store.watch(f"{folder}/{WORDS[style]}")
    try:
        await transact(store, write)
        async for _ in watch:
            told = await transact(store, look)
            if told is not None:
                return told
    finally:
        watch.close()
    raise AssertionError("nobody else closes this watch")


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
@pytest.mark.parametrize(("style", "name"), [*zip(WORDS, BOTH, strict=True)])
async def test_no_write_is_executed_twice_and_none_is_told_wrong(
    tmp_path: Path, style: str, harm: str, name: str
) -> None:
    asked = [f"w{number}" for number in range(TOKENS)]
    told: dict[str, str] = {}
    progress, left = asyncio.Condition(), [*reversed(asked)]

    async def client(number: int) -> None:
        async with XenstoreClient(world.store.path) as store:
            while left:
                token = left.pop()
                await store.until_connected()
                try:
                    answer = await ask(store, style, f"/{style}/{number}", token)
                except StoreLostError:
                    answer = UNKNOWN
                async with progress:
                    told[token] = answer
                    progress.notify_all()

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
