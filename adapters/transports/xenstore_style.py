"""The seam between the nodes of a xenstore and a style of asking: what is read, what that asks, what is written.

A style is pure. It says where requests stand (a template), which nodes are read when one of them changed, whether they
ask something and what, and the steps that begin and answer it. All steps of one moment are done in one transaction.
A new style is one file and one line in xenstore_styles.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from gateway.core.exposure import Exposure
from gateway.core.model import Fault, FaultCode
from gateway.core.nodes import MAX_VALUE, Match, Template

Pairs: TypeAlias = Sequence[tuple[str, bytes]]  # path below, value; a path of "" is the node itself

CODE, DESCRIPTION = "code", "description"  # both in an answer: it is an error


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read to see whether there is a request: all below `tree`, and single nodes."""

    tree: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What was there. A node that is not there has no entry; `tree` None: not even its root."""

    tree: Mapping[str, bytes] | None = None  # by path below; "" is the root itself
    nodes: Mapping[str, bytes] = field(default_factory=dict)  # by whole path
    fault: Fault | None = None  # the tree is larger than a request may be, and was not read


# Steps


@dataclass(frozen=True, slots=True)
class Write:
    """Set a value. `handed`: the node is new, and is the asking domain's alone before anybody can see it."""

    path: str
    value: bytes = b""
    handed: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a node and all below it."""

    path: str


Step: TypeAlias = Write | Remove


class Anything:
    """A condition that any value meets."""


ANYTHING = Anything()

# What must hold for steps to be done: a value, ANYTHING, or None for no such node.
Conditions: TypeAlias = Mapping[str, "bytes | Anything | None"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. `method` is an element of a path; `fault`: what is wrong with it already."""

    method: str
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

    def announce(self, pid: int) -> Sequence[Step]:
        """What tells clients that somebody serves."""

    def signed(self, match: Match) -> str:
        """The node by whose permissions it is known who asks."""

    def wanted(self, match: Match) -> Wanted:
        """What to read when something at a request's node or below it changed."""

    def request(self, match: Match, found: Found) -> Request | None:
        """What that asks; None when it asks nothing, or is answered already."""

    def begin(self, match: Match, request: Request) -> Sequence[Step]:
        """What is written before the call is made."""

    def answer(self, match: Match, request: Request, pairs: Pairs) -> Sequence[Step] | Fault:
        """What is written when it was made; a fault when the style cannot say this answer."""

    @property
    def answers(self) -> Template | None:
        """Where answers stand that a client should take away; None when there are none that stay."""

    def leftovers(self, match: Match) -> Sequence[Step]:
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

    def announce(self, _pid: int) -> Sequence[Step]:
        """Nothing."""
        return ()

    def signed(self, match: Match) -> str:
        """The request's own node."""
        return match.node

    def begin(self, _match: Match, _request: Request) -> Sequence[Step]:
        """Nothing."""
        return ()

    @property
    def answers(self) -> Template | None:
        """None."""
        return None

    def leftovers(self, _match: Match) -> Sequence[Step]:
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
