"""One exposed path of a xenstore: finds requests there, has each answered once, writes the answers.

A style says what the nodes mean; an endpoint answers. What must be done once is claimed in the store before it is done,
so that after a crash it is told as unknown and not done again. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import getpid

from adapters.transports import xenstore_claims, xenstore_leftovers, xenstore_reading
from adapters.transports.xenstore_asker import asker
from adapters.transports.xenstore_nodes import Nodes
from adapters.transports.xenstore_packets import StoreError
from adapters.transports.xenstore_shared import Offer, Shared
from adapters.transports.xenstore_steps import do, hold, too_long
from adapters.transports.xenstore_store import LostError
from adapters.transports.xenstore_style import (
    Found,
    Pairs,
    Remove,
    Request,
    Step,
    Style,
    Wanted,
    Write,
    error_of,
    shortened,
)
from adapters.transports.xenstore_styles import STYLES
from gateway.core.exposure import DOM0
from gateway.core.model import Fault, FaultCode, Peer
from gateway.core.netstrings import pack, unpack
from gateway.core.nodes import MAX_PATH, Match, member, text_of

UNKNOWN = Fault(FaultCode.NO_REPLY, "the gateway went away while this call was made; it may have been executed")
BUSY = Fault(FaultCode.BUSY, "too many requests of this domain are outstanding; nothing was executed")
SHARED = Fault(FaultCode.ACCESS_DENIED, "several domains can write this request, so that nobody knows who asks")


class _GoneError(Exception):
    """The request does not stand any more as it was read."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and what is known around it."""

    match: Match
    request: Request
    domid: int | None  # who asks; None: nobody knows
    is_claimed: bool  # by a gateway that is no more

    @property
    def size(self) -> int:
        return sum(len(path) + len(value) for path, value in self.request.pairs)


