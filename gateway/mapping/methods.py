"""Compiles the method entries of one file to routes.

A route combines what the other modules compile: the callee (targets), the arguments (parameters), the result and errors
(results), the migration settings (migration) and the rollout plan (rollouts). A method with the session parameter also
has a session check: the call that is made before the method is called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.dbus.arguments import ArgumentPlan, Slot, compile_arguments, placeholders
from gateway.core.dbus.results import void
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call
from gateway.core.rpc.units import seconds
from gateway.mapping.load import Scope
from gateway.mapping.migration import (
    ComparisonSettings,
    Upstreams,
    compile_migration,
    key_reader,
    may_shadow,
    upstream_of,
)
from gateway.mapping.parameters import Encoding, compile_parameters, parameter_names
from gateway.mapping.problem import unknown
from gateway.mapping.results import check_errors, compile_errors, compile_result
from gateway.mapping.rollouts import Rollouts
from gateway.mapping.table import Contract
from gateway.mapping.targets import Callee, IdlLibrary, find
from gateway.mapping.xenstore_endpoints import compile_domains

DEFAULTS: Mapping[str, Any] = {
    "timeout": "60s",
    "coerce": "strict",
    "variants": "plain",
    "effect": "write",
}

# The effect of a kind of entry that has no `effect`, whatever `defaults` has.
EFFECTS: Mapping[str, str] = {
    "property": "read",
    "all_properties": "read",
    "managed_objects": "read",
    "set_property": "idempotent",
}


@dataclass(frozen=True, slots=True)
class SessionRoutes:
    """The session check of a file: the call made before each method that has the session parameter."""

    parameter: str
    callee: Callee
    errors: Scope


@dataclass(frozen=True, slots=True)
class Compiled:
    """A method entry without problems."""

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
        methods = root.at("methods")
        entries = {name: methods.at(name) for name in methods.data}
        parameters = {name: None for entry in entries.values() for name in parameter_names(entry)}
        self._session = self._read_session(root.at("session"), parameters) if root.has("session") else None
        if root.document.complete:  # a template of the file may name a parameter that only some methods have
            check_errors(root.at("errors"), parameters)
        if root.has("session"):
            check_errors(root.at("session", "errors"), [str(self._parameter)])
        self._comparison = ComparisonSettings(root, parameters)
        self._rollouts = Rollouts(root, {name: self._may_shadow(entry) for name, entry in entries.items()})

    @property
    def contract(self) -> Contract | None:
        """The contract of the session check."""
        return _contract(self._root.at("session"), self._session.callee) if self._session else None

    def compile(self, name: str) -> Compiled | None:
        """The method of this name; None, with the problems reported, when it has one."""
        entry = self._root.at("methods", name)
        before = len(entry.problems)
        callee = find(entry, self._root.at("dbus"), self._library)
        timeout = self._timeout(entry.at("timeout"))
        check_errors(entry.at("errors"), parameter_names(entry))
        if callee is None or timeout is None:
            return None
        route = self._route(name, entry, callee, timeout)
        if len(entry.problems) > before:
            return None
        fingerprint = self._fingerprint(entry, callee)
        return Compiled(replace(route, fingerprint=fingerprint), _contract(entry, callee), fingerprint)

    def _route(self, name: str, entry: Scope, callee: Callee, timeout: float) -> Route:
        keys = self._with_defaults(entry)
        rollout = self._rollouts.of(entry)
        encoding = Encoding(keys["coerce"], keys["variants"])
        plan, parameters = compile_parameters(entry, callee, encoding, self._parameter)
        result = compile_result(entry, callee, keys["variants"])
        effect = Effect(keys["effect"])
        upstream = upstream_of(entry, self._upstreams) or self.upstream
        defaults = self._root.at("defaults")
        group = self._root.at("groups", rollout.group) if rollout.group else None
        migration = compile_migration(entry, defaults, upstream, _usable(plan), effect, self._parameter, group)
        return Route(
            service=self._root.data["service"],
            method=name,
            target=callee.target,
            parameters=parameters,
            result=result.type,
            encode_arguments=compile_arguments(_usable(plan)),
            decode_result=result.shape,
            map_error=compile_errors([entry.at("errors"), self._root.at("errors")], plan),
            timeout=timeout,
            effect=effect,
            migration=replace(
                migration,
                group=rollout.group,
                compare=self._comparison.rules(entry),
                sampling=self._comparison.sampling(entry),
                redact=self._comparison.redactions(entry, parameter_names(entry)),
            ),
            rollout=rollout.plan,
            documentation=keys.get("documentation", callee.documentation),
            source=_source(entry),
            aliases=tuple(keys.get("aliases", ())),
            domains=compile_domains(entry.at("allowed_domains"), None),
            session_check=self._session_check(plan),
            session=key_reader(_usable(plan), str(self._parameter)) if self._parameter in plan.names else None,
            login=self._session_user(entry.at("session_user"), plan),
        )

    def _session_user(self, parameter: Scope, plan: ArgumentPlan) -> Callable[[Call], str | None] | None:
        """For a login: reads the user of the session from a call."""
        if parameter.data is None:
            return None
        if parameter.data not in plan.names:
            parameter.fail(unknown("parameter", parameter.data, plan.names), level="schema")
            return None
        return key_reader(_usable(plan), parameter.data)

    def _with_defaults(self, entry: Scope) -> dict[str, Any]:
        """The keys of an entry, with those of `defaults` and of the format where it has none."""
        by_kind = next(({"effect": effect} for kind, effect in EFFECTS.items() if entry.has(kind)), {})
        return {**self._defaults, **by_kind, **entry.data}

    def _may_shadow(self, entry: Scope) -> bool:
        keys = self._with_defaults(entry)
        return may_shadow(Effect(keys["effect"]), allowed=keys.get("shadow") is True)

    def _timeout(self, scope: Scope) -> float | None:
        text = scope.data if scope.data is not None else self._defaults["timeout"]
        if seconds(text) > 0:
            return seconds(text)
        scope.fail(f"expected a time longer than 0s, got {text}", level="schema")
        return None

    def _fingerprint(self, entry: Scope, callee: Callee) -> str:
        """A digest of everything that the route depends on."""
        root: Mapping[str, Any] = self._root.data
        common = {
            key: value
            for key, value in root.items()
            if key not in ("methods", "expose", "summary", "publish", "on_change")
        }
        text = repr((common, entry.data, callee, self._session and self._session.callee))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _read_session(self, scope: Scope, parameters: Collection[str]) -> SessionRoutes | None:
        callee = find(scope, self._root.at("dbus"), self._library)
        if callee is None:
            return None
        member = scope.at("member")
        if placeholders(callee.target.object_path):
            text = f"expected an object path without parameters, got '{callee.target.object_path}'"
            scope.at("object_path").fail(text, level="schema")
            return None
        if len(callee.ins) != 1:
            member.fail(f"expected a method with one argument, the session; {callee.title} has {len(callee.ins)}")
            return None
        if self._parameter not in parameters and self._root.document.complete:
            text = f"no method has the session parameter '{self._parameter}': add it to `params`, or remove `session`"
            scope.at("parameter").fail(text)
        return SessionRoutes(scope.data["parameter"], callee, scope.at("errors"))

    def _session_check(self, plan: ArgumentPlan) -> Route | None:
        """The session check of a method: it is called with the same call, and checks the number of parameters too."""
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
            encode_arguments=compile_arguments(check),
            decode_result=void,
            map_error=compile_errors([self._session.errors, self._root.at("errors")], check),
            timeout=seconds(self._defaults["timeout"]),
            effect=Effect.READ,
            documentation=callee.documentation,
            source=_source(self._root.at("session")),
        )


def _usable(plan: ArgumentPlan) -> ArgumentPlan:
    """A plan that can be compiled: one with an unknown parameter in its path, which is reported already, cannot."""
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
