"""Style `word`: a word in the node PATH asks, the empty string there answers; `control/shutdown`, `control/sysrq`.

There is no word for an error. The node is removed then: a toolstack that waits for the empty string takes that as an
end, and nothing lingers that would be done some other day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.transports.xenstore_mailbox import word
from adapters.transports.xenstore_style import Pairs, Remove, Request, Simple, Step, Wanted, Write, error_of
from gateway.core.model import Fault
from gateway.core.nodes import Match, element

VALUE = "value"  # the parameter that the word is, where the mapping says which method is called


class Style(Simple):
    """The word is the method, or the value that a method gets."""

    def wanted(self, match: Match) -> Wanted:
        """The node."""
        return Wanted((match.node,))

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A word that is there."""
        value = nodes.get(match.node, b"")
        if not value:
            return None
        conditions = {match.node: value}
        if self.exposure.method:
            return Request(element(self.exposure.method), [(VALUE, value)], conditions)
        return Request(word(value), (), conditions)

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[Step] | Fault:
        """A result has no room, and is not asked for."""
        return [Remove(match.node) if error_of(pairs) else Write(match.node, b"")]
