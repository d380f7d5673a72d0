"""Styles `word` and `deletion`: the value of the node PATH is a request, its end is the response.

Style `word` (`control/shutdown`, `control/sysrq`): the node becomes empty when the call is done. There is no word for
an error. After one the node is removed: a toolstack that waits for the empty string takes that as an end, and no
request stays that would be executed later.

Style `deletion` (the snapshots that a guest requests): the node `action` is removed when the call is done. Nodes in the
same folder are parameters, `status` and result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.xenstore.styles.base import (
    BaseStyle,
    Pairs,
    ReadSet,
    Remove,
    Request,
    Write,
    WriteStep,
    error_of,
    named_only,
    owned_nodes,
    unrepresentable,
)
from adapters.xenstore.styles.mailbox import word
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import StateWords
from gateway.core.xenstore.paths import Match, element, member

VALUE = "value"  # the parameter that gets the word when the mapping names the method


class Word(BaseStyle):
    """The word is the method, or the parameter `value` of the method that the mapping names."""

    def read_set(self, match: Match) -> ReadSet:
        """The node itself."""
        return ReadSet((match.node,))

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A node that is not empty."""
        value = nodes.get(match.node, b"")
        if not value:
            return None
        conditions = {match.node: value}
        if self.exposure.method:
            return Request(element(self.exposure.method), [(VALUE, value)], conditions)
        return Request(word(value), (), conditions)

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """Empty the node, or remove it after an error. A result is dropped."""
        return [Remove(match.node) if error_of(pairs) else Write(match.node, b"")]


class Deletion(BaseStyle):
    """The word is the method unless the mapping names a method."""

    def read_set(self, match: Match) -> ReadSet:
        """The word, and the nodes in the same folder that the mapping names as parameters."""
        return ReadSet((match.node, *(f"{_folder(match)}/{name}" for name in self.exposure.parameters)))

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A node that is not empty."""
        value = nodes.get(match.node, b"")
        if not value:
            return None
        beside = {name: nodes.get(f"{_folder(match)}/{name}") for name in self.exposure.parameters}
        pairs = [(member(name), each) for name, each in beside.items() if each is not None]
        method = element(self.exposure.method) if self.exposure.method else word(value)
        conditions = {f"{_folder(match)}/{name}": each for name, each in beside.items()}
        return Request(method, pairs, {match.node: value, **conditions})

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """Result or error in the same folder, then the state, then the removal of the word, in one transaction."""
        if not named_only(pairs):
            return unrepresentable("$: expected a struct, whose members become nodes beside the word")
        words = self.exposure.states or StateWords()
        status = words.failed if error_of(pairs) else words.done
        state = [Write(f"{_folder(match)}/{words.node}", status.encode(), owned=True)] if status else []
        return [*owned_nodes(_folder(match), pairs), *state, Remove(match.node)]

    def shared_folder(self, match: Match) -> str | None:
        """The folder of the word."""
        return _folder(match)


def _folder(match: Match) -> str:
    return match.node.rpartition("/")[0]
