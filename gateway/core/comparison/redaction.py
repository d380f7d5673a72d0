"""What of a call and its outcome is secret, and how it is left out of all that is kept. Knows no file and no store.

A secret is replaced where a path says that it stands, `{"$redacted": "text"}`, and wherever else its text turns up.
A parameter or a member whose name says that it is secret (`is_secret`) needs no path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeAlias

from msgspec.structs import replace

from gateway.core.comparison import json_path
from gateway.core.comparison.compare import Comparison, Difference
from gateway.core.comparison.equality import MISSING, Found
from gateway.core.comparison.json_path import Cursor, Pattern, Place
from gateway.core.comparison.rules import RESULT
from gateway.core.rpc.model import Call, Fault, Outcome, Reply, Value

PARAMS, NAMED, RESULT_OF, FAULT_OF = "params", "named", "result", "fault"
ROOTS = (PARAMS, NAMED, RESULT_OF, FAULT_OF)  # what the first step of a redact's path may be
REDACTED = "$redacted"  # the one member of what stands where a secret stood; it says of what type that was
HIDDEN = "(redacted)"  # stands for a secret inside another text

SHORTEST_INSIDE = 6  # characters of a secret that is looked for inside other texts; a shorter one would hide too much
MOST_INSIDE = 100  # secrets of one call that are looked for inside other texts

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
_Going: TypeAlias = "Cursor[bool]"


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """The secrets of one method. `parameters`: their names, for a path holds for a parameter however it is given."""

    patterns: tuple[Pattern, ...] = ()
    parameters: tuple[str, ...] = ()


NO_REDACTION: Final = RedactionRules()


class Redaction:
    """Takes the secrets out of one call, its outcomes and what came of comparing them; made of all of these."""

    def __init__(self, redactions: RedactionRules, call: Call, *outcomes: Outcome) -> None:
        self._masks = redactions
        self._going = json_path.start_cursor((pattern, True) for pattern in redactions.patterns)
        self._secrets = _Secrets()
        self._hidden_call(call)
        for outcome in outcomes:
            self._hidden_outcome(outcome)
        if call.extensions.get("login") and any(isinstance(outcome, Fault) for outcome in outcomes):
            self._secrets.remember(str(call.extensions.get("user", "")))  # people type passwords there

    def call(self, call: Call) -> Call:
        """The call, or a shorter form of it; without its extensions, since headers hold secrets too."""
        hidden = self._hidden_call(call)
        params = tuple(self._secrets.scrub(value) for value in hidden.params)
        named = {self._secrets.text(name): self._secrets.scrub(value) for name, value in hidden.named.items()}
        return Call(call.method, params, named, call.oneway, call.peer)

    def outcome(self, outcome: Outcome) -> Outcome:
        """One of the outcomes that this was made of, or a shorter form of it."""
        hidden, secrets = self._hidden_outcome(outcome), self._secrets
        if isinstance(hidden, Reply):
            return Reply(secrets.scrub(hidden.value))
        name, message = secrets.text(hidden.name), secrets.text(hidden.message)
        return Fault(hidden.code, message, name, secrets.scrub(hidden.data))

    def comparison(self, comparison: Comparison) -> Comparison:
        """What came of comparing those outcomes."""
        differences, ignored, noisy = (
            tuple(self._difference(each) for each in kind)
            for kind in (comparison.differences, comparison.ignored, comparison.noisy)
        )
        return Comparison(comparison.verdict, differences, ignored, noisy, comparison.more)

    def _difference(self, difference: Difference) -> Difference:
        root = difference.path.startswith(RESULT)
        going = json_path.advance_cursor(self._going, RESULT_OF if root else FAULT_OF)
        for step in difference.place:
            going = _WHOLE if isinstance(step, str) and is_secret(step) else _inside(going, step)
        place = tuple(self._secrets.text(step) if isinstance(step, str) else step for step in difference.place)
        return Difference(
            json_path.show(place, difference.path[: 1 if root else len(FAULT_OF)]),
            self._hidden_found(difference.control, going),
            self._hidden_found(difference.candidate, going),
            self._secrets.text(difference.why),
            place,
        )

    def _hidden_found(self, value: Found, going: _Going) -> Found:
        return MISSING if value is MISSING else self._secrets.scrub(self._secrets.hide(value, going))

    def _hidden_call(self, call: Call) -> Call:
        """A path names a parameter by its position or its name, and holds for it whichever way it comes."""
        by_position, by_name = (
            json_path.advance_cursor(self._going, PARAMS),
            json_path.advance_cursor(self._going, NAMED),
        )
        indexes = {name: index for index, name in enumerate(self._masks.parameters)}
        free = [name for name in self._masks.parameters if name not in call.named]
        entries = _entries({**dict(zip(free, call.params, strict=False)), **call.named})
        params = []
        for index, value in enumerate(call.params):
            going = _inside(by_position, index)
            if index < len(free):
                going += _inside(by_name, free[index]) + _inside(by_position, indexes[free[index]])
                going = _WHOLE if free[index] in entries else going
            params.append(self._secrets.hide(value, going))
        named = {}
        for name, value in call.named.items():
            going = _inside(by_name, name)
            going += _inside(by_position, indexes[name]) if name in indexes else ()
            going = _WHOLE if name in entries else going
            named[name] = self._secrets.hide(value, going)
        return replace(call, params=tuple(params), named=named)

    def _hidden_outcome(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Reply):
            return Reply(self._secrets.hide(outcome.value, json_path.advance_cursor(self._going, RESULT_OF)))
        going = json_path.advance_cursor(self._going, FAULT_OF)
        name = self._secrets.hide(outcome.name, _inside(going, "name"))
        message = self._secrets.hide(outcome.message, _inside(going, "message"))
        data = self._secrets.hide(outcome.data, _inside(going, "data"))
        return Fault(outcome.code, _words(message), _words(name), data)


def _inside(going: _Going, step: str | int) -> _Going:
    """One step further in; all that is inside a secret is one."""
    return _WHOLE if json_path.cursor_value(going) is not None else json_path.advance_cursor(going, step)


def masked_call(redactions: RedactionRules, call: Call) -> Call:
    """A call without its secrets, where nothing else is kept."""
    return Redaction(redactions, call).call(call)


def parse(text: str) -> Pattern:
    """The path of a redact; raises ValueError saying what is expected."""
    pattern = json_path.parse(text)
    first = pattern.steps[0] if pattern.steps else None
    if first is None or (not isinstance(first, json_path.Below) and first not in ROOTS):
        known = ", ".join(f"$.{root}" for root in ROOTS)
        raise ValueError(f"expected a path that begins with {known} or $..name, got {text!a}")
    return pattern


def named(parameter: str) -> Pattern:
    """The path of a parameter."""
    place: Place = (NAMED, parameter)
    return json_path.parse(json_path.show(place))


def marker(value: Value) -> Value:
    """What stands where a secret of this type stood."""
    return {REDACTED: _KINDS.get(type(value), "value")}


_WHOLE: _Going = (((), True),)  # arrived: all of a value


# A word of a name (as `chap_password`, `chapPassword` and `chap-password` have two) that says: this is secret.
_WORD = re.compile(
    r"(.*(password|passwd|passphrase|secret|credentials?)s?|pwd|psk|tokens?"
    r"|chap(user|username|name)?|(api|private|secret|access|encryption)key)"
)
_KEYS = frozenset({"access", "api", "auth", "encryption", "private", "secret", "shared", "signing", "ssh"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """Whether a parameter or member of this name holds a secret.

    A `key` is one where the word before says of what kind (`private_key`, `api-key`); the key of a map is none.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(_WORD.fullmatch(word) for word in words):
        return True
    return any(words[at] in _KEYS and words[at + 1] in ("key", "keys") for at in range(len(words) - 1))


