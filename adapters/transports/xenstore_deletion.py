"""Style `deletion`: a word in the node PATH asks, its removal answers; nodes beside it say more, both ways.

As the snapshots of a guest's own doing had it: `action` is removed, then `status` tells, and the result stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.transports.xenstore_mailbox import word
from adapters.transports.xenstore_style import (
    Pairs,
    Remove,
    Request,
    Simple,
    Step,
    Wanted,
    Write,
    error_of,
    handed,
    named_only,
    unsayable,
)
from gateway.core.exposure import Words
from gateway.core.model import Fault
from gateway.core.nodes import Match, element, member


class Style(Simple):
    """The word is the method unless the mapping names one."""

    def wanted(self, match: Match) -> Wanted:
        """The word, and the nodes beside it that the mapping names."""
        return Wanted((match.node, *(f"{_folder(match)}/{name}" for name in self.exposure.parameters)))

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A word that is there."""
        value = nodes.get(match.node, b"")
        if not value:
            return None
        beside = {name: nodes.get(f"{_folder(match)}/{name}") for name in self.exposure.parameters}
        pairs = [(member(name), each) for name, each in beside.items() if each is not None]
        method = element(self.exposure.method) if self.exposure.method else word(value)
        conditions = {f"{_folder(match)}/{name}": each for name, each in beside.items()}
        return Request(method, pairs, {match.node: value, **conditions})

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[Step] | Fault:
        """Result or error beside the word, then the state, then the word is gone: all in one moment."""
        if not named_only(pairs):
            return unsayable("$: expected a struct, whose members become nodes beside the word")
        words = self.exposure.states or Words()
        said = words.failed if error_of(pairs) else words.done
        state = [Write(f"{_folder(match)}/{words.node}", said.encode(), handed=True)] if said else []
        return [*handed(_folder(match), pairs), *state, Remove(match.node)]

    def beside(self, match: Match) -> str | None:
        """The word's own."""
        return _folder(match)


def _folder(match: Match) -> str:
    return match.node.rpartition("/")[0]
