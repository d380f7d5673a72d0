"""Convert between legacy values and typed D-Bus values. This is the only type check, compiled once for each type.

docs/types.md lists what is accepted. A converter raises MarshalError and nothing else, whatever the value. A value that
it accepts can be marshalled by a D-Bus library without a further check, except for its size (`body_size`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from gateway.core.dbus.scalars import (
    KEYS_IN,
    KEYS_OUT,
    LEGACY,
    STRICT,
    UNCHANGED,
    MarshalError,
    all_texts,
    byte_array,
    placed,
    refuse_file_descriptor,
    text,
)
from gateway.core.dbus.signature import BASIC, INTEGER_RANGES, Type, parse, parse_one
from gateway.core.dbus.target import Coerce, Variants
from gateway.core.rpc.model import Value

__all__ = ["MAX_DEPTH", "Decode", "Encode", "MarshalError", "Variant", "from_dbus", "same", "to_dbus"]


Encode: TypeAlias = Callable[[Value], object]  # legacy -> D-Bus
Decode: TypeAlias = Callable[[Any], Value]  # D-Bus to legacy; the library made the value, so it fits its type

# Nested arrays, structs, dict entries and variants. The specification ("Valid Signatures") allows 64, but dbus-broker
# counts the body as one of them and disconnects a sender that exceeds its limit.
MAX_DEPTH = 63
_TYPED = 'v as {"signature": ..., "value": ...}'
_TYPED_KEYS = {"signature", "value"}
_CACHED = 256  # converters kept for signatures that stand in variants: clients choose them, and one may take 100 KiB


class Variant(Struct):
    """A value with its signature; the backend converts it to its library's class. Treat it as immutable.

    Not declared frozen, which would make construction three times slower; an `a{sv}` holds many of them.
    """

    signature: str
    value: object


class _How(NamedTuple):
    coerce: Coerce
    variants: Variants


def to_dbus(kind: Type, *, coerce: Coerce = "strict", variants: Variants = "plain", around: int = 0) -> Encode:
    """Return a converter from legacy values to D-Bus values of type `kind`; it raises MarshalError only.

    A value that needs no change is returned itself, not a copy. A struct becomes a tuple, a variant a `Variant`.
    `around`: the number of containers that the caller puts around the value; they count as depth.
    """
    return _encoder(kind, _How(coerce, variants), around)


def from_dbus(kind: Type, *, variants: Variants = "plain") -> Decode:
    """Return a converter from D-Bus values to legacy values; `same` if there is nothing to convert.

    It raises MarshalError for a file descriptor and for two dict keys with the same text. A variant may be of any
    class that has `signature` and `value`.
    """
    if kind.code in BASIC:
        return refuse_file_descriptor if kind.code == "h" else same
    if kind.code == "v":
        return _untyped if variants == "plain" else _typed
    if kind.code == "(":
        fields = [from_dbus(child, variants=variants) for child in kind.children]
        return list if all(decode is same for decode in fields) else _each_field(fields)
    element = kind.children[0]
    if element.code == "y":
        return bytes
    if element.code != "{":
        decode = from_dbus(element, variants=variants)
        return same if decode is same else each_item(decode)
    key, item = element.children
    decode = from_dbus(item, variants=variants)
    if key.code in KEYS_OUT:
        return _each_entry(KEYS_OUT[key.code], decode)
    return same if decode is same else each_value(decode)


def same(value: Any) -> Any:
    """The identity converter; callers may compare with it and skip the call."""
    return value


# Legacy to D-Bus


def _encoder(kind: Type, how: _How, depth: int) -> Encode:
    """Return an encoder. `depth`: the number of containers around this one; a dictionary counts as array and entry."""
    if kind.code in BASIC:
        return (STRICT if how.coerce == "strict" else LEGACY)[kind.code]
    if depth >= MAX_DEPTH:
        return _refuse_depth
    if kind.code == "v":
        return (_plain_encoder if how.variants == "plain" else _typed_encoder)(how, depth)
    if kind.code == "(":
        return tuple_encoder(str(kind), [_encoder(child, how, depth + 1) for child in kind.children])
    element = kind.children[0]
    if element.code == "y":
        return byte_array
    if element.code != "{":
        return list_encoder(str(kind), _encoder(element, how, depth + 1), UNCHANGED.get(element.code, _unknown))
    key, item = element.children
    encode = _encoder(item, how, depth + 2) if depth + 1 < MAX_DEPTH else _refuse_depth
    entries = dict_encoder(str(kind), KEYS_IN[key.code], encode)
    if key.code != "s":
        return entries
    unchanged, values = UNCHANGED.get(item.code, _unknown), each_value(encode)

    def texts(value: Value) -> object:
        if type(value) is not dict or not all_texts(value):
            return entries(value)  # which finds the place
        return value if unchanged(value.values()) else values(value)

    return texts


@lru_cache(maxsize=_CACHED)
def _encoder_of(signature: str, how: _How, depth: int) -> Encode:
    return _encoder(parse_one(signature), how, depth)


def _refuse_depth(value: Value) -> object:
    raise MarshalError(f"at most {MAX_DEPTH} nested containers", value)


def _unknown(_values: Collection[object]) -> bool:
    return False


def list_encoder(
    expected: str, convert: Encode, unchanged: Callable[[Collection[Any]], bool] = _unknown
) -> Callable[[Value], object]:
    """Return the encoder of an array. `unchanged`: whether no item needs to be converted."""
    items = each_item(convert)

    def array(value: Value) -> object:
        if type(value) is not list:
            raise MarshalError(expected, value)
        return value if unchanged(value) else items(value)

    return array


def tuple_encoder(expected: str, converts: Sequence[Encode]) -> Encode:
    """Return the encoder of a D-Bus struct, which is an array on the legacy side."""
    fields, count = _each_field(converts), len(converts)

    def struct(value: Value) -> object:
        if type(value) is not list or len(value) != count:
            raise MarshalError(expected, value)
        return tuple(fields(value))

    return struct


def dict_encoder(expected: str, key_of: Callable[[Any], object], convert: Encode) -> Encode:
    """Return the encoder of a dictionary."""
    entries = _each_entry(key_of, convert)

    def dictionary(value: Value) -> object:
        if type(value) is not dict:
            raise MarshalError(expected, value)
        return entries(value)

    return dictionary


PLAIN: Mapping[type, str] = {bool: "b", int: "x", float: "d", str: "s", bytes: "ay", list: "av", dict: "a{sv}"}


@cache  # there are as many as depths, twice
def _plain_encoder(how: _How, depth: int) -> Encode:
    """Return the encoder of a variant whose type is inferred from the value: PLAIN, and t for an integer beyond x."""
    encoders = {kind: (code, _encoder(parse_one(code), how, depth + 1)) for kind, code in PLAIN.items()}
    _, largest = INTEGER_RANGES["x"]
    unsigned = STRICT["t"]

    def variant(value: Value) -> Variant:
        if type(value) is str:  # first, for most are texts
            return Variant("s", text(value))
        if type(value) is int and value > largest:
            return Variant("t", unsigned(value))
        known = encoders.get(type(value))
        if known is None:
            raise MarshalError("v", value)
        signature, encode = known
        return Variant(signature, encode(value))

    return variant


def _typed_encoder(how: _How, depth: int) -> Encode:
    """Return the encoder of a variant whose value names its signature."""

    def variant(value: Value) -> Variant:
        if type(value) is not dict or value.keys() != _TYPED_KEYS:
            raise MarshalError(_TYPED, value)
        signature = value["signature"]
        try:
            if type(signature) is not str:
                raise ValueError  # noqa: TRY301 - one kind of error for both
            encode = _encoder_of(signature, how, depth + 1)
        except ValueError:
            raise MarshalError("the signature of one complete type", signature).at("signature") from None
        return Variant(signature, placed("value", encode, value["value"]))

    return variant


# Variants whose types a mapping gives by their keys: `{"ipv4.address-data": aa{sv}, "*.mtu": u}`. The key of a variant
# is the keys of the dictionaries around it, joined by dots. An item of an array of variants has the key of the array
# and `[]`. A variant without a dictionary around it has the name of its argument.

_VARIANT, _ARRAY, _DICT = parse_one("v"), parse_one("av"), parse_one("a{sv}")
_encoder_of_type = lru_cache(maxsize=_CACHED)(_encoder)


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


def known_variants(
    kind: Type, known: VariantTypes, name: str, *, coerce: Coerce, variants: Variants, around: int = 0
) -> Encode:
    """Return a converter as `to_dbus` does, with the types of known keys.

    `name`: the key of a variant that no dictionary is around; `variants`: how the other variants are written.
    """
    encoder = _KnownVariants(known, name, _How(coerce, variants))
    return lambda value: encoder.encode(kind, value, "", around)


class _KnownVariants(Struct, frozen=True):
    known: VariantTypes
    name: str
    how: _How

    def encode(self, kind: Type, value: Value, key: str, depth: int) -> object:
        if not kind.has_variant or depth >= MAX_DEPTH:
            return _encoder_of_type(kind, self.how, depth)(value)
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
        if self.how.variants == "plain" and isinstance(value, list):
            return Variant("av", self.encode(_ARRAY, value, key, depth + 1))
        if self.how.variants == "plain" and isinstance(value, dict):
            return Variant("a{sv}", self.encode(_DICT, value, key, depth + 1))
        return _encoder_of_type(_VARIANT, self.how, depth)(value)

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


# D-Bus to legacy: variants


@lru_cache(maxsize=_CACHED)
def _decoder_of(signature: str, variants: Variants) -> Decode:
    return from_dbus(parse_one(signature), variants=variants)


def _untyped(variant: Any) -> Value:
    return _decoder_of(variant.signature, "plain")(variant.value)


def _typed(variant: Any) -> Value:
    value = placed("value", _decoder_of(variant.signature, "typed"), variant.value)
    return {"signature": variant.signature, "value": value}


# Items of a container, one by one; the place is computed only on an error.


def each_item(convert: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """Return a function that converts the items of an array."""

    def items(values: Any) -> list[Any]:
        done: list[Any] = []
        try:
            for item in values:
                done.append(convert(item))  # noqa: PERF401 - a comprehension would not know where it failed
        except MarshalError as error:
            error.at(len(done))
            raise
        return done

    return items


def _each_field(converts: Sequence[Callable[[Any], Any]]) -> Callable[[Any], list[Any]]:
    def fields(values: Any) -> list[Any]:
        done: list[Any] = []
        try:
            for convert, item in zip(converts, values, strict=True):
                done.append(convert(item))
        except MarshalError as error:
            error.at(len(done))
            raise
        return done

    return fields


def each_value(convert: Callable[[Any], Any]) -> Callable[[Any], dict[Any, Any]]:
    """Return a function that converts the values of a dictionary."""

    def values(entries: Any) -> dict[Any, Any]:
        done = {}
        key = ""
        try:
            for key, item in entries.items():
                done[key] = convert(item)
        except MarshalError as error:
            error.at(key)
            raise
        return done

    return values


def _each_entry(key_of: Callable[[Any], Any], convert: Callable[[Any], Any]) -> Callable[[Any], dict[Any, Any]]:
    def entries(values: Any) -> dict[Any, Any]:
        done = {}
        key = ""
        try:
            for key, item in values.items():
                done[key_of(key)] = convert(item)
        except MarshalError as error:
            error.at(key if isinstance(key, str) else str(key))
            raise
        if len(done) != len(values):
            raise MarshalError("keys that stay different", values)
        return done

    return entries


# The exact size of a marshalled body and of its arrays (D-Bus specification, "Marshaling (Wire Format)"). It is
# computed after a message was too long, to name the part that exceeds the limit.


MAX_ARRAY = 2**26  # bytes of one array's data
HEADER = 4096  # bytes that a header may take: names of 255 bytes at most, and the fixed part of an object path
MAX_MESSAGE = 2**27  # bytes of a message with its header, whatever the limits of a bus ("Message Format")

ALIGNMENT: Mapping[str, int] = {
    **dict.fromkeys("ygv", 1),
    **dict.fromkeys("nq", 2),
    **dict.fromkeys("biuhsoa", 4),
    **dict.fromkeys("xtd({", 8),
}
_FIXED = "ybnqiuxtdh"  # as long as they are aligned


def body_size(signature: str, body: Sequence[object]) -> int:
    """Return the length of the marshalled body; raises MarshalError for an argument with an array over 2^26 bytes."""
    at = 0
    for index, (kind, value) in enumerate(zip(parse(signature), body, strict=True)):
        try:
            at = _end(kind, value, at)
        except MarshalError as error:
            error.at("body", index)
            raise
    return at


def _end(kind: Type, value: Any, at: int) -> int:
    """Return the end of a value that begins at `at`, once aligned."""
    code = kind.code
    at += -at % ALIGNMENT[code]
    if code in _FIXED:
        return at + ALIGNMENT[code]
    if code in "so":
        return at + 4 + (len(value) if value.isascii() else len(value.encode())) + 1
    if code == "g":
        return at + 1 + len(value) + 1
    if code == "v":
        return _end(parse_one(value.signature), value.value, at + 1 + len(value.signature) + 1)
    if code in "({":
        for child, item in zip(kind.children, value, strict=True):
            at = _end(child, item, at)
        return at
    # Padding before the first element is not counted in the length of an array; it is always there.
    element = kind.children[0]
    start = end = at + 4 + -(at + 4) % ALIGNMENT[element.code]
    if element.code in _FIXED:
        end = start + len(value) * ALIGNMENT[element.code]
    else:
        for item in value.items() if kind.is_dict else value:
            end = _end(element, item, end)
    if end - start > MAX_ARRAY:
        raise MarshalError(f"an array of at most {MAX_ARRAY} bytes", end - start)
    return end
