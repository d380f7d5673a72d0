"""Types of legacy services for which D-Bus has no signature: options, variants, records with optional members.

In a mapping file a type is text: `string`, `bool`, `int`, `float`, `any`, `list(T)`, `dict(T)`, `tuple(A, B)`,
`option(T)`, or the name of a type in the section `types`, which is an alias, a record or a variant. Each type has one
form on D-Bus (`signature`); `encoder` converts a legacy value of the type to it.

| legacy type            | legacy value                          | D-Bus                                            |
|------------------------|---------------------------------------|--------------------------------------------------|
| list(T), dict(T)       | array, struct                         | aT, a{sT}                                        |
| tuple(A, B)            | array of this length                  | (AB)                                             |
| option(T)              | [] or [value]; as a member: may lack  | aT with no or one item; as a member: may lack    |
| record                 | struct                                | a{sv}                                            |
| variant                | tag, or [tag, payload]                | v with the tag (s), or with tag and payload (sT) |
| variant of tags alone  | tag                                   | s                                                |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from gateway.core.dbus.marshal import Encode, Variant, dict_encoder, list_encoder, to_dbus, tuple_encoder
from gateway.core.dbus.scalars import STRICT, MarshalError, absent, placed
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Coerce
from gateway.core.rpc.model import Value

# The D-Bus type of each basic type, and the others that an argument may have in its place.
BASIC: Mapping[str, tuple[str, str]] = {
    "string": ("s", "og"),
    "bool": ("b", ""),
    "int": ("x", "ynqiut"),
    "float": ("d", ""),
    "any": ("v", ""),
}
COMBINED: Mapping[str, int | None] = {"list": 1, "dict": 1, "option": 1, "tuple": None}  # number of items; None: any
_TOKEN = re.compile(r"([A-Za-z_][\w.]*|[(),])|\S")  # the group is empty for what no type holds


class LegacyType(Struct, frozen=True):
    """A parsed type: `name` is a basic type, a combination of `items`, or the name of a definition."""

    name: str
    items: tuple[LegacyType, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.items))})" if self.items else self.name


def parse_type(text: str) -> LegacyType:
    """Parse a type; raises ValueError."""
    tokens: list[str] = []
    for found in _TOKEN.finditer(text):
        if found[1] is None:
            raise ValueError(f"expected a type such as list(string), got '{text}'")
        tokens.append(found[1])
    kind, rest = _parsed(tokens, text)
    if rest:
        raise ValueError(f"expected one type, got '{text}'")
    return kind


def _parsed(tokens: list[str], text: str) -> tuple[LegacyType, list[str]]:
    if not tokens or not (tokens[0][0].isalpha() or tokens[0][0] == "_"):
        raise ValueError(f"expected a type such as list(string), got '{text}'")
    name, rest = tokens[0], tokens[1:]
    items: list[LegacyType] = []
    if rest[:1] == ["("]:
        while rest[0] != ")":
            item, rest = _parsed(rest[1:], text)
            items.append(item)
            if rest[:1] not in ([","], [")"]):
                raise ValueError(f"expected ',' or ')' after {item} in '{text}'")
        rest = rest[1:]
    wanted = COMBINED.get(name, 0)
    if bool(items) != (name in COMBINED) or (wanted is not None and len(items) != wanted):
        raise ValueError(f"'{name}' takes {'items' if wanted is None else wanted or 'no items'}, got '{text}'")
    return LegacyType(name, tuple(items)), rest


class RecordMember(Struct, frozen=True):
    """A member of a record. `has_default`: it may be absent."""

    type: LegacyType
    has_default: bool = False
    default: Value = None


class Definition(Struct, frozen=True):
    """An entry of `types`: exactly one of alias, record and variant. `default`: the tag for unknown ones."""

    alias: LegacyType | None = None
    record: Mapping[str, RecordMember] | None = None
    variant: Mapping[str, LegacyType | None] | None = None
    default: str = ""

    @property
    def types(self) -> list[LegacyType]:
        """The types that it consists of."""
        members = [member.type for member in (self.record or {}).values()]
        return [*([self.alias] if self.alias else []), *members, *(t for t in (self.variant or {}).values() if t)]


def read_definition(data: Any) -> Definition:
    """Read an entry of `types` that conforms to the schema; raises ValueError."""
    if isinstance(data, str):
        return Definition(alias=parse_type(data))
    if "record" in data:
        return Definition(record={name: _read_member(member) for name, member in data["record"].items()})
    tags = {tag: None if payload is None else parse_type(payload) for tag, payload in data["variant"].items()}
    default = data.get("default", "")
    if default and (default not in tags or tags[default] is not None):
        raise ValueError(f"the default '{default}' is not a tag without payload")
    return Definition(variant=tags, default=default)


def _read_member(data: Any) -> RecordMember:
    given = {"type": data} if isinstance(data, str) else data
    kind = parse_type(given["type"])
    return RecordMember(kind, "default" in given or kind.name == "option", given.get("default"))


class LegacyTypes(Struct):
    """The types of one mapping file."""

    definitions: Mapping[str, Definition] = field(default_factory=dict)

    def check(self, kind: LegacyType, inside: tuple[str, ...] = ()) -> None:
        """Raise ValueError for a name that is not defined, and for a type that contains itself."""
        for item in kind.items:
            self.check(item, inside)
        if kind.name in BASIC or kind.name in COMBINED:
            return
        if kind.name not in self.definitions:
            raise ValueError(f"unknown type '{kind.name}': add it to `types`")
        if kind.name in inside:
            raise ValueError(f"type '{kind.name}' contains itself")
        for part in self.definitions[kind.name].types:
            self.check(part, (*inside, kind.name))

    def signature(self, kind: LegacyType) -> str:
        """The D-Bus signature of a type that `check` accepts."""
        inner = "".join(map(self.signature, kind.items))
        match kind.name:
            case "list" | "option":
                return f"a{inner}"
            case "dict":
                return f"a{{s{inner}}}"
            case "tuple":
                return f"({inner})"
            case name if name in BASIC:
                return BASIC[name][0]
        definition = self.definitions[kind.name]
        if definition.alias is not None:
            return self.signature(definition.alias)
        if definition.variant is None:
            return "a{sv}"
        return "v" if any(definition.variant.values()) else "s"

    def encoder(self, kind: LegacyType, argument: Type, coerce: Coerce, around: int = 0) -> Encode:
        """The converter to a D-Bus type; raises ValueError where the type cannot become that D-Bus type.

        `around`: the number of containers that enclose the value.
        """
        self._require(kind, argument)
        name, items, expected = kind.name, kind.items, str(kind)
        if name in BASIC:
            return to_dbus(argument, coerce=coerce, around=around)
        if name == "dict":
            convert = self.encoder(items[0], argument.children[0].children[1], coerce, around + 2)
            return dict_encoder(expected, STRICT["s"], convert)
        if name == "tuple":
            pairs = zip(items, argument.children, strict=True)
            return tuple_encoder(expected, [self.encoder(item, child, coerce, around + 1) for item, child in pairs])
        if name in COMBINED:
            convert = self.encoder(items[0], argument.children[0], coerce, around + 1)
            return list_encoder(expected, convert) if name == "list" else _option(f"{expected}: [] or [value]", convert)
        definition = self.definitions[name]
        if definition.alias is not None:
            return self.encoder(definition.alias, argument, coerce, around)
        if definition.record is not None:
            return self._record(definition.record, coerce, around)
        return self._variant(definition, coerce, around, plain=argument.code == "s")

    def _fits(self, kind: LegacyType, argument: Type) -> bool:
        match kind.name:
            case "list" | "option":
                return argument.code == "a" and not argument.is_dict
            case "dict":
                return argument.is_dict and argument.children[0].children[0].code == "s"
            case "tuple":
                return argument.code == "(" and len(argument.children) == len(kind.items)
            case name if name in BASIC:
                own, others = BASIC[name]
                return argument.code == own or argument.code in others
        definition = self.definitions[kind.name]
        if definition.alias is not None:
            return True  # decided by what it stands for
        return str(argument) == self.signature(kind) or (definition.variant is not None and argument.code == "v")

    def _require(self, kind: LegacyType, argument: Type) -> None:
        if not self._fits(kind, argument):
            needed = self.signature(kind)
            raise ValueError(f"type {kind} needs a D-Bus argument of type {needed}, not {argument}")

    def optional(self, kind: LegacyType, argument: Type, coerce: Coerce) -> Encode:
        """For a parameter or member that may be absent: the value itself, or None for none, as no or one item."""
        self._require(kind, argument)
        convert = self.encoder(kind.items[0], argument.children[0], coerce, 1)
        return lambda value: [] if value is None else [convert(value)]

    def own(self, kind: LegacyType, coerce: Coerce, around: int = 0) -> tuple[str, Encode]:
        """The signature of a type, and the converter to it."""
        signature = self.signature(kind)
        return signature, self.encoder(kind, parse_one(signature), coerce, around)

    def _record(self, members: Mapping[str, RecordMember], coerce: Coerce, around: int) -> Encode:
        steps: list[tuple[str, RecordMember, str, Encode]] = []
        for name, member in members.items():
            item = member.type.items[0] if member.type.name == "option" else member.type
            steps.append((name, member, *self.own(item, coerce, around + 3)))
        spelled = {name.lower(): name for name in members}

        def encode(value: Value) -> object:
            if not isinstance(value, dict):
                raise MarshalError("a struct", value)
            given = {spelled.get(name.lower(), name): item for name, item in reversed(value.items())}
            made: dict[str, object] = {}
            for name, member, signature, convert in steps:
                if name not in given and not member.has_default:
                    raise absent("a member of this name").at(name)
                item = given.get(name, member.default)
                if item is None and member.has_default:
                    if member.default is None:
                        continue
                    item = member.default
                value_of = placed(name, convert, item)
                made[name] = value_of if signature == "v" else Variant(signature, value_of)
            return made

        return encode

    def _variant(self, definition: Definition, coerce: Coerce, around: int, *, plain: bool) -> Encode:
        """The converter of a variant to `v`, or to `s` where it has tags alone (`plain`)."""
        tags = definition.variant or {}
        payloads: dict[str, tuple[str, str, Encode | None]] = {}
        for tag, payload in tags.items():
            signature, convert = ("", None) if payload is None else self.own(payload, coerce, around + 2)
            payloads[tag.lower()] = tag, signature, convert
        shown = (tag if payload is None else f"[{tag}, {payload}]" for tag, payload in tags.items())
        expected = f"a variant ({', '.join(shown)})"
        default = definition.default

        def encode(value: Value) -> object:
            tag, *given = value if isinstance(value, list) and len(value) == 2 else [value]
            found = payloads.get(tag.lower()) if isinstance(tag, str) else None
            if found is None and default and isinstance(tag, str):
                found, given = (default, "", None), []
            if found is None or (found[2] is None) != (not given):
                raise MarshalError(expected, value)
            name, signature, convert = found
            if convert is None:
                return name if plain else Variant("s", name)
            return Variant(f"(s{signature})", (name, placed(1, convert, given[0])))

        return encode


def _option(expected: str, convert: Encode) -> Encode:
    items = list_encoder(expected, convert)

    def encode(value: Value) -> object:
        if isinstance(value, list) and len(value) > 1:
            raise MarshalError(expected, value)
        return items(value)

    return encode
