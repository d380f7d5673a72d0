"""Lets a client choose the side that answers one call, where its listener allows that."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import Call, RequestMetadata

_SIDES = {side.value: side for side in Side}
_EXTRACTED = "side override"  # the key in a call's extensions


class SideOverride(Struct, frozen=True):
    """`header` (lower case) or the named parameter `parameter` names the side: legacy or dbus. Empty: not allowed.

    Any other value is ignored.
    """

    header: bytes = b""
    parameter: str = ""

    def extract(self, call: Call, metadata: RequestMetadata) -> tuple[Side | None, Call]:
        """The side that the client asks for, and the call without the parameter that asks for it."""
        if self.parameter and self.parameter in call.named:
            side = _SIDES.get(str(call.named[self.parameter]))
            named = {name: value for name, value in call.named.items() if name != self.parameter}
            return side, replace(call, named=named, extensions={**call.extensions, _EXTRACTED: self.parameter})
        if self.header:
            found = (value for name, value in metadata.headers if name.lower() == self.header)
            return _SIDES.get(next(found, b"").decode("latin-1").strip().lower()), call
        return None, call

    def was_extracted(self, call: Call) -> bool:
        """Whether `extract` removed a parameter, so that the message cannot be passed through unchanged."""
        return _EXTRACTED in call.extensions


def side_override(header: str, parameter: str) -> SideOverride | None:
    """The override of a listener; None where its config allows none."""
    return SideOverride(header.lower().encode(), parameter) if header or parameter else None
