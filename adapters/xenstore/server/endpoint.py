"""Serves one exposed path of a xenstore: finds requests, has each executed once, writes the responses.

A style gives nodes their meaning, an endpoint executes the calls. A request goes through four steps:

1. Peek. The permissions of the request and the few nodes that the style names are read, in the lane of the request's
   domain. Most changes end here: there is no request, or its domain may not call.
2. Claim. The whole request is read in one transaction, with the owner of each node. When it must not be executed twice,
   the same transaction writes a claim. After a crash of the gateway the claim shows that the outcome is unknown.
3. Call.
4. Deliver. The response is written in one transaction, together with the end of the claim, and only if the request is
   still there as it was read and still belongs to the same domain.

What the store refuses for the moment is repeated with growing pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from os import getpid

from msgspec import Struct, structs
from msgspec.structs import replace

from adapters.xenstore.client.client import StoreLostError
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import StoreError, is_permanent
from adapters.xenstore.server import state, transactions
from adapters.xenstore.server.caller import AdmittedRequest, caller_of, least_privileged
from adapters.xenstore.server.state import (
    LAST_PAUSE,
    RESPONSE_TTL,
    UNKNOWN_CALLER,
    UNPRODUCTIVE_READ,
    ExposedEndpoint,
    SharedContext,
    backoff,
)
from adapters.xenstore.server.transactions import conditions_hold, run_steps, too_long
from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import Pairs, Remove, Request, Style, Write, WriteStep, error_of, shortened
from gateway.core.dbus.names import quoted
from gateway.core.rpc.model import Fault, FaultCode, Peer
from gateway.core.xenstore.exposure import DOM0
from gateway.core.xenstore.paths import MAX_PATH, Match, member, pack, text_of, unpack

CLAIM_ATTEMPTS = 6  # then the client gets a fault that says that the store refuses the claim
SCAN_SHARE = 0.1  # of the time may be spent on scans: a change above the requests causes a scan of all of them

UNKNOWN = Fault(FaultCode.NO_REPLY, "the gateway went away while this call was made; it may have been executed")
BUSY = Fault(FaultCode.BUSY, "too many requests of this domain are outstanding; nothing was executed")
SHARED = Fault(FaultCode.ACCESS_DENIED, "several domains can write this request, so its caller is unknown")
NOT_EXECUTED, EXECUTED = "nothing was executed", "the call was executed"


class _RequestChangedError(Exception):
    """The request is gone, was changed, or belongs to another domain."""


class _ClaimRefusedError(Exception):
    """The store refuses the claim; the text is the name of its error."""


class _Pending(Struct, frozen=True):
    """A request that is being served."""

    match: Match
    request: Request
    owner: int | None  # owner of the request, and so of its response; None: several domains can write it
    domid: int | None  # the domain in whose name it is made: the least privileged of all writers of its nodes
    connection: int  # number of the store's connection over which it was seen
    fault: Fault | None = None  # why the call is not made
    once: bool = False  # it is claimed


class _Response(Struct, frozen=True):
    """A response as the codec packs it, and what to say of the call when the response cannot be written."""

    body: bytes
    executed: str = NOT_EXECUTED


class XenstoreEndpoint:
    """Serves one exposed endpoint between `start` and `close`. Requests that have started are finished after that."""

    def __init__(self, exposed: ExposedEndpoint, shared: SharedContext) -> None:
        self.exposed = exposed
        self._shared = shared
        self._store = shared.store
        self._style: Style = STYLES[exposed.exposure.style](exposed.exposure)
        self._requests = self._style.requests
        self._tasks: list[asyncio.Task[None]] = []
        self._scanned_at = -1  # number of reconnects at the last full scan
        self._to_scan: dict[str, None] = {}  # nodes above requests that have changed
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def is_up(self) -> bool:
        """Whether requests are served: a full scan has ended since the store was connected."""
        return self._store.connected and self._scanned_at == self._store.status().reconnects

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
        everything, connection = path == self._requests.root, self._store.status().reconnects
        if everything:
            await state.prepare_records(self._store)
            await run_steps(self._store, self._style.announce(getpid()), DOM0)
            claimed = await state.read_claims(self._store)
            self._shared.claimed = set(claimed)
            for node in claimed:
                match = self._requests.match(node)
                if match is not None and not match.rest:
                    self._schedule(match)
        for found in await transactions.places(self._store, self._requests, path):
            self._schedule(found)
        if everything:
            self._scanned_at = connection

    def _schedule(self, match: Match) -> None:
        """Serve a request node, or note that it has changed while it is being served."""
        if match.node in self._shared.running:
            self._shared.running[match.node] = True
        elif len(match.node) <= MAX_PATH:
            self._shared.running[match.node] = False
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
                    if not is_permanent(error) and not self._closed:
                        await self._shared.pause(next(waits))
                        continue
                if not running[match.node]:
                    return
                running[match.node] = False
        finally:
            del running[match.node]

    async def _process(self, match: Match) -> None:
        """Peek at the node and respond if there is a request."""
        pending = await self._peek(match)
        if pending is None:
            return
        stored = self._shared.responses.get(match.node) if self._style.unique else None
        if stored is not None and stored.owner == pending.owner:
            self._shared.store_response(match.node, stored.owner, stored.body, pending.connection)
            await self._deliver(pending, _Response(stored.body, EXECUTED))
        elif pending.fault is not None or pending.domid is None:
            await self._deliver(pending, self._refusal(pending.fault or SHARED))
        else:
            await self._admit(pending, pending.domid)

    async def _admit(self, pending: _Pending, domid: int) -> None:
        """Claim, call and deliver within the limits of the domain."""
        async with self._shared.admission.admitted(domid) as admitted:
            try:
                claimed = replace(pending, fault=BUSY) if admitted is None else await self._claim(pending, admitted)
            except _ClaimRefusedError as error:
                why = f"the store does not let the call be begun ({error}); it was not made"
                claimed = replace(pending, fault=Fault(FaultCode.UNAVAILABLE, why))
            if claimed is not None:
                response = await self._call(claimed) if claimed.fault is None else self._refusal(claimed.fault)
                await self._deliver(claimed, response)

    async def _peek(self, match: Match) -> _Pending | None:
        """Read few nodes to find the caller and whether there is a request; None when there is none."""
        node, shared, wanted = match.node, self._shared, self._style.read_set(match)
        connection = self._store.connections
        async with shared.lane(shared.owners.get(node)):
            permissions = await self._store.permissions(self._style.owner_node(match))
        if permissions is None:
            shared.request_is_gone(node)
            shared.owners.pop(node, None)
            await self._end_claim(node)
            return None
        owner = caller_of(permissions)
        lane = UNKNOWN_CALLER if owner is None else owner
        shared.remember_owner(node, lane)
        async with shared.lane(lane):
            nodes, answered, claim = await asyncio.gather(
                transactions.values(self._store, wanted.nodes),
                self._is_answered(self._store, wanted.response, owner),
                self._store.read(state.claim_path(node)),
            )
            request = None if answered else self._style.parse(match, nodes)
            if request is not None and request.started and claim is None:  # another server has started it
                request = None
            is_stale = claim is not None and node not in shared.unstarted  # claimed by a gateway that has crashed
            pending = _Pending(match, request, owner, owner, connection) if request is not None else None
            if pending is not None:
                pending = replace(pending, fault=UNKNOWN if is_stale else self._check(pending))
            if lane != DOM0 and (pending is None or pending.fault is not None):
                await shared.pause(UNPRODUCTIVE_READ)
        if pending is None:
            await self._end_claim(node)
        return pending

    async def _end_claim(self, node: str) -> None:
        """Remove the claim on a node that has no request any more."""
        if node in self._shared.claimed or node in self._shared.unstarted:
            await self._store.remove(state.claim_path(node))
            self._shared.claimed.discard(node)
            self._shared.unstarted.discard(node)

    async def _is_answered(self, nodes: StoreOperations, path: str | None, owner: int | None) -> bool:
        """Whether there is a response. A node that a third domain has put there is none."""
        permissions = await nodes.permissions(path) if path is not None else None
        return permissions is not None and caller_of(permissions) in (DOM0, owner)

    def _check(self, pending: _Pending) -> Fault | None:
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
            return Fault(FaultCode.ACCESS_DENIED, f"domain {pending.domid} may not call {_shown(method)}")
        if pending.request.fault is not None:
            return pending.request.fault
        for path, _ in pending.request.pairs:
            if path.partition("/")[0] in of_path:
                return Fault(FaultCode.INVALID_REQUEST, f"'{path}' is given by the path of the request already")
        return None

    async def _claim(self, pending: _Pending, admitted: AdmittedRequest) -> _Pending | None:
        """Read the whole request and claim it if it must not be executed twice, in one transaction.

        None when the request has changed. Raises _ClaimRefusedError when the store refuses the claim.
        """
        node, unstarted, waits = pending.match.node, self._shared.unstarted, backoff()
        claiming = False

        async def work(nodes: StoreOperations) -> _Pending | None:
            nonlocal claiming
            claiming = False
            whole = await self._read_whole(nodes, pending, admitted)
            if whole is None or whole.fault is not None or not whole.once:
                return whole
            claiming = True
            unstarted.add(node)
            claim = Write(state.claim_path(node), node.encode())
            await run_steps(nodes, [claim, *self._style.start(whole.match, whole.request)], DOM0)
            return whole

        for attempt in range(1, CLAIM_ATTEMPTS + 1):
            try:
                async with self._shared.lane(pending.owner):
                    whole = await self._store.transaction(work)
            except StoreError as error:
                unstarted.discard(node)
                if not claiming:
                    raise
                if is_permanent(error) or attempt == CLAIM_ATTEMPTS:
                    raise _ClaimRefusedError(error.name) from error
                await self._shared.pause(next(waits))
            else:
                unstarted.discard(node)
                return whole
        raise AssertionError("the last attempt returns or raises")

    async def _read_whole(
        self, nodes: StoreOperations, pending: _Pending, admitted: AdmittedRequest
    ) -> _Pending | None:
        """The whole request and its caller; None when it is gone, changed, or belongs to another domain."""
        match, wanted, limits = pending.match, self._style.read_set(pending.match), self._shared.limits
        found = await transactions.several(nodes, wanted.nodes)
        request = self._style.parse(match, found.values)
        if request is None:
            return None
        permissions = found.permissions
        if wanted.tree is not None:
            try:
                size = self._shared.admission.max_body(pending.owner or DOM0)
                tree = await transactions.tree(nodes, wanted.tree, limits.nodes, size)
            except transactions.RequestTooLargeError as error:
                return replace(pending, fault=Fault(FaultCode.TOO_LARGE, str(error)))
            below = {f"{wanted.tree}/{path}" if path else wanted.tree: each for path, each in tree.permissions.items()}
            permissions = {**permissions, **below}
            request = self._style.complete(match, request, tree.values)
        owned = permissions.get(self._style.owner_node(match))
        if owned is None or caller_of(owned) != pending.owner:
            return None
        domid = least_privileged(map(caller_of, permissions.values()))
        is_once = request.started or request.method in self.exposed.writes or bool(self._style.start(match, request))
        whole = replace(pending, request=request, domid=domid, once=is_once)
        fault = self._check(whole)
        if fault is None and not admitted.resize(sum(len(path) + len(value) for path, value in request.pairs)):
            fault = BUSY
        return replace(whole, fault=fault)

    async def _call(self, pending: _Pending) -> _Response:
        assert pending.domid is not None
        assert pending.owner is not None
        items: list[bytes] = [pending.request.method.encode()]
        for path, value in (*_path_parameters(pending.match), *pending.request.pairs):
            items += [path.encode("ascii"), value]
        peer = Peer(address=f"domain {pending.domid}", domid=pending.domid)
        body = (await self.exposed.endpoint.answer(pack(items), peer)).body or b""
        if pending.once and self._style.unique:
            self._shared.store_response(pending.match.node, pending.owner, body, pending.connection)
        return _Response(body, EXECUTED)

    def _refusal(self, fault: Fault) -> _Response:
        executed = "it may have been executed" if fault is UNKNOWN else NOT_EXECUTED
        return _Response(self.exposed.endpoint.refuse(fault).body or b"", executed)

    # Delivering the response

    async def _deliver(self, pending: _Pending, response: _Response) -> None:
        """Write the response; when the store refuses it for good, write a fault that says so."""
        node = pending.match.node
        error = await self._write_with_retries(pending, self._steps(pending, response))
        if error is not None and is_permanent(error):
            self._shared.report(f"{node}: the store refuses the answer: {error}")
            why = f"the store refused the answer ({error.name}); {response.executed}"
            fault = replace(self._refusal(Fault(FaultCode.UNREPRESENTABLE, why)), executed="")
            error = await self._write_with_retries(pending, self._steps(pending, fault))
        if error is not None:
            self._shared.report(f"{node} stays without an answer: {error}")

    async def _write_with_retries(self, pending: _Pending, steps: Sequence[WriteStep]) -> StoreError | None:
        """Write the response, with retries for as long as the client may wait. The error if it was not written."""
        waits, end, reported = backoff(), self._shared.clock() + RESPONSE_TTL, False
        while True:
            try:
                await self._write_once(pending, steps)
            except StoreError as error:
                if is_permanent(error) or self._shared.clock() >= end:
                    return error
                if not reported:
                    self._shared.report(f"{pending.match.node}: the answer is tried again: {error}")
                reported = True
            else:
                return None
            await self._shared.pause(next(waits))

    async def _write_once(self, pending: _Pending, steps: Sequence[WriteStep]) -> None:
        """Write the response, or find that its request is gone; waits for a connection to the store."""
        node = pending.match.node
        while True:
            await self._store.until_connected()
            if self._style.unique:  # earlier changes do not matter: the node can only hold the same request
                self._shared.running[node] = False
            try:
                async with self._shared.turn(UNKNOWN_CALLER if pending.owner is None else pending.owner):
                    return await self._store.transaction(
                        lambda nodes: self._write(nodes, pending, steps), self._shared.writing
                    )
            except StoreLostError:
                continue  # the conditions tell whether the response was written
            except _RequestChangedError:
                self._shared.running[node] = True  # the node may hold another request now
                self._shared.claimed.discard(node)
                return await self._store.remove(state.claim_path(node))

    def _steps(self, pending: _Pending, response: _Response) -> Sequence[WriteStep]:
        """The steps that write a response; those of a fault when style or store cannot hold the response."""
        pairs: Pairs = ()
        try:
            pairs = _pairs(response.body)
            steps = self._style.respond(pending.match, pending.request, pairs)
        except ValueError as error:  # the response of a legacy service that was passed through
            steps = Fault(FaultCode.REMOTE, f"expected an answer that consists of nodes: {error}")
        fault = steps if isinstance(steps, Fault) else too_long(steps)
        if fault is None:
            assert not isinstance(steps, Fault)
            return steps
        if error_of(pairs):
            pairs = shortened(pairs)
        else:
            pairs = _pairs(self._refusal(structs.replace(fault, message=f"{fault.message}; {response.executed}")).body)
        refused = self._style.respond(pending.match, pending.request, pairs)
        assert not isinstance(refused, Fault), "every style can express an error"
        return refused

    async def _write(self, nodes: StoreOperations, pending: _Pending, steps: Sequence[WriteStep]) -> None:
        """Write the response and end the claim. Raises _RequestChangedError. Everything is sent without waiting."""
        match, conditions = pending.match, pending.request.conditions
        replaced = await self._replace_previous(nodes, match, steps)
        end_claim = Remove(state.claim_path(match.node))
        permissions, answered, found, _ = await asyncio.gather(
            nodes.permissions(self._style.owner_node(match)),
            self._is_answered(nodes, self._style.read_set(match).response, pending.owner),
            asyncio.gather(*map(nodes.read, conditions)),
            run_steps(nodes, [*replaced, *steps, end_claim], DOM0 if pending.owner is None else pending.owner),
        )
        is_same = permissions is not None and caller_of(permissions) == pending.owner
        if not is_same or answered or not conditions_hold(conditions, found):
            raise _RequestChangedError

    async def _replace_previous(
        self, nodes: StoreOperations, match: Match, steps: Sequence[WriteStep]
    ) -> Sequence[WriteStep]:
        """For a response that shares a folder: remove the nodes of the previous one, and record those of this one."""
        folder = self._style.shared_folder(match)
        if folder is None:
            return ()
        record = state.answer_path(match.node)
        before = (await nodes.read(record) or b"").decode("ascii").split()
        owned = [step.path for step in steps if isinstance(step, Write) and step.owned]
        left = sorted({path[len(folder) + 1 :].partition("/")[0] for path in owned})
        stay = {*left, *self.exposed.exposure.parameters}
        written = Write(record, " ".join(left).encode()) if left else Remove(record)
        return [*(Remove(f"{folder}/{name}") for name in before if name not in stay), written]


def _pairs(body: bytes) -> Pairs:
    """The nodes of a packed response. Raises ValueError."""
    items = unpack(body)
    return [(path.decode("ascii"), value) for path, value in zip(items[::2], items[1::2], strict=True)]


def _path_parameters(match: Match) -> Pairs:
    """The parameters that are elements of the request's path. Raises ValueError for an invalid escape."""
    return [(member(name), text_of(value).encode()) for name, value in match.parameters.items() if name[0] != "_"]


def _shown(method: str) -> str:
    try:
        return quoted(text_of(method))
    except ValueError:
        return quoted(method)
