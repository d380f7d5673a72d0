"""Helpers for the methods of the twins: reading the state of the D-Bus services, errors in the terms of old.

Both ways see one state, since there is only one: the D-Bus service's. Knows no method and no byte of a message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from dbus_next import Variant
from legacy_wire import Failure
from service import NAMES, ROOT, Bus, Error, element
from service import unwrapped as plain

Method = Callable[..., Awaitable[Any]]
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"


class Service:
    """One D-Bus service. `path` takes the names of elements: path("vm", uuid)."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = f"{NAMES}.{name}"
        self._root = f"{ROOT}/{name}"

    def path(self, *elements: str) -> str:
        """An object's path."""
        return "/".join((self._root, *map(element, elements)))

    async def ask(self, path: str, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call "Interface1.Member" of this service."""
        return await self._bus.ask(self._name, path, self._full(member), signature, *arguments)

    async def one(self, path: str, member: str, signature: str = "", *arguments: Any) -> Any:
        """The same where there is one out-argument."""
        [result] = await self.ask(path, member, signature, *arguments)
        return plain(result)

    async def get(self, path: str, interface: str, name: str) -> Any:
        """A property."""
        return plain(await self._bus.get(self._name, path, self._full(interface), name))

    async def all(self, path: str, interface: str) -> dict[str, Any]:
        """All properties."""
        [found] = await self._bus.ask(self._name, path, f"{PROPERTIES}.GetAll", "s", self._full(interface))
        return {name: plain(item) for name, item in found.items()}

    async def managed(self, path: str) -> dict[str, dict[str, dict[str, Any]]]:
        """All objects of an object manager: path -> interface -> properties."""
        [found] = await self._bus.ask(self._name, path, f"{OBJECTS}.GetManagedObjects")
        return dict(found)

    async def put(self, path: str, interface: str, name: str, value: Variant) -> None:
        """Write a property."""
        await self._bus.ask(self._name, path, f"{PROPERTIES}.Set", "ssv", self._full(interface), name, value)

    def _full(self, name: str) -> str:
        return name if name.startswith(NAMES) else f"{self._name if name != 'Service1' else NAMES}.{name}"


def named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """A D-Bus struct as a record."""
    return dict(zip(names, plain(values), strict=True))


def picked(fields: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Some of an object's properties under their old names: {old: property}."""
    return {old: values[name] for old, name in fields.items()}


def boolean(item: Any) -> bool:
    """Return an integer; XML-RPC clients may send it as text."""
    return item in (True, "1", "true") if not isinstance(item, bool) else item


Errors = Mapping[str, Callable[[list[Any]], Any]]  # D-Bus error, without its prefix -> the old error


def failure(error: Error, errors: Errors, internal: Callable[[str, str], Any]) -> Failure:
    """A D-Bus error in old terms."""
    told = errors.get(error.type.removeprefix(f"{NAMES}.Error."))
    if told is not None:
        return Failure(told(plain(error.arguments)))
    return Failure(internal(error.type, ", ".join(map(str, error.arguments))))
