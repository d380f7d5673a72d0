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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import count, cycle

from adapters.codecs.jsonrpc import FROM_ERROR_CODE
from adapters.codecs.xmlrpc import FROM_FAULT_CODE
from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions, StoreError
from gateway.core.rpc.model import FaultCode
from tests.kit.clients import Wire, connect, post
from tests.kit.fake_stores import at_random, nothing
from tests.soak import healthy
from tests.soak.story import Ledger
from tests.soak.world import CALM, HUNG, LARGE, Process, World
from tests.unit.codecs import hostile_jsonrpc, hostile_xmlrpc

CALLERS = 300  # of a hung service: more than the default `max_calls` of a listener
IDLE = 1_100  # connections: more than the default of a listener
KEPT = 10_000  # clients that the gateway tells
AGENTS = KEPT + 500
BEFORE = "127.0.0.10"  # the address and the name of a client that calls once
BETWEEN = (0.02, 0.2)  # seconds between two hostile messages of one kind
UNREAD = 50_000  # characters of each answer that a stalled client does not read
READERS, SIZE = 24, 8 * 1024**2  # slow readers, and the bytes that each requests: more than may be buffered together
PATIENCE = 45.0  # seconds until each client must have an answer
LEAVES_AFTER = 2.0  # seconds; the callers of a hung legacy service
LEFTOVERS = 500  # requests of a guest that may not call
GUEST, OTHER = 9, 7  # domains
REFUSED: Mapping[str, float] = {"ENOMEM": 0.01, "EAGAIN": 0.05}
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


