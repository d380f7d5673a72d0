"""State that all exposed paths of one store share, in memory and in the store.

In memory: how much each domain has in flight, which requests are being served, and the responses of writes. A store
that restarts has forgotten requests and responses; its clients write the same requests again, and the stored response
is then written instead of a second call.

In the store, below /tool/xcp-gateway, which only domain 0 can read:
- claims. A claim is written in the transaction that reads a request which must not be executed twice, and removed in
  the transaction that writes the response. After a crash of the gateway a claim marks a call whose outcome is unknown.
  Claims are spread over many folders, because every change of a folder conflicts with all transactions that change it
  too.
- answers. For a response that shares its folder with other nodes: which nodes it consists of, so that the next response
  replaces all of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from msgspec import Struct, field

from adapters.limits import Quota
from adapters.xenstore.client.client import StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions, StoreError
from adapters.xenstore.server import transactions
from adapters.xenstore.server.transactions import run_steps
from adapters.xenstore.styles.base import Style
from gateway.core.interfaces import Endpoint
from gateway.core.rpc.model import Value
from gateway.core.xenstore.paths import DOM0, Domains, Exposure

NODES = 1000
READERS = 32  # requests of domain 0 that are read at the same time
READERS_PER_DOMAIN = 2  # of each other domain
NEWCOMERS = 16  # nodes with an unknown owner whose permissions are read at the same time
UNKNOWN_CALLER = -1  # in place of a domid: several domains may have written the node
UNPRODUCTIVE_READ = 0.01  # seconds for which a guest's node without an allowed request occupies its domain's lane
MAX_UNPRODUCTIVE = 4  # such nodes at a time, beyond which a new node is read in steps again
MAX_OWNERS = 20_000  # nodes whose owner is remembered
FIRST_PAUSE, LAST_PAUSE = 0.05, 5.0  # seconds before a refused operation is repeated
RESPONSE_TTL = 1200.0  # seconds for which the response of a write is stored: as long as the old clients wait
MAX_RESPONSES = 10_000
MAX_RESPONSE_BYTES = 16 * 1024**2


class StoreLimits(Struct, frozen=True):
    """Limits of what is in flight. Above them domain 0 waits; requests of other domains are answered with BUSY."""

    calls: int = 256  # of domain 0
    calls_per_domain: int = 16
    body: int = 300 * 1024  # bytes of one request of domain 0
    body_per_domain: int = 64 * 1024  # bytes of all requests of another domain
    nodes: int = NODES  # of one request


Reserve: TypeAlias = Callable[[int], bool]  # reserves bytes in place of those so far; False without capacity for them


class Admission:
    """Counts requests in flight for each domain and holds them to the limits and to the quota of all listeners."""

    def __init__(self, limits: StoreLimits, quota: Quota) -> None:
        self.limits = limits
        self._quota = quota
        self._dom0 = asyncio.Semaphore(limits.calls)
        self._in_flight: dict[int, tuple[int, int]] = {}  # calls and bytes by domain, without domain 0

    def max_body(self, domid: int) -> int:
        """The largest request of this domain in bytes."""
        return self.limits.body if domid == DOM0 else self.limits.body_per_domain

    @asynccontextmanager
    async def admitted(self, domid: int) -> AsyncIterator[Reserve | None]:
        """Count a request before it is read; None without capacity. Domain 0 waits for capacity of its own limit."""
        reserved = 0

        def reserve(size: int) -> bool:
            nonlocal reserved
            if not self._add(domid, 0, size - reserved):
                return False
            reserved = size
            return True

        async with self._dom0 if domid == DOM0 else nullcontext():
            if self._quota.is_full or not self._add(domid, 1, 0):
                yield None
                return
            try:
                yield reserve
            finally:
                self._count(domid, -1, -reserved)

    def _add(self, domid: int, calls: int, size: int) -> bool:
        """Count this many more calls and bytes of a domain, if they are within the limits."""
        in_flight, used = self._in_flight.get(domid, (0, 0))
        limits = self.limits
        is_within = in_flight + calls <= limits.calls_per_domain and used + size <= limits.body_per_domain
        if not self._quota.fits(size) or (domid != DOM0 and not is_within):
            return False
        self._count(domid, calls, size)
        return True

    def _count(self, domid: int, calls: int, size: int) -> None:
        self._quota.calls += calls
        self._quota.buffered += size
        in_flight, used = self._in_flight.pop(domid, (0, 0))
        if domid != DOM0 and in_flight + calls:
            self._in_flight[domid] = (in_flight + calls, used + size)


class ExposedEndpoint(Struct, frozen=True):
    """An endpoint and the place in the store where it is reached.

    `writes`: methods, as path elements, that must not be executed twice. `domains`: of methods that have their own.
    """

    exposure: Exposure
    endpoint: Endpoint
    writes: frozenset[str] = frozenset()
    domains: Mapping[str, Domains] = field(default_factory=dict)

    def allows(self, domid: int, method: str, parameters: Mapping[str, Value]) -> bool:
        """Whether a domain may call a method, as far as the parameters of the path tell. The endpoint checks again."""
        return self.domains.get(method, self.exposure.domains).allow(domid, parameters)


def backoff() -> Iterator[float]:
    """Growing pauses in seconds, without end."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(LAST_PAUSE, 2 * pause)


class StoredResponse(NamedTuple):
    """The response of a write. `connection`: the number of the store's connection over which its request was seen."""

    until: float
    owner: int  # domain that owned the request
    body: bytes
    connection: int


