"""Steps of a style put into a store, and what must hold for it; knows no style and no request."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

from adapters.transports.xenstore_nodes import Nodes
from adapters.transports.xenstore_packets import Permissions
from adapters.transports.xenstore_style import ANYTHING, Conditions, Step, Write
from gateway.core.model import Fault, FaultCode
from gateway.core.nodes import MAX_PATH, MAX_VALUE


async def do(nodes: Nodes, steps: Sequence[Step], domid: int) -> None:
    """The steps, sent one after the other without waiting; the store takes them in their order."""
    await asyncio.gather(*(operation for step in steps for operation in _operations(nodes, step, domid)))


def _operations(nodes: Nodes, step: Step, domid: int) -> list[Coroutine[None, None, None]]:
    """Nodes made below a handed one have its permissions, in every store."""
    if not isinstance(step, Write):
        return [nodes.remove(step.path)]
    written = nodes.write(step.path, step.value)
    if not step.handed:
        return [written]
    return [nodes.remove(step.path), written, nodes.set_permissions(step.path, Permissions(domid, "n"))]


def hold(conditions: Conditions, found: Sequence[bytes | None]) -> bool:
    """Whether what was found is what the conditions ask for, in their order."""
    wanted = zip(conditions.values(), found, strict=True)
    return all(value is not None if each is ANYTHING else value == each for each, value in wanted)


def too_long(steps: Sequence[Step]) -> Fault | None:
    """Why some store would refuse these steps."""
    for step in steps:
        if isinstance(step, Write) and len(step.value) > MAX_VALUE:
            what = f"expected at most {MAX_VALUE} bytes, which is what a node holds, got {len(step.value)}"
            return Fault(FaultCode.UNREPRESENTABLE, f"{step.path.rpartition('/')[2][:60]}: {what}")
        if len(step.path) > MAX_PATH:
            return Fault(FaultCode.UNREPRESENTABLE, f"expected a path of at most {MAX_PATH} bytes")
    return None
