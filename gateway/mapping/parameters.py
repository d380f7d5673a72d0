"""`params` and `args` of a method entry -> the plan that binds calls. Knows no result and no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.dbus.arguments import (
    ArgumentPlan,
    Constant,
    GatheredDict,
    GatheredStruct,
    Slot,
    Take,
    Unpacked,
    path_encoder,
    placeholders,
    struct_encoder,
)
from gateway.core.dbus.formats import MOMENTS, moment_encoder, of_class
from gateway.core.dbus.marshal import Encode, Variant, to_dbus
from gateway.core.dbus.scalars import KEYS_IN
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Coerce, Parameter, Variants
from gateway.core.rpc.model import Value
from gateway.mapping.introspection_xml import Argument
from gateway.mapping.load import Scope
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.targets import Callee

# What a legacy value is, as the D-Bus type nearest to it.
TEXT = parse_one("s")
STRUCT = parse_one("a{sv}")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How strictly values are taken."""

    coerce: Coerce
    variants: Variants

    def __call__(self, kind: Type, around: int = 0) -> Encode:
        """The converter for a type, for values with so many containers around them."""
        return to_dbus(kind, coerce=self.coerce, variants=self.variants, around=around)


def compile_parameters(
    entry: Scope, callee: Callee, encoding: Encoding, session: str | None
) -> tuple[ArgumentPlan, tuple[Parameter, ...]]:
    """The plan of a method entry, and its parameters for help texts; with problems noted neither is to be used."""
    params = entry.at("params")
    specs = [_Spec(params.at(index)) for index in range(len(params.data or ()))]
    work = _Work(entry, callee, encoding, specs, session)
    before = len(entry.problems)
    work.check_names()
    for index, spec in enumerate(specs):
        work.lead(index, spec)
    for name in entry.at("args").data or ():
        work.give(name, entry.at("args", name))
    if len(entry.problems) == before:  # or else what is missing is mostly what was wrong
        work.check_complete()
    return work.plan(), tuple(work.describe(index, spec) for index, spec in enumerate(specs))


