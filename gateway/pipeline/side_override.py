"""Where a client says itself which side is to answer one call, if its listener lets it. Knows no mode."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import Call, RequestMetadata

_SIDES = {side.value: side for side in Side}


@dataclass(frozen=True, slots=True)
class SideOverride:
    """`header`: its name, lower case; `parameter`: a named parameter, taken out of the call. Empty: not here.

    Anything but the name of a side says nothing.
    """

    header: bytes = b""
    parameter: str = ""

    def of(self, call: Call, carried: RequestMetadata) -> tuple[Side | None, Call]:
        """The side that is asked for, and the call as the mapping should see it."""
        if self.parameter and self.parameter in call.named:
            side = _SIDES.get(str(call.named[self.parameter]))
            named = {name: value for name, value in call.named.items() if name != self.parameter}
            return side, replace(call, named=named, extensions={**call.extensions, _TAKEN: self.parameter})
        if self.header:
            found = (value for name, value in carried.headers if name.lower() == self.header)
            return _SIDES.get(next(found, b"").decode("latin-1").strip().lower()), call
        return None, call

    def changed(self, call: Call) -> bool:
        """Whether a parameter was taken out, so that the message cannot go on as it came."""
        return _TAKEN in call.extensions


_TAKEN = "forced by"

NO_SIDE_OVERRIDE = SideOverride()
