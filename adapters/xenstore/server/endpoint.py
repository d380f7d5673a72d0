"""One exposed path of a xenstore: finds requests there, has each answered once, writes the answers.

A style says what the nodes mean; an endpoint answers. A request is looked at in two steps. First its owner and the
style's few nodes are read, in that domain's own lane: most looks end there, since nothing is asked, or by nobody who
may. Then all of it is read in one transaction, with the owner of each node; what must be done once is claimed in that
very transaction, so that after a crash it is told as unknown and not done again. The answer is written in one
transaction too, and only while the request still stands as it was read and is still the same domain's.

What the store refuses for the moment is tried again with a growing pause. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import getpid

from msgspec import structs

from adapters.xenstore.client.client import StoreLostError
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import StoreError, lasts
from adapters.xenstore.server import state, transactions
from adapters.xenstore.server.caller import Place, caller_of, least
from adapters.xenstore.server.state import FRUITLESS, KEPT, LAST_PAUSE, NOBODY, ExposedEndpoint, SharedContext, pauses
from adapters.xenstore.server.transactions import conditions_hold, run_steps, too_long
from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import Pairs, Remove, Request, Style, Write, WriteStep, error_of, shortened
from gateway.core.dbus.names import quoted
from gateway.core.rpc.model import Fault, FaultCode, Peer
from gateway.core.xenstore.exposure import DOM0
from gateway.core.xenstore.paths import MAX_PATH, Match, member, pack, text_of, unpack

CLAIMS_TRIED = 6  # times that a call is begun before its client is told that the store does not let it be begun
SCANNING = 0.1  # of the time: whoever touches what is above requests makes all of them be looked at

UNKNOWN = Fault(FaultCode.NO_REPLY, "the gateway went away while this call was made; it may have been executed")
BUSY = Fault(FaultCode.BUSY, "too many requests of this domain are outstanding; nothing was executed")
SHARED = Fault(FaultCode.ACCESS_DENIED, "several domains can write this request, so that nobody knows who asks")


class _GoneError(Exception):
    """The request does not stand any more as it was read, or is another domain's."""


