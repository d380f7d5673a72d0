"""`params` and `args` of a method entry -> the ArgumentPlan that turns calls into D-Bus method calls.

Each D-Bus argument gets its value from exactly one place: a parameter, a member of a struct parameter (`fields`), a
constant, or several parameters (`gather`). Each parameter is used somewhere: as an argument, in the object path, as the
session, in `gather`, or it has `drop: true`. "Struct" in messages means a D-Bus struct or an XML-RPC struct; each
message shows the D-Bus type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.dbus import names
from gateway.core.dbus.arguments import (
    ArgumentPlan,
    Constant,
    GatheredDict,
    GatheredStruct,
    Slot,
    Take,
    Unpacked,
    struct_encoder,
)
from gateway.core.dbus.formats import MOMENTS, moment_encoder, of_class
from gateway.core.dbus.introspection_xml import Argument
from gateway.core.dbus.legacy_types import LegacyType, LegacyTypes, parse_type, read_definition
from gateway.core.dbus.marshal import Encode, Variant
from gateway.core.dbus.object_paths import Escape, PathTemplate, below_text, object_below, placeholders, whole_path
from gateway.core.dbus.scalars import KEYS_IN, MarshalError
from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import Parameter
from gateway.core.rpc.model import Value
from gateway.mapping.classes.fields import Classes, known_class
from gateway.mapping.encoding import STRUCT, TEXT, Encoding, names_fields, with_items
from gateway.mapping.load import Scope
from gateway.mapping.problem import one_of, unknown
from gateway.mapping.targets import Callee


def compile_parameters(
    entry: Scope, callee: Callee, encoding: Encoding, session: str | None, classes: Classes
) -> tuple[ArgumentPlan, tuple[Parameter, ...]]:
    """The plan of a method entry, and its parameters for help texts. With problems reported, neither may be used."""
    specs = [_Spec(item) for item in entry.at("params").items()]
    work = _Arguments(entry, callee, encoding, specs, session, classes)
    before = len(entry.problems)
    work.check_names()
    for index, spec in enumerate(specs):
        work.add_parameter(index, spec)
    for argument in entry.at("args").items():
        work.add_argument(str(argument.path[-1]), argument)
    if len(entry.problems) == before:  # an argument with a problem would be reported as missing too
        work.check_complete()
    return usable(work.plan()), tuple(work.describe(index, spec) for index, spec in enumerate(specs))


def usable(plan: ArgumentPlan) -> ArgumentPlan:
    """A plan that can be compiled: one with an unknown parameter in its path, which is reported already, cannot."""
    known = all(name in plan.names for name in placeholders(plan.target.object_path))
    return plan if known else replace(plan, target=dataclasses.replace(plan.target, object_path="/"))


def path_template(entry: Scope, object_path: str, escape: Escape) -> PathTemplate:
    """The object path of a method entry, with the rules of its parameters."""
    specs = [_Spec(item) for item in entry.at("params").items()]
    escapes = {spec.name: spec.data.get("escape", escape) for spec in specs}
    return PathTemplate(object_path, escapes, {spec.name: spec.subtrees for spec in specs if spec.subtrees})


def compile_types(section: Scope) -> LegacyTypes:
    """The section `types` of a file; a type with a problem, which is reported, is left out."""
    definitions = {each.path[-1]: each.attempt(read_definition, each.data) for each in section.items()}
    types = LegacyTypes({str(name): found for name, found in definitions.items() if found is not None})
    for name in types.definitions:
        section.at(name).attempt(types.check, LegacyType(name))
    return types


def parameter_names(entry: Scope) -> list[str]:
    """The names in `params` of a method entry."""
    params = entry.at("params").data or ()
    return [str(item["name"]) if isinstance(item, dict) else str(item) for item in params]


class _Spec:
    """A parameter or a member of `fields`: a name, or a mapping with more keys."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.data: Mapping[str, Any] = scope.data if isinstance(scope.data, Mapping) else {}
        self.name = str(self.data.get("name", "")) if self.data else str(scope.data)
        if "extra" in self.data:
            self.data = {"default": {}, **self.data}
        kind = str(self.data.get("type", ""))
        self.is_optional = kind.startswith("option(")
        if self.is_optional:
            self.data = {"default": None, **self.data}
        self.has_default = "default" in self.data
        below = self.data.get("object", ())
        self.subtrees: tuple[str, ...] = (below,) if isinstance(below, str) else tuple(below)
        form = self.data.get("format")
        self.legacy_class = str(form["class"]) if isinstance(form, Mapping) else ""
        if self.legacy_class:
            self.data = {key: value for key, value in self.data.items() if key != "format"}

    @property
    def name_scope(self) -> Scope:
        """The place of the name."""
        return self.scope.at("name") if self.data else self.scope


