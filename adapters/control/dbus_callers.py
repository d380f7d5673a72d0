"""Who a caller on the bus is, as the bus itself says. Knows no operation."""

from __future__ import annotations

from collections.abc import Callable

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from gateway.core.rights import Caller

REMEMBERED = 1024  # a unique name is never given twice, so what is known of one stays true

_BUS, _PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"


class Callers:
    """Those of one connection. `user_name`: of a uid, for the audit."""

    def __init__(self, bus: MessageBus, user_name: Callable[[int], str]) -> None:
        self._bus = bus
        self._user_name = user_name
        self._known: dict[str, Caller] = {}

    async def of(self, unique_name: str) -> Caller | None:
        """Who that is; None when the bus does not say: it has left, or came without credentials."""
        known = self._known.get(unique_name)
        if known is None:
            known = await self._ask(unique_name)
            if known is not None:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[unique_name] = known
        return known

    async def _ask(self, unique_name: str) -> Caller | None:
        question = Message(_BUS, _PATH, _BUS, "GetConnectionCredentials", signature="s", body=[unique_name])
        answer = await self._bus.call(question)
        if answer is None or answer.message_type is not MessageType.METHOD_RETURN:
            return None
        told = answer.body[0]
        if "UnixUserID" not in told:
            return None
        uid = told["UnixUserID"].value
        gids = told["UnixGroupIDs"].value if "UnixGroupIDs" in told else ()  # older brokers do not say
        return Caller(uid, frozenset(gids), self._user_name(uid))
