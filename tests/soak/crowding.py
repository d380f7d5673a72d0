"""Nuisances beside the healthy clients, by name: each is one row of NUISANCES, and one function.

Each has an address of its own, as an unrelated peer. NUISANCES= selects those that run: "all", "none", names with
commas between them, or "-name,-name" for all but these.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle

from adapters.codecs.jsonrpc import FROM_ERROR_CODE
from adapters.codecs.xmlrpc import FROM_FAULT_CODE
from adapters.xenstore.client.client import StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions, StoreError
from gateway.core.rpc.model import FaultCode
from tests.kit.clients import Wire, connect, post
from tests.soak import healthy
from tests.soak.story import Ledger
from tests.soak.world import CALM, HUNG, LARGE, World
from tests.unit.codecs import hostile_jsonrpc, hostile_xmlrpc

CALLERS = 300  # of a hung service: more than the default `max_calls` of a listener
IDLE = 1_100  # connections: more than the default of a listener
BETWEEN = (0.02, 0.2)  # seconds between two hostile messages of one kind
UNREAD = 50_000  # characters of each answer that a stalled client does not read
READERS, SIZE = 24, 8 * 1024**2  # slow readers, and the bytes that each requests: more than may be buffered together
PATIENCE = 45.0  # seconds until each client must have an answer
LEFTOVERS = 500  # requests of that guest
GUEST = 9  # a domain
NO_ANSWER = (OSError, EOFError, TimeoutError, ValueError)


@dataclass
class Place:
    """The place of a nuisance, and its end."""

    name: str
    source: str  # the address it comes from
    world: World
    ledger: Ledger
    chance: random.Random
    over: asyncio.Event

    def counted(self, what: str) -> None:
        self.ledger.other[f"{self.name}: {what}"] += 1

    def offence(self, text: str) -> None:
        self.ledger.offences.append(f"{self.name}: {text}")

    def connect(self) -> AbstractAsyncContextManager[Wire]:
        """Connect to the listener of the healthy client."""
        return connect(self.world.shared, self.source)

    async def pause(self, seconds: float) -> None:
        """Until it is over, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for() swallows a cancellation that comes together with the end
                await self.over.wait()


