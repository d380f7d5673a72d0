"""Parse a D-Bus signature to a tree of types (D-Bus specification, "Type System")."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

BASIC = "ybnqiuxtdsogh"  # may be a dict key; h is a unix file descriptor
MAX_LENGTH = 255  # bytes in one signature
MAX_ARRAY_DEPTH = 32
MAX_STRUCT_DEPTH = 32  # dict entries count as structs, as sd-bus has it

# The range of each integer type (D-Bus specification, "Basic types").
INTEGER_RANGES: Mapping[str, tuple[int, int]] = {
    "y": (0, 2**8 - 1),
    "n": (-(2**15), 2**15 - 1),
    "q": (0, 2**16 - 1),
    "i": (-(2**31), 2**31 - 1),
    "u": (0, 2**32 - 1),
    "x": (-(2**63), 2**63 - 1),
    "t": (0, 2**64 - 1),
}


class Type(Struct, frozen=True):
    """One complete type. `children`: the element of an array, the fields of a struct, key and value of a dict entry."""

    code: str  # one of BASIC, "v", "a", "(" or "{"
    children: tuple[Type, ...] = ()

    def __str__(self) -> str:
        inner = "".join(map(str, self.children))
        match self.code:
            case "a":
                return "a" + inner
            case "(":
                return f"({inner})"
            case "{":
                return "{" + inner + "}"
            case _:
                return self.code

    @property
    def is_dict(self) -> bool:
        """Whether this is an array of dict entries."""
        return self.code == "a" and self.children[0].code == "{"

    @property
    def has_variant(self) -> bool:
        """Whether the type contains a variant."""
        return self.code == "v" or any(child.has_variant for child in self.children)

    @property
    def has_file_descriptor(self) -> bool:
        """Whether the type contains a file descriptor, which no legacy protocol can carry."""
        return self.code == "h" or any(child.has_file_descriptor for child in self.children)


_LEAVES: Mapping[str, Type] = {code: Type(code) for code in BASIC + "v"}


@lru_cache(maxsize=512)  # clients may choose signatures too: few enough to stay small, more than a host has
def parse(signature: str) -> tuple[Type, ...]:
    """Split a signature into its complete types; raises ValueError with the error and its place."""
    if len(signature) > MAX_LENGTH:
        raise ValueError(f"signature is {len(signature)} characters long, at most {MAX_LENGTH} are allowed")
    if not (signature.isascii() and signature.isprintable()):
        raise ValueError(f"signature {signature!a} holds a character that is not a type")
    types: list[Type] = []
    at = 0
    while at < len(signature):
        one, at = _complete(signature, at, arrays=0, structs=0)
        types.append(one)
    return tuple(types)


def parse_one(signature: str) -> Type:
    """Parse a signature of exactly one complete type (what a variant or a property has)."""
    types = parse(signature)
    if len(types) != 1:
        raise ValueError(f"expected one complete type, got {len(types)} in '{signature}'")
    return types[0]


def _complete(text: str, at: int, *, arrays: int, structs: int) -> tuple[Type, int]:
    if at >= len(text):
        raise ValueError(f"signature '{text}' ends where a type is expected")
    code = text[at]
    if code in _LEAVES:
        return _LEAVES[code], at + 1
    if code == "a":
        if arrays == MAX_ARRAY_DEPTH:
            raise ValueError(f"signature '{text}' nests more than {MAX_ARRAY_DEPTH} arrays")
        if text[at + 1 : at + 2] == "{":
            entry, at = _dict_entry(text, at + 1, arrays=arrays + 1, structs=structs)
            return Type("a", (entry,)), at
        element, at = _complete(text, at + 1, arrays=arrays + 1, structs=structs)
        return Type("a", (element,)), at
    if code == "(":
        return _struct(text, at, arrays=arrays, structs=structs)
    if code == "{":
        raise ValueError(f"signature '{text}' has a dict entry outside an array at {at}")
    raise ValueError(f"unknown type '{code}' in signature '{text}' at {at}")


def _struct(text: str, at: int, *, arrays: int, structs: int) -> tuple[Type, int]:
    if structs == MAX_STRUCT_DEPTH:
        raise ValueError(f"signature '{text}' nests more than {MAX_STRUCT_DEPTH} structs")
    fields: list[Type] = []
    at += 1
    while text[at : at + 1] != ")":
        field, at = _complete(text, at, arrays=arrays, structs=structs + 1)
        fields.append(field)
    if not fields:
        raise ValueError(f"signature '{text}' has an empty struct at {at - 1}")
    return Type("(", tuple(fields)), at + 1


def _dict_entry(text: str, at: int, *, arrays: int, structs: int) -> tuple[Type, int]:
    if structs == MAX_STRUCT_DEPTH:
        raise ValueError(f"signature '{text}' nests more than {MAX_STRUCT_DEPTH} structs")
    key, after = _complete(text, at + 1, arrays=arrays, structs=structs + 1)
    if key.code not in BASIC:
        raise ValueError(f"signature '{text}' has a dict key of type '{key}' at {at + 1}, a basic type is needed")
    value, after = _complete(text, after, arrays=arrays, structs=structs + 1)
    if text[after : after + 1] != "}":
        raise ValueError(f"signature '{text}' has a dict entry that is not closed after key and value at {after}")
    return Type("{", (key, value)), after + 1
