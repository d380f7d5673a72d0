"""The styles `tree` and `chunked`: requests and responses have folders of their own, and each request has an id.

Style `tree`, squeezed's since 2009: requests PATH/rpc/request/FN/ID/ARG, responses PATH/rpc/response/FN/ID/KEY. A
client makes up ID and writes its request in one transaction. It watches the response, reads it, and removes both. A
client that has removed its request has its response: the same request written again later is a new one.

Style `chunked`, as XSRPC wrote it since 2009: one text in each direction, in slices of 512 bytes. A query PATH/query/ID
has the nodes `cmd` (the method), `data00`, `data01`, ... (the slices of the parameter `data`) and `submit` (the number
of slices), which is written last and commits it. The reply PATH/reply/ID has `status` (`success` or `error`), the
slices and `submit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from adapters.xenstore.styles.base import (
    ANYTHING,
    Pairs,
    ReadSet,
    Remove,
    Request,
    Style,
    Write,
    WriteStep,
    error_of,
    only_value,
    pairs_below,
)
from gateway.core.rpc.model import Fault, FaultCode
from gateway.core.xenstore.paths import Match, Template

SLICE = 512  # bytes
SLICES = 99  # in one message

_COUNT = re.compile(rb"[0-9]{1,9}")


def _elsewhere(node: str, element: int, name: str) -> str:
    """The path with another name in place of this element: from a request to its response and back."""
    elements = node.split("/")
    elements[element] = name
    return "/".join(elements)


class Tree(Style):
    """Every request node without a response is a request, also one that was written before the gateway started."""

    unique = True

    @property
    def requests(self) -> Template:
        """PATH/rpc/request/FN/ID."""
        return self.exposure.path.below("rpc", "request", "{_fn}", "{_id}")

    @property
    def responses(self) -> Template | None:
        """PATH/rpc/response/FN/ID."""
        return self.exposure.path.below("rpc", "response", "{_fn}", "{_id}")

    def announce(self, pid: int) -> Sequence[WriteStep]:
        """PATH/pid: a client sends the process the signal 0 before it writes a request."""
        path = self.exposure.path
        return () if path.parameters else [Write(str(path.below("pid")), b"%d" % pid)]

    def read_set(self, match: Match) -> ReadSet:
        """The response, and the arguments."""
        return ReadSet(tree=match.node, response=_elsewhere(match.node, -3, "response"))

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
        response = _elsewhere(match.node, -3, "response")
        below = [Write(f"{response}/{path}", value) for path, value in pairs if path]
        return [Write(response, dict(pairs).get("", b""), owned=True), *below]

    def removal(self, match: Match) -> Sequence[WriteStep]:
        """Remove the request first: a request without a response would be executed again."""
        return [Remove(_elsewhere(match.node, -3, "request")), Remove(match.node)]


class Chunked(Style):
    """Each client counts its ids, so that the same id is used again."""

    @property
    def requests(self) -> Template:
        """PATH/query/ID."""
        return self.exposure.path.below("query", "{_id}")

    def read_set(self, match: Match) -> ReadSet:
        """`submit` and `cmd` of the query, `submit` of the reply, and then the slices."""
        nodes = (f"{match.node}/submit", f"{match.node}/cmd")
        return ReadSet(nodes, match.node, f"{_elsewhere(match.node, -2, 'reply')}/submit")

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A query whose `submit` is a number."""
        submit, cmd = f"{match.node}/submit", f"{match.node}/cmd"
        if not _COUNT.fullmatch(nodes.get(submit, b"")):
            return None
        count, why = int(nodes[submit]), ""
        if count > SLICES:
            why = f"expected at most {SLICES} slices, got {count}"
        elif not nodes.get(cmd):
            why = "expected a node 'cmd' with the name of a method"
        method = "" if why else nodes[cmd].decode("latin-1")
        fault = Fault(FaultCode.INVALID_REQUEST, why) if why else None
        return Request(method, (), {submit: nodes[submit], cmd: nodes.get(cmd)}, fault)

    def complete(self, match: Match, request: Request, tree: Mapping[str, bytes]) -> Request:
        """Join the slices. They must not change before the reply is written."""
        if request.fault is not None:
            return request
        submit = request.conditions[f"{match.node}/submit"]
        assert isinstance(submit, bytes)
        names = [f"data{at:02d}" for at in range(int(submit))]
        conditions = {**request.conditions, **{f"{match.node}/{name}": tree.get(name) for name in names}}
        missing = [name for name in names if name not in tree]
        if missing:
            why = f"node 'submit' says that there are {len(names)} slices, but '{missing[0]}' is not there"
            return replace(request, conditions=conditions, fault=Fault(FaultCode.INVALID_REQUEST, why))
        pairs = [("data", b"".join([tree[name] for name in names]))] if names else []
        return replace(request, pairs=pairs, conditions=conditions)

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The slices and then `submit`. The text of an error is its description; the node `code` has its code."""
        error = error_of(pairs)
        text = only_value(pairs) if error is None else error[1][: SLICE * SLICES]
        if text is None:
            why = "$: expected one text, which is all that the style 'chunked' can carry; got a struct or array"
            return Fault(FaultCode.UNREPRESENTABLE, why)
        slices = [text[at : at + SLICE] for at in range(0, len(text), SLICE)]
        if len(slices) > SLICES:
            why = f"$: expected at most {SLICE * SLICES} bytes in slices, got {len(text)}"
            return Fault(FaultCode.UNREPRESENTABLE, why)
        values = [("status", b"success" if error is None else b"error")]
        values += [(f"data{at:02d}", piece) for at, piece in enumerate(slices)]
        if error is not None:
            values.append(("code", error[0]))
        values.append(("submit", b"%d" % len(slices)))
        reply = _elsewhere(match.node, -2, "reply")
        return [Write(reply, owned=True), *(Write(f"{reply}/{name}", value) for name, value in values)]
