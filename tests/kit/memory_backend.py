"""Answers calls from a table, for tests and for trying a mapping out; talks to nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from adapters.dbus import backend
from gateway.core import interfaces
from gateway.core.dbus.target import MethodCall
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply

# An outcome as it stands, or a function from the method call to the body of the method return (or to a fault).
Answer: TypeAlias = "Outcome | Callable[[MethodCall], Sequence[object] | Fault]"


class MemoryBackend(interfaces.Backend):
    """Answers (interface, member) as its table says; a fault with a name is translated as one from D-Bus is."""

    def __init__(self, table: Mapping[tuple[str, str], Answer]) -> None:
        self._table = table
        self._running = False

    async def start(self) -> None:
        """Be there."""
        self._running = True

    async def stop(self) -> None:
        """Be gone."""
        self._running = False

    async def call(self, route: Route, call: Call) -> Outcome:
        """Answer one call."""
        method_call = backend.encode_arguments(route, call)
        if isinstance(method_call, Fault):
            return method_call
        if not self._running:
            return Fault(FaultCode.UNAVAILABLE, "the backend is not running; the call was not sent")
        answer = self._answer(method_call)
        if call.oneway:
            return Reply(None)
        if isinstance(answer, Fault):
            return route.map_error(answer, call) if answer.name else answer
        return answer if isinstance(answer, Reply) else backend.decode_result(route, answer)

    def _answer(self, call: MethodCall) -> Outcome | Sequence[object]:
        answer = self._table.get((call.interface, call.member))
        if answer is None:
            text = f"{call.interface}.{call.member} is not in the table"
            return Fault(FaultCode.UNKNOWN_METHOD, text, name="org.freedesktop.DBus.Error.UnknownMethod", data=[text])
        return answer if isinstance(answer, (Reply, Fault)) else answer(call)
