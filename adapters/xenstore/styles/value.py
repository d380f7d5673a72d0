"""Style `word`: a word in the node PATH asks, the empty string there answers; `control/shutdown`, `control/sysrq`.

There is no word for an error. The node is removed then: a toolstack that waits for the empty string takes that as an
end, and nothing lingers that would be done some other day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.xenstore.styles.base import (
    Pairs,
    ReadSet,
    Remove,
    Request,
    Simple,
    Write,
    WriteStep,
    error_of,
    handed,
    named_only,
    unsayable,
)
from adapters.xenstore.styles.mailbox import word
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import StateWords
from gateway.core.xenstore.paths import Match, element, member

VALUE = "value"  # the parameter that the word is, where the mapping says which method is called


class Word(Simple):
    """The word is the method, or the value that a method gets."""

    def wanted(self, match: Match) -> ReadSet:
        """The node."""
        return ReadSet((match.node,))

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A word that is there."""
        value = nodes.get(match.node, b"")
        if not value:
            return None
        conditions = {match.node: value}
        if self.exposure.method:
            return Request(element(self.exposure.method), [(VALUE, value)], conditions)
        return Request(word(value), (), conditions)

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """A result has no room, and is not asked for."""
        return [Remove(match.node) if error_of(pairs) else Write(match.node, b"")]


# Style `deletion`: a word in the node PATH asks, its removal answers; nodes beside it say more, both ways.
#
# As the snapshots of a guest's own doing had it: `action` is removed, then `status` tells, and the result stands
# there.


class Deletion(Simple):
    """The word is the method unless the mapping names one."""

    def wanted(self, match: Match) -> ReadSet:
        """The word, and the nodes beside it that the mapping names."""
        return ReadSet((match.node, *(f"{_folder(match)}/{name}" for name in self.exposure.parameters)))

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

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """Result or error beside the word, then the state, then the word is gone: all in one moment."""
        if not named_only(pairs):
            return unsayable("$: expected a struct, whose members become nodes beside the word")
        words = self.exposure.states or StateWords()
        said = words.failed if error_of(pairs) else words.done
        state = [Write(f"{_folder(match)}/{words.node}", said.encode(), handed=True)] if said else []
        return [*handed(_folder(match), pairs), *state, Remove(match.node)]

    def beside(self, match: Match) -> str | None:
        """The word's own."""
        return _folder(match)


def _folder(match: Match) -> str:
    return match.node.rpartition("/")[0]
