"""JSON: read with exact numbers and bounds, written."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from adapters.codecs.json_reader import JsonError, raw_items, raw_member, read
from adapters.codecs.json_writer import WRITERS, _pieces, write, write_long_as_text
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import FaultCode, MessageLimits, Value
from tests.kit.cases import each_case


@each_case(
    "text",
    [
        '{"a":"x:y","b":"\\":","c":":"}',
        '{"\\u003a":"\\u0022:","a":{"b":{}}}',
        '{"a" : 1 , "b"\t:\r\n 2}',
        '{"a:":1,"a":2,":a":3}',
        '{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}',
        '"\\ud83d\\ude00\\u0000\u007f"',
    ],
)
def test_colons_and_escapes_in_texts_are_no_members(text: str) -> None:
    assert read(text.encode(), MessageLimits()) == json.loads(text)


@each_case("levels", [1, 2, 63, 64])
def test_depth_up_to_the_limit_is_read_and_one_more_is_refused(levels: int) -> None:
    def nested(levels: int) -> bytes:
        return b"[" + b"[]," * 100 + b"[" * (levels - 1) + b'"]["' + b"]" * (levels - 1) + b"]"

    assert read(nested(levels), MessageLimits(depth=max(levels, 2)))
    with pytest.raises(JsonError, match=f"at most {levels} nested") as refusal:
        read(nested(levels + 1), MessageLimits(depth=levels))
    assert refusal.value.code is FaultCode.TOO_LARGE


def test_the_work_for_nested_arrays_does_not_grow_with_the_depth_that_is_allowed() -> None:
    body = b"[" * 100_000 + b"]" * 100_000

    def seconds(depth: int) -> float:
        started = time.thread_time()
        with pytest.raises(JsonError, match=f"at most {depth} nested"):
            read(body, MessageLimits(depth=depth))
        return time.thread_time() - started

    tries = 10  # the best of them: a busy machine makes a reader slow, but never one that is too slow quick
    assert min(seconds(500) for _ in range(tries)) < 5 * min(seconds(10) for _ in range(tries))


@each_case("text", ["[" * 65_600, "[" * 65_536 + "]" * 65_536, "[" + "[]," * 30_000 + "[" * 64 + "]" * 64 + "]"])
def test_brackets_are_counted_over_pieces(text: str) -> None:
    with pytest.raises(JsonError, match="at most 64 nested"):
        read(text.encode(), MessageLimits(depth=64))


@each_case("text", ['[1,[],{},"",{"a":[ ]}]', '["a,b,[","\\",{",null,[[ \n ]],{ }]'])
def test_values_are_counted_exactly(text: str) -> None:
    count = 7
    assert read(text.encode(), MessageLimits(elements=count)) == json.loads(text)
    with pytest.raises(JsonError, match=f"at most {count - 1} values"):
        read(text.encode(), MessageLimits(elements=count - 1))


def test_a_place_is_shown_on_one_line_whatever_the_names_are() -> None:
    with pytest.raises(JsonError) as refusal:
        read(b'{"a\\nb":[{"x":1,"x":2}]}', MessageLimits())
    assert str(refusal.value) == '$["a\\nb"][0].x: expected one member of this name, got two'


def test_a_number_that_only_the_slow_reader_can_read_is_refused() -> None:
    with pytest.raises(JsonError, match="numbers of reasonable length") as refusal:
        read(b"1" * 250_000 + b"e-250000", MessageLimits())
    assert refusal.value.code is FaultCode.PARSE_ERROR


def test_the_text_of_parts_is_given_as_it_was_written() -> None:
    assert raw_items(b'[ 1.50 , {"a": [ ]}]') == [b"1.50", b'{"a": [ ]}']
    assert raw_member(b'{"x": 1, "id" : 1e0 }', "id") == b"1e0"


# Writing


MOMENT = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)


def test_a_moment_deep_within_is_written_in_the_compact_form() -> None:
    value: Value = {"a": [{"b": MOMENT}], "text": "T09:05:00", "none": None}
    assert write(value) == b'{"a":[{"b":"20260131T09:05:00Z"}],"text":"T09:05:00","none":null}'


@each_case("writer", WRITERS.values())
def test_an_infinite_number_is_never_written_as_null(writer: object) -> None:
    assert callable(writer)
    with pytest.raises(MarshalError, match=r"\$\[0\]\.a: expected a finite number, got inf"):
        writer([{"a": float("inf")}])


def test_both_forms_write_short_integers_alike_and_leave_the_value_as_it_was() -> None:
    value: list[Value] = [0, -1, 2**53, {"a": -(2**53)}, 0.5, True, b"x", MOMENT, "é"]
    assert write(value) == write_long_as_text(value)
    inner: Value = {"a": [MOMENT, 2**60]}
    write_long_as_text([*value, inner])
    assert (value[7:], inner) == ([MOMENT, "é"], {"a": [MOMENT, 2**60]})


RECORDS: dict[str, Value] = {f"ref {at}": {"label": "é" * 9, "at": MOMENT, "none": None} for at in range(1000)}


@each_case("value", [RECORDS, [*RECORDS.values()], {"Status": "Success", "Value": RECORDS}, {"a": [1, {"b": RECORDS}]}])
def test_a_long_value_is_written_in_pieces(value: Value) -> None:
    """Each piece is one call of the library, during which no other thread goes on."""
    pieces = [*_pieces(value)]
    assert b"".join(pieces) == write(value) == write_long_as_text(value)
    assert max(map(len, pieces)) < len(write(value)) / 7


@each_case(
    ("wrong", "why"),
    [("\ud800", "expected Unicode text without half a surrogate pair"), (float("inf"), "expected a finite number")],
)
def test_the_place_of_what_cannot_be_written_is_found_in_a_long_value(wrong: Value, why: str) -> None:
    with pytest.raises(MarshalError, match=rf'\$\.Value\["ref 700"\]\.x: {why}'):
        write({"Value": {**RECORDS, "ref 700": {"x": wrong}}})
