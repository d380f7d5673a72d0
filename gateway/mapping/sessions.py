"""Sessions of one file: `session`, `connection`, and the keys of logins and logouts (`session_user`, `session_closes`).

A method with the session parameter has a session check: the call that is made before the method is called. `connection`
gives each client connection or session a bus connection of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec.structs import replace

from gateway.core.dbus.arguments import ArgumentPlan, Slot, compile_arguments
from gateway.core.dbus.object_paths import placeholders
from gateway.core.dbus.results import void
from gateway.core.dbus.target import OwnConnection
from gateway.core.routing.route import Effect, Route, SessionLimits
from gateway.core.rpc.model import Call
from gateway.core.rpc.units import seconds
from gateway.mapping.encoding import Directions, Encoding
from gateway.mapping.load import Scope
from gateway.mapping.migration import key_reader
from gateway.mapping.parameters import usable
from gateway.mapping.problem import unknown
from gateway.mapping.results import ErrorTables, check_errors
from gateway.mapping.targets import Callee, IdlLibrary, find


class SessionCompiler:
    """What the routes of one file have of its sessions.

    `parameters` are those of all methods of the file. `defaults` are the keys that methods of the file have.
    """

    def __init__(
        self,
        root: Scope,
        library: IdlLibrary,
        parameters: Collection[str],
        defaults: Mapping[str, Any],
        errors: ErrorTables,
    ) -> None:
        self._root = root
        self._defaults = defaults
        self._errors = errors
        self._section = root.at("session")
        self.parameter: str | None = self._section.at("parameter").data
        self._check_connection(root.at("connection"))
        self.callee = self._read(library, parameters) if root.has("session") else None  # of the session check
        if root.has("session"):
            check_errors(self._section.at("errors"), [str(self.parameter)])

    def _read(self, library: IdlLibrary, parameters: Collection[str]) -> Callee | None:
        scope = self._section
        callee = find(scope, self._root.at("dbus"), library)
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
        if self.parameter not in parameters and self._root.document.complete:
            text = f"no method has the session parameter '{self.parameter}': add it to `params`, or remove `session`"
            scope.at("parameter").fail(text)
        return callee

    # The session check

    def check_of(self, plan: ArgumentPlan) -> Route | None:
        """The session check of a method: it is called with the same call, and checks the number of parameters too."""
        if self.callee is None or self.parameter not in plan.names:
            return None
        return self._check(self.callee, self.parameter, plan)

    @property
    def check_of_unmapped(self) -> Route | None:
        """The session check of a call that the file does not map: of its first parameter."""
        if self.callee is None or self.parameter is None:
            return None
        plan = ArgumentPlan(self.callee.target, (self.parameter,), session=True, surplus=True)
        return self._check(self.callee, self.parameter, plan)

    def _check(self, callee: Callee, parameter: str, plan: ArgumentPlan) -> Route:
        errors = self._section.at("errors")
        encode = Encoding(self._defaults["coerce"], Directions.of(self._defaults["variants"]).sent)(callee.ins[0].type)
        slot = plan.names.index(parameter)
        check = replace(plan, target=callee.target, structs=(), arguments=(Slot(slot, encode),))
        return Route(
            service=self._root.data["service"],
            method="session check",
            target=callee.target,
            parameters=(),
            result=None,
            encode_arguments=compile_arguments(check),
            decode_result=void,
            map_error=self._errors.mapper([errors, self._root.at("errors")], check, ""),
            timeout=seconds(self._defaults["timeout"]),
            effect=Effect.READ,
            documentation=callee.documentation,
            source=self._section.source,
            session_over=self._section.at("over").data or next(iter(errors.data or {}), ""),
        )

    # Keys of a method

    def reader(self, plan: ArgumentPlan) -> Callable[[Call], str | None] | None:
        """Reads the session that a call uses; None for a method without the session parameter."""
        return None if self.parameter not in plan.names else key_reader(usable(plan), str(self.parameter))

    def named(self, parameter: Scope, plan: ArgumentPlan) -> Callable[[Call], str | None] | None:
        """Reads a parameter that the entry names: the user of a login, the session of a logout."""
        if parameter.data is None:
            return None
        if parameter.data not in plan.names:
            parameter.fail(unknown("parameter", parameter.data, plan.names), level="schema")
            return None
        return key_reader(usable(plan), parameter.data)

    def limits(self, entry: Scope, plan: ArgumentPlan) -> SessionLimits:
        """For a login: when its sessions end."""
        limits = self._section.data or {}
        idle = seconds(limits["idle"]) if "idle" in limits else 0.0
        originator = self.named(entry.at("session_originator"), plan)
        return SessionLimits(idle, limits.get("per_user", 0), originator)

    # Own connections

    def connection(self, method: str, plan: ArgumentPlan) -> OwnConnection | None:
        """`connection` of the file: objects of the service belong to the bus connection that made them."""
        data = self._root.at("connection").data
        if data is None:
            return None
        ends, at_most, idle = method in data.get("ends", ()), data.get("at_most", 100), seconds(data.get("idle", "10m"))
        if data["of"] == "client":
            return OwnConnection("client", idle, at_most, ends=ends)
        reader = self.reader(plan)
        return None if reader is None else OwnConnection("session", idle, at_most, reader, ends)

    def _check_connection(self, scope: Scope) -> None:
        if not scope.has("of"):
            return
        methods = list(self._root.data["methods"])
        for index, name in enumerate(scope.data.get("ends", ())):
            if name not in methods:
                scope.at("ends", index).fail(unknown("method", name, methods))
        if scope.data["of"] == "session" and not self._root.has("session"):
            scope.at("of").fail("'session' requires the session check of the file: add `session`")
        if scope.data["of"] == "client" and scope.has("idle"):
            scope.at("idle").fail("'idle' requires `of: session`; the other ends with its client", key=True)
        for index, entry in enumerate(self._root.at("expose").data or ()):
            if scope.data["of"] == "client" and entry.get("codec") == "xenstore":
                where = self._root.at("expose", index, "codec")
                where.fail("clients have no connection in a xenstore, and `connection: {of: client}` needs one")
