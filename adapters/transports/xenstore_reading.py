"""Reads nodes below a node, and finds every place where a request may stand; knows no style and no request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from adapters.transports.xenstore_nodes import Nodes
from gateway.core.nodes import Match, Template, is_parameter


class TooMuchError(Exception):
    """More nodes or bytes than a request may have; the text says how many that are."""


async def tree(nodes: Nodes, root: str, limit: int, size: int) -> dict[str, bytes] | None:
    """Every node below and its value, by path; None when there is no root. Nothing is looked for below a value."""
    found: dict[str, bytes] = {}
    value, names = await asyncio.gather(nodes.read(root), nodes.list(root))
    if value is None:
        return None
    found[""] = value
    level = sorted(names or ())
    while level:
        if len(found) + len(level) > limit:
            raise TooMuchError(f"expected at most {limit} nodes")
        values = dict(zip(level, await _read(nodes, root, level), strict=True))
        found.update({path: each for path, each in values.items() if each is not None})
        if sum(map(len, found.values())) > size:
            raise TooMuchError(f"expected at most {size} bytes in all nodes together")
        level = await _below(nodes, root, [path for path, each in values.items() if each == b""])
    return found


async def _read(nodes: Nodes, root: str, paths: Sequence[str]) -> list[bytes | None]:
    return await asyncio.gather(*(nodes.read(f"{root}/{path}") for path in paths))


async def _below(nodes: Nodes, root: str, paths: Sequence[str]) -> list[str]:
    lists = await asyncio.gather(*(nodes.list(f"{root}/{path}") for path in paths))
    return [f"{path}/{name}" for path, names in zip(paths, lists, strict=True) for name in sorted(names or ())]


async def several(nodes: Nodes, paths: Iterable[str]) -> dict[str, bytes]:
    """The values of the nodes that are there."""
    paths = list(paths)
    values = await asyncio.gather(*map(nodes.read, paths))
    return {path: value for path, value in zip(paths, values, strict=True) if value is not None}


async def places(nodes: Nodes, template: Template, start: str) -> list[Match]:
    """Every node that the template may mean at or below `start`; its last elements need not be there."""
    rest = template.continues(start)
    if rest is None:
        return []
    paths = [start]
    for element in rest.elements:
        if is_parameter(element):
            lists = await asyncio.gather(*map(nodes.list, paths))
            paths = [f"{path}/{name}" for path, names in zip(paths, lists, strict=True) for name in names or ()]
        else:
            paths = [f"{path}/{element}" for path in paths]
    return [match for path in paths if (match := template.match(path)) is not None]
