"""The plain dialect: the protocol without a convention on top."""

from __future__ import annotations

from gateway.core import interfaces
from gateway.core.rpc.model import Call, Outcome
from gateway.core.rpc.spelling import AS_WRITTEN


class Dialect(interfaces.Dialect):
    """Changes nothing."""

    name = "plain"
    spelling = AS_WRITTEN

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    def unwrap_call(self, call: Call) -> Call:
        """Return the call unchanged."""
        return call

    def wrap_outcome(self, outcome: Outcome, _call: Call) -> Outcome:
        """Return the outcome unchanged."""
        return outcome

    def wrap_call(self, call: Call) -> Call:
        """Return the call unchanged."""
        return call

    def unwrap_outcome(self, outcome: Outcome, _call: Call) -> Outcome:
        """Return the outcome unchanged."""
        return outcome
