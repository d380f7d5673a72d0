"""Basic values: converters, and the words of a refusal."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.core.dbus.scalars import KEYS_IN, KEYS_OUT, LEGACY, STRICT, UNCHANGED, MarshalError, quoted, render
from gateway.core.dbus.signature import BASIC, INTEGER_RANGES
from tests.kit.cases import each_case


def test_every_basic_type_has_its_converters() -> None:
    assert set(STRICT) == set(LEGACY) == set(KEYS_IN) == set(BASIC)
    assert set(KEYS_OUT) == set(BASIC) - set("sog")  # whose keys are text already


@each_case(
    ("code", "values"),
    [
        ("s", ["a", "grüß", ""]),
        ("b", [True, False]),
        ("d", [0.5]),
        *((code, [low, high]) for code, (low, high) in INTEGER_RANGES.items()),
    ],
)
def test_good_values_pass_all_at_once(code: str, values: list[object]) -> None:
    assert UNCHANGED[code](values)
    assert UNCHANGED[code]({"key": values[0]}.values())


@each_case(
    ("code", "bad"),
    [
        *(("s", bad) for bad in (1, None, b"a", ["a"], "\0", "a\ud800")),
        *(("b", bad) for bad in (1, None, "true")),
        *(("d", bad) for bad in (1, None, "0.5")),
        *((code, bad) for code in INTEGER_RANGES for bad in (True, None, 1.0, "1", -(2**63) - 1, 2**64)),
    ],
)
def test_one_bad_value_among_good_ones_does_not_pass(code: str, bad: object) -> None:
    good = {"s": "a", "b": True, "d": 0.5}.get(code, 1)
    assert not UNCHANGED[code]([good, bad])
    assert not UNCHANGED[code]([bad, good])


@each_case("code", INTEGER_RANGES)
@each_case(("value", "number"), [("5", 5), (5.0, 5), (0.0, 0), (-0.0, 0), (100.0, 100)])
def test_a_whole_number_of_any_form_is_an_integer_of_an_old_client(code: str, value: object, number: int) -> None:
    assert LEGACY[code](value) == number
    assert type(LEGACY[code](value)) is int
    with pytest.raises(MarshalError):
        STRICT[code](value)


@each_case("value", [0.5, "0.5", "5.0", "1e3", 2.0**53 + 2, -(2.0**63), 1e300, float("inf"), float("nan")])
def test_what_is_no_whole_number_or_stands_for_several_is_none(value: object) -> None:
    with pytest.raises(MarshalError):
        LEGACY["x"](value)


def test_a_whole_number_must_be_in_the_range_of_its_type() -> None:
    assert LEGACY["x"](2.0**53) == 2**53
    for code, value in (("y", 256.0), ("u", -1.0), ("t", -1.0), ("i", 2.0**31)):
        with pytest.raises(MarshalError):
            LEGACY[code](value)


@each_case("code", INTEGER_RANGES)
def test_a_key_has_one_text_only(code: str) -> None:
    assert KEYS_IN[code]("5") == 5
    with pytest.raises(MarshalError):
        KEYS_IN[code]("5.0")


# Refusals


def test_the_message_names_place_expectation_and_value() -> None:
    assert str(MarshalError("u", -1).at("vcpus").at("params", 1)) == "$.params[1].vcpus: expected u, got -1"
    assert str(MarshalError("u", -1)) == "$: expected u, got -1"
    assert MarshalError("u", -1).at("vcpus").bare == "$.vcpus: expected u"


@each_case(
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


@each_case(
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
