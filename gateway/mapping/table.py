"""The compiled mappings: which route answers at which endpoint under which name. Only read, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gateway.core.routing.publication import Publication, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling
from gateway.core.xenstore.exposure import Exposure
from gateway.mapping.introspection_xml import Interface


@dataclass(frozen=True, slots=True, order=True)
class EndpointKey:
    """Where clients connect: a listener of the config and a path."""

    listener: str
    path: str

    def __str__(self) -> str:
        return f"{self.listener} {self.path}"


class Found(NamedTuple):
    """The route of a call. `task_prefix`: what stood before the name, for a task as result; empty for a plain call."""

    route: Route | None
    task_prefix: str = ""


NOT_MAPPED = Found(None)


@dataclass(frozen=True, slots=True)
class EndpointTable:
    """What one endpoint speaks and knows. `routes`: by every name a client may use, aliases too.

    `fingerprints`: for each name a text that changes with anything the mapping or the IDL says of it.
    """

    key: EndpointKey
    codec: str
    dialect: str
    routes: Mapping[str, Route]
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    exposure: Exposure | None = None  # how it is reached in a xenstore
    passthrough_to: str | None = None  # the upstream that answers all that is not mapped here
    spelling: MethodSpelling = AS_WRITTEN  # the dialect's: in which forms a method is called
    _others: Mapping[str, str] = field(
        init=False, repr=False, compare=False
    )  # a further spelling -> a name of `routes`

    def __post_init__(self) -> None:
        object.__setattr__(self, "_others", self.spelling.index(self.routes))

    @property
    def has_upstream(self) -> bool:
        """Whether a legacy service may answer a mapped method, so that both sides can be compared."""
        return any(route.migration.upstream is not None for route in self.routes.values())

    def find(self, method: str) -> Found:
        """The route of a method in whatever form a client writes its name."""
        route = self.routes.get(method)
        if route is not None:
            return Found(route)
        name, prefix = self.spelling.read(method)
        route = self.routes.get(name) or self.routes.get(self._others.get(name, name))
        return Found(route, prefix if route is not None else "")


@dataclass(frozen=True, slots=True)
class Contract:
    """What a mapping relies on: this object has this interface with these members, as the IDL has them."""

    bus_name: str
    object_path: str  # may hold {parameter}
    interface: Interface
    members: tuple[str, ...]  # methods, properties, signals
    file: str
    line: int
    column: int
    place: str
    below: bool = False  # the interface is at objects below this one, which manages them


@dataclass(frozen=True, slots=True)
class Table:
    """All endpoints. `revision`: the same for the same mapping and IDL files, whatever directory they stand in."""

    endpoints: Mapping[EndpointKey, EndpointTable]
    revision: str
    contracts: tuple[Contract, ...] = ()
    publications: tuple[Publication, ...] = ()
    triggers: tuple[WatchTrigger, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)  # mapping file, as routes name it -> SHA-256 of its bytes

    mappings: Mapping[Path, bytes] = field(default_factory=dict)  # mapping files, and what they hold
    idl: Mapping[Path, bytes] = field(default_factory=dict)

    def routes(self) -> tuple[Route, ...]:
        """Each route that a client can reach once, in the order of the files."""
        found = {id(route): route for endpoint in self.endpoints.values() for route in endpoint.routes.values()}
        found.update({id(trigger.route): trigger.route for trigger in self.triggers})
        return tuple(found.values())


def describe_routes(table: Table) -> list[Mapping[str, object]]:
    """One entry for each method at each endpoint and trigger, in the words of `xcp-gateway routes`."""
    called = [
        {
            **_described_route(name, str(endpoint.key), f"{endpoint.codec}/{endpoint.dialect}", route),
            "spellings": endpoint.spelling.forms(name),
        }
        for endpoint in table.endpoints.values()
        for name, route in endpoint.routes.items()
    ]
    rung = [_described_route(bell.route.method, bell.place, "on_change", bell.route) for bell in table.triggers]
    return called + rung


def _described_route(name: str, endpoint: str, protocol: str, route: Route) -> Mapping[str, object]:
    return {
        "method": name,
        "endpoint": endpoint,
        "protocol": protocol,
        "target": str(route.target),
        "effect": route.effect.value,
        "mode": route.migration.setting.mode.value,
        "timeout": route.timeout,
        "source": route.source,
        "spellings": (),
    }


def ungoverned(table: Table, passing: Mapping[str, str]) -> list[str]:
    """What no mode governs, each in a sentence: calls that a legacy service may execute whatever the mode is.

    `passing`: listeners that send what no endpoint takes to an upstream, and that upstream.
    """
    found: dict[str, None] = {}
    for listener, upstream in passing.items():
        paths = {key.path for key, endpoint in table.endpoints.items() if key.listener == listener and endpoint.routes}
        if paths and "/" not in paths:
            found[f"{listener}: requests to a path of no endpoint go to '{upstream}' as they came"] = None
    for endpoint in table.endpoints.values():
        for route in endpoint.routes.values():
            if route.migration.tasks == "legacy" and endpoint.spelling.task_prefixes:
                forms = " and ".join(prefix + route.method for prefix in endpoint.spelling.task_prefixes)
                why = f"'{route.migration.upstream}' answers {forms} in every mode but off (async: legacy)"
                found[f"{route.source}: {why}"] = None
    return list(found)


def changes(old: Table, new: Table) -> tuple[list[str], list[str], list[str]]:
    """Names of methods that `new` has and `old` had not; that are gone; that are there in both but not the same."""
    before, after = _described(old), _described(new)
    added = sorted(after.keys() - before.keys())
    removed = sorted(before.keys() - after.keys())
    changed = sorted(name for name in after.keys() & before.keys() if before[name] != after[name])
    return added, removed, changed


def _described(table: Table) -> dict[str, set[tuple[object, ...]]]:
    """Every name, and all that matters of it wherever it is exposed."""
    described: dict[str, set[tuple[object, ...]]] = {}
    for key, endpoint in table.endpoints.items():
        for name in endpoint.routes:
            what = (key, endpoint.codec, endpoint.dialect, endpoint.fingerprints.get(name))
            described.setdefault(name, set()).add(what)
    for bell in table.triggers:
        described.setdefault(bell.route.method, set()).add((bell.place, bell.fingerprint))
    return described
