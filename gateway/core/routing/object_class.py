"""A legacy class that the mapping binds to the objects of a D-Bus service: where its objects are, and their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from gateway.core.routing.route import Route
from gateway.core.rpc.model import Value

# The properties of an object as D-Bus has them: each value is a variant.
Properties: TypeAlias = Mapping[str, Any]


class ObjectClass(Struct, frozen=True, eq=False):
    """One class. Its objects are at `before` + one path element + `after`, and have the interface.

    `record` is the same converter as that of `get_record`; it raises MarshalError. `key` gives the reference.
    """

    service: str  # of the mapping file
    name: str  # "VM"
    bus_name: str
    manager: str  # the path of the ObjectManager
    before: str
    after: str
    interface: str
    key: Callable[[str, Properties], str | None]
    record: Callable[[Properties], Value]
    routes: tuple[Route, ...]  # `get_record` and the like: where one is off, the class has no events
    fingerprint: str = ""  # changes with anything in the mapping that the records depend on

    def has(self, path: str) -> bool:
        """Whether an object with the interface at this path is of the class."""
        if not path.startswith(self.before) or not path.endswith(self.after):
            return False
        element = path[len(self.before) : len(path) - len(self.after)]
        return bool(element) and "/" not in element

    def reference(self, path: str, properties: Properties) -> str:
        """The reference of an object; its path where it has none."""
        return self.key(path, properties) or path
