"""JSON: read within bounds, written exactly."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from adapters.codecs.json_reader import JsonError, read
from adapters.codecs.json_writer import WRITERS, _pieces, write, write_long_as_text
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import FaultCode, MessageLimits, Value
from tests.kit.cases import each_case

MOMENT = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)


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


@each_case(
    "text",
    [
        *("[" * 65_600, "[" + "[]," * 30_000 + "[" * 64 + "]" * 64 + "]"),
        "[" * 40 + "[[[[[[]]]]]]," * 20_000 + "[" * 30 + "]" * 70,
    ],
)
def test_brackets_are_counted_over_pieces(text: str) -> None:
    with pytest.raises(JsonError, match="at most 64 nested"):
        read(text.encode(), MessageLimits(depth=64))


@each_case("text", ['[1,[],{},"",{"a":[ ]}]', '["a,b,[","\\",{",null,[[ \n ]],{ }]'])
def test_values_are_counted_exactly(text: str) -> None:
    count = 7
    assert read(text.encode(), MessageLimits(elements=count)) == json.loads(text)
    with pytest.raises(JsonError, match=f"at most {count - 1} values"):
        read(text.encode(), MessageLimits(elements=count - 1))


def test_a_refusal_is_one_line_whatever_the_names_are_also_where_only_the_slow_reader_could_read() -> None:
    with pytest.raises(JsonError) as refusal:
        read(b'{"a\\nb":[{"x":1,"x":2}]}', MessageLimits())
    assert str(refusal.value) == '$["a\\nb"][0].x: expected one member of this name, got two'
    with pytest.raises(JsonError, match="numbers of reasonable length") as refusal:
        read(b"1" * 250_000 + b"e-250000", MessageLimits())
    assert refusal.value.code is FaultCode.PARSE_ERROR


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
def test_what_cannot_be_written_is_refused_with_its_place_by_either_form(wrong: Value, why: str) -> None:
    for value in (wrong, {**RECORDS, "ref 700": wrong}):
        place = "" if value is wrong else r'\["ref 700"\]'
        for writer in WRITERS.values():
            with pytest.raises(MarshalError, match=rf"\$\.Value{place}: {why}"):
                writer({"Value": value})
