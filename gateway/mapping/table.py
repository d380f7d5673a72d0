"""The compiled mappings: the routes of each endpoint by method name, and the publications and watch triggers.

The values are immutable; a reload makes a new Table, and `changes` lists the methods that differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from gateway.core.dbus.introspection_xml import Interface
from gateway.core.dbus.object_paths import PathTemplate
from gateway.core.dbus.target import PropertyTarget
from gateway.core.routing.publication import Publication, WatchTrigger
from gateway.core.routing.route import LocalTarget, ObjectClass, Route
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling
from gateway.core.xenstore.paths import Exposure
from gateway.mapping.problem import Level, Problem


class EndpointKey(Struct, frozen=True, order=True):
    """The address of an endpoint: a listener of the config and a path."""

    listener: str
    path: str

    def __str__(self) -> str:
        return f"{self.listener} {self.path}"


class Found(NamedTuple):
    """The route of a call. `task_prefix`: the prefix by which the name asks for a task (`Async.`), or empty."""

    route: Route | None
    task_prefix: str = ""


NOT_MAPPED = Found(None)


class EndpointTable(Struct, frozen=True):
    """One endpoint. `routes`: by name and alias."""

    key: EndpointKey
    codec: str
    dialect: str
    routes: Mapping[str, Route]
    exposure: Exposure | None = None  # the xenstore options
    passthrough_to: str | None = None  # the upstream that receives unmapped methods
    spelling: MethodSpelling = AS_WRITTEN  # the alternative spellings of a method name in the dialect
    session_check: Route | None = None  # of calls that are not mapped: it looks at their first parameter
    removed: frozenset[str] = frozenset()  # names that the API had once; `Class.*`: all of a class
    _others: Mapping[str, str] = field(default_factory=dict)  # alternative spelling -> name in `routes`: of the others

    def __post_init__(self) -> None:
        force_setattr(self, "_others", self.spelling.index(self.routes))

    @property
    def has_upstream(self) -> bool:
        """Whether a legacy service may answer a mapped method, so that both sides can be compared."""
        return any(route.migration.upstream is not None for route in self.routes.values())

    def find(self, method: str) -> Found:
        """The route of a method name in any spelling."""
        route = self.routes.get(method)
        if route is not None:
            return Found(route)
        name, prefix = self.spelling.read(method)
        route = self.routes.get(name) or self.routes.get(self._others.get(name, name))
        return Found(route, prefix if route is not None else "")

    def is_removed(self, method: str) -> bool:
        """Whether the mapping says that the API no longer has this method, in any spelling of its name."""
        name, _ = self.spelling.read(method)
        joined = self.spelling.joined
        return any(
            name in (each, *self.spelling.others(each))
            if not each.endswith(".*")
            else name.startswith(each[:-1]) or (joined != "" and name.startswith(each[:-2] + joined))
            for each in self.removed
        )


class Contract(Struct, frozen=True):
    """An assumption of a mapping: the object implements these members of the interface as in the IDL."""

    bus_name: str
    object_path: str  # may contain {parameter}
    interface: Interface
    members: tuple[str, ...]  # methods, properties, signals
    where: Problem  # the place in the mapping that relies on it; without a message
    below: bool = False  # the interface is on the objects below this object manager
    optional: bool = False  # the object may lack the interface
    reach: PathTemplate | None = None  # the object path with the rules of its parameters

    def problem(self, message: str, level: Level = "live") -> Problem:
        """A problem with what the mapping relies on."""
        return replace(self.where, message=message, level=level)


class Table(Struct, frozen=True):
    """All compiled mappings. `revision`: a digest of the mapping and IDL files, independent of their directory."""

    endpoints: Mapping[EndpointKey, EndpointTable]
    revision: str
    contracts: tuple[Contract, ...] = ()
    publications: tuple[Publication, ...] = ()
    triggers: tuple[WatchTrigger, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)  # mapping file, as in `Route.source` -> SHA-256
    mappings: Mapping[Path, bytes] = field(default_factory=dict)  # content of the mapping files
    idl: Mapping[Path, bytes] = field(default_factory=dict)  # content of the IDL files
    classes: tuple[ObjectClass, ...] = ()  # whose objects have events
    notes: tuple[str, ...] = ()  # deprecated members in use; what of the legacy classes has no D-Bus side

    def routes(self) -> tuple[Route, ...]:
        """Each route that a client or a watch trigger can reach, once, in the order of the files."""
        found = {id(route): route for endpoint in self.endpoints.values() for route in endpoint.routes.values()}
        found.update({id(trigger.route): trigger.route for trigger in self.triggers})
        return tuple(found.values())


def describe_routes(table: Table) -> list[Mapping[str, object]]:
    """One entry for each method at each endpoint and watch trigger, with the keys of `xcp-gateway routes --json`."""
    called: list[Mapping[str, object]] = [
        {
            **_described_route(name, route),
            "listener": endpoint.key.listener,
            "path": endpoint.key.path,
            "codec": endpoint.codec,
            "dialect": endpoint.dialect,
            "spellings": endpoint.spelling.forms(name, tasks=route.has_task_form),
        }
        for endpoint in table.endpoints.values()
        for name, route in endpoint.routes.items()
    ]
    triggered = [
        {**_described_route(each.route.method, each.route), "listener": each.listener, "path": str(each.node)}
        for each in table.triggers
    ]
    return called + triggered


def _described_route(name: str, route: Route) -> dict[str, object]:
    """The fields of a watch trigger, which has no protocol: `on_change` instead. A local answer has no target."""
    file, _, line = route.source.rpartition(":")
    target = route.target
    bus_name = object_path = interface = member = access = ""
    if not isinstance(target, LocalTarget):
        bus_name, object_path, interface, member = target.bus_name, target.object_path, target.interface, target.member
        access = "call"
    if isinstance(target, PropertyTarget):
        interface, member, access = target.owner, target.name, target.member.lower()
    return {
        "service": route.service,
        "method": name,
        "codec": "on_change",
        "dialect": "",
        "bus_name": bus_name,
        "object_path": object_path,
        "interface": interface,
        "member": member,
        "access": access,
        "effect": route.effect.value,
        "mode": route.migration.setting.mode.value,
        "timeout": route.timeout,
        "file": file,
        "line": int(line) if line.isdigit() else None,
        "spellings": (),
    }


def ungoverned(table: Table, passing: Mapping[str, str]) -> list[str]:
    """One sentence for each kind of call that a legacy service may execute whatever the mode of a method is.

    `passing`: listener -> the upstream that receives requests to unknown paths.
    """
    found: dict[str, None] = {}
    for listener, upstream in passing.items():
        paths = {key.path for key, endpoint in table.endpoints.items() if key.listener == listener and endpoint.routes}
        if paths and "/" not in paths:
            found[f"{listener}: requests to unknown paths are passed to '{upstream}' unchanged"] = None
    for endpoint in table.endpoints.values():
        for route in endpoint.routes.values():
            if route.migration.tasks == "legacy" and endpoint.spelling.task_prefixes:
                forms = " and ".join(prefix + route.method for prefix in endpoint.spelling.task_prefixes)
                why = f"'{route.migration.upstream}' answers {forms} in every mode except off (async: legacy)"
                found[f"{route.source}: {why}"] = None
    return list(found)


def changes(old: Table, new: Table) -> tuple[list[str], list[str], list[str]]:
    """The names of the methods that are added, removed and changed from `old` to `new`."""
    before, after = _differing(old), _differing(new)
    added = sorted(after.keys() - before.keys())
    removed = sorted(before.keys() - after.keys())
    changed = sorted(name for name in after.keys() & before.keys() if before[name] != after[name])
    return added, removed, changed


def _differing(table: Table) -> dict[str, set[tuple[object, ...]]]:
    """Method name -> for each place where it is exposed, everything that makes a difference to a caller."""
    described: dict[str, set[tuple[object, ...]]] = {}
    for key, endpoint in table.endpoints.items():
        for name, route in endpoint.routes.items():
            what = (key, endpoint.codec, endpoint.dialect, route.fingerprint)
            described.setdefault(name, set()).add(what)
    for trigger in table.triggers:
        described.setdefault(trigger.route.method, set()).add((trigger.place, trigger.fingerprint))
    return described
