"""Style `tree`: PATH/rpc/request/FN/ID/ARG asks, PATH/rpc/response/FN/ID/KEY answers; what squeezed spoke since 2009.

A client makes ID and commits its request in one transaction; it watches for the answer, reads it, and removes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapters.xenstore.styles.base import (
    ANYTHING,
    Pairs,
    ReadSet,
    Remove,
    Request,
    Simple,
    Write,
    WriteStep,
    pairs_below,
)
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.paths import Match, Template


class Tree(Simple):
    """Answered is what has a response; the rest is asked, also what was there before we came."""

    unique = True

    @property
    def requests(self) -> Template:
        """PATH/rpc/request/FN/ID."""
        return self.exposure.path.below("rpc", "request", "{_fn}", "{_id}")

    def announce(self, pid: int) -> Sequence[WriteStep]:
        """PATH/pid: a client sends it the signal 0 before it asks."""
        path = self.exposure.path
        return () if path.parameters else [Write(str(path.below("pid")), b"%d" % pid)]

    def wanted(self, match: Match) -> ReadSet:
        """Whether there is an answer, and the arguments."""
        return ReadSet(tree=match.node, answered=_response(match.node))

    def asks(self, match: Match, _nodes: Mapping[str, bytes]) -> Request | None:
        """A node without a response."""
        return Request(match.parameters["_fn"], (), {match.node: ANYTHING})

    def request(self, _match: Match, asked: Request, tree: Mapping[str, bytes]) -> Request:
        """The arguments, and a value of the request's own node, which is nobody's."""
        pairs = pairs_below(tree)
        if tree.get(""):
            pairs = [("", tree[""]), *pairs]
        return replace(asked, pairs=pairs)

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The response and its keys; an answer that is one value is that of the response itself."""
        response = _response(match.node)
        below = [Write(f"{response}/{path}", value) for path, value in pairs if path]
        return [Write(response, dict(pairs).get("", b""), handed=True), *below]

    @property
    def answers(self) -> Template | None:
        """PATH/rpc/response/FN/ID."""
        return self.exposure.path.below("rpc", "response", "{_fn}", "{_id}")

    def leftovers(self, match: Match) -> Sequence[WriteStep]:
        """The request first: a request without a response would be asked again."""
        return [Remove(_request(match.node)), Remove(match.node)]


def _response(request: str) -> str:
    *path, _, fn, key = request.split("/")
    return "/".join([*path, "response", fn, key])


def _request(response: str) -> str:
    *path, _, fn, key = response.split("/")
    return "/".join([*path, "request", fn, key])
