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
        self.callee: Callee | None = None  # of the session check
        self._check_connection(root.at("connection"))
        if root.has("session"):
            callee = find(self._section, root.at("dbus"), library)
            self.callee = callee if callee is not None and self._can_check(callee, parameters) else None
            check_errors(self._section.at("errors"), [str(self.parameter)])

    def _can_check(self, callee: Callee, parameters: Collection[str]) -> bool:
        path, scope = callee.target.object_path, self._section
        if placeholders(path):
            scope.at("object_path").fail(f"expected an object path without parameters, got '{path}'", level="schema")
            return False
        if len(callee.ins) != 1:
            text = f"expected a method with one argument, the session; {callee.title} has {len(callee.ins)}"
            scope.at("member").fail(text)
            return False
        if self.parameter not in parameters and self._root.document.complete:
            text = f"no method has the session parameter '{self.parameter}': add it to `params`, or remove `session`"
            scope.at("parameter").fail(text)
        return True

    def check_of(self, plan: ArgumentPlan) -> Route | None:
        """The session check of a method: it is called with the same call, and checks the number of parameters too."""
        callee, errors = self.callee, self._section.at("errors")
        if callee is None or self.parameter not in plan.names:
            return None
        encode = Encoding(self._defaults["coerce"], Directions.of(self._defaults["variants"]).sent)(callee.ins[0].type)
        slot = plan.names.index(self.parameter)
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

    @property
    def check_of_unmapped(self) -> Route | None:
        """The session check of a call that the file does not map: of its first parameter."""
        if self.callee is None or self.parameter is None:
            return None
        return self.check_of(ArgumentPlan(self.callee.target, (self.parameter,), session=True, surplus=True))

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
        return SessionLimits(idle, limits.get("per_user", 0), self.named(entry.at("session_originator"), plan))

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
        if scope.data is None:
            return
        methods = list(self._root.data["methods"])
        for item in scope.at("ends").items():
            if item.data not in methods:
                item.fail(unknown("method", item.data, methods))
        if scope.data["of"] == "session":
            if not self._root.has("session"):
                scope.at("of").fail("'session' requires the session check of the file: add `session`")
            return
        if scope.has("idle"):
            scope.at("idle").fail("'idle' requires `of: session`; the other ends with its client", key=True)
        for entry in self._root.at("expose").items():
            if entry.data.get("codec") == "xenstore":
                text = "clients have no connection in a xenstore, and `connection: {of: client}` needs one"
                entry.at("codec").fail(text)