def call(method: str, *params: object) -> bytes:
    """A JSON-RPC request over HTTP."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return post(body, "/jsonrpc")


async def together(place: Place, times: int, one: Callable[[Place], Awaitable[None]]) -> None:
    """Run this many at once, each repeatedly until the end."""

    async def again() -> None:
        while not place.over.is_set():
            await one(place)
            await place.pause(place.chance.uniform(0.2, 1))

    tasks = [asyncio.ensure_future(again()) for _ in range(times)]
    over = asyncio.ensure_future(place.over.wait())
    try:
        await asyncio.wait([over, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (over, *tasks):
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            place.offence(repr(error))


# Over HTTP


async def hung_service(place: Place) -> None:
    """More callers than the quota of the listener call a stopped service; each gets an answer."""

    async def ask(place: Place) -> None:
        try:
            async with place.connect() as wire:
                await wire.send(call(f"{HUNG}.read", "x"))
                await wire.reply(PATIENCE)
            place.counted("answered")
        except NO_ANSWER as error:
            place.offence(f"no answer: {error!r}")

    service = place.world.services[HUNG]
    service.signal(signal.SIGSTOP)
    try:
        await together(place, CALLERS, ask)
    finally:
        service.signal(signal.SIGCONT)


async def slow_reader(place: Place) -> None:
    """Clients request large answers and do not read them."""

    async def ask(place: Place) -> None:
        with suppress(*NO_ANSWER):
            async with place.connect() as wire:
                await wire.send(call(f"{LARGE}.text", SIZE))
                place.counted("asked")
                await place.pause(10)

    await together(place, READERS, ask)


async def idle_connections(place: Place) -> None:
    """Idle connections, and new ones for those that are closed."""
    host, _, port = place.world.shared.removeprefix("tcp:").rpartition(":")
    held: list[socket.socket] = []
    try:
        while not place.over.is_set():
            held = [plug for plug in held if _is_open(plug)]
            for _ in range(IDLE - len(held)):
                plug = socket.socket()
                plug.setblocking(False)
                held.append(plug)
                plug.bind((place.source, 0))
                plug.connect_ex((host, int(port)))
                place.counted("opened")
            await place.pause(0.5)
    finally:
        for plug in held:
            plug.close()


def _is_open(plug: socket.socket) -> bool:
    try:
        return bool(plug.recv(1))
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
    plug.close()
    return False


async def hostile_bodies(place: Place) -> None:
    """The corpora of the codecs, round after round, at a listener with small limits: each body gets its one fault."""

    async def send(path: str) -> None:
        corpus, code_in = CORPORA[path]
        for title, body, code, _ in cycle(corpus):
            if place.over.is_set():
                return
            got = await _one_hostile(place.world.hostile, path, body, code_in)
            place.counted(f"{path}, too late" if got == TOO_LATE else path)
            if got not in (code, TOO_LATE):  # the machine may stand still for the two seconds that the listener waits
                place.offence(f"'{title}' at {path}: expected {code}, got {got}")
            await asyncio.sleep(place.chance.uniform(*BETWEEN))

    await asyncio.gather(*map(send, CORPORA))


async def _one_hostile(
    address: str, path: str, body: bytes, code_in: Callable[[bytes], FaultCode | None]
) -> FaultCode | str:
    try:
        async with connect(address) as wire:
            await wire.send(post(body, path))
            reply = await wire.reply(PATIENCE)
            if reply.status == HTTPStatus.REQUEST_TIMEOUT:
                return TOO_LATE
            code = code_in(reply.body)
            return f"HTTP {reply.status}: {reply.body[:200]!r}" if code is None else code
    except (*NO_ANSWER, LookupError, TypeError) as error:
        return repr(error)


def _xml_code(body: bytes) -> FaultCode | None:
    found = re.findall(rb"faultCode</name><value><(?:int|i4)>(-?\d+)<", body)
    return FROM_FAULT_CODE.get(int(found[0])) if len(found) == 1 else None


def _json_code(body: bytes) -> FaultCode | None:
    answer = json.loads(body)
    (one,) = answer if isinstance(answer, list) else (answer,)
    return FROM_ERROR_CODE.get(one["error"]["code"])


TOO_LATE = "HTTP 408"
CORPORA: Mapping[str, tuple[Sequence[tuple[str, bytes, FaultCode, str]], Callable[[bytes], FaultCode | None]]] = {
    "/RPC2": (hostile_xmlrpc.REFUSED, _xml_code),
    "/jsonrpc": (hostile_jsonrpc.HOSTILE, _json_code),
}


async def stalls(place: Place) -> None:
    """Half a head, half a body, and requests whose answers nobody reads: each is cut off."""

    async def stall(kind: str, sent: bytes, *, endless: bool) -> None:
        while not place.over.is_set():
            try:
                async with asyncio.timeout(PATIENCE), connect(place.world.hostile) as wire:
                    with suppress(ConnectionError):
                        await wire.send(sent)
                        while endless:
                            await wire.send(sent)
                    await wire.rest()
                place.counted(f"cut off: {kind}")
            except TimeoutError:
                place.offence(f"not cut off within {PATIENCE:g} s: {kind}")
            await asyncio.sleep(place.chance.uniform(*BETWEEN))

    await asyncio.gather(
        stall("half a head", post(b"", "/RPC2")[:20], endless=False),
        stall("half a body", post(hostile_jsonrpc.call("[1]"), "/jsonrpc")[:-5], endless=False),
        stall("answers that nobody reads", call(f"{CALM}.read", "x" * UNREAD), endless=True),
    )


async def hostile_guest(place: Place) -> None:
    """A guest that may not call leaves requests in a xenstore, and changes them as fast as it can."""
    roots = [f"/guests/rpc/request/{healthy.NAME}@2eread/{GUEST}-{'x' * 100}-{at}" for at in range(LEFTOVERS)]

    async def ask(root: str, text: bytes) -> None:
        async def work(inside: StoreOperations) -> None:
            for path, value in ((root, b""), (f"{root}/text", text)):
                await inside.write(path, value)
                await inside.set_permissions(path, Permissions(GUEST))

        await store.transaction(work)

    async def churn(place: Place) -> None:
        root = place.chance.choice(roots)
        with suppress(StoreError, StoreLostError):  # the store is busy too, and that is no fault of the gateway
            await store.until_connected()
            await ask(root, b"%d" % place.chance.randrange(10**6))
            place.counted("changes")
            for _ in range(20):
                await store.write(f"{root}/text", b"%d" % place.chance.randrange(10**6))
                place.counted("changes")

    async with XenstoreClient(place.world.guests.path) as store:
        await store.until_connected()
        for root in roots:
            await ask(root, b"x")
        await together(place, 20, churn)


NUISANCES: Mapping[str, Callable[[Place], Coroutine[None, None, None]]] = {
    "hung service": hung_service,
    "slow reader": slow_reader,
    "idle connections": idle_connections,
    "hostile bodies": hostile_bodies,
    "stalls": stalls,
    "hostile guest": hostile_guest,
}


def chosen(wish: str) -> Iterable[str]:
    """Return the names that NUISANCES= selects; raises ValueError for an unknown name."""
    names = [name.strip() for name in wish.split(",") if name.strip()]
    if unknown := {name.removeprefix("-") for name in names} - {*NUISANCES, "all", "none"}:
        raise ValueError(f"NUISANCES: no {', '.join(sorted(unknown))}; there are: {', '.join(NUISANCES)}")
    without = {name.removeprefix("-") for name in names if name.startswith("-")}
    if len(without) < len(names) and "all" not in names:
        return [name for name in NUISANCES if name in names]
    return [name for name in NUISANCES if name not in without]


async def crowd_around(world: World, ledger: Ledger, seed: str, names: Iterable[str], over: asyncio.Event) -> None:
    """Run these nuisances until the end."""
    async with asyncio.TaskGroup() as group:
        for at, (name, nuisance) in enumerate(NUISANCES.items()):
            if name in names:
                chance = random.Random(f"{seed} {name}")
                group.create_task(nuisance(Place(name, f"127.0.0.{11 + at}", world, ledger, chance, over)))
