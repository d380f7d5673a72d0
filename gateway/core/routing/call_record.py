"""Recorded calls as lines of JSON without their secrets: written, read again, and completed with secrets for a replay.

    {"recording": 1, "version", "revision", "when", "methods", "writes"}                         the first line
    {"when", "listener", "path", "codec", "service", "method", "effect", "params", "named",      one for each call
     "side", "seconds", "reply": VALUE | "fault": {"code", "name", "message", "data"}}
    {"end": WHY, "calls", "seconds", "no_room", "too_large"}                                     the last line

Moments are seconds since 1970; values are written by `serialization`. Outcomes are shortened, parameters are not.

The place of a secret is a parameter's name and the path inside it: "session", "config.password". Its value is given by
that name, or for one method alone by "SR.create:config.password".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

from gateway.core.comparison import json_path
from gateway.core.comparison.compare import fault_members
from gateway.core.comparison.json_path import Place
from gateway.core.comparison.redaction import HIDDEN, REDACTED, Redaction
from gateway.core.comparison.serialization import LEFT_OUT, Json, read, shorten, write
from gateway.core.migration.modes import Side
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Outcome, Reply, Value

FORMAT: Final = 1
LARGEST: Final = 64 * 1024  # bytes in memory, about, of the parameters or the outcome of a recorded call
DEEPEST: Final = 200  # lists and structs inside each other in a line; listeners accept fewer

UNKEPT: Final = Reply({LEFT_OUT: f"an answer of more than {LARGEST} bytes"})  # in place of an outcome that is too large


class RecordedCall(Struct, frozen=True):
    """An answered call with all its secrets. `view`: converts the outcome to what the client sees."""

    listener: str
    path: str
    codec: str
    route: Route
    call: Call
    outcome: Outcome
    side: Side
    seconds: float
    view: Callable[[Outcome], Outcome] | None = None  # None: the outcome is as the client sees it


class ReadRecord(Struct, frozen=True):
    """A recorded call that was read; it can be made again once its secrets are given."""

    listener: str
    path: str
    codec: str
    service: str
    method: str  # the name that the client used
    effect: str = Effect.READ.value  # by the mapping at that time
    params: tuple[Value, ...] = ()
    named: Mapping[str, Value] = field(default_factory=dict)


def is_harmless(route: Route) -> bool:
    """Whether a call may run again: it is a read, or the mapping says that running it twice does no harm."""
    return route.effect is Effect.READ or route.migration.may_shadow


# Writing


def header(version: str, revision: str, when: float, methods: Sequence[str], *, writes: bool) -> bytes:
    """The first line."""
    what: dict[str, Json] = {"recording": FORMAT, "version": version, "revision": revision, "when": round(when, 3)}
    return _line({**what, "methods": list(methods), "writes": writes})


def line(recorded_call: RecordedCall, when: float) -> bytes:
    """One call without its secrets."""
    outcome = recorded_call.outcome if recorded_call.view is None else recorded_call.view(recorded_call.outcome)
    redaction = Redaction(recorded_call.route.migration.redact, recorded_call.call, outcome)
    call, ended = redaction.call(recorded_call.call), redaction.outcome(outcome)
    kind, answer = ("reply", ended.value) if isinstance(ended, Reply) else ("fault", fault_members(ended))
    return _line(
        {
            "when": round(when, 3),
            "listener": recorded_call.listener,
            "path": recorded_call.path,
            "codec": recorded_call.codec,
            "service": recorded_call.route.service,
            "method": call.method,
            "effect": recorded_call.route.effect.value,
            "params": write(list(call.params)),
            "named": write(dict(call.named)),
            "side": recorded_call.side.value,
            "seconds": round(recorded_call.seconds, 6),
            kind: write(shorten(answer)),
        }
    )


def end(why: str, calls: int, seconds: float, no_room: int, too_large: int) -> bytes:
    """The last line."""
    counts = {"calls": calls, "seconds": round(seconds, 3), "no_room": no_room, "too_large": too_large}
    return _line({"end": why, **counts})


def _line(document: Mapping[str, Json]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def weigh(values: Iterable[Value], most: int) -> int:
    """About how many bytes of memory the values take; stops counting above `most`."""
    waiting, weight = list(values), 0
    while waiting and weight <= most:
        value = waiting.pop()
        weight += 16
        if isinstance(value, str | bytes):
            weight += len(value)
        elif isinstance(value, list):
            waiting += value
            weight += 8 * len(value)
        elif isinstance(value, dict):
            waiting += value.values()
            weight += sum(map(len, value)) + 8 * len(value)
        elif isinstance(value, int):
            weight += value.bit_length() // 8
    return weight


def inside(outcome: Outcome) -> Sequence[Value]:
    """The values in an outcome, for `weigh`."""
    return [outcome.value] if isinstance(outcome, Reply) else [outcome.message, outcome.name, outcome.data]


# Reading


def parse(text: bytes | str) -> Mapping[str, Any]:
    """One line of a recording; raises ValueError saying what is wrong."""

    def refuse_constant(constant: str) -> None:
        raise ValueError(f"is not JSON: {constant}")

    try:
        decoded = text if isinstance(text, str) else text.decode()
        document = json.loads(decoded, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("lists and structs are nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}") from error
    if not isinstance(document, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - one kind of error for a reader
    if "recording" in document:
        if document["recording"] != FORMAT:
            raise ValueError(f"unknown recording format {document['recording']!r}; expected {FORMAT}")
    elif "end" not in document:
        recorded(document)
    return document


def recorded(document: object) -> ReadRecord:
    """The call of a line; raises ValueError naming the member."""
    if not isinstance(document, Mapping):
        raise ValueError("expected an object")  # noqa: TRY004
    for name, (kind, words) in _MEMBERS.items():
        if name not in document and name not in _OPTIONAL:
            raise ValueError(f"'{name}' is missing")
        if name in document and not isinstance(document[name], kind):
            raise ValueError(f"{name}: expected {words}")
    params, named = (_value(name, document.get(name, empty)) for name, empty in (("params", []), ("named", {})))
    if not isinstance(params, list) or not isinstance(named, dict) or not all(isinstance(name, str) for name in named):
        raise ValueError("expected a list of params and a struct of named")
    texts = {name: str(document[name]) for name in _TEXTS if name in document}
    return ReadRecord(**texts, params=tuple(params), named=named)


def call_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a line that are needed to make the call again."""
    return {name: document[name] for name in _MEMBERS if name in document}