class SharedContext(Struct):
    """What all exposed paths of one store share."""

    store: XenstoreClient
    admission: Admission
    report: Callable[[str], object]  # takes a message for the operator
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep
    running: dict[str, bool] = field(default_factory=dict)  # request node -> whether it changed while it was served
    children: dict[str, dict[str, None]] = field(default_factory=dict)  # of nodes in `running`: names with events
    unproductive: int = 0  # guests' nodes without an allowed request that occupy a lane
    responses: dict[str, StoredResponse] = field(default_factory=dict)  # by request node, oldest first
    response_bytes: int = 0
    unstarted: set[str] = field(default_factory=set)  # request nodes that may be claimed, but were not executed
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # one response at a time: they change the same folders
    claimed: set[str] = field(default_factory=set)  # request nodes that were claimed at the last full scan
    owners: OrderedDict[str, int] = field(default_factory=OrderedDict)  # request node -> its owner at the last read
    _turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _lanes: WeakValueDictionary[int | None, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    def spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        """Start a task that ends by itself; an exception in it goes to the loop's exception handler."""
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
        """Held while nodes of a domain are read, so that domains do not wait for each other. None: unknown owner."""
        lane = self._lanes.get(domid)
        if lane is None:
            width = NEWCOMERS if domid is None else READERS if domid == DOM0 else READERS_PER_DOMAIN
            lane = self._lanes[domid] = asyncio.Semaphore(width)
        return lane

    def remember_owner(self, node: str, domid: int) -> None:
        """Remember the owner of a node, so that its permissions are read in that domain's lane the next time."""
        self.owners[node] = domid
        self.owners.move_to_end(node)
        if len(self.owners) > MAX_OWNERS:
            self.owners.popitem(last=False)

    def turn(self, domid: int) -> asyncio.Lock:
        """Held while a response to a domain is written: each domain has at most one that is being written.

        A guest that keeps changing its own request so delays its own responses and no others.
        """
        turn = self._turns.get(domid)
        if turn is None:
            turn = self._turns[domid] = asyncio.Lock()
        return turn

    def store_response(self, node: str, owner: int, body: bytes, connection: int) -> None:
        """Remember the response of a write, for a store that forgets it. The oldest make way beyond the limits."""
        now = self.clock()
        self.forget_response(node)
        while self.responses:
            oldest = next(iter(self.responses))
            is_full = len(self.responses) >= MAX_RESPONSES or self.response_bytes + len(body) > MAX_RESPONSE_BYTES
            if not is_full and self.responses[oldest].until >= now:
                break
            self.forget_response(oldest)
        self.responses[node] = StoredResponse(now + RESPONSE_TTL, owner, body, connection)
        self.response_bytes += len(body)

    def request_is_gone(self, node: str) -> None:
        """Forget the response of a request that was removed over the connection over which it was seen.

        Its client has the response then. A request that is missing over a later connection was perhaps lost by the
        store; its client may write it again, and the response is kept.
        """
        stored = self.responses.get(node)
        if stored is not None and stored.connection == self.store.connections:
            self.forget_response(node)

    def forget_response(self, node: str) -> None:
        """Forget the stored response of a request node, if there is one."""
        stored = self.responses.pop(node, None)
        self.response_bytes -= len(stored.body) if stored is not None else 0


# Records in the store

RECORDS = "/tool/xcp-gateway"
CLAIMS = f"{RECORDS}/claims"
ANSWERS = f"{RECORDS}/answers"


def claim_path(node: str) -> str:
    """The path of the claim on a request."""
    return record_path(CLAIMS, node)


def record_path(root: str, node: str) -> str:
    """The path of a record on a request. Its length does not depend on the request's path."""
    name = hashlib.sha256(node.encode()).hexdigest()[:40]
    return f"{root}/{name[:2]}/{name[2:]}"


async def prepare_records(store: XenstoreClient) -> None:
    """Create the folders of the records; only domain 0 can read them."""

    async def work(nodes: StoreOperations) -> None:
        for path in (RECORDS, CLAIMS, ANSWERS):
            await nodes.mkdir(path)
            await nodes.set_permissions(path, Permissions(0, "n"))

    await store.transaction(work)


async def read_claims(store: XenstoreClient) -> list[str]:
    """The nodes of all requests that are claimed."""
    folders = [f"{CLAIMS}/{name}" for name in await store.list(CLAIMS) or ()]
    lists = await asyncio.gather(*map(store.list, folders))
    paths = [f"{folder}/{name}" for folder, names in zip(folders, lists, strict=True) for name in names or ()]
    values = await asyncio.gather(*map(store.read, paths))
    return [value.decode("latin-1") for value in values if value]


# Expired responses


async def remove_expired_responses(style: Style, shared: SharedContext, ttl: float) -> None:
    """Every `ttl` seconds remove the responses that were there at the scan before too; until cancelled."""
    template = style.responses
    assert template is not None
    before: frozenset[str] = frozenset()
    while True:
        await shared.pause(ttl)
        try:
            there = {each.node: each for each in await transactions.places(shared.store, template, template.root)}
            for node in sorted(before & there.keys()):
                removal = style.removal(there.pop(node))
                await shared.store.transaction(partial(run_steps, steps=removal, domid=DOM0))
            before = frozenset(there)
        except (StoreError, StoreLostError) as error:
            shared.report(f"expired responses at {template} cannot be removed; they are tried again: {error}")
