"""Comparing outcomes: every difference is found at its place, rules and noise excuse some; which calls are compared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core.comparison.compare import MAX_DIFFERENCES, Comparison, Verdict, agreement_key, compare
from gateway.core.comparison.equality import MISSING, Budget, equal
from gateway.core.comparison.json_path import show, start_cursor
from gateway.core.comparison.noise import compare_with_noise
from gateway.core.comparison.rules import EVERY_CALL, RESULT, Rules, Sampler, Sampling, compile_rule, parse_rate
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.cases import each_case
from tests.kit.values import anything, changed, outcomes, places, value_at, without

GONE = Fault(FaultCode.APPLICATION, "no such VM", "HANDLE_INVALID", ["VM", "x"])
AWAY = Fault(FaultCode.UNAVAILABLE, "nobody owns org.example")


def rules(*said: dict[str, Any]) -> Rules:
    return Rules(tuple(compile_rule(each) for each in said))


def replies(control: Any, candidate: Any, *said: dict[str, Any]) -> Comparison:
    return compare(Reply(control), Reply(candidate), rules(*said))


def told(comparison: Comparison) -> list[tuple[str, object, object]]:
    return [(each.path, each.control, each.candidate) for each in comparison.differences]


# Without rules


def test_a_difference_is_told_with_its_path_and_both_values() -> None:
    control = {"vms": [{"name": "web"}, {"name": "db", "tags": ["a"]}], "n": 1}
    candidate = {"vms": [{"name": "web"}, {"name": "DB", "tags": ["a", "b"]}], "n": True, "a b": None}
    assert told(replies(control, candidate)) == [
        ("$.vms[1].name", "db", "DB"),
        ("$.vms[1].tags[1]", MISSING, "b"),
        ("$.n", 1, True),
        ("$['a b']", MISSING, None),
    ]


def test_nil_is_not_nothing_order_counts_and_no_more_than_so_many_are_told() -> None:
    assert told(replies({"a": None}, {})) == [("$.a", None, MISSING)]
    assert told(replies([1, 2], [2, 1])) == [("$[0]", 1, 2), ("$[1]", 2, 1)]
    limit = MAX_DIFFERENCES
    exactly, more = replies([0] * limit, [1] * limit), replies([0] * (limit + 1), [1] * (limit + 1))
    assert (len(exactly.differences), exactly.more) == (limit, False)
    assert (len(more.differences), more.more, more.verdict) == (limit, True, Verdict.DIFFERENT)


def test_what_is_too_large_is_neither_equal_nor_different() -> None:
    def verdict(control: list[Value], candidate: list[Value]) -> Verdict:
        return compare(Reply(control), Reply(candidate), max_values=1_000).verdict

    control: list[Value] = [0] * 3_000
    assert verdict(control, list(control)) is Verdict.EQUAL
    assert verdict(control * 2, control * 2) is Verdict.TOO_LARGE
    assert verdict(control, [1, *control[1:]]) is Verdict.DIFFERENT
    found = compare(Reply(control), Reply([*control[:-1], 1]), max_values=1_000)
    assert (found.verdict, found.differences, found.more) == (Verdict.TOO_LARGE, (), True)


def test_lists_that_are_deep_inside_each_other_are_compared_or_too_large() -> None:
    deep: Any = [1, 2]
    for _ in range(150):
        deep = {"b": [deep, 1]}
    found = replies(deep, {"b": [{"b": [3]}, 2]}, {"path": "$..b", "order": "any"}, {"path": "$..c", "ignore": True})
    assert found.verdict in (Verdict.DIFFERENT, Verdict.TOO_LARGE)


# Faults


@each_case(
    ("control", "candidate", "differences"),
    [
        (GONE, Fault(GONE.code, "other words", GONE.name, ["VM", "x"]), []),
        (GONE, Fault(GONE.code, "", GONE.name, ["VM", "y"]), [("fault.data[1]", "x", "y")]),
        (
            GONE,
            Fault(GONE.code, "", "OTHER", None),
            [("fault.name", "HANDLE_INVALID", "OTHER"), ("fault.data", ["VM", "x"], None)],
        ),
        (AWAY, Fault(AWAY.code, "other words", data=[1]), []),
        (AWAY, Fault(FaultCode.TIMEOUT, ""), [("fault.code", "unavailable", "timeout")]),
        (GONE, Fault(FaultCode.REMOTE, "", GONE.name), [("fault.code", "application", "remote")]),
        (
            Fault(FaultCode.REMOTE, "", "a.B", [1]),
            Fault(FaultCode.REMOTE, "", "a.C", [2]),
            [("fault.name", "a.B", "a.C")],
        ),
    ],
)
def test_of_two_faults_is_compared_what_is_meant_for_programs(
    control: Fault, candidate: Fault, differences: list[tuple[str, object, object]]
) -> None:
    comparison = compare(control, candidate)
    assert told(comparison) == differences
    assert comparison.verdict is (Verdict.ERROR_DIFFERENT if differences else Verdict.EQUAL)


def test_a_fault_on_one_side_is_told_whole() -> None:
    fault = {"code": "unavailable", "name": "", "message": "nobody owns org.example", "data": None}
    assert told(compare(Reply({"a": 1}), AWAY)) == [("fault", MISSING, fault)]
    assert told(compare(AWAY, Reply(None))) == [("fault", fault, MISSING)]
    assert compare(AWAY, Reply(None)).verdict is Verdict.ERROR_DIFFERENT


def test_rules_reach_into_faults_and_those_for_results_do_not() -> None:
    other = Fault(GONE.code, "other words", GONE.name, ["VM", "y"])
    assert compare(GONE, other, rules({"path": "fault.data[1]", "ignore": True})).verdict is Verdict.IGNORED
    assert compare(AWAY, Reply(1), rules({"path": "fault", "ignore": True})).verdict is Verdict.IGNORED
    both = compare(GONE, other, rules({"path": "fault.message", "exact": True}))
    assert [each.path for each in both.differences] == ["fault.message", "fault.data[1]"]
    assert (
        compare(AWAY, Fault(AWAY.code, "x"), rules({"path": "fault.message", "ignore": True})).verdict is Verdict.EQUAL
    )
    other = Fault(FaultCode.TIMEOUT, "")
    assert compare(AWAY, other, rules({"path": "$..code", "ignore": True})).verdict is Verdict.ERROR_DIFFERENT


# Rules


def test_ignored_is_counted_apart_from_equal_and_the_first_rule_of_a_place_holds() -> None:
    ignore = {"path": "$.vms[*].uptime", "ignore": True}
    control = {"vms": [{"uptime": 1}, {"uptime": 2}]}
    found = replies(control, {"vms": [{"uptime": 1}, {"uptime": 3}]}, ignore)
    assert (found.verdict, found.differences) == (Verdict.IGNORED, ())
    assert [(each.path, each.control, each.candidate) for each in found.ignored] == [("$.vms[1].uptime", 2, 3)]
    assert replies(control, control, ignore).verdict is Verdict.EQUAL
    assert replies(control, {"vms": [{}, {"uptime": 2}]}, ignore).verdict is Verdict.IGNORED
    assert replies(control, {"vms": [{"uptime": 9}, 5]}, ignore).verdict is Verdict.DIFFERENT
    exact, ignore = {"path": "$.a", "exact": True}, {"path": "$.*", "ignore": True}
    assert replies({"a": 1}, {"a": 2}, exact, ignore).verdict is Verdict.DIFFERENT
    assert replies({"a": 1}, {"a": 2}, ignore, exact).verdict is Verdict.IGNORED


def test_a_list_whose_order_says_nothing() -> None:
    any_order = {"path": "$.tags", "order": "any"}
    assert replies({"tags": [1, "a", 1]}, {"tags": [1, 1, "a"]}, any_order).verdict is Verdict.EQUAL
    assert told(replies({"tags": [1, 1]}, {"tags": [1, 2]}, any_order)) == [("$.tags[1]", 1, 2)]
    assert told(replies({"tags": [1]}, {"tags": [2, 3]}, any_order)) == [
        ("$.tags[0]", 1, MISSING),
        ("$.tags[0]", MISSING, 2),
        ("$.tags[1]", MISSING, 3),
    ]
    assert told(replies({"tags": [1]}, {"tags": "1"}, any_order)) == [("$.tags", [1], "1")]
    said = ({"path": "$", "order": "any"}, {"path": "$[*]", "order": "any"})
    assert replies([[1, 2], [3]], [[3], [2, 1]], *said).verdict is Verdict.EQUAL
    assert replies([[1, 2], [3]], [[3], [2, 2]], *said).verdict is Verdict.DIFFERENT


def test_structs_are_found_by_their_key() -> None:
    by, by_both = {"path": "$", "by": "uuid"}, {"path": "$", "by": ["host", "uuid"]}
    control = [{"uuid": "a", "n": 1}, {"uuid": "b", "n": 2}]
    assert told(replies([{"uuid": "a", "host": 1}], [{"uuid": "b", "host": 1}], by_both)) == [
        ("$[0]", {"uuid": "a", "host": 1}, MISSING),
        ("$[0]", MISSING, {"uuid": "b", "host": 1}),
    ]
    assert replies(control, control[::-1], by).verdict is Verdict.EQUAL
    assert told(replies(control, [{"uuid": "b", "n": 3}, {"uuid": "a", "n": 1}], by)) == [("$[1].n", 2, 3)]
    assert told(replies(control, control[1:], by)) == [("$[0]", {"uuid": "a", "n": 1}, MISSING)]


def test_rules_hold_inside_lists_without_order() -> None:
    said = ({"path": "$", "order": "any"}, {"path": "$[*].n", "tolerance": 1}, {"path": "$[*].t", "ignore": True})
    control = [{"n": 10, "t": 1}, {"n": 20, "t": 2}, {"n": 30, "t": 3}]
    candidate = [{"n": 31, "t": 3}, {"n": 19, "t": 2}, {"n": 10, "t": 9}]
    found = replies(control, candidate, *said)
    assert found.verdict is Verdict.IGNORED
    assert [each.path for each in found.ignored] == ["$[0].t"]
    assert replies(control, [*candidate[:2], {"n": 12, "t": 1}], *said).verdict is Verdict.DIFFERENT
    near = rules({"path": "$", "order": "any"}, {"path": "$[*]", "tolerance": 0.5})
    hundred, halves = Reply(list(range(100))), Reply([number + 0.5 for number in reversed(range(100))])
    assert compare(hundred, halves, near).verdict is Verdict.EQUAL
    assert compare(hundred, Reply([9_000.5] * 100), near, max_values=1_000).verdict is Verdict.TOO_LARGE


def test_a_tolerance_is_for_what_can_be_read_and_says_why_not() -> None:
    said = {"path": "$.memory", "tolerance": "1%"}
    assert replies({"memory": 1000}, {"memory": 1001}, said).verdict is Verdict.EQUAL
    found = replies({"memory": 1000}, {"memory": 2000}, said)
    assert [each.why for each in found.differences] == ["more than 1% apart"]
    assert replies({"memory": [1]}, {"memory": [1]}, said).verdict is Verdict.EQUAL
    assert replies({"memory": [1]}, {"memory": [True]}, said).verdict is Verdict.DIFFERENT
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert replies(noon, "2026-01-31T12:00:01Z", {"path": "$", "tolerance": "1s"}).verdict is Verdict.EQUAL
    assert replies(noon, "2026-01-31T12:00:00Z").verdict is Verdict.DIFFERENT


# Laws

SAID: list[dict[str, Any]] = [
    {"path": "$..a", "ignore": True},
    {"path": "$..b", "order": "any"},
    {"path": "$[*]", "by": "a"},
    {"path": "$", "order": "any"},
    {"path": "$.*", "order": "any"},
    {"path": "$.*", "tolerance": 1},
    {"path": "$[*]", "as": "number"},
    {"path": "fault.message", "exact": True},
    {"path": "fault.data", "order": "any"},
    {"path": "fault", "ignore": True},
]
any_rules = st.lists(st.sampled_from(SAID), max_size=4).map(lambda said: rules(*said))
like: st.SearchStrategy[Value] = st.recursive(
    st.integers(0, 3) | st.sampled_from(["1", "2", 1.0, True, None]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
alike_outcomes = like.map(Reply) | outcomes


@given(outcomes, any_rules)
def test_an_outcome_is_equal_to_itself_under_any_rules(outcome: Outcome, given_rules: Rules) -> None:
    assert compare(outcome, outcome, given_rules).verdict is Verdict.EQUAL
    assert compare_with_noise(outcome, outcome, outcome, given_rules).verdict is Verdict.EQUAL


@given(alike_outcomes, alike_outcomes, any_rules)
def test_which_side_is_the_control_does_not_matter(one: Outcome, other: Outcome, given_rules: Rules) -> None:
    there, back = compare(one, other, given_rules), compare(other, one, given_rules)
    assert there.verdict is back.verdict
    assert len(there.differences) == len(back.differences)


@settings(max_examples=300)
@given(anything(), anything(), st.data())
def test_every_change_of_a_value_is_found_at_its_place(value: Value, new: Value, draw: st.DataObject) -> None:
    place = draw.draw(st.sampled_from(list(places(value))))
    assume(not equal(value_at(value, place), new, Budget()))
    found = compare(Reply(value), Reply(changed(value, place, new)))
    assert found.verdict is Verdict.DIFFERENT
    assert {each.place[: len(place)] for each in found.differences} == {place}
    assert all(each.path == show(each.place) for each in found.differences)


@given(anything(), st.data())
def test_every_member_that_is_taken_away_is_found_at_its_place(value: Value, draw: st.DataObject) -> None:
    inner = [place for place in places(value) if place and not isinstance(place[-1], int)]
    assume(inner)
    place = draw.draw(st.sampled_from(inner))
    assert [
        (each.place, each.candidate) for each in compare(Reply(value), Reply(without(value, place))).differences
    ] == [(place, MISSING)]


@given(like, like, any_rules)
def test_what_agrees_has_one_agreement_key(one: Value, other: Value, given_rules: Rules) -> None:
    cursor = start_cursor((rule.path, rule.how) for rule in given_rules.rules if rule.path.root == RESULT)
    if compare(Reply(one), Reply(other), given_rules).verdict in (Verdict.EQUAL, Verdict.IGNORED):
        assert agreement_key(one, cursor, Budget()) == agreement_key(other, cursor, Budget())


@given(alike_outcomes, alike_outcomes, alike_outcomes, any_rules)
def test_noise_only_ever_excuses(control: Outcome, again: Outcome, candidate: Outcome, given_rules: Rules) -> None:
    plain, blamed = compare(control, candidate, given_rules), compare_with_noise(control, again, candidate, given_rules)
    assert set(map(repr, blamed.differences)) <= set(map(repr, plain.differences))
    assert (blamed.verdict is Verdict.EQUAL) is (plain.verdict is Verdict.EQUAL)


# Noise: a control that differs from itself


def values(control: Any, again: Any, candidate: Any) -> Comparison:
    return compare_with_noise(Reply(control), Reply(again), Reply(candidate))


def test_only_what_the_control_does_not_vary_in_is_blamed() -> None:
    found = values({"time": 1, "name": "a", "n": 1}, {"time": 2, "name": "a", "n": 1}, {"time": 3, "name": "b", "n": 1})
    assert told(found) == [("$.name", "a", "b")]
    assert [(each.path, each.control, each.candidate) for each in found.noisy] == [("$.time", 1, 2)]
    assert found.verdict is Verdict.DIFFERENT
    found = values({"time": 1}, {"time": 2}, {"time": 3})
    assert (found.verdict, found.differences) == (Verdict.IGNORED, ())
    assert values({"time": 1}, {"time": 2}, {"time": 1}).verdict is Verdict.EQUAL
    assert values({"time": 1}, {"time": 1}, {"time": 1}).verdict is Verdict.EQUAL


@each_case(
    ("control", "again", "candidate", "blamed"),
    [
        # a value that varies excuses no other type and no absence
        ({"a": 1}, {"a": 2}, {"a": "3"}, ["$.a"]),
        ({"a": 1}, {"a": 2}, {"a": None}, ["$.a"]),
        ({"a": 1}, {"a": 2}, {}, ["$.a"]),
        ({"a": [1]}, {"a": [2]}, {"a": []}, ["$.a[0]"]),
        ({"a": [1]}, {"a": [2]}, {"a": [3, 4]}, ["$.a[1]"]),
        # what varies in type or presence excuses the same
        ({"a": 1}, {"a": "2"}, {"a": "3"}, []),
        ({"a": 1}, {}, {}, []),
        ({}, {"a": 1}, {"a": 2}, []),
        ({"a": 1}, {}, {"a": "1"}, ["$.a"]),
        # inside and around an unstable place
        ({"a": {"b": 1}, "c": {"d": 1}}, {"a": 5, "c": {"d": 2}}, {"a": {"b": 2}, "c": 1}, ["$.c"]),
        ({"a": {"b": 1}}, {}, {"a": {}}, []),
        ({"a": {"b": 1}}, {}, {"a": {"b": "1"}}, ["$.a.b"]),
        # lengths
        ([1, 2], [1, 2, 3], [1, 2, 3, 4], []),
        ([1, 2, 3], [1, 2], [1, 2], []),
        ([1, 2, 3], [1, 2], [1], ["$[1]"]),
        ({"a": [1, 2]}, {}, {"a": [1]}, []),
    ],
)
def test_noise_excuses_what_the_control_itself_varies_in(
    control: Any, again: Any, candidate: Any, blamed: list[str]
) -> None:
    found = values(control, again, candidate)
    assert [each.path for each in found.differences] == blamed
    assert found.verdict is (Verdict.DIFFERENT if blamed else Verdict.IGNORED)


def test_a_control_that_fails_only_at_times_makes_faults_noise_and_nothing_else() -> None:
    def verdict(control: Outcome, again: Outcome, candidate: Outcome) -> Verdict:
        return compare_with_noise(control, again, candidate).verdict

    assert verdict(AWAY, Reply(1), Reply(1)) is Verdict.IGNORED
    assert verdict(Reply(1), AWAY, AWAY) is Verdict.IGNORED
    assert verdict(Reply(1), AWAY, Reply(2)) is Verdict.DIFFERENT
    assert verdict(Reply(1), Reply(2), AWAY) is Verdict.ERROR_DIFFERENT


def test_noise_that_was_not_found_blames_nothing_and_much_noise_hides_nothing() -> None:
    huge: list[Any] = [0] * 3_000
    control, again = Reply(huge), Reply([*huge[:-1], 1])
    assert compare_with_noise(control, again, Reply([1]), max_values=1_000).verdict is Verdict.TOO_LARGE
    assert compare_with_noise(control, again, control, max_values=1_000).verdict is Verdict.EQUAL
    found = values([0] * 500 + [1], [2] * 500 + [1], [3] * 500 + [4])
    assert told(found) == [("$[500]", 1, 4)]
    assert len(found.noisy) == MAX_DIFFERENCES


# Sampling


CALL = Call("VM.stat", ("vm",), {"force": True})


def chosen(sampling: Sampling, calls: int, rate: float, call: Call = CALL) -> list[bool]:
    sampler = Sampler()
    return [sampler.choose(sampling, "toy/VM.stat", call, number / rate) for number in range(calls)]


def test_a_share_is_chosen_whatever_the_rate() -> None:
    for rate in (1.0, 100.0, 10_000.0):
        assert 900 < sum(chosen(Sampling(share=0.1), 10_000, rate)) < 1_100
    assert not any(chosen(Sampling(share=0.0), 1_000, 100.0))
    assert 0 < sum(chosen(Sampling(share=0.5), 100, 1.0)) < 100  # one call that is made again and again
    assert all(chosen(EVERY_CALL, 1_000, 1e6))
    assert all(chosen(Sampling(at_most=200.0), 1_000, 100.0))  # below the rate


def test_a_rate_is_kept_and_spread_over_the_second() -> None:
    taken = chosen(Sampling(at_most=200.0), 20_000, 2_000.0)
    seconds = [taken[start : start + 2_000] for start in range(0, 20_000, 2_000)]
    assert all(sum(second) <= 200 for second in seconds)
    assert all(sum(second) > 140 for second in seconds[1:])
    for second in seconds[1:]:
        assert sum(second[1_000:]) > 50, "the end of a second is sampled too"


@each_case("text", ["200", "0/s", "-1/s", "200/m", "many/s", ""])
def test_a_rate_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of calls a second such as 200/s"):
        parse_rate(text)
    assert (parse_rate("200/s"), parse_rate("0.5/s")) == (200.0, 0.5)
    shown = [str(each) for each in (EVERY_CALL, Sampling(0.1), Sampling(0.005, 200.0))]
    assert shown == ["100%", "10%", "0.5%, at most 200/s"]
