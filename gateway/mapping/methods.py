"""One method entry -> its route, and the guard that checks its session first. Knows no other entry and no endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.dbus.arguments import ArgumentPlan, Slot, compile_arguments, placeholders
from gateway.core.dbus.results import void
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call
from gateway.core.rpc.units import seconds
from gateway.mapping.load import Scope
from gateway.mapping.migration import ComparisonSettings, Upstreams, compile_migration, key_reader, upstream_of
from gateway.mapping.parameters import Encoding, compile_parameters
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.results import check_errors, compile_errors, compile_result
from gateway.mapping.rollouts import Rollouts, may_shadow
from gateway.mapping.table import Contract
from gateway.mapping.targets import Callee, IdlLibrary, find
from gateway.mapping.xenstore_endpoints import compile_domains

DEFAULTS: Mapping[str, Any] = {
    "timeout": "60s",
    "coerce": "strict",
    "variants": "plain",
    "effect": "write",
}

# What calling these twice does needs no saying.
NATURAL_EFFECTS: Mapping[str, str] = {
    "property": "read",
    "all_properties": "read",
    "managed_objects": "read",
    "set_property": "idempotent",
}


@dataclass(frozen=True, slots=True)
class SessionRoutes:
    """The call that is made first, for methods that have the parameter."""

    parameter: str
    callee: Callee
    errors: Scope


@dataclass(frozen=True, slots=True)
class Compiled:
    """A method entry when all is well with it."""

    route: Route
    contract: Contract
    fingerprint: str


class Compiler:
    """Compiles the entries of one file."""

    def __init__(self, root: Scope, library: IdlLibrary, upstreams: Upstreams | None = None) -> None:
        self._root = root
        self._library = library
        self._upstreams = upstreams
        self.upstream = upstream_of(root, upstreams)  # of the file
        self._defaults = {**DEFAULTS, **(root.at("defaults").data or {})}
        self._parameter: str | None = root.at("session", "parameter").data
        self._timeout(root.at("defaults", "timeout"))
        self._session = self._read_session(root.at("session")) if root.says("session") else None
        self._check_errors()
        methods = root.at("methods")
        parameters = {name: None for method in self._methods for name in _parameter_names(methods.at(method))}
        self._evidence = ComparisonSettings(root, parameters)
        self._rollouts = Rollouts(root, {name: may_shadow(self._said(methods.at(name))) for name in self._methods})

    @property
    def contract(self) -> Contract | None:
        """What the session check relies on."""
        return _contract(self._root.at("session"), self._session.callee) if self._session else None

    def compile(self, name: str) -> Compiled | None:
        """The method of this name; None with problems noted."""
        entry = self._root.at("methods", name)
        before = len(entry.problems)
        callee = find(entry, self._root.at("dbus"), self._library)
        timeout = self._timeout(entry.at("timeout"))
        check_errors(entry.at("errors"), _parameter_names(entry))
        if callee is None or timeout is None:
            return None
        route = self._route(name, entry, callee, timeout)
        if len(entry.problems) > before:
            return None
        fingerprint = self._fingerprint(entry, callee)
        return Compiled(replace(route, fingerprint=fingerprint), _contract(entry, callee), fingerprint)

    def _route(self, name: str, entry: Scope, callee: Callee, timeout: float) -> Route:
        said = self._said(entry)
        moving = self._rollouts.of(entry)
        encoding = Encoding(said["coerce"], said["variants"])
        plan, parameters = compile_parameters(entry, callee, encoding, self._parameter)
        result = compile_result(entry, callee, said["variants"])
        effect = Effect(said["effect"])
        upstream = upstream_of(entry, self._upstreams) or self.upstream
        defaults = self._root.at("defaults")
        group = self._root.at("groups", moving.group) if moving.group else None
        migration = compile_migration(entry, defaults, upstream, _usable(plan), effect, self._parameter, group)
        return Route(
            service=self._root.data["service"],
            method=name,
            target=callee.target,
            parameters=parameters,
            result=result.type,
            bind=compile_arguments(_usable(plan)),
            shape=result.shape,
            translate=compile_errors([entry.at("errors"), self._root.at("errors")], plan),
            timeout=timeout,
            effect=effect,
            migration=replace(
                migration,
                group=moving.group,
                compare=self._evidence.rules(entry),
                redact=self._evidence.redactions(entry, _parameter_names(entry)),
            ),
            rollout=moving.plan,
            documentation=said.get("documentation", callee.documentation),
            source=_source(entry),
            aliases=tuple(said.get("aliases", ())),
            domains=compile_domains(entry.at("domains"), None),
            guard=self._guard(plan),
            session=key_reader(_usable(plan), str(self._parameter)) if self._parameter in plan.names else None,
            opens=self._opens(entry, plan),
        )

    def _opens(self, entry: Scope, plan: ArgumentPlan) -> Callable[[Call], str | None] | None:
        """For a login, whose session its result is."""
        login = entry.at("login")
        if login.data is None:
            return None
        if login.data not in plan.names:
            hint = did_you_mean(login.data, plan.names) or f" (it has: {one_of(plan.names)})"
            login.fail(f"'{login.data}' is no parameter of this method{hint}", level="schema")
            return None
        return key_reader(_usable(plan), login.data)

    def _said(self, entry: Scope) -> dict[str, Any]:
        return {**self._defaults, **_natural(entry), **entry.data}

    def _timeout(self, scope: Scope) -> float | None:
        text = scope.data if scope.data is not None else self._defaults["timeout"]
        if seconds(text) > 0:
            return seconds(text)
        scope.fail("expected a time longer than nothing", level="schema")
        return None

    def _fingerprint(self, entry: Scope, callee: Callee) -> str:
        """Changes with all that the entry depends on."""
        root: Mapping[str, Any] = self._root.data
        common = {
            key: value
            for key, value in root.items()
            if key not in ("methods", "expose", "summary", "publish", "on_change")
        }
        said = repr((common, entry.data, callee, self._session and self._session.callee))
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()

    # The session

    def _read_session(self, scope: Scope) -> SessionRoutes | None:
        callee = find(scope, self._root.at("dbus"), self._library)
        if callee is None:
            return None
        member = scope.at("member")
        if placeholders(callee.target.object_path):
            scope.at("object_path").fail("the session's object path holds no parameters", level="schema")
            return None
        if len(callee.ins) != 1:
            member.fail(f"{callee.title} has {len(callee.ins)} in-arguments, expected one: the session")
            return None
        methods = [self._root.at("methods", name) for name in self._methods]
        used = any(self._parameter in _parameter_names(method) for method in methods)
        if not used and self._root.document.complete:
            scope.at("parameter").fail(f"no method of this file has the parameter '{self._parameter}'")
        return SessionRoutes(scope.data["parameter"], callee, scope.at("errors"))

    def _guard(self, plan: ArgumentPlan) -> Route | None:
        """The check takes the session from the very call that it guards, and counts its parameters too."""
        if self._session is None or self._session.parameter not in plan.names:
            return None
        callee = self._session.callee
        encode = Encoding(self._defaults["coerce"], self._defaults["variants"])(callee.ins[0].type)
        slot = plan.names.index(self._session.parameter)
        check = replace(plan, target=callee.target, structs=(), arguments=(Slot(slot, encode),))
        return Route(
            service=self._root.data["service"],
            method="session check",
            target=callee.target,
            parameters=(),
            result=None,
            bind=compile_arguments(check),
            shape=void,
            translate=compile_errors([self._session.errors, self._root.at("errors")], check),
            timeout=seconds(self._defaults["timeout"]),
            effect=Effect.READ,
            documentation=callee.documentation,
            source=_source(self._root.at("session")),
        )

    @property
    def _methods(self) -> Mapping[str, Any]:
        methods: Mapping[str, Any] = self._root.data["methods"]
        return methods

    def _check_errors(self) -> None:
        """A file's templates may name a parameter that only some of its methods have."""
        methods = self._root.at("methods")
        everywhere = {parameter: None for name in self._methods for parameter in _parameter_names(methods.at(name))}
        if self._root.document.complete:
            check_errors(self._root.at("errors"), everywhere)
        if self._root.says("session"):
            check_errors(self._root.at("session", "errors"), [str(self._parameter)])


def _parameter_names(entry: Scope) -> list[str]:
    params = entry.at("params").data or ()
    return [str(item["name"]) if isinstance(item, dict) else str(item) for item in params]


def _natural(entry: Scope) -> dict[str, str]:
    effect = next((effect for kind, effect in NATURAL_EFFECTS.items() if entry.says(kind)), None)
    return {"effect": effect} if effect else {}


def _usable(plan: ArgumentPlan) -> ArgumentPlan:
    """A plan whose path names no parameter cannot be bound; its problem is noted already."""
    known = all(name in plan.names for name in placeholders(plan.target.object_path))
    return plan if known else replace(plan, target=replace(plan.target, object_path="/"))


def _contract(scope: Scope, callee: Callee) -> Contract:
    where = scope.document.problem(scope.path, "", key=True)
    target = callee.target
    return Contract(
        target.bus_name,
        target.object_path,
        callee.interface,
        callee.members,
        where.file,
        where.line,
        where.column,
        where.place,
        below=callee.objects,
    )


def _source(scope: Scope) -> str:
    return f"{scope.document.file}:{scope.document.line(scope.path)}"