class _UnbegunError(Exception):
    """The store does not let the call be begun; the text is its word for why."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A request, and what is known around it."""

    match: Match
    request: Request
    owner: int | None  # whose request it is, and whose its answer will be; None: of several
    domid: int | None  # in whose name it is made: the least of all who wrote a node of it
    connection: int  # of the store, over which it was seen
    fault: Fault | None = None  # why it is not made
    once: bool = False  # it is claimed


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer: nodes as the codec packs them."""

    body: bytes
    executed: str = "nothing was executed"  # what is true of the call, whatever becomes of the answer


EXECUTED = "the call was executed"


class XenstoreEndpoint:
    """Serves one offer between `start` and `close`; requests that are begun are finished after that too."""

    def __init__(self, offer: ExposedEndpoint, shared: SharedContext) -> None:
        self.offer = offer
        self._shared = shared
        self._store = shared.store
        self._style: Style = STYLES[offer.exposure.style](offer.exposure)
        self._requests = self._style.requests
        self._tasks: list[asyncio.Task[None]] = []
        self._looked = -1  # the store's reconnects when all was looked through
        self._due: dict[str, None] = {}  # nodes above requests; what is below them is to be looked through
        self._more = asyncio.Event()
        self._closed = False

    @property
    def is_up(self) -> bool:
        """Whether clients find us: all that was there has been looked through since the store came."""
        return self._store.connected and self._looked == self._store.status().reconnects

    def start(self) -> None:
        """Watch, now or when the store is there."""
        name = f"watch of {self.offer.exposure.path}"
        self._tasks += [self._shared.spawn(self._watch(), name), self._shared.spawn(self._look_through(), name)]
        if self._style.answers is not None and self.offer.exposure.collect is not None:
            collecting = state.remove_expired_responses(self._style, self._shared, self.offer.exposure.collect)
            self._tasks.append(self._shared.spawn(collecting, name))

    async def close(self) -> None:
        """Take no more requests."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # Finding requests

    async def _watch(self) -> None:
        """Nothing is waited for here: whoever changes nodes fast enough would hold up what others ask."""
        watch = self._store.watch(self._requests.root)
        try:
            async for path in watch:
                match = self._requests.match(path)
                if match is not None:
                    self._look(match)
                if path == self._requests.root or (match is None and self._requests.continues(path) is not None):
                    self._due[path] = None
                    self._more.set()
        except StoreError as error:
            self._shared.tell(f"{self._requests.root} cannot be watched: {error}")
        finally:
            watch.close()

    async def _look_through(self) -> None:
        """All that is below a node which changed; again, until the store lets it be looked at."""
        waits, told = pauses(), ""
        while True:
            await self._more.wait()
            self._more.clear()
            began = self._shared.clock()
            due, self._due, was_lost = self._due, {}, False
            for path in [self._requests.root] if self._requests.root in due else due:
                try:
                    await self._look_below(path)
                except StoreLostError:
                    was_lost = True
                    if self._store.connected:  # else the watched path comes again with the store
                        self._due[path] = None
                except StoreError as error:
                    self._due[path] = None
                    if str(error) != told:
                        told = str(error)
                        self._shared.tell(f"{path} cannot be looked at, and is tried again: {told}")
            if self._due:
                self._more.set()
                await self._shared.pause(next(waits))
            elif not was_lost:
                waits, told = pauses(), ""
                await self._shared.pause(min(LAST_PAUSE, (self._shared.clock() - began) * (1 / SCANNING - 1)))

    async def _look_below(self, path: str) -> None:
        everything, connection = path == self._requests.root, self._store.status().reconnects
        if everything:
            await state.prepare(self._store)
            await run_steps(self._store, self._style.announce(getpid()), DOM0)
            claimed = await state.claimed(self._store)
            self._shared.claimed = set(claimed)
            for node in claimed:
                match = self._requests.match(node)
                if match is not None and not match.rest:
                    self._look(match)
        for found in await transactions.places(self._store, self._requests, path):
            self._look(found)
        if everything:
            self._looked = connection

    def _look(self, match: Match) -> None:
        if match.node in self._shared.running:
            self._shared.running[match.node] = True
        elif len(match.node) <= MAX_PATH:
            self._shared.running[match.node] = False
            self._shared.spawn(self._serve(match), f"request {match.node}")

    # Serving one

    async def _serve(self, match: Match) -> None:
        running, waits = self._shared.running, pauses()
        try:
            while True:
                try:
                    await self._once(match)
                except (
                    StoreLostError
                ):  # nothing was executed; when the store is there again, the watched path comes again
                    if not self._store.connected:
                        return
                    continue
                except StoreError as error:  # nothing was executed
                    self._shared.tell(f"{match.node} cannot be read: {error}")
                    if not lasts(error) and not self._closed:
                        await self._shared.pause(next(waits))
                        continue
                if not running[match.node]:
                    return
                running[match.node] = False
        finally:
            del running[match.node]

    async def _once(self, match: Match) -> None:
        """Look, and answer if something is asked."""
        asked = await self._glance(match)
        if asked is None:
            return
        kept = self._shared.kept.get(match.node) if self._style.unique else None
        if kept is not None and kept.owner == asked.owner:
            self._shared.keep(match.node, kept.owner, kept.body, asked.connection)
            await self._deliver(asked, _Said(kept.body, EXECUTED))
        elif asked.fault is not None or asked.domid is None:
            await self._deliver(asked, self._refused(asked.fault or SHARED))
        else:
            await self._admit(asked, asked.domid)

    async def _admit(self, asked: _Request, domid: int) -> None:
        """Read it and make the call, if this domain has a place for it, which it holds until the answer is written."""
        async with self._shared.admission.admitted(domid) as place:
            try:
                read = replace(asked, fault=BUSY) if place is None else await self._begun(asked, place)
            except _UnbegunError as error:
                why = f"the store does not let the call be begun ({error}); it was not made"
                read = replace(asked, fault=Fault(FaultCode.UNAVAILABLE, why))
            if read is not None:
                said = await self._call(read) if read.fault is None else self._refused(read.fault)
                await self._deliver(read, said)

    async def _glance(self, match: Match) -> _Request | None:
        """Who asks and whether, from few nodes; None when nothing is asked."""
        node, shared, wanted = match.node, self._shared, self._style.wanted(match)
        connection = self._store.connections
        async with shared.lane(shared.owners.get(node)):
            permissions = await self._store.permissions(self._style.signed(match))
        if permissions is None:
            shared.let_go(node)
            shared.owners.pop(node, None)
            await self._asks_nothing(node)
            return None
        owner = caller_of(permissions)
        lane = NOBODY if owner is None else owner
        shared.owned(node, lane)
        async with shared.lane(lane):
            nodes, answered, claim = await asyncio.gather(
                transactions.values(self._store, wanted.nodes),
                self._answered(self._store, wanted.answered, owner),
                self._store.read(state.claim_of(node)),
            )
            request = None if answered else self._style.asks(match, nodes)
            if request is not None and request.begun and claim is None:  # somebody else has taken it
                request = None
            is_claimed = claim is not None and node not in shared.unbegun  # by a gateway that is no more
            asked = _Request(match, request, owner, owner, connection) if request is not None else None
            if asked is not None:
                asked = replace(asked, fault=UNKNOWN if is_claimed else self._refusal(asked))
            if lane != DOM0 and (asked is None or asked.fault is not None):
                await shared.pause(FRUITLESS)
        if asked is None:
            await self._asks_nothing(node)
        return asked

    async def _asks_nothing(self, node: str) -> None:
        """A claim that is left of it ends."""
        if node in self._shared.claimed or node in self._shared.unbegun:
            await self._store.remove(state.claim_of(node))
            self._shared.claimed.discard(node)
            self._shared.unbegun.discard(node)

    async def _answered(self, nodes: StoreOperations, path: str | None, owner: int | None) -> bool:
        """Whether an answer stands there: what a third domain has put there is none."""
        permissions = await nodes.permissions(path) if path is not None else None
        return permissions is not None and caller_of(permissions) in (DOM0, owner)

    def _refusal(self, asked: _Request) -> Fault | None:
        """Why it is not made, as far as that is known."""
        if asked.domid is None:
            return SHARED
        try:
            said = dict(_of_path(asked.match))
        except ValueError as error:
            return Fault(FaultCode.INVALID_REQUEST, str(error))
        parameters = {name: value.decode() for name, value in said.items()}
        if not self.offer.may(asked.domid, asked.request.method, parameters):
            return Fault(FaultCode.ACCESS_DENIED, f"domain {asked.domid} may not call {_named(asked.request.method)}")
        if asked.request.fault is not None:
            return asked.request.fault
        for path, _ in asked.request.pairs:
            if path.partition("/")[0] in said:
                return Fault(FaultCode.INVALID_REQUEST, f"'{path}' is said by the path already")
        return None

    async def _begun(self, asked: _Request, place: Place) -> _Request | None:
        """Read all of it, and claim what must be done once, in one moment; None when it is not as it was any more.

        Raises _UnbegunError when the store does not let it be claimed.
        """
        node, unbegun, waits = asked.match.node, self._shared.unbegun, pauses()
        claiming = False

        async def work(nodes: StoreOperations) -> _Request | None:
            nonlocal claiming
            claiming = False
            read = await self._whole(nodes, asked, place)
            if read is None or read.fault is not None or not read.once:
                return read
            claiming = True
            unbegun.add(node)
            claim = Write(state.claim_of(node), node.encode())
            await run_steps(nodes, [claim, *self._style.begin(read.match, read.request)], DOM0)
            return read

        for attempt in range(1, CLAIMS_TRIED + 1):
            try:
                async with self._shared.lane(asked.owner):
                    read = await self._store.transaction(work)
            except StoreError as error:
                unbegun.discard(node)
                if not claiming:
                    raise
                if lasts(error) or attempt == CLAIMS_TRIED:
                    raise _UnbegunError(error.name) from error
                await self._shared.pause(next(waits))
            else:
                unbegun.discard(node)
                return read
        raise AssertionError("the last attempt returns or raises")

    async def _whole(self, nodes: StoreOperations, asked: _Request, place: Place) -> _Request | None:
        """The whole request, and in whose name it is made. None when it is gone, changed, or another domain's."""
        match, wanted, limits = asked.match, self._style.wanted(asked.match), self._shared.limits
        found = await transactions.several(nodes, wanted.nodes)
        request = self._style.asks(match, found.values)
        if request is None:
            return None
        permissions = found.permissions
        if wanted.tree is not None:
            try:
                size = self._shared.admission.body(asked.owner or DOM0)
                tree = await transactions.tree(nodes, wanted.tree, limits.nodes, size)
            except transactions.RequestTooLargeError as error:
                return replace(asked, fault=Fault(FaultCode.TOO_LARGE, str(error)))
            permissions = {
                **permissions,
                **{_joined(wanted.tree, path): each for path, each in tree.permissions.items()},
            }
            request = self._style.request(match, request, tree.values)
        signature = permissions.get(self._style.signed(match))
        if signature is None or caller_of(signature) != asked.owner:
            return None
        domid = least(map(caller_of, permissions.values()))
        read = replace(asked, request=request, domid=domid, once=self._is_once(match, request))
        fault = self._refusal(read)
        if fault is None and not place.become(sum(len(path) + len(value) for path, value in request.pairs)):
            fault = BUSY
        return replace(read, fault=fault)

    def _is_once(self, match: Match, request: Request) -> bool:
        return request.begun or request.method in self.offer.writes or bool(self._style.begin(match, request))

    async def _call(self, asked: _Request) -> _Said:
        assert asked.domid is not None
        assert asked.owner is not None
        items: list[bytes] = [asked.request.method.encode()]
        for path, value in (*_of_path(asked.match), *asked.request.pairs):
            items += [path.encode("ascii"), value]
        peer = Peer(address=f"domain {asked.domid}", domid=asked.domid)
        body = (await self.offer.endpoint.answer(pack(items), peer)).body or b""
        if asked.once and self._style.unique:
            self._shared.keep(asked.match.node, asked.owner, body, asked.connection)
        return _Said(body, EXECUTED)

    def _refused(self, fault: Fault) -> _Said:
        executed = "it may have been executed" if fault is UNKNOWN else "nothing was executed"
        return _Said(self.offer.endpoint.refuse(fault).body or b"", executed)

    # Answering

    async def _deliver(self, asked: _Request, said: _Said) -> None:
        """Write the answer; where the store will never take it, say that instead."""
        error = await self._insist(asked, self._steps(asked, said))
        if error is not None and lasts(error):
            self._shared.tell(f"{asked.match.node}: the store refuses the answer: {error}")
            refused = Fault(FaultCode.UNREPRESENTABLE, f"the store refused the answer ({error.name}); {said.executed}")
            error = await self._insist(asked, self._steps(asked, replace(self._refused(refused), executed="")))
        if error is not None:
            self._shared.tell(f"{asked.match.node} stays without an answer: {error}")

    async def _insist(self, asked: _Request, steps: Sequence[WriteStep]) -> StoreError | None:
        """Write it, again while the store refuses it for the moment and the client may wait; why it was not written."""
        waits, end, told = pauses(), self._shared.clock() + KEPT, False
        while True:
            try:
                await self._commit(asked, steps)
            except StoreError as error:
                if lasts(error) or self._shared.clock() >= end:
                    return error
                if not told:
                    self._shared.tell(f"{asked.match.node}: the answer is tried again: {error}")
                told = True
            else:
                return None
            await self._shared.pause(next(waits))

    async def _commit(self, asked: _Request, steps: Sequence[WriteStep]) -> None:
        """Write it once; waits for the store when it is away."""
        node = asked.match.node
        while True:
            await self._store.until_connected()
            if self._style.unique:  # what has changed before is no matter: the request is the same
                self._shared.running[node] = False
            try:
                async with self._shared.turn(NOBODY if asked.owner is None else asked.owner):
                    return await self._store.transaction(
                        lambda nodes: self._write(nodes, asked, steps), self._shared.writing
                    )
            except StoreLostError:
                continue  # whether it was written is seen by the conditions
            except _GoneError:
                self._shared.running[node] = True  # what stands there now may ask something else
                self._shared.claimed.discard(node)
                return await self._store.remove(state.claim_of(node))

    def _steps(self, asked: _Request, said: _Said) -> Sequence[WriteStep]:
        """What is to be written; a fault instead where the style or the store has no room for it."""
        pairs: Pairs = ()
        try:
            pairs = _pairs(said.body)
            steps = self._style.answer(asked.match, asked.request, pairs)
        except ValueError as error:  # a legacy service's answer, handed on as it came
            steps = Fault(FaultCode.REMOTE, f"the answer is none of nodes: {error}")
        fault = steps if isinstance(steps, Fault) else too_long(steps)
        if fault is None:
            assert not isinstance(steps, Fault)
            return steps
        if error_of(pairs):
            pairs = shortened(pairs)
        else:
            pairs = _pairs(self._refused(structs.replace(fault, message=f"{fault.message}; {said.executed}")).body)
        told = self._style.answer(asked.match, asked.request, pairs)
        assert not isinstance(told, Fault), "every style can say an error"
        return told

    async def _write(self, nodes: StoreOperations, asked: _Request, steps: Sequence[WriteStep]) -> None:
        """Write the answer and end the claim, if the request still stands as it was read. All is sent at once."""
        match, conditions = asked.match, asked.request.conditions
        beside = await self._replaced(nodes, match, steps)
        claim = Remove(state.claim_of(match.node))
        signature, answered, found, _ = await asyncio.gather(
            nodes.permissions(self._style.signed(match)),
            self._answered(nodes, self._style.wanted(match).answered, asked.owner),
            asyncio.gather(*map(nodes.read, conditions)),
            run_steps(nodes, [*beside, *steps, claim], DOM0 if asked.owner is None else asked.owner),
        )
        is_same = signature is not None and caller_of(signature) == asked.owner
        if not is_same or answered or not conditions_hold(conditions, found):
            raise _GoneError

    async def _replaced(self, nodes: StoreOperations, match: Match, steps: Sequence[WriteStep]) -> Sequence[WriteStep]:
        """Where an answer lies among other nodes: the last one is removed, and what this one leaves is written down."""
        folder = self._style.beside(match)
        if folder is None:
            return ()
        record = state.answer_of(match.node)
        before = (await nodes.read(record) or b"").decode("ascii").split()
        handed = [step.path for step in steps if isinstance(step, Write) and step.handed]
        left = sorted({path[len(folder) + 1 :].partition("/")[0] for path in handed})
        kept = {*left, *self.offer.exposure.parameters}
        written = Write(record, " ".join(left).encode()) if left else Remove(record)
        return [*(Remove(f"{folder}/{name}") for name in before if name not in kept), written]


def _pairs(body: bytes) -> Pairs:
    """The nodes of an answer; ValueError when they are none."""
    items = unpack(body)
    return [(path.decode("ascii"), value) for path, value in zip(items[::2], items[1::2], strict=True)]


def _of_path(match: Match) -> Pairs:
    """The parameters that the path itself gives; ValueError when one cannot be read."""
    return [(member(name), text_of(value).encode()) for name, value in match.parameters.items() if name[0] != "_"]


def _joined(root: str, path: str) -> str:
    return f"{root}/{path}" if path else root


def _named(method: str) -> str:
    try:
        return quoted(text_of(method))
    except ValueError:
        return quoted(method)
