"""Rules: how they are read, and when two values agree by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given

from gateway.core.comparison.rules import READINGS, RULES, Near, RuleError, compile_rule
from gateway.core.rpc.model import Value
from gateway.mapping.schema import schema
from tests.kit.cases import each_case, expect
from tests.kit.values import anything

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
INF, NAN = float("inf"), float("nan")


def near(**said: Any) -> Near:
    return expect(Near, compile_rule({"path": "$", **said}).how)


@each_case(
    ("said", "control", "candidate"),
    [
        ({"tolerance": 5}, 10, 15),
        ({"tolerance": 5}, 10, 5),
        ({"tolerance": "5"}, 2**70, 2**70 + 5),
        ({"tolerance": 0.1}, 0.3, 0.4),
        ({"tolerance": "0.5"}, 1, 1.5),
        ({"tolerance": 5}, "10", "15"),
        ({"tolerance": 5}, NAN, NAN),
        ({"tolerance": 5}, INF, INF),
        ({"tolerance": 5}, "never", "never"),
        ({"tolerance": "1%"}, 1000, 990),
        ({"tolerance": "1%"}, -1000, -990),
        ({"tolerance": "1%"}, 0, 0),
        ({"tolerance": 5, "as": "number"}, "10", 15),
        ({"tolerance": "1%", "as": "number"}, 1000, "990.0"),
        ({"tolerance": "5s"}, NOON, NOON + timedelta(seconds=5)),
        ({"tolerance": "5s"}, NOON, NOON.replace(tzinfo=None)),
        ({"tolerance": "5s"}, NOON, NOON.astimezone(timezone(timedelta(hours=2)))),
        ({"tolerance": "5s"}, NOON, "2026-01-31T12:00:05Z"),
        ({"tolerance": "5s"}, "20260131T12:00:00Z", "2026-01-31T13:00:03+01:00"),
        ({"tolerance": "5s"}, 1_769_860_800, NOON),
        ({"tolerance": "5s"}, 1_769_860_800.5, "1769860805"),
        ({"tolerance": "500ms"}, NOON, NOON + timedelta(milliseconds=500)),
        ({"tolerance": "1m"}, 0, 60),
        ({"tolerance": "1h"}, 0, 3600),
        ({"as": "number"}, "1", 1),
        ({"as": "number"}, " 1.0 ", 1),
        ({"as": "number"}, "1e3", 1000),
        ({"as": "number"}, "nan", NAN),
        ({"as": "number"}, "-inf", -INF),
        ({"as": "number"}, "never", "never"),
        ({"as": "boolean"}, "True", True),
        ({"as": "boolean"}, 1, True),
        ({"as": "boolean"}, "0", False),
        ({"as": "text"}, 5, "5"),
        ({"as": "text"}, True, "true"),
    ],
)
def test_values_agree(said: dict[str, Any], control: Value, candidate: Value) -> None:
    rule = near(**said)
    assert rule.apart(control, candidate) == ""
    assert rule.apart(candidate, control) == ""


@each_case(
    ("said", "control", "candidate", "why"),
    [
        ({"tolerance": 5}, 10, 16, "more than 5 apart"),
        ({"tolerance": "0.1"}, 0.3, 0.41, "more than 0.1 apart"),
        ({"tolerance": 5}, 2**70, 2**70 + 6, "more than 5 apart"),
        ({"tolerance": 5}, INF, 1, "more than 5 apart"),
        ({"tolerance": 5}, INF, -INF, "more than 5 apart"),
        ({"tolerance": 5}, NAN, 1, "more than 5 apart"),
        ({"tolerance": 5}, 10, "10", "one is text and the other is not"),
        ({"tolerance": 5}, 1, True, "not both can be read as a number"),
        ({"tolerance": 5}, "x", "y", "not both can be read as a number"),
        ({"tolerance": 5}, 1, None, "not both can be read as a number"),
        ({"tolerance": "1%"}, 1000, 989, "more than 1% apart"),
        ({"tolerance": "1%"}, 0, 1, "more than 1% apart"),
        ({"tolerance": "0%"}, 0, 1, "not the same when read as a number"),
        ({"tolerance": "5s"}, NOON, NOON + timedelta(seconds=5, microseconds=1), "more than 5s apart"),
        ({"tolerance": "5s"}, NOON, "tomorrow", "not both can be read as a moment"),
        ({"tolerance": "5s"}, NOON, "2" * 101, "not both can be read as a moment"),
        ({"as": "number"}, "1", "2", "not the same when read as a number"),
        ({"as": "number"}, "1_0", 10, "not both can be read as a number"),
        ({"as": "number"}, "9" * 101, 1, "not both can be read as a number"),
        ({"as": "number"}, True, 1, "not both can be read as a number"),
        ({"as": "boolean"}, "yes", True, "not both can be read as true or false"),
        ({"as": "boolean"}, 2, True, "not both can be read as true or false"),
        ({"as": "boolean"}, "0", True, "not the same when read as true or false"),
        ({"as": "text"}, b"5", "5", "not both can be read as text"),
    ],
)
def test_values_do_not_agree_and_it_is_told_why(
    said: dict[str, Any], control: Value, candidate: Value, why: str
) -> None:
    rule = near(**said)
    assert rule.apart(control, candidate) == why
    assert rule.apart(candidate, control) == why


@each_case(
    ("said", "key", "words"),
    [
        ({"path": "a", "ignore": True}, "path", "expected a path such as $.name"),
        ({"path": "$.a"}, "", "expected exactly one of ignore, exact, order, by, tolerance, as"),
        ({"path": "$.a", "ignore": True, "by": "a"}, "", "got ignore and by"),
        ({"path": "$.a", "tolerance": "5 s"}, "tolerance", "expected a number, a per cent or a time: 5, 0.5, 1%"),
        ({"path": "$.a", "tolerance": -1}, "tolerance", "expected a number, a per cent or a time"),
        ({"path": "$.a", "tolerance": "1e9"}, "tolerance", "expected a number, a per cent or a time"),
        ({"path": "$.a", "tolerance": "5s", "as": "number"}, "as", "'as' does not go with a tolerance in time (5s)"),
        (
            {"path": "$.a", "tolerance": 5, "as": "text"},
            "as",
            "only numbers have a tolerance: expected number, got text",
        ),
    ],
)
def test_a_rule_that_cannot_be_used_is_told_with_the_key_that_is_wrong(
    said: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(RuleError) as refused:
        compile_rule(said)
    assert refused.value.key == key
    assert words in str(refused.value)


def test_the_schema_has_the_same_keys() -> None:
    rule = schema()["$defs"]["compareRules"]["items"]["properties"]
    assert rule.keys() == {"path", "because", *RULES}
    assert rule["as"]["enum"] == list(READINGS)


@given(anything(), anything())
def test_every_reading_takes_every_two_values_and_has_no_favourite(one: Value, other: Value) -> None:
    for said in ({"as": "number"}, {"as": "boolean"}, {"as": "text"}, {"tolerance": "5s"}, {"tolerance": "1%"}):
        rule = near(**said)
        assert rule.apart(one, other) == rule.apart(other, one)
        assert isinstance(one, list | dict) or rule.apart(one, one) == ""