def _entries(members: Mapping[str, Value]) -> Collection[str]:
    """The names of secret members; of one entry of a map (`key: password, value: ...`) the value is one."""
    secret = {name for name in members if is_secret(name)}
    said = members.get("key", members.get("name"))
    return secret | {"value"} if "value" in members and isinstance(said, str) and is_secret(said) else secret


class _Secrets:
    """The texts that were hidden, to be found again where no path says so: an error repeats a session, say."""

    def __init__(self) -> None:
        self._whole: set[str | bytes] = set()  # secret where they are all of a text
        self._inside: dict[str, None] = {}  # secret also as a part of one

    def hide(self, value: Value, going: _Going) -> Value:
        """The value with markers where paths lead, and where a name says so."""
        if going and json_path.cursor_value(going) is not None:
            self.remember(value)
            return marker(value)
        if isinstance(value, list):
            return [self.hide(item, json_path.advance_cursor(going, index)) for index, item in enumerate(value)]
        if isinstance(value, dict):
            entries = _entries(value)
            return {
                name: self.hide(item, _WHOLE if name in entries else json_path.advance_cursor(going, name))
                for name, item in value.items()
            }
        return value

    def scrub(self, value: Value) -> Value:
        """The value without the texts that were hidden anywhere."""
        if not self._whole:
            return value
        if isinstance(value, str):
            return marker(value) if value in self._whole else self.text(value)
        if isinstance(value, bytes):
            return marker(value) if value in self._whole or self._holds_one(value) else value
        if isinstance(value, list):
            return [self.scrub(item) for item in value]
        if isinstance(value, dict) and not _is_marker(value):
            return {self.text(name): self.scrub(item) for name, item in value.items()}
        return value

    def text(self, text: str) -> str:
        """A text that has to stay one."""
        if text in self._whole:
            return HIDDEN
        for secret in self._inside:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def _holds_one(self, value: bytes) -> bool:
        return any(secret.encode("utf-8", "surrogatepass") in value for secret in self._inside)

    def remember(self, value: Value) -> None:
        """These texts are secret wherever they turn up."""
        if isinstance(value, str | bytes) and value:
            self._whole.add(value)
        long = [text for text in _texts(value) if len(text) >= SHORTEST_INSIDE]
        self._whole.update(long)
        for text in long[: MOST_INSIDE - len(self._inside)]:
            self._inside[text] = None
        self._inside = dict.fromkeys(sorted(self._inside, key=len, reverse=True))  # a longer one may hold a shorter


def _texts(value: Value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _is_marker(value: Value) -> bool:
    return isinstance(value, dict) and value.keys() == {REDACTED} and value[REDACTED] in _KINDS.values()


def _words(value: Value) -> str:
    return value if isinstance(value, str) else HIDDEN