class Exposed:
    """Serves one offer between `start` and `close`; requests that are begun are finished after that too."""

    def __init__(self, offer: Offer, shared: Shared) -> None:
        self.offer = offer
        self._shared = shared
        self._store = shared.store
        self._style: Style = STYLES[offer.exposure.style](offer.exposure)
        self._requests = self._style.requests
        self._tasks: list[asyncio.Task[None]] = []
        self._looked = -1  # the store's reconnects when all was looked through

    @property
    def is_up(self) -> bool:
        """Whether clients find us: all that was there has been looked through since the store came."""
        return self._store.connected and self._looked == self._store.status().reconnects

    def start(self) -> None:
        """Watch, now or when the store is there."""
        name = f"watch of {self.offer.exposure.path}"
        self._tasks.append(self._shared.spawn(self._watch(), name))
        if self._style.answers is not None and self.offer.exposure.collect is not None:
            collecting = xenstore_leftovers.collect(self._style, self._shared, self.offer.exposure.collect)
            self._tasks.append(self._shared.spawn(collecting, name))

    async def close(self) -> None:
        """Take no more requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # Finding requests

    async def _watch(self) -> None:
        watch = self._store.watch(self._requests.root)
        try:
            async for path in watch:
                try:
                    await self._changed(path)
                except LostError:  # when the store is there again, the watched path comes again
                    if self._store.connected:
                        watch.tell(path)
                except StoreError as error:
                    self._shared.tell(f"{path} cannot be looked at: {error}")
        except StoreError as error:
            self._shared.tell(f"{self._requests.root} cannot be watched: {error}")
        finally:
            watch.close()

    async def _changed(self, path: str) -> None:
        match = self._requests.match(path)
        if match is not None:
            self._look(match)
            return
        everything, connection = path == self._requests.root, self._store.status().reconnects
        if everything:
            await self._announce()
        for found in await xenstore_reading.places(self._store, self._requests, path):
            self._look(found)
        if everything:
            for node in await xenstore_claims.claimed(self._store):
                self._look_exactly(node)
            self._looked = connection

    async def _announce(self) -> None:
        await xenstore_claims.prepare(self._store)
        for step in self._style.announce(getpid()):
            await do(self._store, [step], DOM0)

    def _look_exactly(self, node: str) -> None:
        match = self._requests.match(node)
        if match is not None and not match.rest:
            self._look(match)

    def _look(self, match: Match) -> None:
        if match.node in self._shared.running:
            self._shared.running[match.node] = True
        elif len(match.node) <= MAX_PATH:
            self._shared.running[match.node] = False
            self._shared.spawn(self._serve(match), f"request {match.node}")

    # Serving one

    async def _serve(self, match: Match) -> None:
        running = self._shared.running
        try:
            while True:
                try:
                    await self._once(match)
                except LostError:  # nothing was executed; when the store is there again, the watched path comes again
                    if not self._store.connected:
                        return
                    continue
                if not running[match.node]:
                    return
                running[match.node] = False
        finally:
            del running[match.node]

    async def _once(self, match: Match) -> None:
        """Look, and answer if something is asked."""
        try:
            async with self._shared.reading:
                asked = await self._asked(match)
        except StoreError as error:
            self._shared.tell(f"{match.node} cannot be read: {error}")
            return
        if asked is not None:
            await self._deliver(asked, await self._answered(asked))

    async def _asked(self, match: Match) -> _Asked | None:
        claim = xenstore_claims.claim_of(match.node)
        wanted, signed = self._style.wanted(match), self._style.signed(match)
        before, nodes, taken = await asyncio.gather(
            self._store.permissions(signed),
            xenstore_reading.several(self._store, wanted.nodes),
            self._store.read(claim),
        )
        is_claimed = taken is not None and match.node not in self._shared.unbegun
        if before is None:
            self._shared.let_go(match.node)
            request = None
        else:
            domid = asker(before)
            request = self._style.request(match, await self._found(wanted, nodes, domid))
        if request is None or (request.begun and not is_claimed):  # asks nothing, or somebody else has taken it
            if taken is not None:
                await self._store.remove(claim)
                self._shared.unbegun.discard(match.node)
            return None
        after = await self._store.permissions(signed)
        same = after is not None and asker(after) == domid
        return _Asked(match, request, domid if same else None, is_claimed=is_claimed)

    async def _found(self, wanted: Wanted, nodes: Mapping[str, bytes], domid: int | None) -> Found:
        if wanted.tree is None:
            return Found(None, nodes)
        size = self._shared.admission.body(DOM0 if domid is None else domid)
        try:
            return Found(await xenstore_reading.tree(self._store, wanted.tree, self._shared.limits.nodes, size), nodes)
        except xenstore_reading.TooMuchError as error:
            return Found({"": b""}, nodes, Fault(FaultCode.TOO_LARGE, str(error)))

    async def _answered(self, asked: _Asked) -> bytes:
        """The answer: as it was given before, a refusal, or what comes of the call."""
        kept = self._shared.kept.get(asked.match.node) if self._style.unique else None
        if kept is not None:
            self._shared.keep(asked.match.node, kept[1])
            return kept[1]
        fault = self._refusal(asked)
        if fault is not None:
            return self._refused(fault)
        domid = asked.domid
        assert domid is not None
        async with self._shared.admission.admitted(domid, asked.size) as room:
            return await self._call(asked, domid) if room else self._refused(BUSY)

    def _refusal(self, asked: _Asked) -> Fault | None:
        if asked.is_claimed:
            return UNKNOWN
        if asked.domid is None:
            return SHARED
        return asked.request.fault or _taken_name(asked)

    def _refused(self, fault: Fault) -> bytes:
        return self.offer.endpoint.refuse(fault).body or b""

    async def _call(self, asked: _Asked, domid: int) -> bytes:
        try:
            once = await self._begin(asked)
        except StoreError as error:
            self._shared.unbegun.discard(asked.match.node)
            return self._refused(_unclaimed(error))
        items: list[bytes] = [asked.request.method.encode()]
        for path, value in (*_of_path(asked.match), *asked.request.pairs):
            items += [path.encode("ascii"), value]
        answer = await self.offer.endpoint.answer(pack(items), Peer(address=f"domain {domid}", domid=domid))
        body = answer.body or b""
        if once and self._style.unique:
            self._shared.keep(asked.match.node, body)
        return body

    async def _begin(self, asked: _Asked) -> bool:
        """Claim what must be done once, and take the style's first steps; whether it was claimed."""
        node, unbegun = asked.match.node, self._shared.unbegun
        steps = self._style.begin(asked.match, asked.request)
        if not steps and asked.request.method not in self.offer.writes:
            return False
        claim = Write(xenstore_claims.claim_of(node), node.encode())
        unbegun.add(node)
        if steps:
            await self._store.transaction(lambda nodes: do(nodes, [claim, *steps], DOM0))
        else:
            await self._store.write(claim.path, claim.value)
        unbegun.discard(node)
        return True

    # Answering

    async def _deliver(self, asked: _Asked, body: bytes) -> None:
        """Write the answer, waiting for the store when it is away; where the store refuses it, say that instead."""
        try:
            await self._commit(asked, self._steps(asked, body))
        except StoreError as error:
            self._shared.tell(f"{asked.match.node}: the store refuses the answer: {error}")
            try:
                await self._commit(asked, self._steps(asked, self._refused(_unwritten(error))))
            except StoreError as again:
                self._shared.tell(f"{asked.match.node} stays without an answer: {again}")

    async def _commit(self, asked: _Asked, steps: Sequence[Step]) -> None:
        node = asked.match.node
        while True:
            await self._store.until_connected()
            if self._style.unique:  # what has changed before is no matter: the request is the same
                self._shared.running[node] = False
            try:
                async with self._shared.turn(asked.domid or DOM0):
                    return await self._store.transaction(lambda nodes: self._write(nodes, asked, steps))
            except LostError:
                continue  # whether it was written is seen by the conditions
            except _GoneError:
                if not self._style.unique:  # what stands there now may ask something else
                    self._shared.running[node] = True
                return await self._store.remove(xenstore_claims.claim_of(node))

    def _steps(self, asked: _Asked, body: bytes) -> Sequence[Step]:
        """What is to be written; a fault instead where the style or the store has no room for it."""
        pairs: Pairs = ()
        try:
            pairs = _pairs(body)
            steps = self._style.answer(asked.match, asked.request, pairs)
        except ValueError as error:  # an old service's answer, handed on as it came
            steps = Fault(FaultCode.REMOTE, f"the answer is none of nodes: {error}")
        fault = steps if isinstance(steps, Fault) else too_long(steps)
        if fault is None:
            assert not isinstance(steps, Fault)
            return steps
        said = shortened(pairs) if error_of(pairs) else _pairs(self._refused(fault))
        told = self._style.answer(asked.match, asked.request, said)
        assert not isinstance(told, Fault), "every style can say an error"
        return told

    async def _write(self, nodes: Nodes, asked: _Asked, steps: Sequence[Step]) -> None:
        """Write the answer and end the claim, if the request still stands as it was read. All is sent at once."""
        conditions = asked.request.conditions
        found = asyncio.gather(*map(nodes.read, conditions))
        claim = Remove(xenstore_claims.claim_of(asked.match.node))
        await asyncio.gather(found, do(nodes, [*steps, claim], asked.domid or DOM0))
        if not hold(conditions, found.result()):
            raise _GoneError


def _pairs(body: bytes) -> Pairs:
    """The nodes of an answer; ValueError when they are none."""
    items = unpack(body)
    return [(path.decode("ascii"), value) for path, value in zip(items[::2], items[1::2], strict=True)]


def _of_path(match: Match) -> Pairs:
    """The parameters that the path itself gives."""
    return [(member(name), text_of(value).encode()) for name, value in match.parameters.items() if name[0] != "_"]


def _taken_name(asked: _Asked) -> Fault | None:
    """What is wrong with the names: one of the path cannot be read, or is given by the client too."""
    try:
        ours = {path for path, _ in _of_path(asked.match)}
    except ValueError as error:
        return Fault(FaultCode.INVALID_REQUEST, str(error))
    for path, _ in asked.request.pairs:
        if path.partition("/")[0] in ours:
            return Fault(FaultCode.INVALID_REQUEST, f"'{path}' is said by the path already")
    return None


def _unclaimed(error: StoreError) -> Fault:
    return Fault(FaultCode.UNAVAILABLE, f"the store does not let the call be begun ({error.name}); it was not made")


def _unwritten(error: StoreError) -> Fault:
    return Fault(FaultCode.UNREPRESENTABLE, f"the store refused the answer ({error.name})")
