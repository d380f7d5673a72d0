"""`result` of a method entry -> the function that shapes method returns, and the type it has for help texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.dbus import names, results
from gateway.core.dbus.arguments import ArgumentPlan, parameter
from gateway.core.dbus.formats import SHOWN, Show, identity_of_class
from gateway.core.dbus.marshal import Decode, from_dbus
from gateway.core.dbus.results import DecodeResult, ErrorEntry, Item, Part
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Call, Fault, Value
from gateway.mapping.introspection_xml import Argument
from gateway.mapping.load import Scope
from gateway.mapping.parameters import STRUCT, TEXT, struct_in, with_items
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.targets import Callee

FORMS = ("struct", "fields", "format")

ARRAY = parse_one("av")  # what the mapping makes, as the D-Bus type nearest to it


@dataclass(frozen=True, slots=True)
class CompiledResult:
    """How a method return is shown. `type`: the D-Bus type nearest to it, None for void."""

    shape: DecodeResult
    type: Type | None


@dataclass(frozen=True, slots=True)
class _Source:
    """Something that a name in `result` stands for. `type`: None where only the value itself knows."""

    type: Type | None
    decode: Decode
    at: int = 0  # among the out-arguments


def compile_result(entry: Scope, callee: Callee, variants: Variants) -> CompiledResult:
    """The result of a method entry; with problems noted it is not to be used."""
    work = _Work(callee, variants)
    result = entry.at("result")
    if result.data == "void":
        return CompiledResult(results.void, None)
    if callee.record or callee.objects:
        return work.records(result)
    return work.arguments(result)


@dataclass(frozen=True, slots=True)
class _Work:
    callee: Callee
    variants: Variants

    # Out-arguments

    def arguments(self, result: Scope) -> CompiledResult:
        outs = self.callee.outs
        if result.data is None:
            return self._everything(outs)
        sources = {out.name: self._source(index, out) for index, out in enumerate(outs)}
        if isinstance(result.data, list):
            picks = [self._pick(result.at(index), sources) for index in range(len(result.data))]
            return CompiledResult(results.array([item for item, _ in picks]), ARRAY)
        if isinstance(result.data, Mapping) and not _is_form(result.data):
            return self._struct(result, sources)
        return self._one(result, sources)

    def _source(self, index: int, out: Argument) -> _Source:
        if self.callee.accessed is not None:
            return _Source(out.type, results.property_decoder(out.type, self.variants), index)
        return _Source(out.type, from_dbus(out.type, variants=self.variants), index)

    def _everything(self, outs: Sequence[Argument]) -> CompiledResult:
        sources = [self._source(index, out) for index, out in enumerate(outs)]
        items = [Item(source.at, source.decode, out.name) for source, out in zip(sources, outs, strict=True)]
        if not items:
            return CompiledResult(results.void, None)
        if len(items) == 1:
            return CompiledResult(results.one(items[0]), outs[0].type)
        return CompiledResult(results.struct({item.name: item for item in items}), STRUCT)

    def _struct(self, members: Scope, sources: Mapping[str, _Source]) -> CompiledResult:
        items = {name: self._pick(members.at(name), sources)[0] for name in members.data}
        return CompiledResult(results.struct(items), STRUCT)

    def _one(self, result: Scope, sources: Mapping[str, _Source]) -> CompiledResult:
        """One out-argument; which one may be left unsaid where there is but one."""
        if isinstance(result.data, Mapping) and "from" not in result.data and len(sources) != 1:
            if set(result.data) == {"fields"} and sources:
                return self._struct(result.at("fields"), sources)
            result.fail(f"'from' is missing: which out-argument? (there are: {self._known(sources)})", key=True)
            return CompiledResult(results.void, None)
        item, kind = self._pick(result, sources, only=next(iter(sources), None))
        return CompiledResult(results.one(item), kind)

    def _known(self, sources: Mapping[str, _Source]) -> str:
        return one_of(str(Argument(name, source.type)) if source.type else name for name, source in sources.items())

    # One thing picked, and in which form

    def _pick(self, pick: Scope, sources: Mapping[str, _Source], only: str | None = None) -> tuple[Item, Type]:
        whole = not isinstance(pick.data, Mapping)
        name = pick.data if whole else pick.data.get("from", only)
        source = sources.get(name)
        if name is None:
            pick.fail("'from' is missing", level="schema")
        elif source is None:
            hint = did_you_mean(name, sources) or f" (it has: {self._known(sources)})"
            what = "property" if self.callee.record or self.callee.objects else "out-argument"
            (pick if whole else pick.at("from")).fail(f"'{name}' is no {what} of {self.callee.title}{hint}")
        else:
            show, kind = (None, source.type) if whole else self._form(pick, name, source.type)
            return Item(source.at, results.then(source.decode, show), name), kind or parse_one("v")
        return Item(0, _nothing), STRUCT

    def _form(self, pick: Scope, name: str, kind: Type | None) -> tuple[Show | None, Type | None]:
        forms = [form for form in FORMS if form in pick.data]
        if len(forms) > 1:
            pick.at(forms[1]).fail(f"'{forms[1]}' does not go with '{forms[0]}'", level="schema", key=True)
            return None, kind
        builders = {"struct": self._named, "fields": self._fields, "format": self._formatted}
        return builders[forms[0]](pick.at(forms[0]), name, kind) if forms else (None, kind)

    def _named(self, struct: Scope, name: str, kind: Type | None) -> tuple[Show | None, Type | None]:
        inner = struct_in(kind) if kind is not None else None
        if kind is None or inner is None:
            struct.fail(f"'{_said(name, kind)}' is no struct, nor an array or dictionary of structs")
            return None, kind
        if len(inner.children) != len(struct.data):
            struct.fail(f"'{name} {kind}' has {len(inner.children)} fields, {len(struct.data)} are named")
            return None, kind
        return results.struct_of_fields(kind, struct.data), with_items(kind, STRUCT)

    def _fields(self, fields: Scope, name: str, kind: Type | None) -> tuple[Show | None, Type | None]:
        if kind is None or not results.holds_dict(kind):
            fields.fail(f"'{_said(name, kind)}' is no dictionary with text keys, nor an array or dictionary of such")
            return None, kind
        item = _innermost(kind)
        members = {legacy: self._member(fields.at(legacy), item) for legacy in fields.data}
        return results.picked(kind, members), kind

    def _member(self, pick: Scope, item: Type) -> tuple[str, Show | None]:
        """A member of a dictionary. What a variant holds is known only when it is there."""
        if isinstance(pick.data, str):
            return pick.data, None
        name = pick.data.get("from", pick.path[-1])
        return name, self._form(pick, name, None if item.code == "v" else item)[0]

    def _formatted(self, form: Scope, name: str, kind: Type | None) -> tuple[Show | None, Type | None]:
        legacy_class = form.data["class"] if isinstance(form.data, Mapping) else ""
        show, codes = (identity_of_class(legacy_class), "s") if legacy_class else SHOWN[form.data]
        if kind is None and self.variants == "typed":
            form.fail(f"'{name}' is a variant, which 'variants: typed' shows with its signature")
        elif kind is not None and _scalar(kind).code not in codes:
            what = f"a reference of {legacy_class}" if legacy_class else form.data
            form.fail(f"'{name} {kind}' cannot be shown as {what}: one of {', '.join(codes)} is needed")
        return show, TEXT if kind is None else with_items(kind, TEXT)

    # Records: the properties of an object, or of each object

    def records(self, result: Scope) -> CompiledResult:
        record, kind = self._record(result)
        if not self.callee.objects:
            return CompiledResult(results.one(Item(0, record)), kind)
        refuse = self.callee.duplicates == "error"
        decode = results.records(self.callee.interface.name, self._key(), record, refuse=refuse)
        return CompiledResult(results.one(Item(0, decode)), parse_one("a{sa{sv}}"))

    def _key(self) -> results.RecordKey:
        key = self.callee.key
        if isinstance(key, str):
            return {"element": results.element_key, "path": results.path_key}[key]
        show = identity_of_class(self.callee.key_class) if self.callee.key_class else None
        return results.property_key(key.name, results.then(results.property_decoder(key.type, self.variants), show))

    def _record(self, result: Scope) -> tuple[Decode, Type]:
        known = {
            name: _Source(found.type, results.property_decoder(found.type, self.variants))
            for name, found in self.callee.interface.properties.items()
            if found.access != "write"
        }
        if result.data is None:
            all_of_them = {name: (name, source.decode) for name, source in known.items()}
            return results.Record(all_of_them, from_dbus(parse_one("v"), variants=self.variants)), STRUCT
        members = result.at("fields") if isinstance(result.data, Mapping) and "fields" in result.data else result
        if not isinstance(result.data, Mapping) or (_is_form(result.data) and set(result.data) != {"fields"}):
            result.fail("properties are picked as {legacy name: property}, or with 'fields' alone")
            return _nothing, STRUCT
        picks = {name: self._pick(members.at(name), known, only=name)[0] for name in members.data}
        return results.Record({name: (item.name, item.convert) for name, item in picks.items()}), STRUCT


def _is_form(data: Mapping[str, Any]) -> bool:
    """Whether a struct in `result` is {from, struct, fields, format} rather than {legacy name: out-argument}."""
    return not {"from", *FORMS}.isdisjoint(data)


def _nothing(_value: object) -> None:
    """Stands where a problem is noted."""


def _said(name: str, kind: Type | None) -> str:
    return f"{name} {kind}" if kind is not None else f"{name} v"


def _innermost(kind: Type) -> Type:
    """What the members of the innermost dictionary are (the one that `fields` picks from)."""
    inner = kind.children[0].children[1] if kind.is_dict else kind.children[0]
    return _innermost(inner) if not kind.is_dict or results.holds_dict(inner) else inner


def _scalar(kind: Type) -> Type:
    """What an array or dictionary holds in the end."""
    if kind.code != "a":
        return kind
    return _scalar(kind.children[0].children[1] if kind.is_dict else kind.children[0])


# `errors` tables -> the function that translates D-Bus errors. Knows no parameter but by name.


WORDS = ("name", "message")  # what a template may hold besides parameters and numbers


def check_errors(table: Scope, parameters: Collection[str]) -> None:
    """Note error names of bad grammar, and templates that name none of these parameters."""
    for name in table.data or ():
        entry = table.at(name)
        if name != "*":
            entry.attempt(names.error_name, name, level="schema")
        for index, text in enumerate(entry.data.get("args", ())):
            _check_template(entry.at("args", index), text, parameters)
        _check_template(entry.at("message"), entry.data.get("message"), parameters)


def _check_template(scope: Scope, text: object, parameters: Collection[str]) -> None:
    for name in results.template_names(text) if isinstance(text, str) else ():
        if not name.isdecimal() and name not in WORDS and name not in parameters:
            hint = did_you_mean(name, parameters) or f" (there are: {one_of(parameters)})"
            scope.fail(f"{{{name}}} is no parameter{hint}")


def compile_errors(tables: list[Scope], plan: ArgumentPlan) -> Callable[[Fault, Call], Fault]:
    """A translation by several tables, the first one first; "*" of any comes after all names."""
    parameters = {name: parameter(plan, name) for name in plan.names}
    entries: dict[str, ErrorEntry] = {}
    for table in reversed(tables):
        entries.update({name: _entry(data, parameters) for name, data in (table.data or {}).items()})
    return results.error_mapper(entries)


def _entry(data: Mapping[str, Value], parameters: Mapping[str, Callable[[Call], Value]]) -> ErrorEntry:
    args = data.get("args", [])
    assert isinstance(args, list)
    message = data.get("message")
    return ErrorEntry(
        str(data["code"]),
        tuple(_part(argument, parameters) for argument in args),
        None if message is None else _part(message, parameters),
    )


def _part(data: Value, parameters: Mapping[str, Callable[[Call], Value]]) -> Part:
    if isinstance(data, str):
        return results.template(data, parameters)
    return results.constant(data)