def call(method: str, *params: object, agent: str = "") -> bytes:
    """A JSON-RPC request over HTTP."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return post(body, "/jsonrpc", *([f"User-Agent: {agent}"] if agent else ()))


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
    await _hung(place, place.world.quiet[HUNG], call(f"{HUNG}.read", "x"), PATIENCE)


async def hung_legacy_service(place: Place) -> None:
    """The same with a legacy service, whose callers leave early."""
    await _hung(place, place.world.hung_old, call(f"{HUNG}.record", {"a": "b"}), LEAVES_AFTER)


async def _hung(place: Place, service: Process, request: bytes, patience: float) -> None:
    async def ask(place: Place) -> None:
        try:
            async with place.connect() as wire:
                await wire.send(request)
                await wire.reply(patience)
            place.counted("answered")
        except NO_ANSWER as error:
            place.counted("left")
            if patience == PATIENCE:
                place.offence(f"no answer: {error!r}")

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


async def namespace_bomb(place: Place) -> None:
    """A long namespace and many short names in it, in a message of a size that is taken; elements, then attributes."""
    uri, names = b"u" * 100_000, b"".join(b"<a:b%d/>" % number for number in range(15_000))
    attributes = b"".join(b' a:b%d=""' % number for number in range(13_000))
    bombs = (
        b'<methodCall xmlns:a="%b">%b</methodCall>' % (uri, names),
        b'<methodCall xmlns:a="%b"><a%b/></methodCall>' % (uri, attributes),
    )
    for bomb in cycle(bombs):
        if place.over.is_set():
            return
        try:
            async with place.connect() as wire:
                await wire.send(post(bomb, "/RPC2"))
                await wire.reply(PATIENCE)
            place.counted("answered")
        except NO_ANSWER as error:
            place.offence(f"no answer: {error!r}")
        await place.pause(0.5)


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


async def many_user_agents(place: Place) -> None:
    """A client uses a new name for each call; an earlier client must still be listed afterwards."""
    before = replace(place, source=BEFORE)
    for one, names in ((before, [BEFORE]), (place, [f"agent-{number}" for number in range(AGENTS)])):
        with suppress(*NO_ANSWER):  # the gateway may close the connection of a nuisance
            async with one.connect() as wire:
                for name in names:
                    if place.over.is_set():
                        break
                    await wire.send(call(f"{healthy.NAME}.read", "x", agent=name))
                    await wire.reply(PATIENCE)
                    place.counted("names")
    status, known = await place.world.control("GET", f"/v1/clients?limit={KEPT}")
    if status != HTTPStatus.OK or BEFORE not in json.dumps(known):
        place.offence(f"who called before is not known any more (HTTP {status}, {len(known)} clients)")


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


# In a xenstore


@asynccontextmanager
async def _store(place: Place) -> AsyncIterator[XenstoreClient]:
    async with XenstoreClient(place.world.guests.path) as store:
        await store.until_connected()
        yield store


async def _hand(store: XenstoreClient, owner: int, nodes: Mapping[str, bytes]) -> None:
    """Write nodes that a guest owns."""

    async def work(inside: StoreOperations) -> None:
        for path, value in nodes.items():
            await inside.write(path, value)
            await inside.set_permissions(path, Permissions(owner))

    await store.transaction(work)


async def hostile_guest(place: Place) -> None:
    """A guest that may not call leaves requests, and changes them as fast as it can."""
    roots = [f"/guests/rpc/request/{healthy.NAME}@2eread/{GUEST}-{'x' * 100}-{at}" for at in range(LEFTOVERS)]

    async def churn(place: Place) -> None:
        root = place.chance.choice(roots)
        with suppress(StoreError):
            await _hand(store, GUEST, {root: b"", f"{root}/text": b"%d" % place.chance.randrange(10**6)})
            place.counted("changes")
            for _ in range(20):
                await store.write(f"{root}/text", b"%d" % place.chance.randrange(10**6))
                place.counted("changes")

    async with _store(place) as store:
        for root in roots:
            await _hand(store, GUEST, {root: b"", f"{root}/text": b"x"})
        await together(place, 20, churn)


async def planted_nodes(place: Place) -> None:
    """A guest creates the nodes of another guest's answer in advance; it must not be able to read the answer."""
    async with _store(place) as store:
        for number in count():
            if place.over.is_set():
                return
            folder = f"/chunked/{number}"
            query, reply = f"{folder}/query/{number}", f"{folder}/reply/{number}"
            await _hand(store, GUEST, {f"{reply}/data00": b"", f"{reply}/status": b""})
            await _hand(store, OTHER, {query: b"", f"{query}/cmd": b"run", f"{query}/data00": b"secret"})
            await store.write(f"{query}/submit", b"1")
            await _told(place, store, reply)
            await store.remove(folder)
            await place.pause(0.2)


async def _told(place: Place, store: XenstoreClient, reply: str) -> None:
    watch = store.watch(f"{reply}/submit")
    try:
        async with asyncio.timeout(PATIENCE):
            async for _ in watch:
                if await store.read(f"{reply}/submit") is not None:
                    break
    except TimeoutError:
        place.offence("no answer to a chunked query")
        return
    finally:
        watch.close()
    place.counted("answered")
    for name in await store.list(reply) or ():
        found = await store.permissions(f"{reply}/{name}")
        if found is not None and found.owner != OTHER:
            place.offence(f"domain {found.owner} owns {name} of the answer to {OTHER}")


async def refusing_store(place: Place) -> None:
    """A store refuses some operations at any time."""
    refusing = place.world.refusing
    refusing.rule = at_random(REFUSED, str(place.chance.random()))
    await place.over.wait()
    refusing.rule = nothing
    for (_, name), times in refusing.refused.items():
        place.ledger.other[f"{place.name}: {name}"] += times


NUISANCES: Mapping[str, Callable[[Place], Coroutine[None, None, None]]] = {
    "hung service": hung_service,
    "hung legacy service": hung_legacy_service,
    "slow reader": slow_reader,
    "namespace bomb": namespace_bomb,
    "idle connections": idle_connections,
    "many user agents": many_user_agents,
    "hostile bodies": hostile_bodies,
    "stalls": stalls,
    "hostile guest": hostile_guest,
    "planted nodes": planted_nodes,
    "refusing store": refusing_store,
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
