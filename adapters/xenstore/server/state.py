"""What all exposed paths of one store have in common: who is being answered, and what was answered; knows no style."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from adapters.xenstore.client.client import StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions, StoreError
from adapters.xenstore.server import transactions
from adapters.xenstore.server.caller import Admission, StoreLimits
from adapters.xenstore.server.transactions import run_steps
from adapters.xenstore.styles.base import Style
from gateway.core.interfaces import Endpoint
from gateway.core.rpc.model import Value
from gateway.core.xenstore.exposure import DOM0, Domains, Exposure
from gateway.core.xenstore.paths import Match, Template

READERS = 32  # requests of domain 0 that are read at one time
READERS_OF_DOMAIN = 2  # of each other domain
FRUITLESS = 0.01  # seconds by which a look at a guest's node that asks nothing, or nothing that it may, holds its lane
NEWCOMERS = 16  # nodes of which nobody knows yet whose they are: of each one permission is read
NOBODY = -1  # in place of a domid: several domains could have written the node
MOST_OWNERS = 20_000  # nodes whose owner is remembered
FIRST_PAUSE, LAST_PAUSE = 0.05, 5.0  # seconds before what the store has refused is tried again
KEPT = 1200.0  # seconds for which what a write was answered is remembered: as long as old clients wait
MOST_KEPT = 10_000  # answers
MOST_KEPT_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class ExposedEndpoint:
    """What is exposed. `writes`: the methods, as elements of a path, that must not be executed twice."""

    exposure: Exposure
    endpoint: Endpoint
    writes: frozenset[str] = frozenset()
    domains: Mapping[str, Domains] = field(default_factory=dict)  # of methods that have their own

    def may(self, domid: int, method: str, parameters: Mapping[str, Value]) -> bool:
        """Whether a domain may call this, as far as the path's own parameters tell: the endpoint has the last word."""
        return self.domains.get(method, self.exposure.domains).allow(domid, parameters)


def pauses() -> Iterator[float]:
    """Seconds, growing."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(LAST_PAUSE, 2 * pause)


class Kept(NamedTuple):
    """What a write was answered."""

    until: float
    owner: int  # whose request it was
    body: bytes
    connection: int  # which one it was


@dataclass(slots=True)
class SharedContext:
    """What all exposed paths of one store have in common."""

    store: XenstoreClient
    limits: StoreLimits
    admission: Admission
    tell: Callable[[str], object]  # what an operator should know
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep  # before what the store has refused is tried again
    running: dict[str, bool] = field(default_factory=dict)  # node of a request -> something changed there meanwhile
    kept: dict[str, Kept] = field(default_factory=dict)  # by node
    kept_bytes: int = 0
    unbegun: set[str] = field(default_factory=set)  # nodes that were perhaps claimed, and were not executed
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one answer at a time: they change the same folders
    claimed: set[str] = field(default_factory=set)  # nodes that were claimed when all was looked through
    owners: OrderedDict[str, int] = field(default_factory=OrderedDict)  # node -> who owned it when it was last seen
    _turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _lanes: WeakValueDictionary[int | None, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    def spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        """A task that ends by itself; a bug in it is told to the loop."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": f"a bug ended {task.get_name()}", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    def lane(self, domid: int | None) -> asyncio.Semaphore:
        """Held while something of a domain is read, so that it waits for itself alone. None: whose, nobody knows."""
        lane = self._lanes.get(domid)
        if lane is None:
            width = NEWCOMERS if domid is None else READERS if domid == DOM0 else READERS_OF_DOMAIN
            lane = self._lanes[domid] = asyncio.Semaphore(width)
        return lane

    def owned(self, node: str, domid: int) -> None:
        """Remember whose node that is, so that it need not be asked outside its own lane the next time."""
        self.owners[node] = domid
        self.owners.move_to_end(node)
        if len(self.owners) > MOST_OWNERS:
            self.owners.popitem(last=False)

    def turn(self, domid: int) -> asyncio.Lock:
        """Held until an answer is written, so that each domain has one that waits to be written.

        One for each domain: a guest that keeps changing its own request holds up its own answers and no other's.
        """
        turn = self._turns.get(domid)
        if turn is None:
            turn = self._turns[domid] = asyncio.Lock()
        return turn

    def keep(self, node: str, owner: int, body: bytes, connection: int) -> None:
        """Remember what a write was answered, for the case that its client, or the store, forgets it.

        `connection`: the one over which it was asked. What is gone over a later one was perhaps forgotten by the store.
        """
        now = self.clock()
        self.forget(node)
        while self.kept and (self._holds_enough(len(body)) or next(iter(self.kept.values())).until < now):
            self.forget(next(iter(self.kept)))
        self.kept[node] = Kept(now + KEPT, owner, body, connection)
        self.kept_bytes += len(body)

    def let_go(self, node: str) -> None:
        """The request is gone: its client has the answer, or the store has forgotten both and the client asks again."""
        kept = self.kept.get(node)
        if kept is not None and kept.connection == self.store.connections:
            self.forget(node)

    def forget(self, node: str) -> None:
        """The answer is not needed any more."""
        kept = self.kept.pop(node, None)
        self.kept_bytes -= len(kept.body) if kept is not None else 0

    def _holds_enough(self, more: int) -> bool:
        return len(self.kept) >= MOST_KEPT or self.kept_bytes + more > MOST_KEPT_BYTES


