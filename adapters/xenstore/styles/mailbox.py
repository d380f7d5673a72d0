"""Style `mailbox`: PATH/command and PATH/parameter ask, a word in PATH/state answers; as a device model does.

One command at a time. The client puts the state back that it found; we take the command away when it is done, so that
what stands there is always still to do.
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
    only_value,
    unsayable,
)
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import StateWords
from gateway.core.xenstore.paths import Match, element, text_of

COMMAND, PARAMETER = "command", "parameter"


class Mailbox(Simple):
    """The word that says a command is done, or has failed, stands in the mapping for each method."""

    def signed(self, match: Match) -> str:
        """The command."""
        return f"{match.node}/{COMMAND}"

    def wanted(self, match: Match) -> ReadSet:
        """Command and parameter."""
        return ReadSet((f"{match.node}/{COMMAND}", f"{match.node}/{PARAMETER}"))

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A command that is there."""
        command = nodes.get(f"{match.node}/{COMMAND}", b"")
        if not command:
            return None
        parameter = nodes.get(f"{match.node}/{PARAMETER}")
        pairs = [] if parameter is None else [(PARAMETER, parameter)]
        conditions = {f"{match.node}/{COMMAND}": command, f"{match.node}/{PARAMETER}": parameter}
        return Request(word(command), pairs, conditions)

    def answer(self, match: Match, request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """A result is written into `parameter` before the state; an error changes nothing but the state, if that."""
        words = dict(self.exposure.answers).get(text_of(request.method), StateWords())
        done = Remove(f"{match.node}/{COMMAND}")
        if error_of(pairs) is not None:
            return [*_state(match, words.failed), done]
        value = only_value([("", each) for path, each in pairs if path == PARAMETER] or pairs)
        if value is None:
            return unsayable(f"$: expected one text, for the node '{PARAMETER}'; got a struct or array")
        result = [Write(f"{match.node}/{PARAMETER}", value, handed=True)] if pairs else []
        return [*result, *_state(match, words.done), done]


def _state(match: Match, said: str) -> Sequence[WriteStep]:
    return [Write(f"{match.node}/state", said.encode())] if said else []


def word(value: bytes) -> str:
    """What a client wrote, as the name of a method; what is no text names none."""
    return element(value.decode("utf-8", "replace"))
