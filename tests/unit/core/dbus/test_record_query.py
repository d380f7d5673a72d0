"""The query language of get_all_records_where."""

from __future__ import annotations

from collections import UserDict
from datetime import UTC, datetime

import pytest

from gateway.core.dbus.record_query import MAX_DEPTH, MAX_LENGTH, MAX_TERMS, QueryError, compile_query, text_of
from gateway.core.rpc.model import Value

RECORD: dict[str, Value] = {
    "uuid": "u1",
    "name_label": 'web "1"',
    "power_state": "Running",
    "is_a_template": False,
    "memory": 2**40,
    "tags": ["x", "it's"],
    "other_config": {"k": "v"},
}


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("true", True),
        (" false\n", False),
        ('field "power_state" = "Running"', True),
        ('field "power_state"="running"', False),
        ('"Running" = field "power_state"', True),
        ('field "uuid" = field "power_state"', False),
        ('"a" = "a"', True),
        ('field "name__label" = "x"', False),
        ('field "is_a_template" = "false"', True),
        ('field "is__a_template" = "false"', True),
        ('field "memory" = "1099511627776"', True),
        ("field \"tags\" = \"('x' 'it\\'s')\"", True),
        ("field \"other_config\" = \"(('k' 'v'))\"", True),
        ("not false", True),
        ("not not false", False),
        # the same precedence for both, from left to right
        ("true or true and false", False),
        ("true or (true and false)", True),
        ("false and true or true", True),
        # `not` applies to everything on its right
        ("not true and false", True),
        ("(not true) and false", False),
        ("true and not false or true", False),
        ('field "power_state" = "Running" and not field "uuid" = "u2"', True),
    ],
)
def test_an_expression_selects_as_xapi_does(expression: str, selected: bool) -> None:
    assert compile_query(expression, RECORD)(RECORD) is selected


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", 'expected field "NAME" or a text in double quotes, got the end'),
        ('field "nothing" = "1"', "unknown field 'nothing'"),
        ("field name", "unexpected 'name'"),
        ("field = ", "expected a name in double quotes, got '='"),
        ("'a' = 'a'", "unexpected '''"),
        ('"a" = "b', "unexpected '\"'"),
        ('"a"', "expected '=', got the end"),
        ("true true", "expected 'and', 'or' or the end, got 'true'"),
        ("(true", "expected ')', got the end"),
        ("true)", "expected 'and', 'or' or the end, got ')'"),
        ("true AND true", "unexpected 'AND'"),
        ("(" * 100 + "true" + ")" * 100, f"more than {MAX_DEPTH} nested parentheses and 'not'"),
        ("not " * 100 + "true", f"more than {MAX_DEPTH} nested parentheses and 'not'"),
        (" or ".join(["true"] * (MAX_TERMS + 1)), f"more than {MAX_TERMS} comparisons"),
    ],
)
def test_an_invalid_expression_is_refused_with_the_reason(expression: str, problem: str) -> None:
    with pytest.raises(QueryError) as refused:
        compile_query(expression, RECORD)
    assert str(refused.value) == problem


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (datetime(2026, 1, 31, 9, 5, tzinfo=UTC), "20260131T09:05:00Z"),
        ([], "()"),
        ({"a": ["b"]}, "(('a' ('b')))"),
        (None, ""),
    ],
)
def test_a_value_is_compared_as_the_database_has_it(value: Value, text: str) -> None:
    assert text_of(value) == text


def test_an_expression_has_so_many_characters_and_terms() -> None:
    fits = 'field "a" = "' + "x" * (MAX_LENGTH - 14) + '"'
    assert not compile_query(fits, {"a"})({"a": "x"})
    with pytest.raises(QueryError, match=f"at most {MAX_LENGTH} characters, got {MAX_LENGTH + 1}"):
        compile_query("(" * (MAX_LENGTH + 1), {"a"})
    assert compile_query(" or ".join(["false"] * (MAX_TERMS - 1) + ["true"]), ())({})
    assert compile_query('field "a" = ""', {"a"})({})  # a field that the record lacks


def test_the_text_of_a_field_is_made_once_for_a_record_however_often_it_is_named() -> None:
    class Counted(UserDict[str, Value]):
        reads = 0

        def __getitem__(self, key: str) -> Value:
            self.reads += 1
            return super().__getitem__(key)

    record = Counted(a={"key": "value"})
    assert not compile_query(" or ".join(['field "a" = "nothing"'] * MAX_TERMS), {"a"})(record)
    assert record.reads == 1
