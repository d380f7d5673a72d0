"""Compiles the method entries of one file to routes.

A route combines what the other modules compile: the callee (targets), the arguments (parameters), the result and errors
(results), the migration settings (migration), the rollout plan (rollouts) and what concerns sessions (sessions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.dbus.arguments import ArgumentPlan, compile_arguments
from gateway.core.dbus.marshal import same
from gateway.core.dbus.names import object_path
from gateway.core.dbus.object_paths import PathTemplate
from gateway.core.dbus.results import Item, Record, one, property_decoder, void
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.target import MethodCall, Parameter, Target
from gateway.core.migration.modes import Migration
from gateway.core.routing.route import Effect, Route, TaskObject
from gateway.core.rpc.model import Call, Value
from gateway.core.rpc.spelling import MethodSpelling
from gateway.core.rpc.units import seconds
from gateway.mapping.classes.expand import Derived, Expansion
from gateway.mapping.classes.select import returned
from gateway.mapping.encoding import STRUCT, TEXT, Directions, Encoding
from gateway.mapping.load import Scope
from gateway.mapping.migration import (
    ComparisonSettings,
    MethodMigration,
    Upstreams,
    check_client_errors,
    client_errors,
    may_shadow,
    upstream_of,
)
from gateway.mapping.parameters import compile_parameters, compile_types, parameter_names, path_template
from gateway.mapping.results import ErrorTables, check_errors, compile_result
from gateway.mapping.rollouts import Rollouts
from gateway.mapping.sessions import SessionCompiler
from gateway.mapping.table import Contract
from gateway.mapping.targets import PROPERTIES, Callee, IdlLibrary, find, find_site, known_member, readable
from gateway.mapping.xenstore.endpoints import compile_domains

DEFAULTS: Mapping[str, Any] = {
    "timeout": "60s",
    "coerce": "strict",
    "variants": "plain",
    "escape": "systemd",
    "effect": "write",
}

# The effect of a kind of entry that has no `effect`, whatever `defaults` has.
EFFECTS: Mapping[str, str] = {
    "property": "read",
    "all_properties": "read",
    "managed_objects": "read",
    "set_property": "idempotent",
    "events": "idempotent",
}

EVENTS_TIMEOUT = 90_000.0  # seconds: a client may wait for events for a day


class Compiled(Struct, frozen=True):
    """A method entry without problems. `contracts`: those that are not part of the contract of a class."""

    route: Route
    contracts: tuple[Contract, ...]


class _Defaults(Struct, frozen=True):
    """The keys that methods have where their entry has none: those of the format, the file and the class."""

    scope: Scope
    keys: Mapping[str, Any]
    comparison: ComparisonSettings


def with_defaults(entry: Scope, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an entry, with the defaults where it has none."""
    by_kind = next(({"effect": effect} for kind, effect in EFFECTS.items() if kind in entry.data), {})
    return {**keys, **by_kind, **entry.data}


class _Digests:
    """Fingerprints of methods: digests of everything that a route depends on. What methods share is digested once."""

    def __init__(self, root: Scope, session_check: Callee | None) -> None:
        apart = ("methods", "expose", "summary", "publish", "on_change", "classes")
        self._common = repr({key: value for key, value in root.data.items() if key not in apart})
        self._stanzas = {
            name: repr({key: value for key, value in stanza.items() if key != "messages"})
            for name, stanza in (root.data.get("classes") or {}).items()
        }
        self._common += "" if session_check is None else repr(session_check)
        self._bases: dict[tuple[int, str], Any] = {}  # hash objects, by interface and class

    def of(self, entry: Scope, callee: Callee, derived: Derived | None) -> str:
        """The fingerprint of a method."""
        stanza = "" if derived is None else derived.legacy_class.name
        key = id(callee.interface), stanza
        if key not in self._bases:
            text = self._common + self._stanzas.get(stanza, "") + repr(callee.interface)
            self._bases[key] = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
        digest = self._bases[key].copy()
        digest.update(repr(entry.data).encode("utf-8", "surrogatepass"))
        return str(digest.hexdigest())


