"""Style `mailbox`: PATH/command and PATH/parameter are a request, a word in PATH/state is the response.

The device model qemu-traditional worked like this, with one command at a time. The client restores the state that it
found. The gateway removes the command when it is done, so that a command that exists always has to be executed.
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
    only_value,
    unrepresentable,
)
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import StateWords
from gateway.core.xenstore.paths import Match, element, text_of

COMMAND, PARAMETER = "command", "parameter"


class Mailbox(BaseStyle):
    """The mapping has the state words for success and failure of each method."""

    def owner_node(self, match: Match) -> str:
        """The command node."""
        return f"{match.node}/{COMMAND}"

    def read_set(self, match: Match) -> ReadSet:
        """The command and the parameter."""
        return ReadSet((f"{match.node}/{COMMAND}", f"{match.node}/{PARAMETER}"))

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A command node that is not empty."""
        command = nodes.get(f"{match.node}/{COMMAND}", b"")
        if not command:
            return None
        parameter = nodes.get(f"{match.node}/{PARAMETER}")
        pairs = [] if parameter is None else [(PARAMETER, parameter)]
        conditions = {f"{match.node}/{COMMAND}": command, f"{match.node}/{PARAMETER}": parameter}
        return Request(word(command), pairs, conditions)

    def respond(self, match: Match, request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """A result is written into `parameter`, then the state. An error changes only the state, if it has a word."""
        words = dict(self.exposure.answers).get(text_of(request.method), StateWords())
        done = Remove(f"{match.node}/{COMMAND}")
        if error_of(pairs) is not None:
            return [*_state(match, words.failed), done]
        value = only_value([("", each) for path, each in pairs if path == PARAMETER] or pairs)
        if value is None:
            return unrepresentable(f"$: expected one text, for the node '{PARAMETER}'; got a struct or array")
        result = [Write(f"{match.node}/{PARAMETER}", value, owned=True)] if pairs else []
        return [*result, *_state(match, words.done), done]


def _state(match: Match, state: str) -> Sequence[WriteStep]:
    return [Write(f"{match.node}/state", state.encode())] if state else []


def word(value: bytes) -> str:
    """The value of a node as the path element of a method. Bytes that are not UTF-8 name no method."""
    return element(value.decode("utf-8", "replace"))
