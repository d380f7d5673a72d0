"""What a call carries of its way to an endpoint, and the side that its client asks for, where that is allowed.

Clients send the same head with every message, and a listener gives messages of one head one `RequestMetadata`. So the
extensions of their calls are one object, by which log and statistics find again what they have made of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import Call, Origin, RequestMetadata, is_shared
from gateway.pipeline.waiting import BATCHED

MOST = 64  # that are kept of each kind
_SIDES = {side.value: side for side in Side}
_EXTRACTED = "side override"  # the key in a call's extensions


class Origins:
    """The origins of the calls of one endpoint. `client`: that of a message without headers."""

    def __init__(self, client: Mapping[str, object]) -> None:
        self.client = Origin(client, is_shared=True)
        self._batched = Origin({**client, BATCHED: True}, is_shared=True)
        self._known: dict[int, tuple[RequestMetadata, Origin, Origin]] = {}  # by the id of the metadata; see `_learn`
        self._of_users: dict[tuple[int, str, bool], tuple[Mapping[str, object], Origin]] = {}  # by the id of the origin

    def of(self, metadata: RequestMetadata, *, is_alone: bool) -> Origin:
        """The origin of the calls of a message; `is_alone`: it is one call and no batch."""
        if not metadata.headers:
            return self.client if is_alone else self._batched
        known = self._known.get(id(metadata))
        if known is None or known[0] is not metadata:
            return self._learn(metadata)[0 if is_alone else 1]
        origin = known[1] if is_alone else known[2]
        origin.is_shared = True
        return origin

    def _learn(self, metadata: RequestMetadata) -> tuple[Origin, Origin]:
        """The origin of a call alone, and of one in a batch."""
        carried = {**self.client, "agent": metadata.agent, "request_id": metadata.request_id}
        origins = Origin(carried), Origin({**carried, BATCHED: True})
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[id(metadata)] = metadata, *origins
        return origins

    def with_user(self, call: Call, user: str, *, is_login: bool) -> Call:
        """The call with the user of its session."""
        origin = call.extensions
        known = self._of_users.get((id(origin), user, is_login))
        if known is not None and known[0] is origin:
            known[1].is_shared = True
            return structs.replace(call, extensions=known[1])
        named = Origin({**origin, "user": user, **({"login": True} if is_login else {})})
        if is_shared(origin):
            if len(self._of_users) >= MOST:
                self._of_users.clear()
            self._of_users[id(origin), user, is_login] = origin, named
        return structs.replace(call, extensions=named)


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
            return side, structs.replace(call, named=named, extensions={**call.extensions, _EXTRACTED: self.parameter})
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
