"""What `compare` of a mapping file says: how two answers may differ at a place and still agree, and which are compared.

A rule is a path and one way of comparing the two values there. All rules are symmetric in control and candidate. RULES
reads them from mapping files.

Sampling (`share: 10%, at_most: 200/s`): a hash of the call and of its number among the calls of its method decides,
never the load of the moment: quiet moments are not preferred. Above `at_most` the share shrinks to what the rate of the
last second allows, so the sample stays spread over the whole second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import blake2b
from math import inf, isfinite
from typing import Any, TypeAlias

from msgspec import Struct

from gateway.core.comparison.equality import leaves_equal
from gateway.core.comparison.json_path import Pattern, parse
from gateway.core.rpc.model import Call, Value
from gateway.core.rpc.units import SECONDS

RESULT = "$"  # the root of a path into the result
FAULT = "fault"  # the root of a path into a fault: fault.code, fault.name, fault.data[1], fault.message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOLERANCE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(%|ms|s|m|h)?", re.ASCII)
_LONGEST_NUMBER = 100  # characters of a text that is read as a number
_WIDEST_INTEGER = 4096  # bits of an integer that is read as text


class Ignore(Struct, frozen=True):
    """Differences here, and inside, are counted as ignored."""


class Exact(Struct, frozen=True):
    """Compared as without a rule; overrides a later rule of `defaults` or of the file."""


class Unordered(Struct, frozen=True):
    """A list whose order has no meaning. `by`: its items are structs, identified by these members."""

    by: tuple[str, ...] = ()


class Near(Struct, frozen=True):
    """Two values that are converted to one type, and may differ by a tolerance."""

    read: Callable[[Value], Value | Fraction | None]  # None: not convertible
    kind: str  # the type in words: "a number"
    within: Fraction = Fraction(0)
    percent: bool = False  # `within` is a percentage of the larger value; otherwise absolute
    text: str = ""  # the tolerance as written in the mapping
    mixed: bool = True  # a text may be compared with a number

    def apart(self, control: Value, candidate: Value) -> str:
        """Why the two do not agree; empty when they do."""
        if type(control) is type(candidate) and leaves_equal(control, candidate):
            return ""
        if not self.mixed and isinstance(control, str) is not isinstance(candidate, str):
            return "one is text and the other is not"
        read = self.read(control), self.read(candidate)
        if None in read:
            return f"not both can be read as {self.kind}"
        one, other = read
        if isinstance(one, Fraction) and isinstance(other, Fraction):
            allowed = self.within * max(abs(one), abs(other)) / 100 if self.percent else self.within
            near = abs(one - other) <= allowed
        else:
            near = type(one) is type(other) and leaves_equal(one, other)
        if near:
            return ""
        return f"more than {self.text} apart" if self.within else f"not the same when read as {self.kind}"


How: TypeAlias = Ignore | Exact | Unordered | Near


class Rule(Struct, frozen=True):
    """One way of comparing at the places of a path."""

    path: Pattern
    how: How


class Rules(Struct, frozen=True):
    """Rules in order of precedence: of several rules for one place the first applies."""

    rules: tuple[Rule, ...] = ()

    @property
    def cost(self) -> int:
        """A rough factor by which these rules lengthen a comparison."""
        tries = any(isinstance(rule.how, Unordered) for rule in self.rules) and any(
            isinstance(rule.how, Near) for rule in self.rules
        )
        return (1 + len(self.rules)) * (16 if tries else 1)  # items may have to be tried with each other


NO_RULES = Rules()


# Conversions


def as_number(value: Value) -> Value | Fraction | None:
    """A number, or a text that is one; infinity and NaN stay as they are."""
    if isinstance(value, str):
        text, value = value.strip(), None
        if len(text) > _LONGEST_NUMBER or "_" in text:
            return None
        for kind in (int, float):
            with suppress(ValueError):
                value = kind(text) if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return Fraction(value)
    return Fraction(repr(value)) if isfinite(value) else value  # in decimal: 0.4 is exactly 0.1 more than 0.3


def as_moment(value: Value) -> Value | Fraction | None:
    """A dateTime, ISO 8601 text or Unix seconds, in Unix seconds. No zone means UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip()) if len(value) <= _LONGEST_NUMBER else None
        except ValueError:
            return as_number(value)
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return Fraction((moment - _EPOCH) // timedelta(microseconds=1), 1_000_000)
    return as_number(value)


def as_boolean(value: Value) -> Value | Fraction | None:
    """true or false; also 1 and 0, and any of these as text."""
    if isinstance(value, str):
        return _BOOLEANS.get(value.strip().lower())
    return bool(value) if isinstance(value, int) and value in (0, 1) else None


def as_text(value: Value) -> Value | Fraction | None:
    """A value that contains no others as text: numbers in decimal, `true`, `false`, ISO 8601."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= _WIDEST_INTEGER else None
    return value if isinstance(value, str) else repr(value) if isinstance(value, float) else None


_BOOLEANS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


# Name of a type in mapping files -> its conversion, and the type in words.
READINGS: Mapping[str, tuple[Callable[[Value], Value | Fraction | None], str]] = {
    "number": (as_number, "a number"),
    "boolean": (as_boolean, "true or false"),
    "text": (as_text, "text"),
}


# Reading rules


def compile_rule(entry: Mapping[str, Any]) -> Rule:
    """A rule from a mapping file; raises RuleError naming the wrong key."""
    try:
        path = parse(entry["path"], (RESULT, FAULT))
    except ValueError as error:
        raise RuleError("path", str(error)) from None
    kinds = [key for key in RULES if key in entry]
    if len(kinds) != 1 and kinds != ["tolerance", "as"]:
        given = " and ".join(kinds) or "none"
        raise RuleError("", f"expected exactly one of {', '.join(RULES)} (or tolerance and as), got {given}")
    return Rule(path, RULES[kinds[0]](entry))


class RuleError(ValueError):
    """A rule that cannot be used. `key`: the wrong key; empty for the rule as a whole."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _tolerance(entry: Mapping[str, Any]) -> How:
    """`5`, `0.5`, `1%`, `5s`."""
    match = _TOLERANCE.fullmatch(str(entry["tolerance"]))
    if match is None:
        raise RuleError("tolerance", "expected a number, a per cent or a time: 5, 0.5, 1%, 500ms, 5s")
    within, unit = Fraction(match[1]), match[2]
    if unit in SECONDS:
        if "as" in entry:
            raise RuleError("as", f"'as' does not go with a tolerance in time ({match[0]})")
        return Near(as_moment, "a moment", within * Fraction(str(SECONDS[unit])), text=match[0])
    if entry.get("as", "number") != "number":
        raise RuleError("as", f"only numbers have a tolerance: expected number, got {entry['as']}")
    return Near(*READINGS["number"], within, percent=unit == "%", text=match[0], mixed="as" in entry)


# Key of a rule in mapping files -> its reader. A test checks that the schema has the same keys.
RULES: Mapping[str, Callable[[Mapping[str, Any]], How]] = {
    "ignore": lambda _entry: Ignore(),
    "exact": lambda _entry: Exact(),
    "order": lambda _entry: Unordered(),
    "by": lambda entry: Unordered((entry["by"],) if isinstance(entry["by"], str) else tuple(entry["by"])),
    "tolerance": _tolerance,
    "as": lambda entry: Near(*READINGS[entry["as"]]),
}


# Sampling

_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)/s", re.ASCII)
_HASHED = 64  # characters of each parameter that are hashed


