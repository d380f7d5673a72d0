"""Steps of a style put into a store, and what must hold for it; knows no style and no request."""

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
    """The steps, sent one after the other without waiting; the store takes them in their order."""
    await asyncio.gather(*(operation for step in steps for operation in _operations(nodes, step, domid)))


def _operations(nodes: StoreOperations, step: WriteStep, domid: int) -> list[Coroutine[None, None, None]]:
    """Nodes made below a handed one have its permissions, in every store."""
    if not isinstance(step, Write):
        return [nodes.remove(step.path)]
    written = nodes.write(step.path, step.value)
    if not step.handed:
        return [written]
    return [nodes.remove(step.path), written, nodes.set_permissions(step.path, Permissions(domid, "n"))]


def conditions_hold(conditions: Conditions, found: Sequence[bytes | None]) -> bool:
    """Whether what was found is what the conditions ask for, in their order."""
    wanted = zip(conditions.values(), found, strict=True)
    return all(value is not None if each is ANYTHING else value == each for each, value in wanted)


def too_long(steps: Sequence[WriteStep]) -> Fault | None:
    """Why some store would refuse these steps."""
    for step in steps:
        if isinstance(step, Write) and len(step.value) > MAX_VALUE:
            what = f"expected at most {MAX_VALUE} bytes, which is what a node holds, got {len(step.value)}"
            return Fault(FaultCode.UNREPRESENTABLE, f"{step.path.rpartition('/')[2][:60]}: {what}")
        if len(step.path) > MAX_PATH:
            return Fault(FaultCode.UNREPRESENTABLE, f"expected a path of at most {MAX_PATH} bytes")
    return None


# Reads nodes below a node, and finds every place where a request may stand; knows no style and no request.


T = TypeVar("T")

AT_ONCE = 16  # nodes that one reader reads at once, so that others get in between


class RequestTooLargeError(Exception):
    """More nodes or bytes than a request may have; the text says how many that are."""


class Read(NamedTuple):
    """Nodes that are there, by path, and the permissions of each."""

    values: dict[str, bytes]
    permissions: dict[str, Permissions]


async def tree(nodes: StoreOperations, root: str, limit: int, size: int) -> Read:
    """Every node at and below one, by the path below it. Nothing is looked for below a value. Raises TooMuchError."""
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
        lists = await _bit_by_bit(nodes.list, inner)
        level = [f"{path}/{name}" for path, names in zip(inner, lists, strict=True) for name in sorted(names or ())]
    begin = len(root) + 1
    return Read(
        {path[begin:]: value for path, value in found.values.items()},
        {path[begin:]: each for path, each in found.permissions.items()},
    )


async def several(nodes: StoreOperations, paths: Iterable[str]) -> Read:
    """The nodes that are there."""

    async def one(path: str) -> tuple[bytes | None, Permissions | None]:
        return await asyncio.gather(nodes.read(path), nodes.permissions(path))

    paths = list(paths)
    found = dict(zip(paths, await _bit_by_bit(one, paths), strict=True))
    values = {path: value for path, (value, who) in found.items() if value is not None and who is not None}
    return Read(values, {path: who for path, (_, who) in found.items() if who is not None and path in values})


async def values(nodes: StoreOperations, paths: Iterable[str]) -> dict[str, bytes]:
    """The values of the nodes that are there."""
    paths = list(paths)
    found = await _bit_by_bit(nodes.read, paths)
    return {path: value for path, value in zip(paths, found, strict=True) if value is not None}


async def _bit_by_bit(ask: Callable[[str], Awaitable[T]], paths: Sequence[str]) -> list[T]:
    found: list[T] = []
    for at in range(0, len(paths), AT_ONCE):
        found += await asyncio.gather(*map(ask, paths[at : at + AT_ONCE]))
    return found


async def places(nodes: StoreOperations, template: Template, start: str) -> list[Match]:
    """Every node that the template may mean at or below `start`; its last elements need not be there."""
    rest = template.continues(start)
    if rest is None:
        return []
    paths = [start]
    for element in rest.elements:
        if is_parameter(element):
            lists = await _bit_by_bit(nodes.list, paths)
            paths = [f"{path}/{name}" for path, names in zip(paths, lists, strict=True) for name in names or ()]
        else:
            paths = [f"{path}/{element}" for path in paths]
    return [match for path in paths if (match := template.match(path)) is not None]
