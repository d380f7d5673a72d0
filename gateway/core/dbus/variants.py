"""Variants whose types a mapping gives by their keys: `{"ipv4.address-data": aa{sv}, "*.mtu": u}`.

The key of a variant is the keys of the dictionaries around it, joined by dots. An item of an array of variants has the
key of the array and `[]`. A variant without a dictionary around it has the name of its argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct

from gateway.core.dbus.marshal import MAX_DEPTH, Encode, Variant, to_dbus
from gateway.core.dbus.scalars import KEYS_IN, MarshalError, placed
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Coerce, Variants
from gateway.core.rpc.model import Value

_ARRAY, _DICT = parse_one("av"), parse_one("a{sv}")


class VariantTypes(Struct, frozen=True):
    """The types of known keys, in the order of the mapping; the first that fits applies, exact ones before patterns."""

    types: Mapping[str, str]

    def find(self, key: str) -> str | None:
        """Return the signature of a key; None for a key that is not known."""
        exact = self.types.get(key)
        if exact is not None:
            return exact
        return next((signature for name, signature in self.types.items() if fnmatchcase(key, name)), None)


def variant_signature(text: str) -> str:
    """Check the type of a known key; raises ValueError."""
    kind = parse_one(text)
    if kind.code == "v" or kind.has_file_descriptor:
        raise ValueError(f"expected the type inside a variant, such as u or aa{{sv}}, got '{text}'")
    return text


def encoder(
    kind: Type, known: VariantTypes, name: str, *, coerce: Coerce, variants: Variants, around: int = 0
) -> Encode:
    """Return a converter as `marshal.to_dbus` does, with the types of known keys.

    `name`: the key of a variant that no dictionary is around; `variants`: how the other variants are written.
    """
    made = _Encoder(known, name, coerce, variants)
    return lambda value: made.encode(kind, value, "", around)


@lru_cache(maxsize=256)
def _plain(kind: Type, coerce: Coerce, variants: Variants, around: int) -> Encode:
    return to_dbus(kind, coerce=coerce, variants=variants, around=around)


class _Encoder(Struct, frozen=True):
    known: VariantTypes
    name: str
    coerce: Coerce
    variants: Variants

    def encode(self, kind: Type, value: Value, key: str, depth: int) -> object:
        if not kind.has_variant or depth >= MAX_DEPTH:
            return _plain(kind, self.coerce, self.variants, depth)(value)
        if kind.code == "v":
            return self._variant(value, key, depth)
        if kind.is_dict:
            return self._dict(kind, value, key, depth)
        if not isinstance(value, list) or (kind.code == "(" and len(value) != len(kind.children)):
            raise MarshalError(str(kind), value)
        if kind.code == "(":
            fields = zip(kind.children, value, strict=True)
            return tuple(self._item(child, item, key, depth, at) for at, (child, item) in enumerate(fields))
        item_kind = kind.children[0]
        inner = f"{key or self.name}[]" if item_kind.code == "v" else key
        return [self._item(item_kind, item, inner, depth, at) for at, item in enumerate(value)]

    def _variant(self, value: Value, key: str, depth: int) -> object:
        key = key or self.name
        signature = self.known.find(key)
        if signature is not None:
            return Variant(signature, self.encode(parse_one(signature), value, key, depth + 1))
        if self.variants == "plain" and isinstance(value, list):
            return Variant("av", self.encode(_ARRAY, value, key, depth + 1))
        if self.variants == "plain" and isinstance(value, dict):
            return Variant("a{sv}", self.encode(_DICT, value, key, depth + 1))
        return _plain(parse_one("v"), self.coerce, self.variants, depth)(value)

    def _dict(self, kind: Type, value: Value, key: str, depth: int) -> object:
        if not isinstance(value, dict):
            raise MarshalError(str(kind), value)
        key_kind, item_kind = kind.children[0].children
        made = {}
        for name, item in value.items():
            inner = f"{key}.{name}" if key else name
            made[placed(name, KEYS_IN[key_kind.code], name)] = self._item(item_kind, item, inner, depth + 1, name)
        if len(made) != len(value):
            raise MarshalError("keys that stay different", value)
        return made

    def _item(self, kind: Type, value: Value, key: str, depth: int, at: str | int) -> object:
        return placed(at, lambda item: self.encode(kind, item, key, depth + 1), value)
