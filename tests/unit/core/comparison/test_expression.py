"""Expressions: what they say, what in them is refused, and that they can neither reach out nor run away."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.comparison import expression
from gateway.core.comparison.expression import ExpressionError
from gateway.core.rpc.model import Value
from tests.kit.values import anything

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "control", "candidate"),
    [
        ("candidate == control + 1", 1, 2),
        ("candidate == control", 1, 1.0),
        ("candidate != control", 1, True),
        ("abs(control - candidate) <= 2", 5, 3),
        ("candidate * 1024 == control", 2048, 2),
        ("control / 1024 == candidate", 512, 0.5),
        ("control // 1024 == candidate and control % 1024 == 1", 1025, 1),
        ("-control == candidate", 1, -1),
        ("+control == candidate", 1, 1),
        ("lower(control) == candidate", "Running", "running"),
        ("upper(control) == candidate", "a", "A"),
        ("int(control) == candidate", "12", 12),
        ("float(control) == candidate", "0.5", 0.5),
        ("text(control) == candidate", 12, "12"),
        ("text(control) == candidate", True, "true"),
        ("text(control) == candidate", 0.5, "0.5"),
        ("text(control) == candidate", NOON, "2026-01-31T12:00:00+00:00"),
        ("len(control) == len(candidate)", [1, 2], {"a": 1, "b": 2}),
        ("starts_with(candidate, 'OpaqueRef:') and ends_with(candidate, control)", "x", "OpaqueRef:x"),
        ("control + '/' == candidate", "a", "a/"),
        ("control in ['a', 'b'] and candidate in ('c', 'd')", "a", "d"),
        ("'name' in control and control['name'] == candidate[0]", {"name": 1}, [1]),
        ("'x' not in control", "abc", None),
        ("control == nil and candidate == true or false", None, True),
        ("not (control == candidate)", 1, 2),
        ("0 < control < candidate", 1, 2),
        ("control <= candidate", NOON, NOON),
        ("control > candidate >= 'a'", "b", "a"),
        ("control ==\n  candidate", 1, 1),
        ("control == candidate", {"a": [float("nan")]}, {"a": [float("nan")]}),
        ("control == None or candidate == False", 0, False),
    ],
)
def test_an_expression_holds(text: str, control: Value, candidate: Value) -> None:
    assert expression.compile(text).holds(control, candidate)


@pytest.mark.parametrize(
    ("text", "control", "candidate"),
    [
        ("control == candidate", 1, True),
        ("control == candidate", "1", 1),
        ("control == candidate", None, False),
        ("control in candidate", 1, [True, "1"]),
        ("candidate - control < 1", 1, 2),
        ("starts_with(control, candidate)", "ab", "b"),
    ],
)
def test_an_expression_does_not_hold(text: str, control: Value, candidate: Value) -> None:
    assert not expression.compile(text).holds(control, candidate)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected an expression such as control == candidate + 1, got ''"),
        (" \n", "expected an expression such as"),
        (r"control == 'a\d'", "expected an expression such as"),
        ("control ==", "expected an expression such as"),
        ("a" * 501, "expected an expression of at most 500 characters, got 501"),
        ("+".join(["control"] * 60), "expected an expression of at most 100 names, operators and constants"),
        ("(" * 250 + "1" + ")" * 249, "expected an expression such as"),
        ("other == 1", "character 1: 'other' is no name: control, candidate, true, false, nil are"),
        ("control.real", "character 1: 'control.real' is not part of the language"),
        ("control.__class__", "is not part of the language"),
        ("().__class__", "is not part of the language"),
        ("[x for x in control]", "is not part of the language"),
        ("x for x in control", "is not part of the language"),
        ("lambda: 1", "is not part of the language"),
        ("f'{control}'", "is not part of the language"),
        ("(control := 1)", "is not part of the language"),
        ("control[1:2]", "is not part of the language"),
        ("{1: 2}", "is not part of the language"),
        ("1 if control else 2", "is not part of the language"),
        ("await control", "is not part of the language"),
        ("control ** 2", "is no operator: + - * / // % are"),
        ("control << 2", "is no operator"),
        ("~control", "is not part of the language"),
        ("control is candidate", "is no comparison: == != < <= > >= in are"),
        ("eval('1')", "is no function: len, lower, upper, int, float, text, abs, starts_with, ends_with are"),
        ("len.x()", "is no function"),
        ("len(control, candidate)", "is not called so: len takes 1 value"),
        ("starts_with(control)", "is not called so: starts_with takes 2 values"),
        ("len(x=control)", "is not called so"),
        ("len(*control)", "is not called so"),
        ("control == b'x'", "is no literal: text, numbers, true, false and nil are"),
        ("control == ...", "is no literal"),
        ("control == 1j", "is no literal"),
        ("control; candidate", "expected an expression such as"),
        ("control = 1", "expected an expression such as"),
        ("control \0", "expected an expression such as"),
    ],
)
def test_what_is_not_listed_is_refused_when_it_is_compiled(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"expected|is not|is no") as refused:
        expression.compile(text)
    assert words in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "control", "words"),
    [
        ("control", 1, "expected true or false, got a number"),
        ("control and true", None, "expected true or false, got nil"),
        ("not control", "x", "expected true or false, got a text"),
        ("control + 1 == 2", "x", "expected a text, got a number"),
        ("control + 1 == 2", True, "expected a number, got true or false"),
        ("control * 2 == 'aa'", "a", "expected a number, got a text"),
        ("'%s' % control == ''", "a", "expected a number, got a text"),
        ("-control == 1", NOON, "expected a number, got a dateTime"),
        ("1 / control == 1", 0, "it divides by zero"),
        ("1 % control == 1", 0.0, "it divides by zero"),
        ("control / 1 == 1", 2**4000, "a number in it is too large"),
        ("int(control) == 1", float("inf"), "a number in it is too large"),
        ("int(control) == 1", float("nan"), "expected a number, got nan"),
        ("int(control) == 1", "x", "expected a number, got 'x'"),
        ("int(control) == 1", "9" * 101, "a text of more than 100 characters is no number"),
        ("int(control) == 1", [], "expected a number, got a list"),
        ("control + 1 == 2", 2**5000, "a number in it has more than 4096 bits"),
        ("control * control * control * control == 1", 2**2000, "a number in it has more than 4096 bits"),
        ("control + control + 'a' == ''", "a" * 60_000, "a text in it has more than 100000 characters"),
        ("len(control) == 1", 1, "a number has no length"),
        ("lower(control) == ''", b"", "expected a text, got bytes"),
        ("control < 1", "x", "a text and a number have no order"),
        ("control < candidate", {}, "a struct and nil have no order"),
        ("control < true", True, "true or false and true or false have no order"),
        ("1 in control", 1, "nothing is in a number"),
        ("1 in control", "1", "expected a text, got a number"),
        ("control['b'] == 1", {"a": 1}, "there is no member 'b'"),
        ("control[1] == 1", [1], "there is no item 1 in a list of 1"),
        ("control[0.5] == 1", [1], "there is no item 0.5 in a list of 1"),
        ("control[0] == 1", 5, "a number has no items"),
        ("text(control) == ''", [], "expected a number, got a list"),
    ],
)
def test_an_expression_that_has_no_value_says_why(text: str, control: Value, words: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        expression.compile(text).holds(control, None)
    assert words in str(refused.value)


def test_moments_with_and_without_a_zone_have_no_order() -> None:
    with pytest.raises(ExpressionError, match="a dateTime with a zone and one without have no order"):
        expression.compile("control < candidate").holds(NOON, NOON.replace(tzinfo=None))


def test_a_comparison_of_values_without_end_ends() -> None:
    huge: list[Value] = [0] * 300_000
    with pytest.raises(ExpressionError, match="too large to compare"):
        expression.compile("control == candidate").holds(huge, list(huge))


WORDS = "control candidate 1 0 -1 'a' true nil len( lower( int( text( abs( ) [ ] , == < in + - * / % and or not ( ."
PARTS = st.sampled_from(WORDS.split(" "))


@given(st.lists(PARTS, max_size=8).map(" ".join), anything(), anything())
def test_any_text_is_refused_or_has_a_value_or_says_why_not(text: str, control: Value, candidate: Value) -> None:
    assert _ending(text, control, candidate) in ("refused", "no value", "True", "False")


def _ending(text: str, control: Value, candidate: Value) -> str:
    try:
        return str(expression.compile(text).holds(control, candidate))
    except ExpressionError:
        return "no value"
    except ValueError:
        return "refused"