_TEXTS = ("listener", "path", "codec", "service", "method", "effect")
_MEMBERS: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys(_TEXTS, (str, "a text")),
    "params": (list, "a list"),
    "named": (dict, "a struct"),
}
_OPTIONAL = ("effect", "params", "named")


def _value(name: str, member: Json) -> Value:
    level: list[Json] = [member]
    for _ in range(DEEPEST):
        level = [each for outer in level for each in _members(outer)]
    if level:
        raise ValueError(f"{name}: lists and structs are nested too deeply")
    try:
        return read(member)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _members(document: Json) -> Iterable[Json]:
    if isinstance(document, dict):
        return document.values()
    return document if isinstance(document, list) else ()


# Secrets


TEXT = "text"  # the type of a text in a marker


def substitute_secrets(
    one: ReadRecord, parameters: Sequence[str], given: Mapping[str, str]
) -> tuple[Call, tuple[str, ...]]:
    """The call with the given secrets, and the places without one. `parameters`: names in order of position."""
    missing: list[str] = []

    def filled(name: str, place: Place, value: Value) -> Value:
        """The value with the given secrets in place of their markers."""
        kind = _redacted_type(value)
        if kind is not None:
            where = json_path.show(place, name)
            text = given.get(f"{one.method}:{where}", given.get(where))
            if text is None:
                missing.append(where)
                return value
            return text if kind == TEXT else _given_value(text)
        if isinstance(value, list):
            return [filled(name, (*place, index), item) for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: filled(name, (*place, key), item) for key, item in value.items()}
        return value

    free = [name for name in parameters if name not in one.named]
    names = [*free, *(f"params[{index}]" for index in range(len(free), len(one.params)))]
    params = tuple(filled(name, (), value) for name, value in zip(names, one.params, strict=False))
    named = {name: filled(name, (), value) for name, value in one.named.items()}
    return Call(one.method, params, named), tuple(missing)


def _redacted_type(value: Value) -> str | None:
    """The type of the secret that was redacted here; None for any other value."""
    if isinstance(value, str):
        return TEXT if HIDDEN in value else None
    if not isinstance(value, dict):
        return None
    if len(value) == 1 and isinstance(value.get(REDACTED), str):
        return str(value[REDACTED])
    return "struct" if any(HIDDEN in name for name in value) else None


def _given_value(text: str) -> Value:
    """JSON as `serialization` writes it, or else the text itself."""
    try:
        return read(json.loads(text))
    except (ValueError, RecursionError):
        return text