# What is written down about requests in a subtree that is domain 0's alone; knows no style.
#
# Claims: what is written before a write is executed, so that nobody executes it again after a crash.
#
# A claim is named after the request's node. It is removed in the very transaction that writes the answer. There are
# many folders, since whoever changes one gets in the way of all transactions that do.
#
# Answers: which nodes an answer has left among those of others, so that the next one replaces it whole.


OURS = "/tool/xcp-gateway"
CLAIMS = f"{OURS}/claims"
ANSWERS = f"{OURS}/answers"


def claim_of(node: str) -> str:
    """Where the claim on a request stands: of one length, whatever the request is called."""
    return _record(CLAIMS, node)


def answer_of(node: str) -> str:
    """Where it is written down which nodes the last answer to this one has left beside it."""
    return _record(ANSWERS, node)


def _record(root: str, node: str) -> str:
    name = hashlib.sha256(node.encode()).hexdigest()[:40]
    return f"{root}/{name[:2]}/{name[2:]}"


async def prepare(store: XenstoreClient) -> None:
    """Make the subtree, and let nobody but domain 0 see it."""

    async def work(nodes: StoreOperations) -> None:
        for path in (OURS, CLAIMS, ANSWERS):
            await nodes.mkdir(path)
            await nodes.set_permissions(path, Permissions(0, "n"))

    await store.transaction(work)


async def claimed(store: XenstoreClient) -> list[str]:
    """The nodes of all requests that are claimed."""
    folders = [f"{CLAIMS}/{name}" for name in await store.list(CLAIMS) or ()]
    lists = await asyncio.gather(*map(store.list, folders))
    paths = [f"{folder}/{name}" for folder, names in zip(folders, lists, strict=True) for name in names or ()]
    values = await asyncio.gather(*map(store.read, paths))
    return [value.decode("latin-1") for value in values if value]


# Removes answers that nobody takes away: those that were there at two looks, so much time apart. Answers nothing.


async def remove_expired_responses(style: Style, shared: SharedContext, after: float) -> None:
    """Look every so many seconds, until cancelled."""
    template = style.answers
    assert template is not None
    before: frozenset[str] = frozenset()
    while True:
        await shared.sleep(after)
        try:
            there = await _answers(shared.store, template)
            for node in sorted(before & there.keys()):
                await _remove(shared.store, style, there.pop(node))
            before = frozenset(there)
        except (StoreError, StoreLostError) as error:
            shared.tell(f"answers at {template} cannot be collected: {error}")


async def _answers(store: XenstoreClient, template: Template) -> dict[str, Match]:
    return {match.node: match for match in await transactions.places(store, template, template.root)}


async def _remove(store: XenstoreClient, style: Style, answer: Match) -> None:
    await store.transaction(lambda nodes: run_steps(nodes, style.leftovers(answer), DOM0))
