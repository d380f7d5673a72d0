from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.core.dbus.scalars import MarshalError, quoted, render


def test_the_message_names_place_expectation_and_value() -> None:
    assert str(MarshalError("u", -1).at("vcpus").at("params", 1)) == "$.params[1].vcpus: expected u, got -1"
    assert str(MarshalError("u", -1)) == "$: expected u, got -1"
    assert MarshalError("u", -1).at("vcpus").bare == "$.vcpus: expected u"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "$"),
        (("params", 0, "name_label"), "$.params[0].name_label"),
        (("a b",), '$["a b"]'),
        (("",), '$[""]'),
        (("a.b",), '$["a.b"]'),
        (("7",), '$["7"]'),
        (("é",), '$["\\u00e9"]'),
        (("\ud800\n",), '$["\\ud800\\n"]'),
        (("k" * 41,), f'$["{"k" * 40}..."]'),
    ],
)
def test_a_place_is_ascii_on_one_line(path: tuple[str | int, ...], text: str) -> None:
    assert render(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-1, "-1"),
        (2**64, "18446744073709551616"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        ("a", '"a"'),
        ('"\0\ud800é', '"\\"\\u0000\\ud800\\u00e9"'),
        (b"abc", "3 bytes"),
        ([1, 2], "an array of 2"),
        ({"a": 1}, "a struct of 1"),
        (datetime(2026, 1, 31, tzinfo=UTC), "a dateTime"),
        (object, "a value of no known type"),
    ],
)
def test_a_value_is_shown_shortly_and_safely(value: object, text: str) -> None:
    assert quoted(value) == text


def test_a_huge_value_makes_no_huge_message() -> None:
    assert quoted("a" * 1_000_000) == f'"{"a" * 40}..."'
    assert quoted(10**5000) == "an integer of 16610 bits"
    assert quoted([0] * 1_000_000) == "an array of 1000000"
