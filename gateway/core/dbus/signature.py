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
        return {"a": f"a{inner}", "(": f"({inner})", "{": f"{{{inner}}}"}.get(self.code, self.code)

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
        one, at = _complete(signature, at, 0, 0)
        types.append(one)
    return tuple(types)


def parse_one(signature: str) -> Type:
    """Parse a signature of exactly one complete type (what a variant or a property has)."""
    types = parse(signature)
    if len(types) != 1:
        raise ValueError(f"expected one complete type, got {len(types)} in '{signature}'")
    return types[0]


def _complete(text: str, at: int, arrays: int, structs: int) -> tuple[Type, int]:
    """Parse the type that begins at `at` within so many arrays and structs; returns its end too."""
    code = text[at : at + 1]
    if not code:
        raise ValueError(f"signature '{text}' ends where a type is expected")
    if code in _LEAVES:
        return _LEAVES[code], at + 1
    if code == "a":
        if arrays == MAX_ARRAY_DEPTH:
            raise ValueError(f"signature '{text}' nests more than {MAX_ARRAY_DEPTH} arrays")
        inside = _dict_entry if text.startswith("{", at + 1) else _complete
        element, after = inside(text, at + 1, arrays + 1, structs)
        return Type("a", (element,)), after
    if code == "{":
        raise ValueError(f"signature '{text}' has a dict entry outside an array at {at}")
    if code != "(":
        raise ValueError(f"unknown type '{code}' in signature '{text}' at {at}")
    if structs == MAX_STRUCT_DEPTH:
        raise ValueError(f"signature '{text}' nests more than {MAX_STRUCT_DEPTH} structs")
    fields: list[Type] = []
    after = at + 1
    while not text.startswith(")", after):
        field, after = _complete(text, after, arrays, structs + 1)
        fields.append(field)
    if not fields:
        raise ValueError(f"signature '{text}' has an empty struct at {at}")
    return Type("(", tuple(fields)), after + 1


def _dict_entry(text: str, at: int, arrays: int, structs: int) -> tuple[Type, int]:
    if structs == MAX_STRUCT_DEPTH:
        raise ValueError(f"signature '{text}' nests more than {MAX_STRUCT_DEPTH} structs")
    key, after = _complete(text, at + 1, arrays, structs + 1)
    if key.code not in BASIC:
        raise ValueError(f"signature '{text}' has a dict key of type '{key}' at {at + 1}, a basic type is needed")
    value, after = _complete(text, after, arrays, structs + 1)
    if not text.startswith("}", after):
        raise ValueError(f"signature '{text}' has a dict entry that is not closed after key and value at {after}")
    return Type("{", (key, value)), after + 1
