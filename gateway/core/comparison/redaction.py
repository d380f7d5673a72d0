"""Redaction: the secrets of a call and its outcomes are replaced before anything is kept.

A value is secret if a `redact:` path of the mapping leads to it, or if its name says so (`is_secret`). It is replaced
by a marker such as `{"$redacted": "text"}`. The text of a secret is also replaced wherever it occurs elsewhere in the
call or its outcomes, for example in an error message.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.comparison import json_path
from gateway.core.comparison.compare import Comparison, Difference
from gateway.core.comparison.equality import MISSING
from gateway.core.comparison.json_path import Cursor, Pattern, Place
from gateway.core.comparison.rules import RESULT
from gateway.core.rpc.model import Call, Fault, Outcome, Reply, Value

PARAMS, NAMED, RESULT_OF, FAULT_OF = "params", "named", "result", "fault"
ROOTS = (PARAMS, NAMED, RESULT_OF, FAULT_OF)  # the first step of a `redact:` path
REDACTED = "$redacted"  # the one member of a marker; its value names the type of the secret
HIDDEN = "(redacted)"  # replaces a secret inside another text

SHORTEST_INSIDE = 6  # characters; a shorter secret is not searched inside other texts: it would hide too much
MOST_INSIDE = 100  # secrets of one call that are searched inside other texts

_KINDS: Mapping[type, str] = {
    type(None): "nil",
    bool: "boolean",
    int: "integer",
    float: "double",
    str: "text",
    bytes: "bytes",
    datetime: "dateTime",
    list: "list",
    dict: "struct",
}
_Cursor: TypeAlias = "Cursor[bool]"


class RedactionRules(Struct, frozen=True):
    """The secrets of one method. `parameters`: names in order; a path means a parameter by name and by position."""

    patterns: tuple[Pattern, ...] = ()
    parameters: tuple[str, ...] = ()


NO_REDACTION: Final = RedactionRules()


class Redaction:
    """Removes the secrets of one call from the call, its outcomes and their comparison; created with all outcomes."""

    def __init__(self, redactions: RedactionRules, call: Call, *outcomes: Outcome) -> None:
        self._rules = redactions
        self._cursor = json_path.start_cursor((pattern, True) for pattern in redactions.patterns)
        self._whole: set[str | bytes] = set()  # texts of secrets that are hidden where they are a whole text
        self._parts: dict[str, None] = {}  # and those that are hidden inside a text too
        self._hidden_call(call)
        for outcome in outcomes:
            self._hidden_outcome(outcome)
        if call.extensions.get("login") and any(isinstance(outcome, Fault) for outcome in outcomes):
            self._remember(str(call.extensions.get("user", "")))  # people type passwords into this field

    def call(self, call: Call) -> Call:
        """The call, or a shortened form of it, without its extensions: headers contain secrets too."""
        hidden = self._hidden_call(call)
        params = tuple(self._scrub(value) for value in hidden.params)
        named = {self._text(name): self._scrub(value) for name, value in hidden.named.items()}
        return Call(call.method, params, named, call.oneway, call.peer)

    def outcome(self, outcome: Outcome) -> Outcome:
        """One of the outcomes given at creation, or a shortened form of it."""
        hidden = self._hidden_outcome(outcome)
        if isinstance(hidden, Reply):
            return Reply(self._scrub(hidden.value))
        name, message = self._text(hidden.name), self._text(hidden.message)
        return Fault(hidden.code, message, name, self._scrub(hidden.data))

    def comparison(self, comparison: Comparison) -> Comparison:
        """The comparison of these outcomes."""
        differences, ignored, noisy = (
            tuple(self._difference(each) for each in kind)
            for kind in (comparison.differences, comparison.ignored, comparison.noisy)
        )
        return Comparison(comparison.verdict, differences, ignored, noisy, comparison.more)

    def _difference(self, difference: Difference) -> Difference:
        cursor = json_path.advance_cursor(self._cursor, RESULT_OF if difference.root == RESULT else FAULT_OF)
        for step in difference.place:
            cursor = _WHOLE if isinstance(step, str) and is_secret(step) else _inside(cursor, step)
        place = tuple(self._text(step) if isinstance(step, str) else step for step in difference.place)
        control, candidate = (
            found if found is MISSING else self._scrub(self._hide(found, cursor))
            for found in (difference.control, difference.candidate)
        )
        path = json_path.show(place, difference.root)
        return Difference(path, control, candidate, self._text(difference.why), place)

    def _hidden_call(self, call: Call) -> Call:
        """A path means a parameter by position or by name, however the client passes it."""
        by_position, by_name = (json_path.advance_cursor(self._cursor, root) for root in (PARAMS, NAMED))
        parameters = self._rules.parameters
        free = [name for name in parameters if name not in call.named]
        entries = _entries({**dict(zip(free, call.params, strict=False)), **call.named})

        def hide(value: Value, name: str, *cursors: _Cursor) -> Value:
            return self._hide(value, _WHOLE if name in entries else sum(cursors, ()))

        params = []
        for index, value in enumerate(call.params):
            given, name = _inside(by_position, index), free[index] if index < len(free) else ""
            if name:
                at = _inside(by_position, parameters.index(name))
                params.append(hide(value, name, given, _inside(by_name, name), at))
            else:
                params.append(self._hide(value, given))
        named = {}
        for name, value in call.named.items():
            at = _inside(by_position, parameters.index(name)) if name in parameters else ()
            named[name] = hide(value, name, _inside(by_name, name), at)
        return replace(call, params=tuple(params), named=named)

    def _hidden_outcome(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Reply):
            return Reply(self._hide(outcome.value, json_path.advance_cursor(self._cursor, RESULT_OF)))
        cursor = json_path.advance_cursor(self._cursor, FAULT_OF)
        name, message, data = (
            self._hide(value, _inside(cursor, member))
            for member, value in (("name", outcome.name), ("message", outcome.message), ("data", outcome.data))
        )
        name, message = (text if isinstance(text, str) else HIDDEN for text in (name, message))
        return Fault(outcome.code, message, name, data)

    def _hide(self, value: Value, cursor: _Cursor) -> Value:
        """The value with markers in place of its secrets."""
        if cursor and json_path.cursor_value(cursor) is not None:
            self._remember(value)
            return marker(value)
        if isinstance(value, list):
            return [self._hide(item, json_path.advance_cursor(cursor, index)) for index, item in enumerate(value)]
        if isinstance(value, dict):
            entries = _entries(value)
            return {
                name: self._hide(item, _WHOLE if name in entries else json_path.advance_cursor(cursor, name))
                for name, item in value.items()
            }
        return value

    def _scrub(self, value: Value) -> Value:
        """The value without the texts of hidden secrets."""
        if not self._whole:
            return value
        if isinstance(value, str):
            return marker(value) if value in self._whole else self._text(value)
        if isinstance(value, bytes):
            inside = any(secret.encode("utf-8", "surrogatepass") in value for secret in self._parts)
            return marker(value) if inside or value in self._whole else value
        if isinstance(value, list):
            return [self._scrub(item) for item in value]
        if isinstance(value, dict) and not _is_marker(value):
            return {self._text(name): self._scrub(item) for name, item in value.items()}
        return value

    def _text(self, text: str) -> str:
        """The same for a value that has to stay a text."""
        if text in self._whole:
            return HIDDEN
        for secret in self._parts:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def _remember(self, value: Value) -> None:
        """Treat these texts as secrets everywhere: they may occur where no path leads, as a session in an error."""
        if isinstance(value, str | bytes) and value:
            self._whole.add(value)
        long = [text for text in _texts(value) if len(text) >= SHORTEST_INSIDE]
        self._whole.update(long)
        for text in long[: MOST_INSIDE - len(self._parts)]:
            self._parts[text] = None
        # A longer one may contain a shorter one.
        self._parts = dict.fromkeys(sorted(self._parts, key=len, reverse=True))


def _inside(cursor: _Cursor, step: str | int) -> _Cursor:
    """One step further in; everything inside a secret is secret."""
    return _WHOLE if json_path.cursor_value(cursor) is not None else json_path.advance_cursor(cursor, step)


def parse(text: str) -> Pattern:
    """Read a `redact:` path; raises ValueError saying what is expected."""
    pattern = json_path.parse(text)
    first = pattern.steps[0] if pattern.steps else None
    if first is None or (not isinstance(first, json_path.Below) and first not in ROOTS):
        known = ", ".join(f"$.{root}" for root in ROOTS)
        raise ValueError(f"expected a path that begins with {known} or $..name, got {text!a}")
    return pattern


def named(parameter: str) -> Pattern:
    """The path of the parameter with this name."""
    place: Place = (NAMED, parameter)
    return json_path.parse(json_path.show(place))


def marker(value: Value) -> Value:
    """The marker that replaces a secret of this type."""
    return {REDACTED: _KINDS.get(type(value), "value")}


_WHOLE: _Cursor = (((), True),)  # a cursor at its end: the whole value


# A word that marks a name as secret; `chap_password`, `chapPassword` and `chap-password` have two words.
_WORD = re.compile(
    r"(.*(password|passwd|passphrase|secret|credentials?)s?|pwd|psk|tokens?"
    r"|chap(user|username|name)?|(api|private|secret|access|encryption)key)"
)
_KEYS = frozenset({"access", "api", "auth", "encryption", "private", "secret", "shared", "signing", "ssh"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """Whether a parameter or member of this name is a secret.

    A `key` is secret when the word before it names its kind (`private_key`, `api-key`); a plain `key` is not.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(_WORD.fullmatch(word) for word in words):
        return True
    return any(words[at] in _KEYS and words[at + 1] in ("key", "keys") for at in range(len(words) - 1))


def _entries(members: Mapping[str, Value]) -> Collection[str]:
    """The names of secret members; in a map entry (`key: password, value: ...`) the member `value` is secret."""
    secret = {name for name in members if is_secret(name)}
    entry = members.get("key", members.get("name"))
    return secret | {"value"} if "value" in members and isinstance(entry, str) and is_secret(entry) else secret


def _texts(value: Value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _is_marker(value: Value) -> bool:
    return isinstance(value, dict) and value.keys() == {REDACTED} and value[REDACTED] in _KINDS.values()
