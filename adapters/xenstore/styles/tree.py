"""Style `tree`: requests PATH/rpc/request/FN/ID/ARG, responses PATH/rpc/response/FN/ID/KEY; squeezed's since 2009.

A client makes up ID and writes its request in one transaction. It watches the response, reads it, and removes both. A
client that has removed its request has its response: the same request written again later is a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from adapters.xenstore.styles.base import (
    ANYTHING,
    BaseStyle,
    Pairs,
    ReadSet,
    Remove,
    Request,
    Write,
    WriteStep,
    pairs_below,
)
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.paths import Match, Template


class Tree(BaseStyle):
    """Every request node without a response is a request, also one that was written before the gateway started."""

    unique = True

    @property
    def requests(self) -> Template:
        """PATH/rpc/request/FN/ID."""
        return self.exposure.path.below("rpc", "request", "{_fn}", "{_id}")

    def announce(self, pid: int) -> Sequence[WriteStep]:
        """PATH/pid: a client sends the process the signal 0 before it writes a request."""
        path = self.exposure.path
        return () if path.parameters else [Write(str(path.below("pid")), b"%d" % pid)]

    def read_set(self, match: Match) -> ReadSet:
        """The response, and the arguments."""
        return ReadSet(tree=match.node, response=_response(match.node))

    def parse(self, match: Match, _nodes: Mapping[str, bytes]) -> Request | None:
        """A node without a response."""
        return Request(match.parameters["_fn"], (), {match.node: ANYTHING})

    def complete(self, _match: Match, request: Request, tree: Mapping[str, bytes]) -> Request:
        """Add the arguments. A value of the request node itself becomes an argument without a name."""
        pairs = pairs_below(tree)
        if tree.get(""):
            pairs = [("", tree[""]), *pairs]
        return replace(request, pairs=pairs)

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The response and its keys. The value of an answer that is one value is that of the response node."""
        response = _response(match.node)
        below = [Write(f"{response}/{path}", value) for path, value in pairs if path]
        return [Write(response, dict(pairs).get("", b""), owned=True), *below]

    @property
    def responses(self) -> Template | None:
        """PATH/rpc/response/FN/ID."""
        return self.exposure.path.below("rpc", "response", "{_fn}", "{_id}")

    def removal(self, match: Match) -> Sequence[WriteStep]:
        """Remove the request first: a request without a response would be executed again."""
        return [Remove(_request(match.node)), Remove(match.node)]


def _response(request: str) -> str:
    *path, _, fn, key = request.split("/")
    return "/".join([*path, "response", fn, key])


def _request(response: str) -> str:
    *path, _, fn, key = response.split("/")
    return "/".join([*path, "request", fn, key])
