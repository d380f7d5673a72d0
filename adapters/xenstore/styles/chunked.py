"""Style `chunked`: one text in each direction, in slices of 512 bytes, as XSRPC wrote it since 2009.

A query PATH/query/ID has the nodes `cmd` (the method), `data00`, `data01`, ... (the slices of the parameter `data`) and
`submit` (the number of slices), which is written last and commits it. The reply PATH/reply/ID has `status` (`success`
or `error`), the slices and `submit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from adapters.xenstore.styles.base import (
    BaseStyle,
    Pairs,
    ReadSet,
    Request,
    Write,
    WriteStep,
    error_of,
    invalid_request,
    only_value,
    unrepresentable,
)
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.paths import Match, Template

SLICE = 512  # bytes
SLICES = 99  # in one message

_COUNT = re.compile(rb"[0-9]{1,9}")


class Chunked(BaseStyle):
    """Each client counts its ids, so that the same id is used again."""

    @property
    def requests(self) -> Template:
        """PATH/query/ID."""
        return self.exposure.path.below("query", "{_id}")

    def read_set(self, match: Match) -> ReadSet:
        """`submit` and `cmd` of the query, `submit` of the reply, and then the slices."""
        nodes = (f"{match.node}/submit", f"{match.node}/cmd")
        return ReadSet(nodes, match.node, f"{_reply(match.node)}/submit")

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A query whose `submit` is a number."""
        submit, cmd = f"{match.node}/submit", f"{match.node}/cmd"
        if not _COUNT.fullmatch(nodes.get(submit, b"")):
            return None
        count, conditions = int(nodes[submit]), {submit: nodes[submit], cmd: nodes.get(cmd)}
        if count > SLICES:
            return Request("", (), conditions, invalid_request(f"expected at most {SLICES} slices, got {count}"))
        if not nodes.get(cmd):
            return Request("", (), conditions, invalid_request("expected a node 'cmd' with the name of a method"))
        return Request(nodes[cmd].decode("latin-1"), (), conditions)

    def complete(self, match: Match, request: Request, tree: Mapping[str, bytes]) -> Request:
        """Join the slices. They must not change before the reply is written."""
        if request.fault is not None:
            return request
        submit = request.conditions[f"{match.node}/submit"]
        assert isinstance(submit, bytes)
        names = _names(int(submit))
        conditions = {**request.conditions, **{f"{match.node}/{name}": tree.get(name) for name in names}}
        missing = [name for name in names if name not in tree]
        if missing:
            why = f"node 'submit' says that there are {len(names)} slices, but '{missing[0]}' is not there"
            return replace(request, conditions=conditions, fault=invalid_request(why))
        pairs = [("data", b"".join([tree[name] for name in names]))] if names else []
        return replace(request, pairs=pairs, conditions=conditions)

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The slices and then `submit`. The text of an error is its description; the node `code` has its code."""
        error = error_of(pairs)
        text = only_value(pairs) if error is None else error[1][: SLICE * SLICES]
        if text is None:
            return unrepresentable(
                "$: expected one text, which is all that the style 'chunked' can carry; got a struct or array"
            )
        slices = [text[at : at + SLICE] for at in range(0, len(text), SLICE)]
        if len(slices) > SLICES:
            return unrepresentable(f"$: expected at most {SLICE * SLICES} bytes in slices, got {len(text)}")
        values = [("status", b"success"), *zip(_names(len(slices)), slices, strict=True)]
        if error is not None:
            values[0] = ("status", b"error")
            values.append(("code", error[0]))
        reply = _reply(match.node)
        nodes = [("", b""), *((f"/{name}", value) for name, value in [*values, ("submit", b"%d" % len(slices))])]
        return [Write(reply + path, value, owned=not path) for path, value in nodes]


def _names(count: int) -> list[str]:
    return [f"data{at:02d}" for at in range(count)]


def _reply(query: str) -> str:
    *path, _, key = query.split("/")
    return "/".join([*path, "reply", key])
