"""`result` and `errors` of a method entry -> the functions that turn method returns and D-Bus errors into legacy ones.

A result is made of output arguments, of one property, or of records (the properties of an object or of many). `result`
picks from these by name; `struct`, `fields` and `format` change the form of what is picked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway.core.dbus import names, patterns, results
from gateway.core.dbus.arguments import ArgumentPlan, parameter
from gateway.core.dbus.formats import SHOWN, Show, identity_of_class
from gateway.core.dbus.introspection_xml import Argument
from gateway.core.dbus.marshal import Decode, from_dbus
from gateway.core.dbus.object_paths import Escape, placeholders
from gateway.core.dbus.results import DecodeResult, ErrorEntry, Item, Part
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Variants
from gateway.core.routing.route import Select
from gateway.core.rpc.model import Call, Fault, Value
from gateway.mapping.classes.fields import Classes, known_class
from gateway.mapping.encoding import STRUCT, TEXT, innermost, names_fields, record_key, with_items
from gateway.mapping.load import Scope
from gateway.mapping.problem import one_of, unknown
from gateway.mapping.targets import Callee

FORMS = ("struct", "fields", "format", "record")

ARRAY = parse_one("av")  # the D-Bus type nearest to `result: [...]`
TEMPLATE_WORDS = ("name", "message", "class", "self")  # names in a template of `errors` besides parameters and numbers


class CompiledResult(Struct, frozen=True):
    """How a method return becomes a result. `type`: the D-Bus type nearest to the result, None for void."""

    shape: DecodeResult
    type: Type | None
    select: Select | None = None  # of records: those that the call asks for


class _Source(Struct, frozen=True):
    """An output argument or property that `result` may pick. `type`: None where only the value at run time has it."""

    type: Type | None
    decode: Decode
    at: int = 0  # index among the output arguments


def compile_result(
    entry: Scope, callee: Callee, variants: Variants, escape: Escape, classes: Classes
) -> CompiledResult:
    """The result of a method entry. With problems reported it must not be used. `escape`: of path elements as keys."""
    work = _Results(callee, variants, escape, classes)
    result = entry.at("result")
    if result.data == "void":
        return CompiledResult(results.void, None)
    if callee.record or callee.objects:
        return work.records(result)
    return work.arguments(result)


class _Results(Struct, frozen=True):
    callee: Callee
    variants: Variants
    escape: Escape
    classes: Classes

    # Output arguments

    def arguments(self, result: Scope) -> CompiledResult:
        outs = self.callee.outs
        decoder = from_dbus if self.callee.accessed is None else results.property_decoder
        sources = {
            out.name: _Source(out.type, decoder(out.type, variants=self.variants), index)
            for index, out in enumerate(outs)
        }
        if result.data is None:
            items = {name: Item(source.at, source.decode, name) for name, source in sources.items()}
            if not items:
                return CompiledResult(results.void, None)
            if len(items) == 1:
                return CompiledResult(results.one(*items.values()), outs[0].type)
            return CompiledResult(results.struct(items), STRUCT)
        if isinstance(result.data, list):
            picks = [self._pick(pick, sources) for pick in result.items()]
            return CompiledResult(results.array([item for item, _ in picks]), ARRAY)
        members = None
        if isinstance(result.data, Mapping) and not _is_form(result.data):
            members = result
        elif isinstance(result.data, Mapping) and "from" not in result.data and len(sources) != 1:
            if set(result.data) != {"fields"} or not sources:
                result.fail(f"'from' is missing; expected one of {one_of(_listed(sources))}", key=True)
                return CompiledResult(results.void, None)
            members = result.at("fields")
        if members is not None:
            picked = {str(pick.path[-1]): self._pick(pick, sources)[0] for pick in members.items()}
            return CompiledResult(results.struct(picked), STRUCT)
        item, kind = self._pick(result, sources, only=next(iter(sources), None))
        return CompiledResult(results.one(item), kind)

    # One picked value and its form

    def _pick(self, pick: Scope, sources: Mapping[str, _Source], only: str | None = None) -> tuple[Item, Type]:
        """`only`: the source where the pick has no `from`."""
        whole = not isinstance(pick.data, Mapping)
        name = pick.data if whole else pick.data.get("from", only)
        source = sources.get(name)
        if name is None:
            pick.fail("'from' is missing", level="schema")
        elif source is None:
            kind_of_source = "property" if self.callee.record or self.callee.objects else "output argument"
            text = unknown(kind_of_source, name, _listed(sources), owner=self.callee.title)
            (pick if whole else pick.at("from")).fail(text)
        else:
            show, kind = (None, source.type) if whole else self._form(pick, name, source.type)
            return Item(source.at, results.then(source.decode, show), name), kind or parse_one("v")
        return Item(0, _nothing), STRUCT

    def _form(self, pick: Scope, name: str, kind: Type | None) -> tuple[Show | None, Type | None]:
        """What changes the form of a value, and the type that it becomes. `kind`: None inside a variant."""
        forms = [form for form in FORMS if form in pick.data]
        if not forms:
            return None, kind
        if len(forms) > 1:
            pick.at(forms[1]).fail(f"'{forms[1]}' cannot be combined with '{forms[0]}'", level="schema", key=True)
            return None, kind
        form, scope = forms[0], pick.at(forms[0])
        if form == "format":
            return self._formatted(scope, name, kind)
        if form == "struct":
            if not names_fields(scope, name, kind) or kind is None:
                return None, kind
            return results.struct_of_fields(kind, scope.data), with_items(kind, STRUCT)
        legacy_class = known_class(scope, self.classes) if form == "record" else None
        if form == "record" and legacy_class is None:
            return None, kind
        if kind is None or not results.holds_dict(kind):
            needs = f"'{form}' needs a dictionary with text keys (or several of them)"
            scope.fail(f"{needs}; {name} is {kind or 'v'}")
            return None, kind
        if legacy_class is not None:
            return legacy_class.shown(kind), kind
        item = _innermost(kind)
        return results.picked(kind, {str(each.path[-1]): self._member(each, item) for each in scope.items()}), kind

    def _member(self, pick: Scope, item: Type) -> tuple[str, Show | None]:
        """A member of a dictionary. The type inside a variant is known at run time only."""
        if isinstance(pick.data, str):
            return pick.data, None
        name = pick.data.get("from", pick.path[-1])
        return name, self._form(pick, name, None if item.code == "v" else item)[0]

    def _formatted(self, form: Scope, name: str, kind: Type | None) -> tuple[Show | None, Type | None]:
        legacy_class = form.data["class"] if isinstance(form.data, Mapping) else ""
        show, codes = (identity_of_class(legacy_class), "s") if legacy_class else SHOWN[form.data]
        if kind is None and self.variants == "typed":
            form.fail(f"'format' cannot be applied to the variant {name} with 'variants: typed'")
        elif kind is not None and innermost(kind).code not in codes:
            what = f"{{class: {legacy_class}}}" if legacy_class else form.data
            form.fail(f"'format: {what}' needs a value of type {', '.join(codes)}; {name} is {kind}")
        return show, TEXT if kind is None else with_items(kind, TEXT)

    # Records

    def records(self, result: Scope) -> CompiledResult:
        record = self._record(result)
        own, further = self.callee.interface.name, self.callee.further
        interfaces = (own, *(interface.name for interface in further))
        if not self.callee.objects:
            shape = results.several(interfaces, self.callee.shared, record) if further else results.one(Item(0, record))
            return CompiledResult(shape, STRUCT)
        key = record_key(self.callee.key, self.escape, self.variants, self.callee.key_class)
        refuse = self.callee.duplicates == "error"
        merge = results.merged(interfaces, self.callee.shared) if further else None
        every = results.records(own, key, record, refuse=refuse, merge=merge)
        return CompiledResult(results.one(Item(0, every)), parse_one("a{sa{sv}}"))

    def _record(self, result: Scope) -> Decode:
        if isinstance(result.data, Mapping) and set(result.data) == {"record"}:
            legacy_class = known_class(result.at("record"), self.classes)
            return _nothing if legacy_class is None else legacy_class.record(self.variants)
        known = {
            name: _Source(found.type, results.property_decoder(found.type, self.variants))
            for name, found in self.callee.properties.items()
            if found.access != "write"
        }
        if result.data is None:
            all_of_them = {name: (name, source.decode) for name, source in known.items()}
            return results.Record(all_of_them, from_dbus(parse_one("v"), variants=self.variants))
        members = result.at("fields") if isinstance(result.data, Mapping) and "fields" in result.data else result
        if not isinstance(result.data, Mapping) or (_is_form(result.data) and set(result.data) != {"fields"}):
            result.fail("expected {legacy name: property}, {fields: ...} or {record: CLASS} for a record")
            return _nothing
        picks = {name: self._pick(members.at(name), known, only=name)[0] for name in members.data}
        return results.Record({name: (item.name, item.convert) for name, item in picks.items()})


def _is_form(data: Mapping[str, Any]) -> bool:
    """Whether a mapping in `result` is {from, struct, fields, format} and not {legacy name: output argument}."""
    return not {"from", *FORMS}.isdisjoint(data)


def _nothing(_value: object) -> None:
    """Placeholder for a decoder whose problem is reported."""


def _listed(sources: Mapping[str, _Source]) -> list[str]:
    return [str(Argument(name, source.type)) if source.type else name for name, source in sources.items()]


def _innermost(kind: Type) -> Type:
    """The type of the members of the innermost dictionary, from which `fields` picks."""
    inner = kind.children[0].children[1] if kind.is_dict else kind.children[0]
    return _innermost(inner) if not kind.is_dict or results.holds_dict(inner) else inner


# Errors


def check_errors(table: Scope, parameters: Collection[str]) -> None:
    """Report invalid error names and patterns, and templates that contain an unknown parameter."""
    for entries in table.items():
        if entries.path[-1] != "*":
            entries.attempt(names.error_name, entries.path[-1], level="schema")
        for entry in _entries(entries):
            match = entry.at("match")
            groups: Collection[str] = ()
            if match.data is not None:
                pattern = match.attempt(patterns.pattern, match.data, level="schema")
                if pattern is None:
                    continue  # its groups are unknown
                groups = pattern.groups
            known = [*parameters, *groups]
            for place, text in _templates(entry):
                brace = results.stray_brace(text)
                if brace:
                    place.fail(f"expected braces in pairs as in {{0}}, got a single '{brace}'", level="schema")
                for name in results.template_names(text):
                    parameter_name = name.removeprefix(results.PARAMETER)
                    if not name.isdecimal() and name not in TEMPLATE_WORDS and parameter_name not in known:
                        place.fail(unknown("parameter", parameter_name, known))


def _entries(table_entry: Scope) -> list[Scope]:
    """The entries for one D-Bus error: one, or a list of them."""
    return table_entry.items() if isinstance(table_entry.data, list) else [table_entry]


def _templates(entry: Scope) -> Iterator[tuple[Scope, str]]:
    """The templates of an entry, each with its place."""
    waiting = [entry.at("code"), *entry.at("args").items(), entry.at("message")]
    while waiting:
        part = waiting.pop()
        if isinstance(part.data, list):
            waiting += part.items()
        elif isinstance(part.data, Mapping):
            waiting.append(part.at("from"))
        elif isinstance(part.data, str):
            yield part, part.data


def _names_in(entries: Iterable[Scope]) -> list[str]:
    """The names in the templates of these entries, as they are written."""
    return [name for entry in entries for _, text in _templates(entry) for name in results.template_names(text)]


class _Merged(Struct, frozen=True):
    """Several error tables as one. `used`: the names in its templates."""

    used: frozenset[str]
    constant: Mapping[str, Sequence[ErrorEntry]]  # entries that read no call are the same for every method
    reading: Mapping[str, Sequence[Scope]]  # those that do are compiled for each set of parameters


class ErrorTables:
    """Compiles the error tables of a file. Methods whose templates read the same parameters share a mapper."""

    def __init__(self) -> None:
        self._mappers: dict[object, Callable[[Fault, Call], Fault]] = {}
        self._names: dict[int, frozenset[str]] = {}  # by the identity of a table: the names in its templates
        self._tables: dict[tuple[int, ...], _Merged] = {}  # by the identities of several tables

    def mapper(self, tables: Sequence[Scope], plan: ArgumentPlan, method: str) -> Callable[[Fault, Call], Fault]:
        """Maps D-Bus errors by several tables; the first has precedence, and `*` of any table comes after all names.

        `{class}` is the class in the method's name, `{self}` the parameter in the object path.
        """
        identities = tuple(id(table.data) for table in tables)
        if identities not in self._tables:
            self._tables[identities] = self._merged(tables)
        merged = self._tables[identities]
        used = merged.used
        sources = {name: name for name in used if name in plan.names}
        objects = placeholders(plan.target.object_path)
        if "self" in used and len(objects) == 1 and objects[0] in plan.names:
            sources.setdefault("self", objects[0])
        legacy_class = method.rpartition(".")[0] if "class" in used else ""
        key = (
            identities,
            legacy_class,
            tuple((name, plan.names[: plan.names.index(source) + 1]) for name, source in sorted(sources.items())),
            (repr(plan.defaults), len(plan.names)) if plan.defaults else "",
        )
        if key not in self._mappers:
            readers = {name: parameter(plan, source) for name, source in sources.items()}
            readers.setdefault("class", lambda _call: legacy_class)
            own = {name: [_entry(each.data, readers) for each in found] for name, found in merged.reading.items()}
            self._mappers[key] = results.error_mapper(own, merged.constant)
        return self._mappers[key]

    def _merged(self, tables: Sequence[Scope]) -> _Merged:
        for table in tables:
            if id(table.data) not in self._names:
                listed = _names_in(entry for entries in table.items() for entry in _entries(entries))
                self._names[id(table.data)] = frozenset(name.removeprefix(results.PARAMETER) for name in listed)
        every = {str(each.path[-1]): _entries(each) for table in reversed(tables) for each in table.items()}
        of_error = ("name", "message")
        reading = {
            name: found
            for name, found in every.items()
            if any(not each.isdecimal() and each not in of_error for each in _names_in(found))
        }
        constant = {
            name: [_entry(each.data, {}) for each in found] for name, found in every.items() if name not in reading
        }
        used = frozenset[str]().union(*(self._names[id(table.data)] for table in tables))
        return _Merged(used, constant, reading)


def _entry(data: Mapping[str, Value], parameters: Mapping[str, Callable[[Call], Value]]) -> ErrorEntry:
    args, match, code = data.get("args", []), data.get("match"), data["code"]
    assert isinstance(args, list)
    message = data.get("message")
    try:
        found = patterns.pattern(str(match)) if match is not None else None
    except ValueError:  # reported by `check_errors`
        found = None
    groups = {name: results.group_of(found, name) for name in found.groups} if found is not None else {}
    is_template = isinstance(code, str) and bool(results.template_names(code))
    return ErrorEntry(
        _part(code, parameters, groups) if is_template else str(code),
        tuple(_part(argument, parameters, groups) for argument in args),
        None if message is None else _part(message, parameters, groups),
        found,
    )


def _part(data: Value, parameters: Mapping[str, Callable[[Call], Value]], groups: Mapping[str, Part]) -> Part:
    if isinstance(data, list):
        parts = [_part(item, parameters, groups) for item in data]
        return lambda fault, call: [part(fault, call) for part in parts]
    if isinstance(data, dict):
        part = results.template(str(data["from"]), parameters, groups)
        values = data.get("values")
        return (
            results.with_values(part, values)
            if isinstance(values, dict)
            else results.with_case(part, str(data["case"]))
        )
    return results.template(data, parameters, groups) if isinstance(data, str) else results.constant(data)
