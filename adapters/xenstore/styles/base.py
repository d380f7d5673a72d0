"""The interface of a style: which nodes it reads, the request that they contain, and the nodes of the response.

A style is pure. It names the place of requests (a template), the few nodes that tell whether there is a request, the
whole request, and the steps that start and answer it. All steps of one moment are done in one transaction. The tree
below a request may be large, so it is read only for a request whose domain may call.

A new style is one class in this folder and one line in `STYLES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct, field

from gateway.core.rpc.model import Fault
from gateway.core.xenstore.paths import MAX_VALUE, Exposure, Match, Template

Pairs: TypeAlias = Sequence[tuple[str, bytes]]  # path below, value; a path of "" is the node itself

CODE, DESCRIPTION = "code", "description"  # an answer with both of these nodes is an error


class ReadSet(Struct, frozen=True):
    """The nodes that are read to find a request."""

    nodes: tuple[str, ...] = ()  # single nodes, read first: they tell whether there is a request
    tree: str | None = None  # this node and its descendants, read last; None: the single nodes are the whole request
    response: str | None = None  # while it exists there is no request, unless another domain owns it


# Steps


class Write(Struct, frozen=True):
    """Set a value. `owned`: the node is removed first and then belongs to the calling domain alone.

    No other domain sees it before that. Nodes that are written below it later have its permissions.
    """

    path: str
    value: bytes = b""
    owned: bool = False


class Remove(Struct, frozen=True):
    """Remove a node and its descendants."""

    path: str


WriteStep: TypeAlias = Write | Remove


class Anything:
    """A condition that every value meets."""


ANYTHING = Anything()

# What must be true when a response is written: a value, ANYTHING, or None for a node that does not exist.
Conditions: TypeAlias = Mapping[str, "bytes | Anything | None"]


class Request(Struct, frozen=True):
    """A request as its nodes contain it. `method` is a path element; "" when it is unknown, and `fault` says why."""

    method: str
    pairs: Pairs = ()
    conditions: Conditions = field(default_factory=dict)  # when they fail, the client has left or has changed it
    fault: Fault | None = None
    started: bool = False  # its first steps are done already, by this server or by another one


class Style:
    """One way to write requests and responses as nodes, made for one exposure. The defaults suit most styles."""

    unique = False  # a request node is never used twice: a client makes an id for each request

    def __init__(self, exposure: Exposure) -> None:
        self.exposure = exposure

    @property
    def requests(self) -> Template:
        """The place of requests. Names of parameters that begin with an underscore belong to the style."""
        return self.exposure.path

    @property
    def responses(self) -> Template | None:
        """The place of responses that clients have to remove; None when no response stays."""
        return None

    def announce(self, _pid: int) -> Sequence[WriteStep]:
        """The steps that tell clients that there is a server."""
        return ()

    def owner_node(self, match: Match) -> str:
        """The node whose permissions tell who has written the request."""
        return match.node

    def shared_folder(self, _match: Match) -> str | None:
        """The folder of a response that lies among other nodes; None when the response has a place of its own."""
        return None

    def read_set(self, match: Match) -> ReadSet:
        """The nodes to read after a change at a request node or below it."""
        raise NotImplementedError

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """The request in the single nodes; None when there is none. The tree is not yet part of it."""
        raise NotImplementedError

    def complete(self, _match: Match, request: Request, _tree: Mapping[str, bytes]) -> Request:
        """The request with the nodes of the tree, by their path below it ("" is its root)."""
        return request

    def start(self, _match: Match, _request: Request) -> Sequence[WriteStep]:
        """The steps to do before the call is made."""
        return ()

    def respond(self, match: Match, request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The steps that write the response; a fault when the style cannot express it."""
        raise NotImplementedError

    def removal(self, _match: Match) -> Sequence[WriteStep]:
        """The steps that remove a response at `responses` and its request."""
        return ()


def error_of(pairs: Pairs) -> tuple[bytes, bytes] | None:
    """Code and description of an answer that is an error; None for another answer."""
    found = dict(pairs)
    return (found[CODE], found[DESCRIPTION]) if {CODE, DESCRIPTION} <= found.keys() else None


def shortened(pairs: Pairs) -> Pairs:
    """An error whose description is cut to what a node can hold."""
    code, description = error_of(pairs) or (b"", b"")
    cut = description[:MAX_VALUE].decode("utf-8", "ignore").encode()  # without a partial character
    return [(CODE, code), (DESCRIPTION, cut)]


def only_value(pairs: Pairs) -> bytes | None:
    """The value of an answer that is empty or one value; None for an answer with several nodes."""
    if not pairs:
        return b""
    return pairs[0][1] if [path for path, _ in pairs] == [""] else None


def pairs_below(tree: Mapping[str, bytes]) -> Pairs:
    """The nodes of a tree that carry data: those with a value, and leaves."""
    above: set[str] = set()
    for path in tree:
        while path := path.rpartition("/")[0]:
            above.add(path)
    return [(path, value) for path, value in tree.items() if path and (value or path not in above)]
