from __future__ import annotations

import pytest

from gateway.core.dbus.results import coerce_numbers
from gateway.core.dbus.signature import parse_one
from gateway.core.rpc.model import Value


@pytest.mark.parametrize(
    ("signature", "value", "expected"),
    [
        ("x", "42", 42),
        ("t", "18446744073709551615", 2**64 - 1),
        ("i", "-1", -1),
        ("u", 42, 42),
        ("u", "forty", "forty"),
        ("u", "", ""),
        ("d", "1.5", 1.5),
        ("d", "1e3", 1000.0),
        ("d", "nan", "nan"),
        ("s", "42", "42"),
        ("v", "42", "42"),
        ("b", "1", "1"),
        ("au", ["1", "2"], [1, 2]),
        ("a{sx}", {"a": "1"}, {"a": 1}),
        ("a{sv}", {"a": "1"}, {"a": "1"}),
        ("(sx)", ["1", "2"], ["1", 2]),
        ("(sx)", ["1"], ["1"]),
        ("x", ["1"], ["1"]),
        ("au", {"a": "1"}, {"a": "1"}),
        ("aa{su}", [{"a": "1"}, None], [{"a": 1}, None]),
    ],
)
def test_a_text_is_a_number_where_its_type_says_so(signature: str, value: Value, expected: Value) -> None:
    got = coerce_numbers(value, parse_one(signature))
    assert got == expected
    assert type(got) is type(expected)
