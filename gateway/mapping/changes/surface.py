"""What a mapping promises: each method as its clients, its D-Bus service and its recorded comparisons know it.

A surface is made from a compiled table and the files that it was compiled from. It has data only, so that two revisions
can be compared: a route has functions, which cannot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from gateway.core.dbus.introspection_xml import Argument
from gateway.core.dbus.legacy_types import LegacyType, parse_type
from gateway.core.dbus.signature import Type
from gateway.core.migration.modes import Migration
from gateway.core.routing.route import Effect, Route
from gateway.mapping import load, schema
from gateway.mapping.classes.expand import Derived, Expansion, expand
from gateway.mapping.classes.fields import LegacyClass
from gateway.mapping.load import Scope
from gateway.mapping.methods import DEFAULTS, EFFECTS
from gateway.mapping.problem import Problem
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.mapping.targets import Callee, IdlLibrary, find, find_callee

Json = Any  # data of a mapping file


class StructMember(Struct, frozen=True):
    """A member of a struct that a client passes."""

    type: str
    required: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ParameterSurface:
    """A parameter. `members`: of a struct, where the mapping names them; `use`: the argument, or what it is for."""

    name: str
    type: Type | None  # None: any value
    required: bool
    default: Json = None
    use: str = ""
    form: Json = None  # the keys that change the form of the value
    members: Mapping[str, StructMember] | None = None
    others_ignored: bool = False  # members that are not listed are ignored
    subtrees: tuple[str, ...] = ()
    legacy: LegacyType | None = None  # the `type` of the mapping, with the definitions of its file
    definitions: Mapping[str, Json] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def is_used(self) -> bool:
        """Whether its value has an effect."""
        return self.use != "drop"


class ResultSurface(Struct, frozen=True):
    """A result. `kind`: void, value, array, struct, record or records; `members`: of structs and records, by name."""

    kind: str
    type: Type | None = None
    members: Mapping[str, str] = field(default_factory=dict)  # name -> type and form
    items: tuple[str, ...] = ()  # of an array, or the forms of one value


class MethodSurface(Struct, frozen=True):
    """One method."""

    route: Route
    endpoints: tuple[EndpointTable, ...]
    names: tuple[str, ...]  # its name and aliases
    parameters: tuple[ParameterSurface, ...]
    result: ResultSurface
    errors: Mapping[str, Json]  # D-Bus error name -> its entries, with those of `*`
    args: Mapping[str, Json]  # arguments that no parameter supplies
    keys: Mapping[str, Json]  # of the entry, with defaults
    migration_keys: Mapping[str, Json]  # of comparison and redaction, as written
    own_errors: Mapping[str, Json] = field(default_factory=dict)  # without those of the file
    interface: str = ""  # that has the member or properties
    value_type: Type | None = None  # of a property that is set

    @property
    def title(self) -> str:
        """The method in messages: `xenopsd/VM.start`."""
        return f"{self.route.service}/{self.route.method}"

    @property
    def migration(self) -> Migration:
        """Which side serves it."""
        return self.route.migration

    @property
    def has_names(self) -> bool:
        """Whether clients can pass parameters by name."""
        return any(each.codec == "jsonrpc" or each.dialect == "xapi_idl" for each in self.endpoints)

    @property
    def has_order(self) -> bool:
        """Whether clients can pass parameters by position."""
        return bool(self.parameters)

    def parameter(self, name: str) -> ParameterSurface | None:
        """The parameter of this name."""
        return next((each for each in self.parameters if each.name == name), None)


class Surface(Struct, frozen=True):
    """All of a revision."""

    endpoints: Mapping[EndpointKey, EndpointTable]
    methods: Mapping[tuple[str, str], MethodSurface]  # by service and method
    table: Table

    def at(self, endpoint: EndpointTable, name: str) -> MethodSurface | None:
        """The method that an endpoint has under this name or alias."""
        route = endpoint.routes.get(name)
        return None if route is None else self.methods.get((route.service, route.method))


def surface(table: Table) -> Surface:
    """The surface of a table that was compiled without problems."""
    methods: dict[tuple[str, str], MethodSurface] = {}
    routes: dict[tuple[str, str], Route] = {}
    for route in table.routes():
        routes.setdefault((route.service, route.method), route)
    exposed: dict[int, dict[EndpointKey, EndpointTable]] = {}
    for key, endpoint in table.endpoints.items():
        for route in endpoint.routes.values():
            exposed.setdefault(id(route), {})[key] = endpoint
    for path, content in table.mappings.items():
        problems: dict[Problem, None] = {}
        document, _ = load.parse(path, content)
        checked = None if document is None else schema.check(document)[1]
        if checked is None:
            continue
        library = IdlLibrary(problems, (), table.idl)
        expansion = expand(Scope(checked, problems, (), checked.data), library)
        reader = _Reader(expansion, library)
        service = str(expansion.root.data["service"])
        for name in expansion.root.data["methods"]:
            found = routes.get((service, name))
            if found is not None:
                methods[service, name] = reader.method(name, found, tuple(exposed.get(id(found), {}).values()))
    return Surface(table.endpoints, methods, table)


class _Reader:
    """Reads the methods of one file."""

    def __init__(self, expansion: Expansion, library: IdlLibrary) -> None:
        self._root = expansion.root
        self._derived = expansion.derived
        self._classes = expansion.classes
        self._library = library
        self._types = self._root.at("types").data or {}

    def method(self, name: str, route: Route, endpoints: tuple[EndpointTable, ...]) -> MethodSurface:
        entry, derived = self._root.at("methods", name), self._derived.get(name)
        common = self._root.at("dbus")
        if derived is not None and derived.site is not None:
            callee = find_callee(entry, derived.site, common, self._library)
        else:
            callee = find(entry, common, self._library)
        assert callee is not None, f"{name} was compiled before"
        stanza = self._root.at("classes", "" if derived is None else derived.legacy_class.name)  # no data without one
        class_keys = stanza.at("defaults").data or {}
        by_kind = next(({"effect": effect} for kind, effect in EFFECTS.items() if kind in entry.data), {})
        keys = {**DEFAULTS, **(self._root.at("defaults").data or {}), **class_keys, **by_kind, **entry.data}
        tables = [self._root.at("errors").data, stanza.at("errors").data]
        errors = {name: error for table in (*tables, entry.at("errors").data) for name, error in (table or {}).items()}
        if route.session_check is not None:
            of_session = self._root.at("session", "errors").data or {}
            errors |= {f"{name} of the session check": error for name, error in of_session.items()}
        about = {
            key: [entry.data.get(key), class_keys.get(key), (self._root.at("defaults").data or {}).get(key),
                  self._root.data.get(key)]
            for key in ("compare", "redact")
        }  # fmt: skip
        return MethodSurface(
            route,
            endpoints,
            (name, *route.aliases),
            tuple(self._parameters(entry, callee, route)),
            self._result(entry, callee, derived, route),
            errors,
            entry.at("args").data or {},
            keys,
            about,
            {**(stanza.at("errors").data or {}), **(entry.at("errors").data or {})},
            callee.interface.name,
            callee.accessed.type if callee.accessed is not None else None,
        )

    # Parameters

    def _parameters(self, entry: Scope, callee: Callee, route: Route) -> Iterator[ParameterSurface]:
        arguments = {each.name: each for each in callee.ins}
        session = self._root.at("session", "parameter").data
        for described, item in zip(route.parameters, entry.at("params").data or (), strict=True):
            spec = item if isinstance(item, Mapping) else {"name": item}
            named = str(spec.get("to", spec["name"]))
            below = spec.get("object", ())
            use = next((key for key in ("drop", "fields", "extra") if key in spec), "")
            use = use or ("session" if described.name == session else "")
            use = use or (f"argument {named}" if named in arguments else "the object path or a gathered argument")
            form = {key: spec[key] for key in ("struct", "format", "record", "type") if key in spec}
            yield ParameterSurface(
                described.name,
                described.type,
                described.required,
                spec.get("default"),
                use,
                self._resolved(form),
                self._members(spec, arguments.get(named), arguments),
                "unknown_members" in spec or "record" in spec or self._is_record(spec),
                (below,) if isinstance(below, str) else tuple(below),
                parse_type(spec["type"]) if "type" in spec else None,
                self._types,
            )

    def _resolved(self, form: Mapping[str, Json]) -> Json:
        """The form; a type of the file as what it stands for, but for a record, whose members are compared."""
        definition = self._types.get(form.get("type", ""))
        if definition is None or (isinstance(definition, Mapping) and "record" in definition):
            return {key: value for key, value in form.items() if key not in ("struct", "record")} or None
        return {**form, "type": definition}

    def _is_record(self, spec: Mapping[str, Json]) -> bool:
        definition = self._types.get(spec.get("type", ""))
        return isinstance(definition, Mapping) and "record" in definition

    def _members(
        self, spec: Mapping[str, Json], argument: Argument | None, arguments: Mapping[str, Argument]
    ) -> Mapping[str, StructMember] | None:
        if "fields" in spec:
            return {name: _field(name, data, arguments) for name, data in spec["fields"].items()}
        if "struct" in spec and argument is not None:
            kinds = _struct_of(argument.type).children
            return {
                name: StructMember(str(kind), required=True) for name, kind in zip(spec["struct"], kinds, strict=True)
            }
        if "record" in spec:
            fields = self._class_fields(spec["record"])
            return {name: StructMember(text.split(" ")[0], required=False) for name, text in fields.items()}
        if self._is_record(spec):
            return {name: _record_member(data) for name, data in self._types[spec["type"]]["record"].items()}
        return None

    # The result

    def _result(self, entry: Scope, callee: Callee, derived: Derived | None, route: Route) -> ResultSurface:
        result = entry.at("result").data
        if route.result is None:
            return ResultSurface("void")
        if derived is not None and derived.returns not in ("all", "where"):
            return ResultSurface("value", route.result)
        if callee.record or callee.objects:
            return self._records(result, callee, route)
        outs = {each.name: each for each in callee.outs}
        if result is None and len(outs) > 1:
            return ResultSurface("struct", route.result, {name: str(each.type) for name, each in outs.items()})
        if isinstance(result, list):
            return ResultSurface("array", route.result, items=tuple(self._picked(pick, outs)[0] for pick in result))
        is_form = isinstance(result, Mapping) and not {"from", "struct", "format", "record"}.isdisjoint(result)
        if isinstance(result, Mapping) and not is_form and not (set(result) == {"fields"} and len(outs) == 1):
            members = result["fields"] if set(result) == {"fields"} else result
            return ResultSurface(
                "struct", route.result, {name: self._picked(pick, outs)[0] for name, pick in members.items()}
            )
        only = next(iter(outs), "")
        text, members = self._picked(result if result is not None else only, outs, only)
        return ResultSurface("value", route.result, members, (text,))

    def _records(self, result: Json, callee: Callee, route: Route) -> ResultSurface:
        known = {name: Argument(name, each.type) for name, each in callee.properties.items() if each.access != "write"}
        kind = "records" if callee.objects else "record"
        key = getattr(callee.key, "name", callee.key)
        items = (f"by {key}", callee.duplicates) if callee.objects else ()
        if isinstance(result, Mapping) and set(result) == {"record"}:
            return ResultSurface(kind, route.result, self._class_fields(result["record"]), items)
        if result is None:
            members = {name: str(each.type) for name, each in known.items()}
        else:
            picks = result["fields"] if set(result) == {"fields"} else result
            members = {name: self._picked(pick, known, name)[0] for name, pick in picks.items()}
        return ResultSurface(kind, route.result, members, items)

    def _class_fields(self, name: str) -> Mapping[str, str]:
        found = self._classes.get(name)
        return {} if found is None else dict(_fields_of(found))

    def _picked(self, pick: Json, sources: Mapping[str, Argument], only: str = "") -> tuple[str, Mapping[str, str]]:
        """The type and form of what `result` picks, and the members of structs in it."""
        spec = pick if isinstance(pick, Mapping) else {"from": pick}
        source = sources.get(str(spec.get("from", only)))
        kind = source.type if source is not None else None
        form = {key: value for key, value in spec.items() if key == "format"}
        text = f"{kind} {form}" if form else str(kind)
        if "struct" in spec and kind is not None:
            inner = _struct_of(kind)
            around = str(kind).removesuffix(str(inner))
            return f"{around}struct", {n: str(k) for n, k in zip(spec["struct"], inner.children, strict=True)}
        if "record" in spec:
            return f"{kind} as records", self._class_fields(spec["record"])
        if "fields" in spec:
            return f"{kind} as structs", {name: _pick_text(data) for name, data in spec["fields"].items()}
        return text, {}


def _pick_text(data: Json) -> str:
    return str({key: value for key, value in data.items() if key != "from"} or "") if isinstance(data, Mapping) else ""


def _fields_of(found: LegacyClass) -> Iterator[tuple[str, str]]:
    for name, each in found.fields.items():
        kind = each.known.type if each.known is not None else each.type
        yield name, f"{kind} {each.form}" if each.form else str(kind)


def _field(name: str, data: Json, arguments: Mapping[str, Argument]) -> StructMember:
    spec = data if isinstance(data, Mapping) else {"to": data}
    argument = arguments.get(str(spec.get("to", name)))
    return StructMember(str(argument.type if argument is not None else ""), "default" not in spec)


def _record_member(data: Json) -> StructMember:
    kind = str(data["type"] if isinstance(data, Mapping) else data)
    return StructMember(kind, not kind.startswith("option(") and not (isinstance(data, Mapping) and "default" in data))


def _struct_of(kind: Type) -> Type:
    """The struct in a type."""
    while kind.code == "a":
        kind = kind.children[0].children[1] if kind.is_dict else kind.children[0]
    return kind


def effect_order(effect: Effect) -> int:
    """A number that grows with what running a call twice would do."""
    return (Effect.READ, Effect.IDEMPOTENT, Effect.WRITE).index(effect)