class _Deferred:
    """The converters of a route, compiled when they are used first. `make` compiles the whole route."""

    __slots__ = ("_entry", "_make", "_route")

    def __init__(self, make: Callable[[], Route], entry: Scope) -> None:
        self._make = make
        self._entry = entry
        self._route: Route | None = None

    def _made(self) -> Route:
        if self._route is None:
            before = len(self._entry.problems)
            route = self._make()
            assert len(self._entry.problems) == before, f"{route.method} was not simple"
            self._route = route
        return self._route

    def encode_arguments(self, call: Call) -> MethodCall:
        return self._made().encode_arguments(call)

    def decode_result(self, body: Sequence[object]) -> Value:
        return self._made().decode_result(body)

    def check(self, call: Call) -> MethodCall:
        """Encode the arguments of the session check."""
        check = self._made().session_check
        assert check is not None, "a shared route has one"
        return check.encode_arguments(call)


class Compiler:
    """Compiles the entries of one file."""

    def __init__(
        self, expansion: Expansion, library: IdlLibrary, upstreams: Upstreams | None, spelling: MethodSpelling
    ) -> None:
        root = expansion.root
        self._root = root
        self._library = library
        self._upstreams = upstreams
        self._spelling = spelling  # at the endpoints of the file
        self._classes = expansion.classes
        self._derived = expansion.derived
        self.upstream = upstream_of(root, upstreams)  # of the file
        Directions.check(root.at("defaults", "variants"))
        self._types = compile_types(root.at("types"))
        entries = {name: root.at("methods", name) for name in root.data["methods"]}
        parameters = {name: None for entry in entries.values() for name in parameter_names(entry)}
        defaults, keys = root.at("defaults"), {**DEFAULTS, **root.data.get("defaults", {})}
        of_file = _Defaults(defaults, keys, ComparisonSettings(root, defaults, parameters))
        self._errors = ErrorTables()
        self._sessions = SessionCompiler(root, library, parameters, of_file.keys, self._errors)
        for name in self._classes:
            check_errors(root.at("classes", name, "errors"), parameters)
        if root.document.complete:  # a template of the file may name a parameter that only some methods have
            check_errors(root.at("errors"), parameters)
        check_client_errors(root)
        self._defaults = {"": of_file, **{name: self._defaults_of(name, of_file, parameters) for name in self._classes}}
        for each in self._defaults.values():
            self._timeout(each.scope.at("timeout"), of_file)
        self._digests = _Digests(root, self._sessions.callee)
        self._settings: dict[object, Route] = {}  # what derived methods share, by that on which it depends
        self._by_names: dict[object, tuple[Migration, Route | None]] = {}  # of these, by the names of all parameters
        self._names: dict[int, frozenset[str]] = {}  # by the identity of defaults: see _read_names
        self._used: dict[tuple[str, str, str], tuple[Contract, set[str]]] = {}  # class, path, interface -> members
        shadowed = {name: with_defaults(entry, self._defaults_for(name).keys) for name, entry in entries.items()}
        self._rollouts = Rollouts(
            root,
            {
                name: may_shadow(Effect(keys["effect"]), allowed=keys.get("shadow") is True)
                for name, keys in shadowed.items()
            },
            {name: self._defaults_for(name).scope for name in self._derived},
        )

    def _defaults_of(self, name: str, of_file: _Defaults, parameters: Collection[str]) -> _Defaults:
        """The defaults of a class: its own, then those of the file."""
        own = self._root.at("classes", name, "defaults")
        if not own.data:
            return of_file
        scope = replace(own, data={**(of_file.scope.data or {}), **own.data})
        compared = {"compare", "redact"} & own.data.keys()
        comparison = ComparisonSettings(self._root, scope, parameters) if compared else of_file.comparison
        return _Defaults(scope, {**of_file.keys, **own.data}, comparison)

    def _defaults_for(self, method: str) -> _Defaults:
        derived = self._derived.get(method)
        return self._defaults["" if derived is None else derived.legacy_class.name]

    @property
    def session_check(self) -> Route | None:
        """The session check of a call that the file does not map."""
        return self._sessions.check_of_unmapped

    def contracts(self) -> Iterator[Contract]:
        """The contracts of the session check and of the classes, after all methods are compiled."""
        if self._sessions.callee is not None:
            yield _contract(self._root.at("session"), self._sessions.callee)
        for contract, members in self._used.values():
            yield replace(contract, members=tuple(sorted(members)))

    def compile(self, name: str) -> Compiled | None:
        """The method of this name; None, with the problems reported, when it has one."""
        entry, derived = self._root.at("methods", name), self._derived.get(name)
        before = len(entry.problems)
        callee = find(entry, self._root.at("dbus"), self._library, None if derived is None else derived.site)
        timeout = self._timeout(entry.at("timeout"), self._defaults_for(name))
        check_errors(entry.at("errors"), () if derived is not None and derived.plain else parameter_names(entry))
        if callee is None or timeout is None:
            return None
        deferred = None if derived is None else self._deferred(name, entry, callee, timeout, derived)
        route = deferred or self._route(name, entry, callee, timeout)
        return None if len(entry.problems) > before else Compiled(route, self._contracts_of(entry, callee, derived))

    def _contracts_of(self, entry: Scope, callee: Callee, derived: Derived | None) -> tuple[Contract, ...]:
        """The contracts of a method with its further interfaces. A class has one for each object and interface."""
        if callee.events:
            return ()
        of_class = "" if derived is None or derived.site is None else derived.legacy_class.name
        key = of_class, callee.target.object_path, callee.interface.name
        if of_class and key in self._used and not callee.further:
            self._used[key][1].update(callee.members)
            return ()
        escape = with_defaults(entry, self._defaults_for(str(entry.path[-1])).keys)["escape"]
        place = self._root.at("classes", of_class) if of_class else entry
        own = _contract(place, callee, path_template(entry, callee.target.object_path, escape))
        further = tuple(
            replace(own, interface=interface, members=readable(interface), optional=True)
            for interface in callee.further
        )
        if not of_class:
            return own, *further
        self._used.setdefault(key, (own, set()))[1].update(callee.members)
        return further

    def _deferred(self, name: str, entry: Scope, callee: Callee, timeout: float, derived: Derived) -> Route | None:
        """A route whose converters are compiled when it is first called; None where they could have a problem.

        It has no forms, and no name twice. It shares its settings with the methods that have the same defaults, effect,
        group and leading parameters.
        """
        names = tuple(parameter_names(entry))
        plain = derived.plain and "result" not in entry.data and all(isinstance(x, str) for x in entry.data["params"])
        if not plain or callee.record or callee.objects or len({*names}) < len(names):
            return None
        effect, group = with_defaults(entry, {})["effect"], self._rollouts.of(entry).group
        defaults = self._defaults_for(name)
        read = self._read_names(defaults)
        last = max((index for index, each in enumerate(names) if each in read), default=-1)
        key = (id(defaults), effect, group, entry.data.get("async"), *names[: last + 1])
        if key not in self._settings:
            before = len(entry.problems)
            made = self._route(name, entry, callee, timeout)
            if len(entry.problems) == before:
                self._settings[key] = made
            return made
        shared = self._settings[key]
        later = _Deferred(partial(self._route, name, entry, callee, timeout), entry)
        if (key, names) not in self._by_names:
            redact = replace(shared.migration.redact, parameters=names)
            check = shared.session_check
            self._by_names[key, names] = (
                replace(shared.migration, redact=redact),
                None if check is None else replace(check, encode_arguments=later.check),
            )
        migration, check = self._by_names[key, names]
        plan = ArgumentPlan(callee.target, names)
        leading = [Parameter(each, TEXT, required=True) for each in names[: len(names) - len(callee.ins)]]
        return replace(
            shared,
            method=name,
            target=callee.target,
            parameters=(
                *leading,  # session and reference
                *(
                    Parameter(each.name, each.type, required=True, documentation=each.documentation)
                    for each in callee.ins
                ),
            ),
            result=callee.outs[0].type if len(callee.outs) == 1 else STRUCT if callee.outs else None,
            encode_arguments=later.encode_arguments,
            decode_result=later.decode_result,
            map_error=self._errors.mapper(self._error_tables(entry, derived), plan, name),
            migration=migration,
            documentation=callee.documentation,
            source=entry.source,
            has_task_form=derived.has_task_form,
            session_check=check,
            connection=self._sessions.connection(name, plan),
            fingerprint=self._digests.of(entry, callee, derived),
        )

    def _read_names(self, defaults: _Defaults) -> frozenset[str]:
        """The names of parameters that shared settings may read: the session, and keys of canaries."""
        if id(defaults) not in self._names:
            groups = self._root.at("groups")
            of_groups = (groups.at(name, "key") for name in groups.data or ())
            keys = [defaults.scope.at("key"), defaults.scope.at("mode", "key"), *of_groups]
            found = {str(self._sessions.parameter), *(str(key.data) for key in keys if key.data is not None)}
            self._names[id(defaults)] = frozenset(found)
        return self._names[id(defaults)]

    def _route(self, name: str, entry: Scope, callee: Callee, timeout: float) -> Route:
        defaults, derived = self._defaults_for(name), self._derived.get(name)
        keys = with_defaults(entry, defaults.keys)
        rollout = self._rollouts.of(entry)
        variants = Directions.of(keys["variants"])
        self._check_variants(entry, callee)
        encoding = Encoding(
            keys["coerce"], variants.sent, keys["escape"], variants.types, self._types, surplus="surplus" in keys
        )
        plan, parameters = compile_parameters(entry, callee, encoding, self._sessions.parameter, self._classes)
        result = compile_result(entry, callee, variants.received, keys["escape"], self._classes)
        if "task" in entry.data:  # the path of the object
            index = next((i for i, out in enumerate(callee.outs) if out.name == entry.data["task"]), 0)
            result = replace(result, shape=one(Item(index, same)))
        if derived is not None:
            result = returned(derived, plan, result)
        effect = Effect(keys["effect"])
        upstream = upstream_of(entry, self._upstreams) or self.upstream
        group = self._root.at("groups", rollout.group) if rollout.group else None
        session = self._sessions.parameter
        migration = MethodMigration(entry, defaults.scope, upstream, plan, effect, session, group).compile()
        return Route(
            service=self._root.data["service"],
            method=name,
            target=callee.target,
            further=tuple(interface.name for interface in callee.further) if callee.record else (),
            parameters=parameters,
            result=result.type,
            encode_arguments=compile_arguments(plan),
            decode_result=result.shape,
            map_error=self._errors.mapper(self._error_tables(entry, derived), plan, name),
            timeout=timeout if not callee.events or entry.has("timeout") else EVENTS_TIMEOUT,
            effect=effect,
            migration=replace(
                migration,
                group=rollout.group,
                client_errors=client_errors(entry, group, self._root),
                compare=defaults.comparison.rules(entry),
                sampling=defaults.comparison.sampling(entry),
                redact=defaults.comparison.redactions(entry, parameter_names(entry)),
            ),
            rollout=rollout.plan,
            documentation=keys.get("documentation", callee.documentation),
            source=entry.source,
            aliases=tuple(keys.get("aliases", ())),
            domains=compile_domains(entry.at("allowed_domains"), None),
            session_check=self._sessions.check_of(plan),
            session=self._sessions.reader(plan),
            login=self._sessions.named(entry.at("session_user"), plan),
            closes=self._sessions.named(entry.at("session_closes"), plan),
            session_limits=self._sessions.limits(entry, plan),
            follows=_task_object(entry, callee, self._root, self._library),
            root_login=self._root_login(name, entry, timeout),
            connection=self._sessions.connection(name, plan),
            spelling=self._spelling,
            has_task_form=derived is None or derived.has_task_form,
            select=result.select,
            events=callee.events,
            waits=bool(callee.events) or entry.at("waits").data is True,
            fingerprint=self._digests.of(entry, callee, derived),
        )

    def _check_variants(self, entry: Scope, callee: Callee) -> None:
        """`variants` of a method gives the types of known keys only where an argument contains a variant."""
        types = Directions.check(entry.at("variants"))
        if types and not any(argument.type.has_variant for argument in callee.ins):
            entry.at("variants").fail(f"no argument of {callee.title} contains a variant", key=True)

    def _error_tables(self, entry: Scope, derived: Derived | None) -> list[Scope]:
        """The error tables of a method; the first has precedence."""
        stanza = [self._root.at("classes", derived.legacy_class.name, "errors")] if derived is not None else []
        return [entry.at("errors"), *stanza, self._root.at("errors")]

    def _root_login(self, name: str, entry: Scope, timeout: float) -> Route | None:
        """For a login: the route that root's login takes on a trusted listener."""
        own = entry.at("root_login")
        if own.data is None:
            return None
        kept = {key: value for key, value in entry.data.items() if key not in ("root_login", "args")}
        merged = Scope(entry.document, entry.problems, entry.path, {**kept, **own.data})
        callee = find(merged, self._root.at("dbus"), self._library)
        return None if callee is None else self._route(name, merged, callee, timeout)

    def _timeout(self, scope: Scope, defaults: _Defaults) -> float | None:
        text = scope.data if scope.data is not None else defaults.keys["timeout"]
        if seconds(text) > 0:
            return seconds(text)
        if scope.data is not None:  # else it is reported at `defaults`
            scope.fail(f"expected a time longer than 0s, got {text}", level="schema")
        return None


