"""What a mapping promises: each method as its clients, its D-Bus service and its recorded comparisons know it.

A surface is made from a compiled table and the files that it was compiled from. It has data only, so that two revisions
can be compared: a route has functions, which cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from gateway.core.dbus.legacy_types import LegacyType, parse_type
from gateway.core.dbus.signature import Type
from gateway.core.migration.modes import Migration
from gateway.core.routing.route import Route
from gateway.mapping import load, schema
from gateway.mapping.classes.expand import Derived, Expansion, expand
from gateway.mapping.encoding import innermost
from gateway.mapping.load import Scope
from gateway.mapping.methods import DEFAULTS, with_defaults
from gateway.mapping.problem import Problem
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.mapping.targets import Callee, IdlLibrary, find

Json = Any  # data of a mapping file
MIGRATION_KEYS = ("compare", "redact")


class StructMember(Struct, frozen=True):
    """A member of a struct that a client passes."""

    type: str
    required: bool


class ParameterSurface(Struct, frozen=True):
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
    definitions: Mapping[str, Json] = field(default_factory=dict)

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
    parameters: tuple[ParameterSurface, ...]
    result: ResultSurface
    keys: Mapping[str, Json]  # of the entry, with defaults
    errors: Mapping[str, Json]  # D-Bus error name -> its entries, with those of `*`
    own_errors: Mapping[str, Json]  # without those of the file
    migration_keys: Mapping[str, Json]  # of comparison and redaction, as written
    interface: str  # that has the member or properties
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
        self._types = self._root.data.get("types", {})

    def method(self, name: str, route: Route, endpoints: tuple[EndpointTable, ...]) -> MethodSurface:
        entry, derived, of_file = self._root.at("methods", name), self._derived.get(name), self._root.data
        site = None if derived is None else derived.site
        callee = find(entry, self._root.at("dbus"), self._library, site)
        assert callee is not None, f"{name} was compiled before"
        stanza = {} if derived is None else of_file["classes"][derived.legacy_class.name]
        of_class, defaults = stanza.get("defaults", {}), of_file.get("defaults", {})
        own_errors = {**stanza.get("errors", {}), **entry.data.get("errors", {})}
        errors = {**of_file.get("errors", {}), **own_errors}
        if route.session_check is not None:
            of_session = of_file["session"].get("errors", {})
            errors |= {f"{name} of the session check": error for name, error in of_session.items()}
        return MethodSurface(
            route,
            endpoints,
            tuple(self._parameters(entry, callee, route)),
            self._result(entry.data.get("result"), callee, derived, route),
            with_defaults(entry, {**DEFAULTS, **defaults, **of_class}),
            errors,
            own_errors,
            {key: [each.get(key) for each in (entry.data, of_class, defaults, of_file)] for key in MIGRATION_KEYS},
            callee.interface.name,
            callee.accessed.type if callee.accessed is not None else None,
        )

    # Parameters

    def _parameters(self, entry: Scope, callee: Callee, route: Route) -> Iterator[ParameterSurface]:
        arguments = {each.name: each.type for each in callee.ins}
        session = self._root.at("session", "parameter").data
        for described, item in zip(route.parameters, entry.data.get("params", ()), strict=True):
            spec = item if isinstance(item, Mapping) else {"name": item}
            named, below = spec.get("to", spec["name"]), spec.get("object", ())
            use = next((key for key in ("drop", "fields", "extra") if key in spec), "")
            use = use or ("session" if described.name == session else "")
            use = use or (f"argument {named}" if named in arguments else "the object path or a gathered argument")
            definition = self._types.get(spec.get("type", ""))
            record = definition["record"] if isinstance(definition, Mapping) and "record" in definition else None
            form = {key: spec[key] for key in ("struct", "format", "record", "type") if key in spec}
            if definition is None or record is not None:  # the members are compared
                form = {key: form[key] for key in ("format", "type") if key in form}
            else:
                form["type"] = definition
            members = None
            if "fields" in spec:
                members = {name: _field(name, data, arguments) for name, data in spec["fields"].items()}
            elif "struct" in spec and named in arguments:
                kinds = innermost(arguments[named]).children
                members = {
                    name: StructMember(str(k), required=True) for name, k in zip(spec["struct"], kinds, strict=True)
                }
            elif "record" in spec:
                fields = self._class_fields(spec["record"])
                members = {name: StructMember(text.split(" ")[0], required=False) for name, text in fields.items()}
            elif record is not None:
                members = {name: _record_member(data) for name, data in record.items()}
            yield ParameterSurface(
                described.name,
                described.type,
                described.required,
                spec.get("default"),
                use,
                form or None,
                members,
                "unknown_members" in spec or "record" in spec or record is not None,
                (below,) if isinstance(below, str) else tuple(below),
                parse_type(spec["type"]) if "type" in spec else None,
                self._types,
            )

    # The result

    def _result(self, result: Json, callee: Callee, derived: Derived | None, route: Route) -> ResultSurface:
        kind = route.result
        if kind is None:
            return ResultSurface("void")
        if derived is not None and derived.returns not in ("all", "where"):
            return ResultSurface("value", kind)
        if callee.record or callee.objects:
            key = getattr(callee.key, "name", callee.key)
            items = (f"by {key}", callee.duplicates) if callee.objects else ()
            return ResultSurface(
                "records" if callee.objects else "record", kind, self._of_record(result, callee), items
            )
        outs = {each.name: each.type for each in callee.outs}
        if result is None and len(outs) > 1:
            return ResultSurface("struct", kind, {name: str(each) for name, each in outs.items()})
        if isinstance(result, list):
            return ResultSurface("array", kind, items=tuple(self._picked(pick, outs)[0] for pick in result))
        is_form = isinstance(result, Mapping) and not {"from", "struct", "format", "record"}.isdisjoint(result)
        if isinstance(result, Mapping) and not is_form and not (set(result) == {"fields"} and len(outs) == 1):
            picks = result["fields"] if set(result) == {"fields"} else result
            return ResultSurface("struct", kind, {name: self._picked(pick, outs)[0] for name, pick in picks.items()})
        only = next(iter(outs), "")
        text, members = self._picked(result if result is not None else only, outs, only)
        return ResultSurface("value", kind, members, (text,))

    def _of_record(self, result: Json, callee: Callee) -> Mapping[str, str]:
        """The members of each record."""
        known = {name: each.type for name, each in callee.properties.items() if each.access != "write"}
        if result is None:
            return {name: str(kind) for name, kind in known.items()}
        if set(result) == {"record"}:
            return self._class_fields(result["record"])
        picks = result["fields"] if set(result) == {"fields"} else result
        return {name: self._picked(pick, known, name)[0] for name, pick in picks.items()}

    def _class_fields(self, name: str) -> Mapping[str, str]:
        found = {}
        for each in self._classes[name].fields.values() if name in self._classes else ():
            kind = each.known.type if each.known is not None else each.type
            found[each.name] = f"{kind} {each.form}" if each.form else str(kind)
        return found

    def _picked(self, pick: Json, sources: Mapping[str, Type], only: str = "") -> tuple[str, Mapping[str, str]]:
        """The type and form of what `result` picks, and the members of structs in it."""
        spec = pick if isinstance(pick, Mapping) else {"from": pick}
        kind = sources.get(spec.get("from", only))
        if "struct" in spec and kind is not None:
            inner = innermost(kind)
            around = str(kind).removesuffix(str(inner))
            return f"{around}struct", {n: str(k) for n, k in zip(spec["struct"], inner.children, strict=True)}
        if "record" in spec:
            return f"{kind} as records", self._class_fields(spec["record"])
        if "fields" in spec:
            return f"{kind} as structs", {name: _pick_text(data) for name, data in spec["fields"].items()}
        form = {key: value for key, value in spec.items() if key == "format"}
        return f"{kind} {form}" if form else str(kind), {}


def _pick_text(data: Json) -> str:
    return str({key: value for key, value in data.items() if key != "from"} or "") if isinstance(data, Mapping) else ""


def _field(name: str, data: Json, arguments: Mapping[str, Type]) -> StructMember:
    spec = data if isinstance(data, Mapping) else {"to": data}
    return StructMember(str(arguments.get(spec.get("to", name), "")), "default" not in spec)


def _record_member(data: Json) -> StructMember:
    kind = str(data["type"] if isinstance(data, Mapping) else data)
    return StructMember(kind, not kind.startswith("option(") and not (isinstance(data, Mapping) and "default" in data))
