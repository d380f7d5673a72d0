"""Work on nodes that the xenstore server needs: apply the steps of a style, read subtrees, find nodes by a template.

The functions take `StoreOperations`, so that they work inside a transaction and outside of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import NamedTuple, TypeVar

from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.styles.base import ANYTHING, Conditions, Write, WriteStep
from gateway.core.rpc.model import Fault, FaultCode
from gateway.core.xenstore.paths import MAX_PATH, MAX_VALUE, Match, Template, is_parameter


async def run_steps(nodes: StoreOperations, steps: Sequence[WriteStep], domid: int) -> None:
    """Apply the steps for a domain. All are sent without waiting; the store executes them in their order."""
    await asyncio.gather(*(operation for step in steps for operation in _operations(nodes, step, domid)))


def _operations(nodes: StoreOperations, step: WriteStep, domid: int) -> list[Coroutine[None, None, None]]:
    """The operations of one step. Every store gives a node that is created below an owned one its permissions."""
    if not isinstance(step, Write):
        return [nodes.remove(step.path)]
    written = nodes.write(step.path, step.value)
    if not step.owned:
        return [written]
    return [nodes.remove(step.path), written, nodes.set_permissions(step.path, Permissions(domid, "n"))]


def conditions_hold(conditions: Conditions, found: Sequence[bytes | None]) -> bool:
    """Whether the values that were found, in the order of the conditions, meet them."""
    wanted = zip(conditions.values(), found, strict=True)
    return all(value is not None if each is ANYTHING else value == each for each, value in wanted)


def too_long(steps: Sequence[WriteStep]) -> Fault | None:
    """The fault of steps that some store would refuse: a value or a path is too long."""
    for step in steps:
        if isinstance(step, Write) and len(step.value) > MAX_VALUE:
            what = f"expected at most {MAX_VALUE} bytes, the limit of a node, got {len(step.value)}"
            return Fault(FaultCode.UNREPRESENTABLE, f"{step.path.rpartition('/')[2][:60]}: {what}")
        if len(step.path) > MAX_PATH:
            return Fault(FaultCode.UNREPRESENTABLE, f"expected a path of at most {MAX_PATH} bytes")
    return None


T = TypeVar("T")

BATCH = 16  # nodes that one reader reads at once, so that other readers get their turn


class RequestTooLargeError(Exception):
    """The request has too many nodes or bytes; the text says the limit."""


class Read(NamedTuple):
    """Nodes that exist: their values and their permissions, by path."""

    values: dict[str, bytes]
    permissions: dict[str, Permissions]


async def tree(nodes: StoreOperations, root: str, limit: int, size: int) -> Read:
    """The node `root` and its descendants, by their path below it. Nodes below a node with a value are not read.

    `limit` nodes and `size` bytes are the most. Raises RequestTooLargeError.
    """
    found, level = await asyncio.gather(several(nodes, [root]), nodes.list(root))
    level = [f"{root}/{name}" for name in sorted(level or ())]
    while level:
        if len(found.values) + len(level) > limit:
            raise RequestTooLargeError(f"expected at most {limit} nodes")
        more = await several(nodes, level)
        found.values.update(more.values)
        found.permissions.update(more.permissions)
        if sum(map(len, found.values.values())) > size:
            raise RequestTooLargeError(f"expected at most {size} bytes in all nodes together")
        inner = [path for path, value in more.values.items() if value == b""]
        lists = await _in_batches(nodes.list, inner)
        level = [f"{path}/{name}" for path, names in zip(inner, lists, strict=True) for name in sorted(names or ())]
    begin = len(root) + 1
    return Read(
        {path[begin:]: value for path, value in found.values.items()},
        {path[begin:]: each for path, each in found.permissions.items()},
    )


async def several(nodes: StoreOperations, paths: Iterable[str]) -> Read:
    """Those of the nodes that exist."""

    async def one(path: str) -> tuple[bytes | None, Permissions | None]:
        return await asyncio.gather(nodes.read(path), nodes.permissions(path))

    paths = list(paths)
    found = dict(zip(paths, await _in_batches(one, paths), strict=True))
    values = {path: value for path, (value, who) in found.items() if value is not None and who is not None}
    return Read(values, {path: who for path, (_, who) in found.items() if who is not None and path in values})


async def values(nodes: StoreOperations, paths: Iterable[str]) -> dict[str, bytes]:
    """The values of those of the nodes that exist."""
    paths = list(paths)
    found = await _in_batches(nodes.read, paths)
    return {path: value for path, value in zip(paths, found, strict=True) if value is not None}


async def _in_batches(operation: Callable[[str], Awaitable[T]], paths: Sequence[str]) -> list[T]:
    found: list[T] = []
    for at in range(0, len(paths), BATCH):
        found += await asyncio.gather(*map(operation, paths[at : at + BATCH]))
    return found


async def places(nodes: StoreOperations, template: Template, start: str) -> list[Match]:
    """Every node at or below `start` that fits the template. Elements behind its last parameter need not exist."""
    rest = template.continues(start)
    if rest is None:
        return []
    paths = [start]
    for element in rest.elements:
        if is_parameter(element):
            lists = await _in_batches(nodes.list, paths)
            paths = [f"{path}/{name}" for path, names in zip(paths, lists, strict=True) for name in names or ()]
        else:
            paths = [f"{path}/{element}" for path in paths]
    return [match for path in paths if (match := template.match(path)) is not None]
