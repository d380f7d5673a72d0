"""Says whether data conforms to a JSON Schema (draft 2020-12), for the keywords that this project's schemas use.

A schema is compiled to functions once. What does not conform is left to the jsonschema package, which says why: most
files conform, and then that package is not imported (tests/property/test_conforms.py holds both together).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Test: TypeAlias = Callable[[Any], bool]

_ANNOTATIONS = frozenset({"$schema", "$defs", "title", "description", "default", "examples"})
_BESIDE = frozenset({"then", "else"})  # read with "if"; "properties" is read again with "additionalProperties"


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


_TYPES: Mapping[str, Test] = {
    "string": lambda value: isinstance(value, str),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "integer": _is_integer,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def compiled(schema: Mapping[str, Any]) -> Test:
    """A function that says whether data conforms; raises LookupError for a keyword that is not known here."""
    return _Compiler(schema).test(schema)


def _always(_value: Any) -> bool:
    return True


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._made: dict[str, Test] = {}

    def test(self, schema: Mapping[str, Any] | bool) -> Test:  # noqa: FBT001 - true and false are schemas
        """The function of one schema."""
        if isinstance(schema, bool):
            return lambda _value: schema
        tests = [
            _KEYWORDS[keyword](self, wanted, schema)
            for keyword, wanted in schema.items()
            if keyword not in _ANNOTATIONS and keyword not in _BESIDE
        ]
        if len(tests) == 1:
            return tests[0]
        return lambda value: all(test(value) for test in tests)

    def reference(self, target: str, _schema: Any) -> Test:
        """The function of another place of the schema, which may refer to itself."""
        if target not in self._made:
            self._made[target] = _always  # until it is made
            found: Any = self._root
            for step in target.removeprefix("#/").split("/"):
                found = found[step]
            self._made[target] = self.test(found)
        made = self._made
        return lambda value: made[target](value)  # noqa: PLW0108 - it may be made later

    def properties(self, wanted: Mapping[str, Any], _schema: Any) -> Test:
        tests = {name: self.test(each) for name, each in wanted.items()}
        return lambda value: (
            not isinstance(value, dict) or all(tests[name](each) for name, each in value.items() if name in tests)
        )

    def additional(self, wanted: Any, schema: Mapping[str, Any]) -> Test:
        known, test = frozenset(schema.get("properties", ())), self.test(wanted)
        return lambda value: (
            not isinstance(value, dict) or all(test(each) for name, each in value.items() if name not in known)
        )

    def names(self, wanted: Any, _schema: Any) -> Test:
        test = self.test(wanted)
        return lambda value: not isinstance(value, dict) or all(map(test, value))

    def items(self, wanted: Any, _schema: Any) -> Test:
        test = self.test(wanted)
        return lambda value: not isinstance(value, list) or all(map(test, value))

    def condition(self, wanted: Any, schema: Mapping[str, Any]) -> Test:
        test, then, other = (self.test(each) for each in (wanted, schema.get("then", True), schema.get("else", True)))
        return lambda value: then(value) if test(value) else other(value)

    def some(self, wanted: Sequence[Any], _schema: Any) -> Test:
        tests = [self.test(each) for each in wanted]
        return lambda value: any(test(value) for test in tests)

    def one(self, wanted: Sequence[Any], _schema: Any) -> Test:
        tests = [self.test(each) for each in wanted]
        return lambda value: sum(test(value) for test in tests) == 1

    def negation(self, wanted: Any, _schema: Any) -> Test:
        test = self.test(wanted)
        return lambda value: not test(value)


def _type(_compiler: object, wanted: str | list[str], _schema: Any) -> Test:
    if isinstance(wanted, str):
        return _TYPES[wanted]
    tests = [_TYPES[name] for name in wanted]
    return lambda value: any(test(value) for test in tests)


def _required(_compiler: object, wanted: list[str], _schema: Any) -> Test:
    return lambda value: not isinstance(value, dict) or all(name in value for name in wanted)


def _enum(_compiler: object, wanted: list[Any], _schema: Any) -> Test:
    exact = list(map(_exactly, wanted))
    return lambda value: _exactly(value) in exact


def _pattern(_compiler: object, wanted: str, _schema: Any) -> Test:
    search = re.compile(wanted).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _exactly(value: Any) -> Any:
    """A value that equals another of JSON only when it is the same: true is not 1."""
    if isinstance(value, dict):
        return {name: _exactly(each) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(_exactly, value))
    return (isinstance(value, bool), value)


def _unique(_compiler: object, wanted: bool, _schema: Any) -> Test:  # noqa: FBT001 - the value of a keyword
    def test(value: Any) -> bool:
        if not wanted or not isinstance(value, list):
            return True
        exact = list(map(_exactly, value))
        return all(each not in exact[:at] for at, each in enumerate(exact))

    return test


def _limit(kind: type | tuple[type, ...], keeps: Callable[[Any, Any], bool]) -> Callable[[object, Any, Any], Test]:
    def made(_compiler: object, wanted: Any, _schema: Any) -> Test:
        return lambda value: not isinstance(value, kind) or isinstance(value, bool) or keeps(value, wanted)

    return made


_KEYWORDS: Mapping[str, Callable[[Any, Any, Mapping[str, Any]], Test]] = {
    "$ref": _Compiler.reference,
    "properties": _Compiler.properties,
    "additionalProperties": _Compiler.additional,
    "propertyNames": _Compiler.names,
    "items": _Compiler.items,
    "if": _Compiler.condition,
    "anyOf": _Compiler.some,
    "oneOf": _Compiler.one,
    "not": _Compiler.negation,
    "type": _type,
    "required": _required,
    "enum": _enum,
    "const": lambda compiler, wanted, schema: _enum(compiler, [wanted], schema),
    "pattern": _pattern,
    "uniqueItems": _unique,
    "minLength": _limit(str, lambda value, least: len(value) >= least),
    "minItems": _limit(list, lambda value, least: len(value) >= least),
    "minProperties": _limit(dict, lambda value, least: len(value) >= least),
    "maxProperties": _limit(dict, lambda value, most: len(value) <= most),
    "minimum": _limit((int, float), lambda value, least: value >= least),
    "maximum": _limit((int, float), lambda value, most: value <= most),
}
