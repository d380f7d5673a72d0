"""Style `chunked`: one text each way in slices of 512 bytes, committed by a node that says how many; XSRPC since 2009.

PATH/query/ID has `cmd`, `data00`, `data01`, ... and, written last, `submit`: the number of slices. PATH/reply/ID has
`status` (success or error), the slices, and `submit`. The text is the method's parameter `data`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapters.xenstore.styles.base import (
    Pairs,
    ReadSet,
    Request,
    Simple,
    Write,
    WriteStep,
    error_of,
    only_value,
    refused,
    unsayable,
)
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.paths import Match, Template

SLICE = 512  # bytes
SLICES = 99  # in one message

_COUNT = re.compile(rb"[0-9]{1,9}")


class Chunked(Simple):
    """Ids are counted by each client, so that the same ones come again."""

    @property
    def requests(self) -> Template:
        """PATH/query/ID."""
        return self.exposure.path.below("query", "{_id}")

    def wanted(self, match: Match) -> ReadSet:
        """Whether the query is committed and its reply is not; then its slices."""
        nodes = (f"{match.node}/submit", f"{match.node}/cmd")
        return ReadSet(nodes, match.node, f"{_reply(match.node)}/submit")

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A query that is committed."""
        submit, cmd = f"{match.node}/submit", f"{match.node}/cmd"
        if not _COUNT.fullmatch(nodes.get(submit, b"")):
            return None
        count, conditions = int(nodes[submit]), {submit: nodes[submit], cmd: nodes.get(cmd)}
        if count > SLICES:
            return Request("", (), conditions, refused(f"expected at most {SLICES} slices, got {count}"))
        if not nodes.get(cmd):
            return Request("", (), conditions, refused("expected a node 'cmd' with the name of a method"))
        return Request(nodes[cmd].decode("latin-1"), (), conditions)

    def request(self, match: Match, asked: Request, tree: Mapping[str, bytes]) -> Request:
        """Its slices are the text, and have to be there still when it is answered."""
        if asked.fault is not None:
            return asked
        names = _names(int(_said(asked, f"{match.node}/submit")))
        conditions = {**asked.conditions, **{f"{match.node}/{name}": tree.get(name) for name in names}}
        lacking = [name for name in names if name not in tree]
        if lacking:
            said = f"node 'submit' says that there are {len(names)} slices, but '{lacking[0]}' is not there"
            return replace(asked, conditions=conditions, fault=refused(said))
        pairs = [("data", b"".join([tree[name] for name in names]))] if names else []
        return replace(asked, pairs=pairs, conditions=conditions)

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The slices, and `submit` last; an error's description is its text, and its code stands beside it."""
        error = error_of(pairs)
        text = only_value(pairs) if error is None else error[1][: SLICE * SLICES]
        if text is None:
            return unsayable(
                "$: expected one text, which is all that the style 'chunked' can carry; got a struct or array"
            )
        slices = [text[at : at + SLICE] for at in range(0, len(text), SLICE)]
        if len(slices) > SLICES:
            return unsayable(f"$: expected at most {SLICE * SLICES} bytes in slices, got {len(text)}")
        values = [("status", b"success"), *zip(_names(len(slices)), slices, strict=True)]
        if error is not None:
            values[0] = ("status", b"error")
            values.append(("code", error[0]))
        reply = _reply(match.node)
        nodes = [("", b""), *((f"/{name}", value) for name, value in [*values, ("submit", b"%d" % len(slices))])]
        return [Write(reply + path, value, handed=not path) for path, value in nodes]


def _said(asked: Request, path: str) -> bytes:
    value = asked.conditions[path]
    assert isinstance(value, bytes)
    return value


def _names(count: int) -> list[str]:
    return [f"data{at:02d}" for at in range(count)]


def _reply(query: str) -> str:
    *path, _, key = query.split("/")
    return "/".join([*path, "reply", key])
