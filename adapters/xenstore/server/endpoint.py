"""Serves one exposed path of a xenstore: finds requests, has each executed once, writes the responses.

A style gives nodes their meaning, an endpoint executes the calls. A request goes through four steps:

1. Peek. The permissions of the request and the few nodes that the style names are read, in the lane of the request's
   domain. Most changes end here: there is no request, or its domain may not call.
2. Claim. The whole request is read in one transaction, with the owner of each node. When it must not be executed twice,
   the same transaction writes a claim. After a crash of the gateway the claim shows that the outcome is unknown.
3. Call.
4. Deliver the response (delivery.py).

What can be asked together is sent in one piece. A new request of the style `tree` costs four trips to the store: the
peek, with the begin of the next transaction; the request, with the end of that transaction and the begin of the one
that writes the response; the response; its end. A claim is one more, since it is written when the request is known.
What the store refuses for the moment is repeated with growing pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from os import getpid

from msgspec.structs import replace

from adapters.xenstore.client.client import StoreLostError
from adapters.xenstore.client.operations import EarlyTransaction, Transaction, ask, found, permissions_in
from adapters.xenstore.client.wire import Answer, Operation, StoreError, least_privileged
from adapters.xenstore.server import state, transactions
from adapters.xenstore.server.delivery import (
    EXECUTED,
    NOT_EXECUTED,
    Delivery,
    PackedResponse,
    PendingRequest,
    is_answered,
)
from adapters.xenstore.server.state import (
    LAST_PAUSE,
    MAX_UNPRODUCTIVE,
    UNKNOWN_CALLER,
    UNPRODUCTIVE_READ,
    ExposedEndpoint,
    Reserve,
    SharedContext,
    backoff,
)
from adapters.xenstore.server.transactions import operations, run_steps
from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import Pairs, ReadSet, Request, Style
from gateway.core.dbus.names import quoted
from gateway.core.rpc.model import Fault, FaultCode, Peer
from gateway.core.xenstore.paths import DOM0, MAX_PATH, Match, member, pack, text_of

CLAIM_ATTEMPTS = 6  # then the client gets a fault that says that the store refuses the claim
SCAN_SHARE = 0.1  # of the time may be spent on scans: a change above the requests causes a scan of all of them

UNKNOWN = Fault(FaultCode.NO_REPLY, "the gateway went away while this call was made; it may have been executed")
BUSY = Fault(FaultCode.BUSY, "too many requests of this domain are outstanding; nothing was executed")
SHARED = Fault(FaultCode.ACCESS_DENIED, "several domains can write this request, so its caller is unknown")


class _UnexpectedNodesError(Exception):
    """The request has other nodes than those whose events came."""


class _ClaimRefusedError(Exception):
    """The store refuses the claim with the StoreError that is the argument."""


class XenstoreEndpoint:
    """Serves one exposed endpoint between `start` and `close`. Requests that have started are finished after that."""

    def __init__(self, exposed: ExposedEndpoint, shared: SharedContext) -> None:
        self.exposed = exposed
        self._shared = shared
        self._store = shared.store
        self._style: Style = STYLES[exposed.exposure.style](exposed.exposure)
        self._delivery = Delivery(self._style, shared, self._refusal)
        self._requests = self._style.requests
        self._tasks: list[asyncio.Task[None]] = []
        self._scanned_at = 0  # number of the connection at the last full scan
        self._to_scan: dict[str, None] = {}  # nodes above requests that have changed
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def is_up(self) -> bool:
        """Whether requests are served: a full scan has ended since the store was connected."""
        return self._store.connected and self._scanned_at == self._store.connections

    def start(self) -> None:
        """Watch the requests, from now on or from the next connection."""
        name = f"watch of {self.exposed.exposure.path}"
        self._tasks += [self._shared.spawn(self._watch(), name), self._shared.spawn(self._scan(), name)]
        if self._style.responses is not None and self.exposed.exposure.response_ttl is not None:
            removing = state.remove_expired_responses(self._style, self._shared, self.exposed.exposure.response_ttl)
            self._tasks.append(self._shared.spawn(removing, name))

    async def close(self) -> None:
        """Accept no more requests."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # Finding requests

    async def _watch(self) -> None:
        """Sort events into requests and nodes to scan. Waits for nothing else, so that no client can delay others."""
        watch = self._store.watch(self._requests.root)
        try:
            async for path in watch:
                match = self._requests.match(path)
                if match is not None:
                    self._schedule(match)
                    children = self._shared.children.get(match.node)
                    if match.rest and children is not None and len(children) < transactions.BATCH:
                        children[match.rest[0]] = None  # so that it is read together with the request
                if path == self._requests.root or (match is None and self._requests.continues(path) is not None):
                    self._to_scan[path] = None
                    self._wake.set()
        except StoreError as error:
            self._shared.report(f"{self._requests.root} cannot be watched: {error}")
        finally:
            watch.close()

    async def _scan(self) -> None:
        """Find requests below changed nodes, again and again until the store permits it."""
        waits, reported = backoff(), ""
        while True:
            await self._wake.wait()
            self._wake.clear()
            started = self._shared.clock()
            due, self._to_scan, was_lost = self._to_scan, {}, False
            for path in [self._requests.root] if self._requests.root in due else due:
                try:
                    await self._scan_below(path)
                except StoreLostError:
                    was_lost = True
                    if self._store.connected:  # otherwise the watched path comes again with the next connection
                        self._to_scan[path] = None
                except StoreError as error:
                    self._to_scan[path] = None
                    if str(error) != reported:
                        reported = str(error)
                        self._shared.report(f"{path} cannot be scanned for requests; it is tried again: {reported}")
            if self._to_scan:
                self._wake.set()
                await self._shared.pause(next(waits))
            elif not was_lost:
                waits, reported = backoff(), ""
                await self._shared.pause(min(LAST_PAUSE, (self._shared.clock() - started) * (1 / SCAN_SHARE - 1)))

    async def _scan_below(self, path: str) -> None:
        everything, connection = path == self._requests.root, self._store.connections
        if everything:
            await state.prepare_records(self._store)
            await run_steps(self._store, self._style.announce(getpid()), DOM0)
            claimed = await state.read_claims(self._store)
            self._shared.claimed = set(claimed)
            for node in claimed:
                match = self._requests.match(node)
                if match is not None and not match.rest:
                    self._schedule(match)
        for place in await transactions.places(self._store, self._requests, path):
            self._schedule(place)
        if everything:
            self._scanned_at = connection

    def _schedule(self, match: Match) -> None:
        """Serve a request node, or note that it has changed while it is being served."""
        if match.node in self._shared.running:
            self._shared.running[match.node] = True
        elif len(match.node) <= MAX_PATH:
            self._shared.running[match.node] = False
            self._shared.children[match.node] = {}
            self._shared.spawn(self._serve(match), f"request {match.node}")

    # Serving one request

    async def _serve(self, match: Match) -> None:
        """Process the node until it does not change any more."""
        running, waits = self._shared.running, backoff()
        try:
            while True:
                try:
                    await self._process(match)
                except StoreLostError:  # a later connection reports the watched path, and the node is found again
                    if not self._store.connected:
                        return
                    continue
                except StoreError as error:  # nothing was executed
                    self._shared.report(f"{match.node} cannot be read: {error}")
                    if not error.is_permanent and not self._closed:
                        await self._shared.pause(next(waits))
                        continue
                if not running[match.node]:
                    return
                running[match.node] = False
        finally:
            del running[match.node], self._shared.children[match.node]

    async def _process(self, match: Match) -> None:
        """Peek at the node; claim, call and deliver within the limits of its domain if there is a request."""
        early: list[EarlyTransaction] = []
        try:
            pending = await self._peek(match, early)
            if pending is None:
                return
            stored = self._shared.responses.get(match.node) if self._style.unique else None
            if stored is not None and stored.owner == pending.owner:
                self._shared.store_response(match.node, stored.owner, stored.body, pending.connection)
                await self._delivery.deliver(pending, PackedResponse(stored.body, EXECUTED), early)
            elif pending.fault is not None or pending.domid is None:
                await self._delivery.deliver(pending, self._refusal(pending.fault or SHARED), early)
            else:
                async with self._shared.admission.admitted(pending.domid) as reserve:
                    claimed = await self._claim(pending, reserve, early)
                    if claimed is not None:
                        response = await self._call(claimed) if claimed.fault is None else self._refusal(claimed.fault)
                        await self._delivery.deliver(claimed, response, early)
        finally:
            for each in early:
                each.drop()

    async def _peek(self, match: Match, early: list[EarlyTransaction]) -> PendingRequest | None:
        """Read few nodes to find the caller and whether there is a request; None when there is none.

        At a new node everything is asked in one piece, and the transaction that reads the request is begun with it.
        """
        node, shared, wanted = match.node, self._shared, self._style.read_set(match)
        connection = self._store.connections
        owner_node, known = self._style.owner_node(match), shared.owners.get(node)
        first = [ask(Operation.GET_PERMS, owner_node)]
        rest = [ask(Operation.READ, each) for each in (state.claim_path(node), *wanted.nodes)]
        if wanted.response is not None:
            rest.append(ask(Operation.GET_PERMS, wanted.response))
        is_new = known is None and shared.unproductive < MAX_UNPRODUCTIVE
        async with shared.lane(known):
            begun = self._store.begin_early() if is_new else None
            if begun is not None:
                early.append(begun)
            answers = await self._store.together([*first, *rest] if is_new else first)
        permissions = permissions_in(answers[0], owner_node)
        if permissions is None:
            shared.request_is_gone(node)
            shared.owners.pop(node, None)
            await self._end_claim(node)
            return None
        owner = permissions.writer
        lane = UNKNOWN_CALLER if owner is None else owner
        shared.remember_owner(node, lane)
        async with shared.lane(lane):
            if not is_new:
                answers += await self._store.together(rest)
            pending = self._pending(match, wanted, owner, connection, answers[1:])
            if lane != DOM0 and (pending is None or pending.fault is not None):
                shared.unproductive += 1
                try:
                    await shared.pause(UNPRODUCTIVE_READ)
                finally:
                    shared.unproductive -= 1
        if pending is None:
            await self._end_claim(node)
        return pending

    def _pending(
        self, match: Match, wanted: ReadSet, owner: int | None, connection: int, answers: Sequence[Answer]
    ) -> PendingRequest | None:
        """The request that these answers show."""
        node = match.node
        claim, *values = (found(each) for each in answers[: 1 + len(wanted.nodes)])
        nodes = {path: value for path, value in zip(wanted.nodes, values, strict=True) if value is not None}
        if wanted.response is not None and is_answered(permissions_in(answers[-1], wanted.response), owner):
            return None
        request = self._style.parse(match, nodes)
        if request is None or (request.started and claim is None):  # another server has started it
            return None
        is_stale = claim is not None and node not in self._shared.unstarted  # claimed by a gateway that has crashed
        pending = PendingRequest(match, request, owner, owner, connection, wanted, has_claim=claim is not None)
        return replace(pending, fault=UNKNOWN if is_stale else self._check(pending))

    async def _end_claim(self, node: str) -> None:
        """Remove the claim on a node that has no request any more."""
        if node in self._shared.claimed or node in self._shared.unstarted:
            await self._store.remove(state.claim_path(node))
            self._shared.claimed.discard(node)
            self._shared.unstarted.discard(node)

    def _check(self, pending: PendingRequest) -> Fault | None:
        """Why the call must not be made, as far as that is known so far."""
        if pending.domid is None:
            return SHARED
        try:
            of_path = dict(_path_parameters(pending.match))
        except ValueError as error:
            return Fault(FaultCode.INVALID_REQUEST, str(error))
        parameters = {name: value.decode() for name, value in of_path.items()}
        method = pending.request.method
        if not self.exposed.allows(pending.domid, method, parameters):
            with suppress(ValueError):
                method = text_of(method)
            return Fault(FaultCode.ACCESS_DENIED, f"domain {pending.domid} may not call {quoted(method)}")
        if pending.request.fault is not None:
            return pending.request.fault
        for path, _ in pending.request.pairs:
            if path.partition("/")[0] in of_path:
                return Fault(FaultCode.INVALID_REQUEST, f"'{path}' is given by the path of the request already")
        return None

    async def _claim(
        self, pending: PendingRequest, reserve: Reserve | None, early: list[EarlyTransaction]
    ) -> PendingRequest | None:
        """Read the whole request and claim it if it must not be executed twice, in one transaction.

        None when the request has changed. With a fault when the domain has no capacity, or the store refuses the claim.
        The transaction ends in the trip of the last read, or of the claim, since there is nothing else in it that could
        be refused.
        """
        if reserve is None:
            return replace(pending, fault=BUSY)
        waits = backoff()
        for left in reversed(range(CLAIM_ATTEMPTS)):
            try:
                async with self._shared.lane(pending.owner):
                    return await self._claim_once(pending, reserve, early)
            except _ClaimRefusedError as refused:
                (error,) = refused.args
                if error.is_permanent or not left:
                    why = f"the store does not let the call be begun ({error.name}); it was not made"
                    return replace(pending, fault=Fault(FaultCode.UNAVAILABLE, why))
            await self._shared.pause(next(waits))
        raise AssertionError("the last attempt returns")

    async def _claim_once(
        self, pending: PendingRequest, reserve: Reserve, early: list[EarlyTransaction]
    ) -> PendingRequest | None:
        node, unstarted = pending.match.node, self._shared.unstarted
        names = list(self._shared.children[node])
        claiming = False

        async def work(nodes: Transaction) -> PendingRequest | None:
            """Read the request, write the claim, and do the style's first steps."""
            nonlocal claiming
            claiming = False
            whole = await self._read_whole(nodes, pending, reserve, names)
            if whole is not None and whole.fault is None and whole.once:
                claiming = True
                unstarted.add(node)
                claim = ask(Operation.WRITE, state.claim_path(node), node.encode())
                steps = operations(self._style.start(whole.match, whole.request), DOM0)
                answers = await (nodes.together([claim, *steps]) if steps else nodes.commit([claim], goes_on=True))
                for answer in answers:
                    found(answer)
            if nodes.following is not None:
                early.append(nodes.following)
            return whole

        try:
            try:
                whole = await self._store.transaction(work, early=early.pop() if early else None)
            except _UnexpectedNodesError:
                names.clear()
                whole = await self._store.transaction(work)
        except StoreError as error:
            unstarted.discard(node)
            if claiming:
                raise _ClaimRefusedError(error) from error
            raise
        unstarted.discard(node)
        return whole

    async def _read_whole(
        self, nodes: Transaction, pending: PendingRequest, reserve: Reserve, names: Sequence[str]
    ) -> PendingRequest | None:
        """The whole request and its caller; None when it is gone, changed, or belongs to another domain.

        `names`: its children that are known so far. A request that is a tree and needs no claim is read in one trip
        with them, and its transaction ends. Raises _UnexpectedNodesError when it has other nodes.
        """
        match, wanted, most = pending.match, pending.wanted, self._shared.admission.limits.nodes
        single = await transactions.several(nodes, wanted.nodes)
        request = self._style.parse(match, {path: node.value for path, node in single.items()})
        if request is None:
            return None
        permissions = {path: node.permissions for path, node in single.items()}
        if wanted.tree is not None:
            try:
                size = self._shared.admission.max_body(pending.owner or DOM0)
                if names and not wanted.nodes and not self._is_once(match, request):
                    tree = await transactions.leaves(nodes, wanted.tree, most, size, names)
                    if tree is None:
                        raise _UnexpectedNodesError
                else:
                    tree = await transactions.tree(nodes, wanted.tree, most, size, names)
            except transactions.RequestTooLargeError as error:
                return replace(pending, fault=Fault(FaultCode.TOO_LARGE, str(error)))
            for path, node in tree.items():
                permissions[f"{wanted.tree}/{path}" if path else wanted.tree] = node.permissions
            request = self._style.complete(match, request, {path: node.value for path, node in tree.items()})
        owned = permissions.get(self._style.owner_node(match))
        if owned is None or owned.writer != pending.owner:
            return None
        domid = least_privileged(permissions.values())
        whole = replace(pending, request=request, domid=domid, once=self._is_once(match, request))
        fault = self._check(whole)
        if fault is None and not reserve(sum(len(path) + len(value) for path, value in request.pairs)):
            fault = BUSY
        return replace(whole, fault=fault)

    def _is_once(self, match: Match, request: Request) -> bool:
        """Whether the request must not be executed twice."""
        return request.started or request.method in self.exposed.writes or bool(self._style.start(match, request))

    async def _call(self, pending: PendingRequest) -> PackedResponse:
        assert pending.domid is not None
        assert pending.owner is not None
        items: list[bytes] = [pending.request.method.encode()]
        for path, value in (*_path_parameters(pending.match), *pending.request.pairs):
            items += [path.encode("ascii"), value]
        peer = Peer(address=f"domain {pending.domid}", domid=pending.domid)
        body = (await self.exposed.endpoint.answer(pack(items), peer)).body or b""
        if pending.once and self._style.unique:
            self._shared.store_response(pending.match.node, pending.owner, body, pending.connection)
        return PackedResponse(body, EXECUTED)

    def _refusal(self, fault: Fault) -> PackedResponse:
        executed = "it may have been executed" if fault is UNKNOWN else NOT_EXECUTED
        return PackedResponse(self.exposed.endpoint.refuse(fault).body or b"", executed)


def _path_parameters(match: Match) -> Pairs:
    """The parameters that are elements of the request's path. Raises ValueError for an invalid escape."""
    return [(member(name), text_of(value).encode()) for name, value in match.parameters.items() if name[0] != "_"]
