"""Values survive JSON as they are, and are made short with a word on what is missing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given

from gateway.core.comparison import serialization
from gateway.core.comparison.serialization import Json, SizeBudget, shorten
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case
from tests.kit.values import anything, exactly

NAN = float("nan")


class Level(IntEnum):
    HIGH = 3


@each_case(
    ("value", "document"),
    [
        (None, None),
        (True, True),
        (1, 1),
        (1.0, 1.0),
        ("text", "text"),
        ([1, {"a": "b"}], [1, {"a": "b"}]),
        (2**53, 2**53),
        (2**53 + 1, {"$integer": "9007199254740993"}),
        (-(2**64), {"$integer": "-18446744073709551616"}),
        (-(2**16000), {"$integer": hex(-(2**16000))}),  # too long for decimal
        (NAN, {"$double": "nan"}),
        (-float("inf"), {"$double": "-inf"}),
        (b"hi", {"$bytes": "aGk="}),
        (datetime(2026, 1, 31, 9, 5, tzinfo=UTC), {"$dateTime": "2026-01-31T09:05:00+00:00"}),
        (datetime(2026, 1, 31, 9, 5, tzinfo=UTC).replace(tzinfo=None), {"$dateTime": "2026-01-31T09:05:00"}),
        (datetime(2026, 1, 1, tzinfo=timezone(-timedelta(seconds=61))), {"$dateTime": "2026-01-01T00:00:00-00:01:01"}),
        ("\ud800", {"$text": "7aCA"}),
        ({"\ud800": 1}, {"$struct": [[{"$text": "7aCA"}, 1]]}),
        ({"$bytes": "hi"}, {"$struct": [["$bytes", "hi"]]}),
        ({"$redacted": "text"}, {"$redacted": "text"}),
        ({"$bytes": 1, "b": 2}, {"$bytes": 1, "b": 2}),
    ],
)
def test_a_value_is_written_readably_and_read_again(value: Value, document: Json) -> None:
    assert exactly(serialization.write(value)) == exactly(document)
    assert exactly(serialization.read(document)) == exactly(value)


@each_case(
    ("surprise", "document"),
    [
        ({1: "a", None: "b"}, {"$struct": [[1, "a"], [None, "b"]]}),
        ((1, 2), [1, 2]),
        (bytearray(b"hi"), {"$bytes": "aGk="}),
        (Level.HIGH, 3),
        (object(), {"$unknown": "object"}),
        ([{1}], [{"$unknown": "set"}]),
    ],
)
def test_what_is_no_legacy_value_is_written_too(surprise: Any, document: Json) -> None:
    assert exactly(serialization.write(surprise)) == exactly(document)


@each_case(
    "document",
    [
        {"$bytes": "?"},
        {"$bytes": 1},
        {"$dateTime": "soon"},
        {"$integer": "x"},
        {"$double": "x"},
        {"$text": "/w=="},
        {"$struct": 5},
        {"$struct": [["a"]]},
        {"$struct": [[[], 1]]},
    ],
)
def test_what_was_never_written_is_refused(document: Json) -> None:
    with pytest.raises(ValueError, match=r".+"):
        serialization.read(document)


@given(anything())
def test_every_value_survives_json(value: Value) -> None:
    document = serialization.write(value)
    assert exactly(serialization.read(json.loads(json.dumps(document, allow_nan=False)))) == exactly(value)
    assert exactly(serialization.read(msgspec.json.decode(msgspec.json.encode(document)))) == exactly(value)


ROOM = SizeBudget(text=4, items=3, depth=3, values=20)


@each_case(
    ("value", "short"),
    [
        ("text", "text"),
        ("texts", {"$begins": "text", "$left_out": 1}),
        (b"12345", {"$begins": b"1234", "$left_out": 1}),
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 3, 4, 5], [1, 2, 3, {"$left_out": 2}]),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 3, "$left_out": 1}),
        ([[[[]]]], [[[[]]]]),
        ([[[[1, 2]]]], [[[{"$left_out": 2}]]]),
        ([[[{"a": 1}]]], [[[{"$left_out": 1}]]]),
        ({"names": 1}, {"name... (1 left out)": 1}),
        (2**100, {"$left_out": "an integer of 101 bits"}),
        (1.5, 1.5),
    ],
)
def test_a_long_value_is_cut_and_says_how_much_is_missing(value: Value, short: Value) -> None:
    assert shorten(value, ROOM) == short


@given(anything())
def test_nothing_is_longer_than_its_room(value: Value) -> None:
    short = shorten([value] * 50, ROOM)
    assert _count(short) <= 3 * ROOM.values
    json.dumps(serialization.write(short), allow_nan=False)


def _count(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, inside))
