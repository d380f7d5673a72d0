"""No convention: what the codec carries is what is meant."""

from __future__ import annotations

from gateway.core import interfaces
from gateway.core.rpc.model import Call, Outcome
from gateway.core.rpc.spelling import AS_WRITTEN


class Dialect(interfaces.Dialect):
    """Changes nothing, over any protocol."""

    name = "plain"
    spelling = AS_WRITTEN

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    def unwrap_call(self, call: Call) -> Call:
        """The call itself."""
        return call

    def wrap_outcome(self, outcome: Outcome, _call: Call) -> Outcome:
        """The outcome itself."""
        return outcome

    def wrap_call(self, call: Call) -> Call:
        """The call itself."""
        return call

    def unwrap_outcome(self, outcome: Outcome, _call: Call) -> Outcome:
        """The outcome itself."""
        return outcome
