"""Ask a bus for the owners of names and for the names that it can activate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias

from msgspec import Struct

from adapters.dbus.connection import BUS_NAME, BUS_PATH, Received, ReplyFuture
from gateway.core.admin.status import Presence
from gateway.core.dbus.target import MethodCall

Ask: TypeAlias = "Callable[[MethodCall], Awaitable[ReplyFuture | None]]"


class NameOwner(Struct, frozen=True):
    """The owner of a bus name."""

    presence: Presence
    unique_name: str = ""  # ":1.7"


OWNER_UNKNOWN = NameOwner(Presence.UNKNOWN)


async def owners(ask: Ask, names: Collection[str]) -> Mapping[str, NameOwner]:
    """Return the current owner of each name."""
    startable, *found = await asyncio.gather(
        ask(_driver("ListActivatableNames")), *(ask(_driver("GetNameOwner", "s", name)) for name in names)
    )
    listed = _first(startable)
    on_demand = frozenset(listed if isinstance(listed, list) else ())
    return {name: _owner(answer, name in on_demand) for name, answer in zip(names, found, strict=True)}


def _owner(answer: ReplyFuture | None, on_demand: bool) -> NameOwner:  # noqa: FBT001 - a fact, not a switch
    owner = _first(answer)
    if isinstance(owner, str):
        return NameOwner(Presence.OWNED, owner)
    if not isinstance(answer, Received):
        return OWNER_UNKNOWN
    return NameOwner(Presence.ON_DEMAND if on_demand else Presence.ABSENT)


def _first(answer: ReplyFuture | None) -> object:
    """The first argument of a method return; None for an error or an empty body."""
    if not isinstance(answer, Received) or answer.error_name or not answer.body:
        return None
    first: object = answer.body[0]
    return first


def _driver(member: str, signature: str = "", *body: object) -> MethodCall:
    """A call to the bus itself. (D-Bus specification, "Message Bus Messages")"""
    return MethodCall(BUS_NAME, BUS_PATH, BUS_NAME, member, signature, body)