def _contract(scope: Scope, callee: Callee, reach: PathTemplate | None = None) -> Contract:
    return Contract(
        callee.target.bus_name,
        callee.target.object_path,
        callee.interface,
        callee.members,
        scope.where(key=True),
        below=callee.objects,
        reach=reach,
    )


# `task` of a method and `tasks` of its file: how the object that stands for an operation is followed


def _task_object(entry: Scope, callee: Callee, root: Scope, library: IdlLibrary) -> TaskObject | None:
    """For a method that returns the path of an object that stands for the operation: how it is followed."""
    name, section = entry.at("task"), root.at("tasks")
    if name.data is None:
        return None
    if section.data is None:
        name.fail("'task' needs the section `tasks`, which describes the objects", level="schema", key=True)
        return None
    site = find_site(replace(section, data={**section.data, "object_path": "/"}), root.at("dbus"), library)
    outs = {out.name: out for out in callee.outs}
    if name.data not in outs or outs[name.data].type.code not in "os":
        name.fail(f"expected an output argument of type o or s; {callee.title} has {', '.join(outs) or 'none'}")
        return None
    if site is None:
        return None
    properties, interface = site.interface.properties, site.interface
    picked = {}
    for key in ("status", "progress", "result", "error"):
        if section.has(key) and known_member(section.at(key), properties, "property", site) is not None:
            found = properties[section.data[key]]
            picked[key] = found.name, property_decoder(found.type, "plain")
    service = root.data["service"]
    read = _object_route(service, Target(site.bus_name, "/", PROPERTIES, "GetAll", "s", "a{sv}"), [interface.name])
    read = replace(read, decode_result=one(Item(0, Record(picked))))
    cancel = None
    if section.has("cancel") and known_member(section.at("cancel"), interface.methods, "method", site) is not None:
        cancel = _object_route(service, Target(site.bus_name, "/", interface.name, section.data["cancel"], "", ""), [])
    return TaskObject(read, cancel)


def _object_route(service: str, target: Target, body: Sequence[object]) -> Route:
    """A call to the object whose path is the only parameter."""

    def encode(call: Call) -> MethodCall:
        try:
            path = object_path(str(call.params[0]))
        except ValueError as error:
            raise MarshalError("the object path of a task", call.params[0]) from error
        return MethodCall(target.bus_name, path, target.interface, target.member, target.signature, body)

    return Route(service, "task", target, (), None, encode, void, lambda fault, _call: fault, effect=Effect.READ)
