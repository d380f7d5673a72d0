"""Writes the response to a request of a xenstore, and ends its claim.

Both are done in one transaction, and only if the request is still there as it was read and still belongs to the same
domain. A response that the style or the store cannot hold becomes a fault that says so. What the store refuses for the
moment is repeated with growing pauses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from adapters.xenstore.client.client import StoreLostError
from adapters.xenstore.client.operations import EarlyTransaction, StoreOperations, ask, found, permissions_in
from adapters.xenstore.client.wire import Operation, Permissions, StoreError
from adapters.xenstore.server import state
from adapters.xenstore.server.state import RESPONSE_TTL, UNKNOWN_CALLER, SharedContext, backoff
from adapters.xenstore.server.transactions import conditions_hold, in_pieces, operations, too_long
from adapters.xenstore.styles.base import (
    ANYTHING,
    Pairs,
    ReadSet,
    Remove,
    Request,
    Style,
    Write,
    WriteStep,
    error_of,
    shortened,
)
from gateway.core.rpc.model import Fault, FaultCode
from gateway.core.xenstore.paths import DOM0, Match, unpack

NOT_EXECUTED, EXECUTED = "nothing was executed", "the call was executed"


class _RequestChangedError(Exception):
    """The request is gone, was changed, or belongs to another domain."""


class PendingRequest(Struct, frozen=True):
    """A request that is being served."""

    match: Match
    request: Request
    owner: int | None  # owner of the request, and so of its response; None: several domains can write it
    domid: int | None  # the domain in whose name it is made: the least privileged of all writers of its nodes
    connection: int  # number of the store's connection over which it was seen
    wanted: ReadSet  # where it is read
    fault: Fault | None = None  # why the call is not made
    once: bool = False  # it is claimed
    has_claim: bool = False  # there was a claim before it was read


class PackedResponse(Struct, frozen=True):
    """A response as the codec packs it, and what to say of the call when the response cannot be written."""

    body: bytes
    executed: str = NOT_EXECUTED


class Delivery:
    """Writes the responses of one exposed endpoint. `refuse` packs a fault."""

    def __init__(self, style: Style, shared: SharedContext, refuse: Callable[[Fault], PackedResponse]) -> None:
        self._style = style
        self._shared = shared
        self._store = shared.store
        self._refuse = refuse

    async def deliver(self, pending: PendingRequest, response: PackedResponse, early: list[EarlyTransaction]) -> None:
        """Write the response; when the store refuses it for good, write a fault that says so.

        `early`: a transaction that is begun already, or none.
        """
        node = pending.match.node
        error = await self._write_with_retries(pending, self._steps(pending, response), early)
        if error is not None and error.is_permanent:
            self._shared.report(f"{node}: the store refuses the answer: {error}")
            why = f"the store refused the answer ({error.name}); {response.executed}"
            fault = replace(self._refuse(Fault(FaultCode.UNREPRESENTABLE, why)), executed="")
            error = await self._write_with_retries(pending, self._steps(pending, fault), early)
        if error is not None:
            self._shared.report(f"{node} stays without an answer: {error}")

    async def _write_with_retries(
        self, pending: PendingRequest, steps: Sequence[WriteStep], early: list[EarlyTransaction]
    ) -> StoreError | None:
        """Write the response, with retries for as long as the client may wait. The error if it was not written."""
        waits, end, reported = backoff(), self._shared.clock() + RESPONSE_TTL, False
        while True:
            try:
                await self._write_once(pending, steps, early)
            except StoreError as error:
                if error.is_permanent or self._shared.clock() >= end:
                    return error
                if not reported:
                    self._shared.report(f"{pending.match.node}: the answer is tried again: {error}")
                reported = True
            else:
                return None
            await self._shared.pause(next(waits))

    async def _write_once(
        self, pending: PendingRequest, steps: Sequence[WriteStep], early: list[EarlyTransaction]
    ) -> None:
        """Write the response, or find that its request is gone; waits for a connection to the store."""
        node = pending.match.node
        while True:
            await self._store.until_connected()
            if self._style.unique:  # earlier changes do not matter: the node can only hold the same request
                self._shared.running[node] = False
            try:
                async with self._shared.turn(UNKNOWN_CALLER if pending.owner is None else pending.owner):
                    return await self._store.transaction(
                        lambda nodes: self._write(nodes, pending, steps),
                        self._shared.writing,
                        early.pop() if early else None,
                    )
            except StoreLostError:
                continue  # the conditions tell whether the response was written
            except _RequestChangedError:
                self._shared.running[node] = True  # the node may hold another request now
                self._shared.claimed.discard(node)
                return await self._store.remove(state.claim_path(node))

    def _steps(self, pending: PendingRequest, response: PackedResponse) -> Sequence[WriteStep]:
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
            pairs = _pairs(self._refuse(replace(fault, message=f"{fault.message}; {response.executed}")).body)
        refused = self._style.respond(pending.match, pending.request, pairs)
        assert not isinstance(refused, Fault), "every style can express an error"
        return refused

    async def _write(self, nodes: StoreOperations, pending: PendingRequest, steps: Sequence[WriteStep]) -> None:
        """Write the response and end the claim. Raises _RequestChangedError. What is short is sent without waiting."""
        match, owner_node = pending.match, self._style.owner_node(pending.match)
        replaced = await self._replace_previous(nodes, match, steps)
        conditions = {
            path: wanted
            for path, wanted in pending.request.conditions.items()
            if path != owner_node or wanted is not ANYTHING  # it has permissions, so it is there
        }
        response = pending.wanted.response
        asked = [ask(Operation.GET_PERMS, owner_node), *(ask(Operation.READ, path) for path in conditions)]
        if response is not None:
            asked.append(ask(Operation.GET_PERMS, response))
        conditional = len(asked)
        asked += operations([*replaced, *steps], DOM0 if pending.owner is None else pending.owner)
        if pending.once or pending.has_claim:
            asked.append(ask(Operation.RM, state.claim_path(match.node)))
        answers = await in_pieces(nodes, asked)
        permissions = permissions_in(answers[0], owner_node)
        is_same = permissions is not None and permissions.writer == pending.owner
        answered = response is not None and is_answered(
            permissions_in(answers[conditional - 1], response), pending.owner
        )
        if not is_same or answered or not conditions_hold(conditions, [*map(found, answers[1 : 1 + len(conditions)])]):
            raise _RequestChangedError
        for answer in answers[conditional:]:
            found(answer)

    async def _replace_previous(
        self, nodes: StoreOperations, match: Match, steps: Sequence[WriteStep]
    ) -> Sequence[WriteStep]:
        """For a response that shares a folder: remove the nodes of the previous one, and record those of this one."""
        folder = self._style.shared_folder(match)
        if folder is None:
            return ()
        record = state.record_path(state.ANSWERS, match.node)
        before = (await nodes.read(record) or b"").decode("ascii").split()
        owned = [step.path for step in steps if isinstance(step, Write) and step.owned]
        left = sorted({path[len(folder) + 1 :].partition("/")[0] for path in owned})
        stay = {*left, *self._style.exposure.parameters}  # parameters lie beside a response, and are no part of it
        written = Write(record, " ".join(left).encode()) if left else Remove(record)
        return [*(Remove(f"{folder}/{name}") for name in before if name not in stay), written]


def is_answered(permissions: Permissions | None, owner: int | None) -> bool:
    """Whether a response with these permissions counts. A node that a third domain has put there is none."""
    return permissions is not None and permissions.writer in (DOM0, owner)


def _pairs(body: bytes) -> Pairs:
    """The nodes of a packed response. Raises ValueError."""
    items = unpack(body)
    return [(path.decode("ascii"), value) for path, value in zip(items[::2], items[1::2], strict=True)]
