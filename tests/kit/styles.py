"""A style as a test sees it: what it makes of nodes, and what it writes; knows no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import Pairs, Remove, Request, Style, WriteStep
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import Exposure
from gateway.core.xenstore.paths import Match, template

ERROR: Pairs = [("code", b"2"), ("description", b"no")]


class Tried:
    """One style on one path."""

    def __init__(self, name: str, path: str, **said: Any) -> None:
        self.style: Style = STYLES[name](Exposure(name, template(path), **said))

    def match(self, node: str) -> Match:
        """A node at or below which something changed."""
        match = self.style.requests.match(node)
        assert match is not None, node
        return match

    def request(self, node: str, tree: Mapping[str, bytes] | None = None, **nodes: bytes) -> Request | None:
        """What the nodes below it ask; those beside by the names of their last element."""
        match = self.match(node)
        wanted = self.style.read_set(match)
        assert (tree is None) or wanted.tree == match.node
        beside = {path: nodes[name] for path in wanted.nodes if (name := path.rpartition("/")[2]) in nodes}
        assert len(beside) == len(nodes), "it wants no such node"
        inner = {path: (tree or {}).get(path.removeprefix(f"{match.node}/")) for path in wanted.nodes}
        beside.update({path: value for path, value in inner.items() if value is not None})
        asked = self.style.parse(match, beside)
        return asked if asked is None or tree is None else self.style.complete(match, asked, tree)

    def answer(self, node: str, request: Request, pairs: Pairs) -> list[tuple[str, bytes | None]]:
        """What is written, in its order; None for what is removed."""
        steps = self.style.respond(self.match(node), request, pairs)
        assert not isinstance(steps, Fault), steps
        return shown(steps)

    def refusal(self, node: str, request: Request, pairs: Pairs) -> str:
        """Why the style cannot say this answer."""
        fault = self.style.respond(self.match(node), request, pairs)
        assert isinstance(fault, Fault)
        return fault.message


def shown(steps: Sequence[WriteStep]) -> list[tuple[str, bytes | None]]:
    """Steps as path and value; None for what is removed."""
    return [(step.path, None if isinstance(step, Remove) else step.value) for step in steps]
