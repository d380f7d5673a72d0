"""How legacy values are encoded for D-Bus and decoded: `variants` of a mapping file, and types for documentation."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from gateway.core.dbus import results
from gateway.core.dbus.formats import identity_of_class
from gateway.core.dbus.introspection_xml import IdlProperty
from gateway.core.dbus.legacy_types import LegacyTypes
from gateway.core.dbus.marshal import Encode, VariantTypes, known_variants, to_dbus, variant_signature
from gateway.core.dbus.object_paths import Escape
from gateway.core.dbus.results import RecordKey
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Coerce, Variants
from gateway.mapping.load import Scope

# The type of a legacy value in documentation, as the D-Bus type nearest to it.
TEXT = parse_one("s")
STRUCT = parse_one("a{sv}")


class Encoding(Struct, frozen=True):
    """How legacy values are encoded."""

    coerce: Coerce
    variants: Variants
    escape: Escape = "systemd"  # of parameters in the object path
    variant_types: VariantTypes | None = None  # of variants by their keys
    types: LegacyTypes = field(default_factory=LegacyTypes)  # those of the file
    surplus: bool = False  # parameters that a method does not have are ignored

    def __call__(self, kind: Type, around: int = 0, name: str = "") -> Encode:
        """The encoder of a type. `around`: the number of D-Bus containers that enclose the value; `name`: its key."""
        if self.variant_types is not None and kind.has_variant:
            return known_variants(
                kind, self.variant_types, name, coerce=self.coerce, variants=self.variants, around=around
            )
        return to_dbus(kind, coerce=self.coerce, variants=self.variants, around=around)


class Directions(Struct, frozen=True):
    """`variants` of a mapping file, for what the client sends and what it receives."""

    sent: Variants = "plain"
    received: Variants = "plain"
    types: VariantTypes | None = None

    @classmethod
    def of(cls, data: object) -> Directions:
        """A word for both directions, the types of known keys, or {in, out}."""
        if not isinstance(data, Mapping):
            return cls("typed", "typed") if data == "typed" else cls()
        parts = data if _is_directed(data) else {"in": data}
        sent, received = parts.get("in", "plain"), parts.get("out", "plain")
        types = VariantTypes(sent) if isinstance(sent, Mapping) else None
        return cls("typed" if sent == "typed" else "plain", "typed" if received == "typed" else "plain", types)

    @staticmethod
    def check(scope: Scope) -> bool:
        """Report invalid types of known keys. Returns whether there are any."""
        types = scope.at("in") if _is_directed(scope.data) else scope
        if not isinstance(types.data, Mapping):
            return False
        for key, signature in types.data.items():
            types.at(key).attempt(variant_signature, signature, level="schema")
        return True


def _is_directed(data: object) -> bool:
    return isinstance(data, Mapping) and data.keys() <= {"in", "out"}


def record_key(key: IdlProperty | str, escape: Escape, variants: Variants, legacy_class: str = "") -> RecordKey:
    """The function that gives the key of a record: "path", "element", or a property, which may be that of a class."""
    if key == "path":
        return results.path_key
    if isinstance(key, str):
        return results.element_key if escape == "systemd" else results.plain_element_key
    show = identity_of_class(legacy_class) if legacy_class else None
    return results.property_key(key.name, results.then(results.property_decoder(key.type, variants), show))


def innermost(kind: Type) -> Type:
    """The innermost item of nested arrays and dictionaries."""
    while kind.code == "a":
        kind = kind.children[0].children[1] if kind.is_dict else kind.children[0]
    return kind


def names_fields(struct: Scope, name: str, kind: Type | None) -> bool:
    """Whether `struct` names the fields of the struct in a type; a problem is reported. `kind`: None in a variant."""
    inner = innermost(kind) if kind is not None else None
    if inner is None or inner.code != "(":
        needs = "'struct' needs a struct, or an array or dictionary of structs"
        struct.fail(f"{needs}; {name} is {kind or 'v'}")
        return False
    if len(inner.children) != len(struct.data):
        struct.fail(f"expected {len(inner.children)} field names for {name} ({kind}), got {len(struct.data)}")
        return False
    return True


def with_items(kind: Type, item: Type) -> Type:
    """The type with its innermost item replaced: the same arrays and dictionaries around another item."""
    if kind.code != "a":
        return item
    if not kind.is_dict:
        return Type("a", (with_items(kind.children[0], item),))
    key, value = kind.children[0].children
    return Type("a", (Type("{", (key, with_items(value, item))),))