class _Arguments(Struct):
    """The arguments of one method while they are compiled."""

    entry: Scope
    callee: Callee
    encoding: Encoding
    specs: list[_Spec]
    session: str | None
    classes: Classes
    supplied: dict[str, Take] = field(default_factory=dict)  # by the name of the D-Bus argument
    types: dict[int, Argument] = field(default_factory=dict)  # by the slot of the parameter
    structs: list[Unpacked] = field(default_factory=list)
    slots: int = 0
    names: list[str] = field(default_factory=list)
    ins: dict[str, Argument] = field(default_factory=dict)  # by name
    in_path: list[str] = field(default_factory=list)  # the parameters in the object path
    gathered: set[str] = field(default_factory=set)  # those in `gather`

    def __post_init__(self) -> None:
        self.slots = len(self.specs)
        self.names = [spec.name for spec in self.specs]
        self.ins = {argument.name: argument for argument in reversed(self.callee.ins)}
        self.in_path = placeholders(self.callee.target.object_path)
        sources = [argument.at("gather").data for argument in self.entry.at("args").items()]
        for source in sources:
            self.gathered.update(source.values() if isinstance(source, dict) else source or ())

    def _fail(self, spec: _Spec, key: str, message: str) -> None:
        """Report a key of a parameter that is not possible there."""
        spec.scope.at(key).fail(message, level="schema", key=True)

    # Parameters

    def check_names(self) -> None:
        """Names are unique, required parameters precede optional ones, and the path contains parameters only."""
        optional = False
        for index, spec in enumerate(self.specs):
            if spec.name in self.names[:index]:
                spec.name_scope.fail(f"duplicate parameter '{spec.name}'")
            if optional and not spec.has_default:
                text = f"required parameter '{spec.name}' follows an optional one: move it, or give it a default"
                spec.name_scope.fail(text)
            optional = optional or spec.has_default
            if "extra" in spec.data and index < len(self.specs) - 1:
                spec.scope.at("extra").fail("'extra' is only possible for the last parameter", key=True)
            subtrees = spec.scope.at("object")
            for place in subtrees.items() if isinstance(subtrees.data, list) else [subtrees]:
                if place.data is not None:
                    place.attempt(names.object_path, place.data, level="schema")
            if "escape" in spec.data and (spec.subtrees or spec.name not in self.in_path):
                self._fail(spec, "escape", "'escape' is only possible for a parameter that is an element of the path")
        self._check_path(self.callee.target.object_path)

    def _check_path(self, template: str) -> None:
        where = self.entry.at("object_path" if self.entry.has("object_path") else "params")
        whole = [spec.name for spec in self.specs if spec.subtrees]
        for name in self.in_path:
            if name not in self.names:
                where.fail(f"{unknown('parameter', name, self.names)}; the object path needs it")
            elif (name in whole) != template.startswith("{" + name + "}"):
                must = "must be the beginning of" if name in whole else "needs `object: SUBTREE` to be the beginning of"
                where.fail(f"parameter '{name}' {must} the object path '{template}'")

    def add_parameter(self, index: int, spec: _Spec) -> None:
        """Compile the use of a parameter."""
        kinds = [key for key in ("drop", "fields", "to") if key in spec.data]
        has_no_value = "drop" in spec.data or "fields" in spec.data
        if "type" in spec.data and has_no_value:
            self._fail(spec, "type", "'type' cannot be combined with 'drop' or 'fields'")
        if spec.legacy_class and has_no_value:
            self._fail(spec, "format", "'class' cannot be combined with 'drop' or 'fields'")
        if len(kinds) > 1:
            self._fail(spec, kinds[1], f"'{kinds[1]}' cannot be combined with '{kinds[0]}'")
        elif "unknown_members" in spec.data and not {"fields", "struct"} & spec.data.keys():
            self._fail(spec, "unknown_members", "'unknown_members' requires 'fields' or 'struct'")
        elif spec.name == self.session and spec.has_default:
            spec.scope.at("default").fail("the session parameter cannot have a default", key=True)
        elif has_no_value:
            key = kinds[0]
            for user, used in {"the object path": self.in_path, "'gather'": self.gathered}.items():
                if spec.name in used:
                    text = f"'{key}' is not possible: {user} needs parameter '{spec.name}'"
                    spec.scope.at(key).fail(text, key=True)
            self._reject_forms(spec, f"'{key}'")
            if key == "fields":
                self._unpack(index, spec)
        else:
            self._add_whole(index, spec)

    def _add_whole(self, index: int, spec: _Spec) -> None:
        named = spec.data.get("to", spec.name)
        if named in self.ins:
            self._supply(named, index, spec, spec.data.get("default") if spec.has_default else None)
        elif "to" in spec.data:
            spec.scope.at("to").fail(unknown("D-Bus argument", named, self.callee.ins, owner=self.callee.title))
        elif spec.name in self.in_path:
            self._reject_forms(spec, "the object path")
        elif spec.name == self.session or spec.name in self.gathered:
            self._reject_forms(spec, "the session" if spec.name == self.session else "'gather'")
        else:
            has = f"the arguments of {self.callee.title}: {one_of(map(str, self.callee.ins))}"
            spec.name_scope.fail(f"parameter '{spec.name}' is unused: map it with `to:` or add `drop: true`; {has}")
        if spec.has_default and spec.name in self.in_path:
            scope = spec.scope.at("default")
            only = "{" + spec.name + "}"
            path = replace(self._path(), text=only if spec.subtrees else f"/{only}")
            scope.attempt(path.encoder([spec.name]), [scope.data])

    def _path(self) -> PathTemplate:
        return path_template(self.entry, self.callee.target.object_path, self.encoding.escape)

    def _reject_forms(self, spec: _Spec, use: str) -> None:
        """Report a form that has no meaning for this use; an object path is possible in the object path only."""
        for key in ("struct", "record", "format", "type", *(() if use == "the object path" else ("object",))):
            if key in spec.data:
                self._fail(spec, key, f"'{key}' cannot be combined with {use}")

    def _supply(self, named: str, slot: int, spec: _Spec, default: Value) -> None:
        argument = self.ins[named]
        convert = self._converter(spec, argument)
        if named in self.supplied:
            spec.scope.fail(f"D-Bus argument '{named}' is supplied twice, by two parameters")
        elif convert is not None:
            self.supplied[named] = Slot(slot, convert)
            self.types[slot] = argument
            if spec.has_default:
                spec.scope.at("default").attempt(convert, default)

    def _unpack(self, index: int, spec: _Spec) -> None:
        """`fields`: each member of the struct has a slot of its own, after those of the parameters."""
        members = [_Field(item) for item in spec.scope.at("fields").items()]
        defaults = {member.name: member.data["default"] for member in members if member.has_default}
        ignored = "unknown_members" in spec.data
        struct = Unpacked(index, tuple(member.name for member in members), defaults, others_ignored=ignored)
        first = self.slots
        for member in members:
            if member.argument in self.ins:
                self._supply(member.argument, self.slots, member, member.data.get("default"))
            else:
                text = unknown("D-Bus argument", member.argument, self.callee.ins, owner=self.callee.title)
                member.name_scope.fail(text)
            self.slots += 1
        self.structs.append(struct)
        if spec.has_default:
            default = spec.scope.at("default")
            values = default.attempt(struct.open, default.data)
            for take in self.supplied.values():
                if values is not None and isinstance(take, Slot) and take.slot >= first:
                    default.attempt(take.convert, values[take.slot - first])

    # Forms

    def _converter(self, spec: _Spec, argument: Argument) -> Encode | None:
        """The converter of a value to the argument; for a property to a variant of the type in the IDL."""
        forms = [form for form in ("type", "struct", "record", "object", "format") if form in spec.data]
        if len(forms) > 1:
            self._fail(spec, forms[1], f"'{forms[1]}' cannot be combined with '{forms[0]}'")
            return None
        convert = self._formed(spec, argument, forms[0]) if forms else self._plain(argument)
        return None if convert is None else self._for_property(convert)

    def _formed(self, spec: _Spec, argument: Argument, form: str) -> Encode | None:
        kind, scope, encoding = argument.type, spec.scope.at(form), self.encoding
        match form:
            case "type":
                return scope.attempt(self._typed, spec, kind)
            case "struct":
                fits, ignore = names_fields(scope, argument.name, kind), "unknown_members" in spec.data
                return struct_encoder(kind, scope.data, encoding, ignore=ignore, around=self._around) if fits else None
            case "record":
                found = known_class(scope, self.classes)
                if found is None or str(kind) == "a{sv}":
                    return None if found is None else found.encoder(encoding.coerce, encoding.variants, self._around)
                needs = "'record' needs a D-Bus argument of type a{sv}"
            case "object":
                check, convert = object_below(spec.subtrees), self._plain(argument)
                if kind.code in "os":
                    return lambda value: convert(check(value))
                if str(kind) in ("ao", "as"):
                    return lambda value: convert(_each(check, value))
                needs = "'object' needs a D-Bus argument of type o, s, ao or as"
            case _:
                if kind.code in MOMENTS:
                    return moment_encoder(kind, encoding(kind))
                needs = f"'format: datetime' needs a D-Bus argument of type {', '.join(MOMENTS)}"
        scope.fail(f"{needs}; {argument.name} is {kind}")
        return None

    def _typed(self, spec: _Spec, target: Type) -> Encode:
        """The converter of a legacy type; raises ValueError."""
        types, kind = self.encoding.types, parse_type(spec.data["type"])
        types.check(kind)
        if spec.is_optional:
            return types.optional(kind, target, self.encoding.coerce)
        return types.encoder(kind, target, self.encoding.coerce, self._around)

    def _plain(self, argument: Argument) -> Encode:
        return self.encoding(argument.type, self._around, argument.name)

    @property
    def _around(self) -> int:
        """The number of D-Bus containers around an argument: 1 for a property, which is sent as a variant."""
        return 0 if self.callee.accessed is None else 1

    def _for_property(self, convert: Encode) -> Encode:
        if self.callee.accessed is None:
            return convert
        signature = str(self.callee.accessed.type)
        return lambda value: Variant(signature, convert(value))

    # `args`

    def add_argument(self, named: str, scope: Scope) -> None:
        """Compile an entry of `args`: a constant, or parameters that are gathered."""
        if named not in self.ins:
            scope.fail(unknown("D-Bus argument", named, self.callee.ins, owner=self.callee.title), key=True)
        elif named in self.supplied:
            scope.fail(f"D-Bus argument '{named}' is supplied twice, by a parameter and by `args`", key=True)
        elif scope.has("gather"):
            self.supplied[named] = self._gather(self.ins[named], scope.at("gather"))
        else:
            constant = scope.at("const") if scope.has("const") else scope
            convert = self._for_property(self._plain(self.ins[named]))
            self.supplied[named] = Constant(constant.attempt(convert, constant.data))

    def _gather(self, argument: Argument, scope: Scope) -> Take:
        kind = argument.type
        if self.callee.accessed is not None:
            scope.fail("'gather' cannot set a property: use a parameter or a constant", key=True)
        elif isinstance(scope.data, dict) and kind.is_dict:
            key, value = kind.children[0].children
            entries = []
            for item in scope.items():
                name = item.path[-1]
                made = item.attempt(KEYS_IN[key.code], name)
                take = self._gathered_slot(item, value, around=2, key=str(name))
                if take is not None:
                    entries.append((made, take))
            return GatheredDict(tuple(entries))
        elif isinstance(scope.data, list) and kind.code == "(":
            if len(kind.children) == len(scope.data):
                pairs = zip(scope.items(), kind.children, strict=True)
                takes = [self._gathered_slot(item, each, around=1, key=str(item.data)) for item, each in pairs]
                return GatheredStruct(tuple(take for take in takes if take is not None))
            many = f"expected {len(kind.children)} parameters for {argument.name} ({kind}), got {len(scope.data)}"
            scope.fail(many)
        else:
            form, needed = ("mapping", "dictionary") if isinstance(scope.data, dict) else ("list", "struct")
            scope.fail(f"'gather' with a {form} needs a D-Bus {needed}; {argument.name} is {kind}")
        return Constant(None)  # a problem here is not reported as a missing argument too

    def _gathered_slot(self, scope: Scope, kind: Type, *, around: int, key: str) -> Slot | None:
        if scope.data not in self.names:
            scope.fail(unknown("parameter", scope.data, self.names))
            return None
        slot = self.names.index(scope.data)
        self.types.setdefault(slot, Argument(scope.data, kind))
        convert = self.encoding(kind, around, key)
        spec = self.specs[slot]
        if spec.has_default:
            spec.scope.at("default").attempt(convert, spec.data["default"])
        return Slot(slot, convert)

    # The plan

    def check_complete(self) -> None:
        """Every D-Bus argument is supplied."""
        for argument in self.callee.ins:
            if argument.name not in self.supplied:
                what = f"required D-Bus argument '{argument.name}' ({argument.type}) of {self.callee.title}"
                self.entry.fail(f"{what} is not supplied by any parameter", key=True)

    def plan(self) -> ArgumentPlan:
        path, callee = self._path(), self.callee
        fixed: list[Take] = []  # the first arguments of the methods of org.freedesktop.DBus.Properties
        if callee.accessed is not None or callee.record:
            fixed.append(Constant(callee.interface.name))
        if callee.accessed is not None:
            fixed.append(Constant(callee.accessed.name))
        return ArgumentPlan(
            target=callee.target,
            escapes=path.escapes,
            objects=path.objects,
            names=tuple(self.names),
            defaults=tuple(spec.data["default"] for spec in self.specs if spec.has_default),
            session=self.session in self.names,
            rest=next((spec.name for spec in self.specs if "extra" in spec.data), ""),
            structs=tuple(self.structs),
            translated={
                index: of_class(spec.legacy_class) if spec.legacy_class else whole_path(spec.subtrees)
                for index, spec in enumerate(self.specs)
                if spec.legacy_class or len(spec.subtrees) == 1
            },
            dropped=tuple(
                index
                for index, spec in enumerate(self.specs)
                # a single value, unless its default is a struct or an array
                if "drop" in spec.data and not isinstance(spec.data.get("default"), dict | list)
            ),
            surplus=self.encoding.surplus,
            arguments=(*fixed, *(self.supplied[each.name] for each in callee.ins if each.name in self.supplied)),
        )

    def describe(self, index: int, spec: _Spec) -> Parameter:
        """The parameter for help texts. Its type is the D-Bus type nearest to the value that the client passes."""
        argument = self.types.get(index)
        kind: Type | None = TEXT
        if "drop" in spec.data or "fields" in spec.data:
            kind = None
        elif argument is not None and "format" not in spec.data:
            kind = argument.type
            if spec.is_optional:
                kind = kind.children[0] if kind.code == "a" else kind
            elif {"struct", "record"} & spec.data.keys():
                kind = with_items(kind, STRUCT)
        text = str(spec.data.get("documentation", "")) or (argument.documentation if argument else "")
        text = text or (below_text(spec.subtrees) if spec.subtrees else "")
        return Parameter(spec.name, kind, required=not spec.has_default, documentation=text)


def _each(check: Callable[[Value], str], value: Value) -> Value:
    if not isinstance(value, list):
        raise MarshalError("an array of object paths", value)
    done: list[Value] = []
    for item in value:
        try:
            done.append(check(item))
        except MarshalError as error:
            raise error.at(len(done)) from None
    return done


class _Field(_Spec):
    """A member of `fields`: the name of a D-Bus argument, or a mapping with more keys."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.name = str(scope.path[-1])
        self.argument = str(self.data.get("to", self.name)) if isinstance(scope.data, Mapping) else str(scope.data)

    @property
    def name_scope(self) -> Scope:
        return self.scope.at("to") if "to" in self.data else self.scope
