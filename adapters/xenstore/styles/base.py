"""The seam between the nodes of a xenstore and a style of asking: what is read, what that asks, what is written.

A style is pure. It says where requests stand (a template), which few nodes tell whether something is asked there, what
the whole request asks, and the steps that begin and answer it. All steps of one moment are done in one transaction.
The tree below a request may be large, so it is read only when something is asked by a domain that may ask it.
A new style is one file and one line in xenstore_styles.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from gateway.core.rpc.model import Fault, FaultCode
from gateway.core.xenstore.exposure import Exposure
from gateway.core.xenstore.paths import MAX_VALUE, Match, Template

Pairs: TypeAlias = Sequence[tuple[str, bytes]]  # path below, value; a path of "" is the node itself

CODE, DESCRIPTION = "code", "description"  # both in an answer: it is an error


@dataclass(frozen=True, slots=True)
class ReadSet:
    """What is read to see whether there is a request, and what it asks."""

    nodes: tuple[str, ...] = ()  # single ones, read first: they tell whether something is asked
    tree: str | None = None  # all below it, read last; None: the single nodes are the whole request
    answered: str | None = None  # nothing is asked while this is there, unless a stranger has put it there


# Steps


@dataclass(frozen=True, slots=True)
class Write:
    """Set a value. `handed`: whatever stands there is removed first, and the node is the asking domain's alone.

    Nobody sees it before that is so. Nodes written below it later have its permissions.
    """

    path: str
    value: bytes = b""
    handed: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a node and all below it."""

    path: str


WriteStep: TypeAlias = Write | Remove


class Anything:
    """A condition that any value meets."""


ANYTHING = Anything()

# What must hold for steps to be done: a value, ANYTHING, or None for no such node.
Conditions: TypeAlias = Mapping[str, "bytes | Anything | None"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `method` is an element of a path; `fault`: what is wrong with it already."""

    method: str  # "" when that is unknown, as `fault` says then
    pairs: Pairs = ()
    conditions: Conditions = field(default_factory=dict)  # for the answer: else the client has left, or asks anew
    fault: Fault | None = None
    begun: bool = False  # its first steps were done already, by us or by somebody else


class Style(Protocol):
    """One way of asking. Made for one exposure."""

    unique: bool  # two requests never stand at the same node: a client makes an id for each

    def __init__(self, exposure: Exposure) -> None: ...

    @property
    def requests(self) -> Template:
        """Where requests stand. Parameters that begin with an underscore are the style's own."""

    def announce(self, pid: int) -> Sequence[WriteStep]:
        """What tells clients that somebody serves."""

    def signed(self, match: Match) -> str:
        """The node by whose permissions it is known who asks."""

    def wanted(self, match: Match) -> ReadSet:
        """What to read when something at a request's node or below it changed."""

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """What the single nodes ask; None when that is nothing. Without the pairs of the tree, if there is one."""

    def request(self, match: Match, asked: Request, tree: Mapping[str, bytes]) -> Request:
        """The same with the tree, by path below ("" is its root): the whole request."""

    def begin(self, match: Match, request: Request) -> Sequence[WriteStep]:
        """What is written before the call is made."""

    def answer(self, match: Match, request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """What is written when it was made; a fault when the style cannot say this answer."""

    def beside(self, match: Match) -> str | None:
        """The folder in which an answer lies among other nodes; None when it has a place of its own."""

    @property
    def answers(self) -> Template | None:
        """Where answers stand that a client should take away; None when there are none that stay."""

    def leftovers(self, match: Match) -> Sequence[WriteStep]:
        """Removes an answer at `answers` that nobody took away, and its request."""


class Simple(Style):
    """What most styles have in common: they announce nothing, begin at once and leave nothing behind."""

    unique = False

    def __init__(self, exposure: Exposure) -> None:
        self.exposure = exposure

    @property
    def requests(self) -> Template:
        """The exposed path itself."""
        return self.exposure.path

    def announce(self, _pid: int) -> Sequence[WriteStep]:
        """Nothing."""
        return ()

    def signed(self, match: Match) -> str:
        """The request's own node."""
        return match.node

    def request(self, _match: Match, asked: Request, _tree: Mapping[str, bytes]) -> Request:
        """The single nodes are all of it."""
        return asked

    def begin(self, _match: Match, _request: Request) -> Sequence[WriteStep]:
        """Nothing."""
        return ()

    def beside(self, _match: Match) -> str | None:
        """None."""
        return None

    @property
    def answers(self) -> Template | None:
        """None."""
        return None

    def leftovers(self, _match: Match) -> Sequence[WriteStep]:
        """Nothing."""
        return ()


def error_of(pairs: Pairs) -> tuple[bytes, bytes] | None:
    """Code and description of an answer that is an error."""
    found = dict(pairs)
    return (found[CODE], found[DESCRIPTION]) if {CODE, DESCRIPTION} <= found.keys() else None


def shortened(pairs: Pairs) -> Pairs:
    """An error whose code and description fit into a node each: the beginning of a long description says most of it."""
    code, description = error_of(pairs) or (b"", b"")
    cut = description[:MAX_VALUE].decode("utf-8", "ignore").encode()  # no half of a character
    return [(CODE, code), (DESCRIPTION, cut)]


def only_value(pairs: Pairs) -> bytes | None:
    """The value of an answer that is nothing or one value; None when it is more."""
    if not pairs:
        return b""
    return pairs[0][1] if [path for path, _ in pairs] == [""] else None


def named_only(pairs: Pairs) -> bool:
    """Whether an answer is nothing, or nodes with names and not one value."""
    return all(path for path, _ in pairs)


def handed(folder: str, pairs: Pairs) -> Sequence[WriteStep]:
    """Write the nodes of an answer below a folder that may hold nodes of others: each is the asking domain's alone."""
    values = dict(pairs)
    steps: list[WriteStep] = []
    for top in dict.fromkeys(path.partition("/")[0] for path in values):
        steps.append(Write(f"{folder}/{top}", values.get(top, b""), handed=True))
        steps += [Write(f"{folder}/{path}", value) for path, value in pairs if path.startswith(f"{top}/")]
    return steps


def refused(message: str) -> Fault:
    """What is said of a request that makes no sense."""
    return Fault(FaultCode.INVALID_REQUEST, message)


def unsayable(message: str) -> Fault:
    """What is said of an answer that has no room in its style."""
    return Fault(FaultCode.UNREPRESENTABLE, message)


def pairs_below(tree: Mapping[str, bytes]) -> Pairs:
    """The nodes that say something: those with a value, and those with nothing below them."""
    inner = {path.rpartition("/")[0] for path in tree if "/" in path}
    above = {path for each in inner for path in _ancestors(each)}
    return [(path, value) for path, value in tree.items() if path and (value or path not in above)]


def _ancestors(path: str) -> Sequence[str]:
    elements = path.split("/")
    return ["/".join(elements[:count]) for count in range(1, len(elements) + 1)]
