"""Work on nodes that the xenstore server needs: apply the steps of a style, read subtrees, find nodes by a template.

The functions take `StoreOperations`, so that they work inside a transaction and outside of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from adapters.xenstore.client.operations import StoreOperations, Transaction, ask, found, permissions_in
from adapters.xenstore.client.wire import Answer, Asked, Operation, Permissions, StoreError, children
from adapters.xenstore.styles.base import ANYTHING, Conditions, Write, WriteStep
from gateway.core.rpc.model import Fault, FaultCode
from gateway.core.xenstore.paths import MAX_PATH, MAX_VALUE, Match, Template, is_parameter

PIECE = 256  # operations; for the C xenstored each node of a folder makes the next one slower


async def run_steps(nodes: StoreOperations, steps: Sequence[WriteStep], domid: int) -> None:
    """Apply the steps for a domain, sent in one piece. Raises the first StoreError."""
    for answer in await nodes.together(operations(steps, domid)):
        found(answer)


async def in_pieces(nodes: StoreOperations, asked: Sequence[Asked], size: int = PIECE) -> list[Answer]:
    """As `together`, in pieces that no store takes long for: others get their turn, and each has its own deadline."""
    answers: list[Answer] = []
    for at in range(0, len(asked), size):
        answers += await nodes.together(asked[at : at + size])
    return answers


def operations(steps: Sequence[WriteStep], domid: int) -> list[Asked]:
    """The operations of the steps. Every store gives a node that is created below an owned one its permissions."""
    asked: list[Asked] = []
    for step in steps:
        if not isinstance(step, Write):
            asked.append(ask(Operation.RM, step.path))
            continue
        if step.owned:
            asked.append(ask(Operation.RM, step.path))
        asked.append(ask(Operation.WRITE, step.path, step.value))
        if step.owned:
            asked.append(ask(Operation.SET_PERMS, step.path, Permissions(domid, "n").encode()))
    return asked


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


BATCH = 16  # nodes that one reader reads at once, so that other readers get their turn


class RequestTooLargeError(Exception):
    """The request has too many nodes or bytes; the text says the limit."""


class ReadNode(NamedTuple):
    """What is read of a node that exists."""

    value: bytes
    permissions: Permissions


async def tree(
    nodes: StoreOperations, root: str, limit: int, size: int, names: Sequence[str] = ()
) -> dict[str, ReadNode]:
    """The node `root` and its descendants, by their path below it. Nodes below a node with a value are not read.

    `limit` nodes and `size` bytes are the most. `names`: children that are probably there, read together with the root.
    Raises RequestTooLargeError.
    """
    likely = [f"{root}/{name}" for name in names]
    answers = await nodes.together(_with_children(root, likely))
    first = _read([root, *likely], [*answers[:2], *answers[3:]])
    level = await _names(nodes, root, answers[2])
    more = [path for path in level if path not in likely]
    whole = {path: first[path] for path in (root, *level) if path in first}
    while level:
        if len(whole.keys() | level) > limit:
            raise RequestTooLargeError(f"expected at most {limit} nodes")
        whole.update(await several(nodes, more))
        _check_size(whole, size)
        inner = [path for path in level if path in whole and not whole[path].value]
        level = more = await _lists(nodes, inner)
    return _below(root, whole)


async def leaves(
    nodes: Transaction, root: str, limit: int, size: int, names: Sequence[str]
) -> dict[str, ReadNode] | None:
    """The node `root` with children of these names, as `tree`, and the end of the transaction in the same trip.

    None when there are other nodes; the transaction has ended then too. Raises StoreError, RequestTooLargeError.
    """
    likely = sorted(f"{root}/{name}" for name in names)
    answers = await nodes.commit(_with_children(root, likely), goes_on=True)
    whole = _read([root, *likely], [*answers[:2], *answers[3:]])
    if isinstance(answers[2], StoreError) and answers[2].name == "E2BIG":  # its names do not fit into one answer
        return None
    there = children(found(answers[2]) or b"")
    if sorted(there) != sorted(names) or any(path in whole and not whole[path].value for path in likely):
        return None
    if len(whole) > limit:
        raise RequestTooLargeError(f"expected at most {limit} nodes")
    _check_size(whole, size)
    return _below(root, whole)


async def several(nodes: StoreOperations, paths: Sequence[str]) -> dict[str, ReadNode]:
    """Those of the nodes that exist."""
    return _read(paths, await in_pieces(nodes, [each for path in paths for each in _pair(path)], 2 * BATCH))


async def places(nodes: StoreOperations, template: Template, start: str) -> list[Match]:
    """Every node at or below `start` that fits the template. Elements behind its last parameter need not exist.

    `start` may be "": all nodes.
    """
    rest = template.continues(start)
    if rest is None:
        return []
    paths = [start]
    for element in rest.elements:
        if is_parameter(element):
            paths = await _lists(nodes, paths)
        else:
            paths = [f"{path}/{element}" for path in paths]
    return [match for path in paths if (match := template.match(path)) is not None]


def _with_children(root: str, paths: Sequence[str]) -> list[Asked]:
    return [*_pair(root), ask(Operation.DIRECTORY, root), *(each for path in paths for each in _pair(path))]


def _pair(path: str) -> tuple[Asked, Asked]:
    return ask(Operation.READ, path), ask(Operation.GET_PERMS, path)


def _read(paths: Sequence[str], answers: Sequence[Answer]) -> dict[str, ReadNode]:
    """Those of the nodes that exist, from the answers to READ and GET_PERMS of each."""
    read = {}
    for at, path in enumerate(paths):
        value, permissions = found(answers[2 * at]), permissions_in(answers[2 * at + 1], path)
        if value is not None and permissions is not None:
            read[path] = ReadNode(value, permissions)
    return read


def _below(root: str, read: dict[str, ReadNode]) -> dict[str, ReadNode]:
    return {path[len(root) + 1 :]: node for path, node in read.items()}


def _check_size(read: dict[str, ReadNode], size: int) -> None:
    if sum(len(node.value) for node in read.values()) > size:
        raise RequestTooLargeError(f"expected at most {size} bytes in all nodes together")


async def _names(nodes: StoreOperations, path: str, answer: Answer) -> list[str]:
    """The paths of the children, from the answer to DIRECTORY."""
    if isinstance(answer, StoreError) and answer.name == "E2BIG":
        names = await nodes.list(path or "/")
    else:
        names = children(found(answer) or b"")
    return [f"{path}/{name}" for name in sorted(names or ())]


async def _lists(nodes: StoreOperations, paths: Sequence[str]) -> list[str]:
    """The paths of the children of all nodes."""
    answers = await in_pieces(nodes, [ask(Operation.DIRECTORY, path or "/") for path in paths], BATCH)
    return [child for path, answer in zip(paths, answers, strict=True) for child in await _names(nodes, path, answer)]