class _Spec:
    """A parameter or field: its name alone, or a struct that says more."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.data: Mapping[str, Any] = scope.data if isinstance(scope.data, Mapping) else {}
        self.name = str(self.data.get("name", "")) if self.data else str(scope.data)
        if "extra" in self.data:
            self.data = {"default": {}, **self.data}
        self.has_default = "default" in self.data
        form = self.data.get("format")
        self.legacy_class = str(form["class"]) if isinstance(form, Mapping) else ""
        if self.legacy_class:
            self.data = {key: value for key, value in self.data.items() if key != "format"}

    @property
    def naming(self) -> Scope:
        return self.scope.at("name") if self.data else self.scope


@dataclass(slots=True)
class _Work:
    """What is known while the entries are gone through."""

    entry: Scope
    callee: Callee
    encoding: Encoding
    specs: list[_Spec]
    session: str | None
    taken: dict[str, Take] = field(default_factory=dict)  # by in-argument
    types: dict[int, Argument] = field(default_factory=dict)  # by parameter
    structs: list[Unpacked] = field(default_factory=list)
    slots: int = 0

    def __post_init__(self) -> None:
        self.slots = len(self.specs)

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]

    def argument(self, name: str) -> Argument | None:
        return next((argument for argument in self.callee.ins if argument.name == name), None)

    # Each parameter by itself

    def check_names(self) -> None:
        """Names differ, those without a default come first, the path names parameters only."""
        optional = False
        for index, spec in enumerate(self.specs):
            if spec.name in self.names[:index]:
                spec.naming.fail(f"parameter '{spec.name}' is there twice")
            if optional and not spec.has_default:
                spec.naming.fail(f"parameter '{spec.name}' is required, but comes after one that may be left out")
            optional = optional or spec.has_default
            if "extra" in spec.data and index < len(self.specs) - 1:
                spec.scope.at("extra").fail("'extra' goes with the last parameter only", key=True)
        for name in placeholders(self.callee.target.object_path):
            if name not in self.names:
                where = "object_path" if self.entry.says("object_path") else "params"
                hint = did_you_mean(name, self.names) or f" (there are: {one_of(self.names)})"
                self.entry.at(where).fail(f"{{{name}}} in the object path is no parameter{hint}")

    def lead(self, index: int, spec: _Spec) -> None:
        """Lead a parameter to what it becomes."""
        kinds = [key for key in ("drop", "fields", "to") if key in spec.data]
        if spec.legacy_class and {"drop", "fields"} & spec.data.keys():
            spec.scope.at("format").fail("'class' does not go with 'drop' or 'fields'", level="schema", key=True)
        if len(kinds) > 1:
            spec.scope.at(kinds[1]).fail(f"'{kinds[1]}' does not go with '{kinds[0]}'", level="schema", key=True)
        elif "unknown_members" in spec.data and not {"fields", "struct"} & spec.data.keys():
            spec.scope.at("unknown_members").fail(
                "'unknown_members' goes with 'fields' or 'struct' only", level="schema", key=True
            )
        elif spec.name == self.session and spec.has_default:
            spec.scope.at("default").fail("the session cannot be left out", key=True)
        elif "fields" in spec.data:
            self._refuse_use(spec, "fields")
            self._take_apart(index, spec)
        elif "drop" in spec.data:
            self._refuse_use(spec, "drop")
            self._refuse_forms(spec, "'drop'")
        else:
            self._lead_whole(index, spec)

    def _lead_whole(self, index: int, spec: _Spec) -> None:
        named = spec.data.get("to", spec.name)
        if self.argument(named) is not None:
            self._take(named, index, spec, spec.data.get("default") if spec.has_default else None)
        elif "to" in spec.data:
            spec.scope.at("to").fail(self._no_argument(named))
        elif spec.name in placeholders(self.callee.target.object_path):
            self._refuse_forms(spec, "the object path")
        elif spec.name == self.session or spec.name in self._gathered():
            self._refuse_forms(spec, "the session" if spec.name == self.session else "'gather'")
        else:
            message = f"parameter '{spec.name}' leads nowhere: {self._no_argument(spec.name)}"
            spec.naming.fail(f"{message}; say `to`, `fields` or `drop`, or gather it")
        if spec.has_default and spec.name in placeholders(self.callee.target.object_path):
            scope = spec.scope.at("default")
            scope.attempt(path_encoder(f"/{{{spec.name}}}", [spec.name]), [scope.data])

    def _refuse_use(self, spec: _Spec, key: str) -> None:
        """What is dropped or taken apart is not there as a whole."""
        users = {"the object path": placeholders(self.callee.target.object_path), "'gather'": self._gathered()}
        for user, names in users.items():
            if spec.name in names:
                spec.scope.at(key).fail(f"'{key}' does not go with {user}, which needs '{spec.name}'", key=True)

    def _refuse_forms(self, spec: _Spec, why: str) -> None:
        for key in ("struct", "format"):
            if key in spec.data:
                spec.scope.at(key).fail(f"'{key}' does not go with {why}", level="schema", key=True)

    def _no_argument(self, name: str) -> str:
        known = [argument.name for argument in self.callee.ins]
        hint = did_you_mean(name, known) or f" (it has: {one_of(map(str, self.callee.ins))})"
        return f"'{name}' is no in-argument of {self.callee.title}{hint}"

    def _gathered(self) -> set[str]:
        sources = [self.entry.at("args", name, "gather").data for name in self.entry.at("args").data or ()]
        return {
            name for source in sources if source for name in (source.values() if isinstance(source, dict) else source)
        }

    def _take(self, named: str, slot: int, spec: _Spec, default: Value) -> None:
        argument = self.argument(named)
        assert argument is not None
        convert = self._converter(spec, argument)
        if self._claim(named, spec.scope) and convert is not None:
            self.taken[named] = Slot(slot, convert)
            self.types[slot] = argument
            if spec.has_default:
                spec.scope.at("default").attempt(convert, default)

    def _claim(self, named: str, scope: Scope) -> bool:
        if named in self.taken:
            scope.fail(f"the in-argument '{named}' is given twice")
            return False
        return True

    # Forms

    def _converter(self, spec: _Spec, argument: Argument) -> Encode | None:
        kind = argument.type
        if "struct" in spec.data and "format" in spec.data:
            spec.scope.at("format").fail("'format' does not go with 'struct'", level="schema", key=True)
            return None
        if "struct" in spec.data:
            return self._struct(spec, argument)
        if "format" not in spec.data:
            return self._for_property(self.encoding(kind, self._around))
        if kind.code not in MOMENTS:
            spec.scope.at("format").fail(f"'{argument}' cannot say a moment: one of {', '.join(MOMENTS)} is needed")
            return None
        return self._for_property(moment_encoder(kind, self.encoding(kind)))

    def _struct(self, spec: _Spec, argument: Argument) -> Encode | None:
        names = spec.data["struct"]
        inner = struct_in(argument.type)
        scope = spec.scope.at("struct")
        if inner is None:
            scope.fail(f"'{argument}' is no struct, nor an array or dictionary of structs")
        elif len(inner.children) != len(names):
            scope.fail(f"'{argument}' has {len(inner.children)} fields, {len(names)} are named")
        else:
            ignore = "unknown_members" in spec.data
            return self._for_property(
                struct_encoder(argument.type, names, self.encoding, ignore=ignore, around=self._around)
            )
        return None

    @property
    def _around(self) -> int:
        """How many containers stand around what a parameter becomes."""
        return 0 if self.callee.accessed is None else 1

    def _for_property(self, convert: Encode) -> Encode:
        """A property is written as a variant of the type that the IDL says."""
        if self.callee.accessed is None:
            return convert
        signature = str(self.callee.accessed.type)
        return lambda value: Variant(signature, convert(value))

    def _take_apart(self, index: int, spec: _Spec) -> None:
        self._refuse_forms(spec, "'fields'")
        members = [_Field(spec.scope.at("fields", name), name) for name in spec.data["fields"]]
        defaults = {member.name: member.data["default"] for member in members if member.has_default}
        ignored = "unknown_members" in spec.data
        apart = Unpacked(index, tuple(member.name for member in members), defaults, others_ignored=ignored)
        for member in members:
            if self.argument(member.argument) is None:
                member.naming.fail(self._no_argument(member.argument))
            else:
                self._take(member.argument, self.slots, member, member.data.get("default"))
            self.slots += 1
        self.structs.append(apart)
        if spec.has_default:
            self._check_default_struct(apart, spec.scope.at("default"))

    def _check_default_struct(self, apart: Unpacked, scope: Scope) -> None:
        values = scope.attempt(apart.open, scope.data)
        first = self.slots - len(apart.members)
        for take in self.taken.values():
            if values is not None and isinstance(take, Slot) and take.slot >= first:
                scope.attempt(take.convert, values[take.slot - first])

    # In-arguments that no parameter gives

    def give(self, named: str, scope: Scope) -> None:
        """Give an in-argument a constant, or what is gathered for it."""
        argument = self.argument(named)
        if argument is None:
            scope.fail(self._no_argument(named), key=True)
        elif named in self.taken:
            scope.fail(f"the in-argument '{named}' is given twice: by a parameter, and here", key=True)
        elif scope.says("gather"):
            self._gather(argument, scope.at("gather"))
        else:
            constant = scope.at("const") if scope.says("const") else scope
            convert = self._for_property(self.encoding(argument.type, self._around))
            self.taken[named] = Constant(constant.attempt(convert, constant.data))

    def _gather(self, argument: Argument, scope: Scope) -> None:
        kind = argument.type
        self.taken[argument.name] = Constant(None)  # claimed, whatever is wrong with it
        if self.callee.accessed is not None:
            scope.fail("a property is written with a parameter or a constant", key=True)
        elif isinstance(scope.data, dict) and kind.is_dict:
            self._gather_entries(argument, scope)
        elif isinstance(scope.data, list) and kind.code == "(":
            self._gather_fields(argument, scope)
        else:
            needed = "a dictionary" if isinstance(scope.data, dict) else "a struct"
            scope.fail(f"'{argument}' is not {needed}")

    def _gather_entries(self, argument: Argument, scope: Scope) -> None:
        key, item = argument.type.children[0].children
        entries = []
        for name in scope.data:
            made = scope.at(name).attempt(KEYS_IN[key.code], name)
            take = self._gathered_slot(scope.at(name), item, around=2)
            if take is not None:
                entries.append((made, take))
        self.taken[argument.name] = GatheredDict(tuple(entries))

    def _gather_fields(self, argument: Argument, scope: Scope) -> None:
        kinds = argument.type.children
        if len(kinds) != len(scope.data):
            scope.fail(f"'{argument}' has {len(kinds)} fields, {len(scope.data)} are gathered")
            return
        takes = [self._gathered_slot(scope.at(index), kind, around=1) for index, kind in enumerate(kinds)]
        self.taken[argument.name] = GatheredStruct(tuple(take for take in takes if take is not None))

    def _gathered_slot(self, scope: Scope, kind: Type, *, around: int) -> Slot | None:
        if scope.data not in self.names:
            hint = did_you_mean(scope.data, self.names) or f" (there are: {one_of(self.names)})"
            scope.fail(f"'{scope.data}' is no parameter{hint}")
            return None
        slot = self.names.index(scope.data)
        self.types.setdefault(slot, Argument(scope.data, kind))
        convert = self.encoding(kind, around)
        spec = self.specs[slot]
        if spec.has_default:
            spec.scope.at("default").attempt(convert, spec.data["default"])
        return Slot(slot, convert)

    # All together

    def check_complete(self) -> None:
        """Every in-argument is given."""
        for argument in self.callee.ins:
            if argument.name not in self.taken:
                self.entry.fail(f"nobody gives the in-argument '{argument}' of {self.callee.title}", key=True)

    def plan(self) -> ArgumentPlan:
        return ArgumentPlan(
            target=self.callee.target,
            names=tuple(self.names),
            defaults=tuple(spec.data["default"] for spec in self.specs if spec.has_default),
            session=self.session in self.names,
            rest=next((spec.name for spec in self.specs if "extra" in spec.data), ""),
            structs=tuple(self.structs),
            translated={
                index: of_class(spec.legacy_class) for index, spec in enumerate(self.specs) if spec.legacy_class
            },
            dropped=tuple(index for index, spec in enumerate(self.specs) if _is_single(spec)),
            arguments=(*self._fixed(), *(self.taken[a.name] for a in self.callee.ins if a.name in self.taken)),
        )

    def _fixed(self) -> list[Take]:
        """What the methods of org.freedesktop.DBus.Properties are told first."""
        known, interface = self.callee.accessed, self.callee.interface.name
        if known is not None:
            return [Constant(interface), Constant(known.name)]
        return [Constant(interface)] if self.callee.record else []

    def describe(self, index: int, spec: _Spec) -> Parameter:
        argument = self.types.get(index)
        told = str(spec.data.get("documentation", "")) or (argument.documentation if argument else "")
        return Parameter(spec.name, _legacy_type(spec, argument), required=not spec.has_default, documentation=told)


def _is_single(spec: _Spec) -> bool:
    """A parameter that is dropped is a single value, unless its default is a struct or an array."""
    return "drop" in spec.data and not isinstance(spec.data.get("default"), dict | list)


class _Field(_Spec):
    """A member of a struct that is taken apart: the in-argument's name, or a struct that says more."""

    def __init__(self, scope: Scope, name: str) -> None:
        super().__init__(scope)
        self.name = name
        self.argument = str(self.data.get("to", name)) if isinstance(scope.data, Mapping) else str(scope.data)

    @property
    def naming(self) -> Scope:
        return self.scope.at("to") if "to" in self.data else self.scope


def _legacy_type(spec: _Spec, argument: Argument | None) -> Type | None:
    """The D-Bus type nearest to what the client gives."""
    if not {"drop", "fields"}.isdisjoint(spec.data):
        return None
    if argument is None or "format" in spec.data:
        return TEXT
    return with_items(argument.type, STRUCT) if "struct" in spec.data else argument.type


def struct_in(kind: Type) -> Type | None:
    """The struct that a type is, or that an array or dictionary of structs holds."""
    if kind.code == "(":
        return kind
    if kind.code != "a":
        return None
    return struct_in(kind.children[0].children[1] if kind.is_dict else kind.children[0])


def with_items(kind: Type, item: Type) -> Type:
    """The same arrays and dictionaries around another item."""
    if kind.code != "a":
        return item
    if not kind.is_dict:
        return Type("a", (with_items(kind.children[0], item),))
    key, value = kind.children[0].children
    return Type("a", (Type("{", (key, with_items(value, item))),))
