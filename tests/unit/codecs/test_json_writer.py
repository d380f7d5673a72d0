from __future__ import annotations

from datetime import UTC, datetime

import pytest

from adapters.codecs.json_writer import WRITERS, visible, write, write_long_as_text
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Value

MOMENT = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)


def test_a_moment_deep_within_is_written_in_the_compact_form() -> None:
    value: Value = {"a": [{"b": MOMENT}], "text": "T09:05:00", "none": None}
    assert write(value) == b'{"a":[{"b":"20260131T09:05:00Z"}],"text":"T09:05:00","none":null}'


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_an_infinite_number_is_never_written_as_null(writer: object) -> None:
    assert callable(writer)
    with pytest.raises(MarshalError, match=r"\$\[0\]\.a: expected a finite number, got inf"):
        writer([{"a": float("inf")}])


def test_both_forms_write_short_integers_alike() -> None:
    value: Value = [0, -1, 2**53, {"a": -(2**53)}, 0.5, True, b"x", MOMENT, "é"]
    assert write(value) == write_long_as_text(value)


def test_the_value_itself_is_left_as_it_was() -> None:
    value: Value = {"a": [MOMENT, 2**60]}
    write_long_as_text(value)
    assert value == {"a": [MOMENT, 2**60]}


def test_text_for_people_shows_what_json_cannot_carry() -> None:
    assert visible("é\udfffx") == "é\\udfffx"