class Sampling(Struct, frozen=True):
    """`share`: from 0 to 1; `at_most`: calls a second."""

    share: float = 1.0
    at_most: float = inf

    def __str__(self) -> str:
        """As in the mapping: "10%, at most 200/s"."""
        return f"{self.share * 100:g}%" + (f", at most {self.at_most:g}/s" if self.at_most < inf else "")


EVERY_CALL = Sampling()


def parse_rate(text: str) -> float:
    """Calls a second: "200/s" -> 200.0; raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"expected a number of calls a second such as 200/s, got {text!r}")
    return float(match[1])


class Sampler:
    """The choice for the calls of one method."""

    def __init__(self) -> None:
        self._number = 0
        self._since = -inf
        self._calls = self._chosen = 0
        self._rate = 0.0

    def choose(self, sampling: Sampling, subject: str, call: Call, now: float) -> bool:
        """Whether to compare this call. `subject`: service and method; `now`: seconds of a monotonic clock."""
        if sampling == EVERY_CALL:
            return True
        if now - self._since >= 1:
            self._rate = self._calls / (now - self._since)
            self._since, self._calls, self._chosen = now, 0, 0
        self._number += 1
        self._calls += 1
        share = min(sampling.share, sampling.at_most / max(self._rate, self._calls))
        if self._chosen >= sampling.at_most:
            return False
        given = [str(each)[:_HASHED] for each in (*call.params, *call.named.values()) if isinstance(each, str | int)]
        hashed = "\0".join([subject, str(self._number), *given]).encode("utf-8", "surrogatepass")
        if int.from_bytes(blake2b(hashed, digest_size=8).digest(), "big") / 2**64 >= share:
            return False
        self._chosen += 1
        return True
