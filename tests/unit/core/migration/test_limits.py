from __future__ import annotations

from msgspec.structs import replace

from gateway.core.migration.limits import LIMITS as DEFAULT
from gateway.core.migration.limits import (
    Assessment,
    BothSides,
    Breach,
    RolloutLimits,
    SideCounts,
    assess,
    control_of,
    find_breaches,
    limit_rows,
    near_limit,
    numbers,
    summary,
)
from gateway.core.migration.statistics import KEY_GROUPS
from tests.kit.cases import each_case
from tests.kit.migrations import counts, of_keys, side

LIMITS = RolloutLimits(mismatches=0.001, errors=0.005, latency=1.5, samples=100)


def _judged(
    seen: BothSides, baseline: SideCounts | None = None, limits: RolloutLimits = LIMITS
) -> list[tuple[bool, str]]:
    return [(over.broken, over.words.split(" (", maxsplit=1)[0]) for over in find_breaches(limits, baseline, seen)]


@each_case(
    ("seen", "expected"),  # whether the limit is broken, and the beginning of the words
    [
        (BothSides(), []),
        (counts(compared=1000, calls=1000), []),
        (counts(compared=10, different=1), []),
        (counts(compared=100, different=1), [(False, "1 of 100 differ")]),
        (counts(compared=100, different=4), [(True, "4 of 100 differ")]),
        (counts(compared=1000, different=1), []),
        (counts(compared=100_000, different=110), [(False, "110 of 100000 differ")]),
        (counts(compared=100_000, different=150), [(True, "150 of 100000 differ")]),
        (counts(calls=10, errors=1), []),
        (counts(calls=100, errors=1), [(False, "1 of 100 calls by D-Bus failed")]),
        (counts(calls=100, errors=20), [(True, "20 of 100 calls by D-Bus failed")]),
        (counts(calls=100, errors=20, control=side(100, errors=20)), []),
    ],
)
def test_rates_are_held_against_limits(seen: BothSides, expected: list[tuple[bool, str]]) -> None:
    assert _judged(seen) == expected


def test_a_step_that_waits_for_mismatches_says_for_how_many_comparisons_more() -> None:
    [far] = find_breaches(LIMITS, None, counts(compared=100, different=1))
    [near] = find_breaches(LIMITS, None, counts(compared=40_000, different=41))
    assert (far.doubt, near_limit(LIMITS, counts(compared=40_000, different=41))) == ("may be chance", "")
    assert near.doubt == "may be chance, and 56539 comparisons more at this rate rule out 0.13%"
    scale = (40_000 + 56_539) / 40_000
    seen = counts(compared=int(40_000 * scale) + 1, different=int(41 * scale))
    assert near_limit(LIMITS, seen) == "above the limit of 0.1%, but 0.13% is ruled out"
    assert _judged(seen) == []


def test_a_breach_says_its_numbers_and_its_limit() -> None:
    mismatch, error = find_breaches(LIMITS, None, counts(compared=1000, different=23, calls=1000, errors=50))
    assert mismatch.words == "23 of 1000 differ (2.3%, limit 0.1%)"
    assert error.words == "50 of 1000 calls by D-Bus failed (5%), by the legacy service 0%, limit 0.5% more"
    strict = RolloutLimits(mismatches=0.0, samples=1)  # a limit of nothing is broken by the first that counts
    assert _judged(counts(compared=1, different=1), limits=strict) == [(True, "1 of 1 differ")]


# Without a control to compare with


def test_without_a_control_only_more_than_half_that_fail_are_a_breach_or_what_it_did_before_counts() -> None:
    assert _judged(counts(calls=100, errors=20, control=side(3))) == []
    [(broken, words)] = _judged(counts(calls=100, errors=90, control=side(0)))
    assert broken
    assert words == "90 of 100 calls by D-Bus failed"
    before = side(5000, errors=1000)
    assert control_of(100, counts(control=side(99)), before) == before
    assert control_of(100, counts(control=side(100)), before) == side(100)
    assert _judged(counts(calls=100, errors=20, control=side(0)), before) == []
    assert _judged(counts(calls=100, errors=60, control=side(0)), before)[0][0]


# Errors by key: 50 keys with 20 calls each, on both sides

CALLS = [20] * 50
NONE = [0] * 50
ONE_KEY = [20, *NONE[1:]]
SPREAD = [1, 0] * 25  # 2.5 % of the calls, each of another key


def _by_key(ours: list[int], theirs: list[int] = NONE, calls: list[int] = CALLS) -> list[Breach]:
    return [*find_breaches(LIMITS, None, BothSides(control=of_keys(CALLS, theirs), candidate=of_keys(calls, ours)))]


def test_errors_of_many_keys_break_the_limit_and_those_of_one_key_neither_do_nor_hide_others() -> None:
    assert _by_key(ONE_KEY) == []
    assert _by_key([2000, *NONE[1:]], calls=[2000, *CALLS[1:]]) == []
    [breach] = _by_key(SPREAD)
    assert breach.broken
    assert breach.words.startswith("25 of 1000 calls by D-Bus failed (2.5%), ")
    for theirs in (NONE, [0, 20, *NONE[2:]]):
        [breach] = _by_key([20, *SPREAD[1:]], theirs)
        assert breach.broken
    assert "44 of 1000 calls by D-Bus failed (4.4%, 17 of them set aside as of one key)" in breach.words
    [breach] = _by_key(CALLS)
    assert breach.broken
    [breach] = _by_key([60, 60], calls=[60, 60])
    assert breach.broken


def test_few_keys_that_fail_count_as_few_calls_and_one_alone_makes_a_step_wait() -> None:
    # Three of 50 fail always: 6 % of the calls, and no reason to go back or to wait, as three of 50 calls.
    assert _by_key([20, 20, 20, *NONE[3:]]) == []
    waits, goes_back = (_by_key([20] * number + NONE[number:]) for number in (8, 16))
    assert [(breach.broken, breach.likely) for breach in (*waits, *goes_back)] == [(False, True), (True, True)]
    for calls, others in (([200], 0), ([200, 99], 99)):
        [breach] = _by_key([200, *[0] * (len(calls) - 1)], calls=calls)
        assert not breach.broken
        assert breach.words.endswith(f"; of other keys only {others} of 100 calls")
    assert _by_key([200, 0], calls=[200, 100]) == []


# Mistakes of clients


def _refused(ours: list[int], theirs: list[int] = NONE) -> list[Breach]:
    good, missing = of_keys(CALLS, NONE), (0,) * (KEY_GROUPS - len(CALLS))
    sides = [replace(good, clients=(*refused, *missing)) for refused in (theirs, ours)]
    return [*find_breaches(LIMITS, None, BothSides(0, 0, *sides))]


def test_mistakes_of_clients_count_for_neither_side_until_d_bus_refuses_more() -> None:
    assert _refused(CALLS, CALLS) == _refused(SPREAD, CALLS) == []
    assert _refused([2000, *NONE[1:]]) == []
    [breach] = _refused(SPREAD)
    assert breach.broken
    assert breach.words.startswith("25 of 1025 calls by D-Bus were refused as mistakes of clients (2.44%), by the ")
    refusing = SideCounts(clients=(5,) * KEY_GROUPS)
    [breach] = find_breaches(LIMITS, None, BothSides(control=of_keys(CALLS, NONE), candidate=refusing))
    assert breach.broken
    assert [*find_breaches(LIMITS, of_keys(CALLS, NONE), BothSides(candidate=refusing))] == []  # of another step
    assert numbers(BothSides(candidate=refusing), 1.0)["dbus_client_errors"] == 5 * KEY_GROUPS


# Latency


def _some_slow(calls: int, slow: int, seconds: float = 0.5) -> SideCounts:
    return side(calls - slow, seconds=0.020) + side(slow, seconds=seconds)


@each_case(
    ("control", "candidate", "says"),
    [
        (side(2000, seconds=0.020), side(2000, seconds=0.100), [(True, "p50"), (True, "p99")]),
        (side(5000, seconds=0.020), side(5000, seconds=0.024), []),
        # the tail alone: within the limit, perhaps chance, certain
        (side(2000, seconds=0.020), _some_slow(2000, 20), []),
        (side(2000, seconds=0.020), _some_slow(2000, 29), [(False, "p99")]),
        (side(2000, seconds=0.020), _some_slow(2000, 60), [(True, "p99")]),
        # a machine that stalls now and then: of 100 calls of the control one more slow one would be no surprise
        (side(100, seconds=0.020), _some_slow(1000, 50, 0.060), []),
        (side(5000, seconds=0.020), _some_slow(1000, 50, 0.060), [(True, "p99")]),
        # what is fast enough is never too slow
        (side(2000, seconds=0.001), side(2000, seconds=0.009), []),
    ],
)
def test_a_slow_candidate_breaks_the_limit_at_its_median_or_its_tail(
    control: SideCounts, candidate: SideCounts, says: list[tuple[bool, str]]
) -> None:
    found = find_breaches(LIMITS, None, BothSides(control=control, candidate=candidate))
    assert [(over.broken, over.words.partition(" of D-Bus is ")[0]) for over in found] == says


# Sides


def test_counts_add_up_and_what_came_since_is_a_difference() -> None:
    both = counts(compared=5, different=1, calls=7, errors=2, seconds=0.02) + counts(compared=1, calls=3, seconds=0.02)
    assert (both.compared, both.different, both.candidate.calls, both.candidate.errors) == (6, 1, 10, 2)
    assert sum(both.candidate.latency) == 10
    assert BothSides() + both == both
    start = counts(compared=5, different=1, calls=7, errors=2, seconds=0.02)
    more = counts(compared=10, different=3, calls=9, errors=1, seconds=0.3)
    assert (start + more).since(start) == more
    assert counts(compared=3, calls=4).since(counts(compared=5, calls=7)) == counts(compared=3, calls=4)


# Words


def test_the_numbers_of_a_decision_are_those_that_made_it() -> None:
    seen = numbers(counts(compared=10, different=1, calls=20, errors=2, seconds=0.05), 3.0004)
    assert 0.05 <= seen.pop("dbus_p50") <= seen.pop("dbus_p99") < 0.053
    assert seen == {
        "step_seconds": 3.0,
        "compared": 10,
        "different": 1,
        "legacy_calls": 100,
        "legacy_errors": 0,
        "dbus_calls": 20,
        "dbus_errors": 2,
    }


def test_a_summary_says_what_was_seen_does_not_rule_out_and_what_was_set_aside() -> None:
    words = "0 of 1000 differ (no more than 0.459%), 0 of 1000 calls by D-Bus failed"
    assert summary(counts(compared=1000, calls=1000)) == words
    assert summary(counts(calls=5)) == "nothing compared, 0 of 5 calls by D-Bus failed"
    words = "nothing compared, 20 of 1000 calls by D-Bus failed (19 of them set aside as of one key)"
    assert summary(BothSides(candidate=of_keys(CALLS, ONE_KEY))) == words


def test_each_limit_stands_beside_what_was_measured() -> None:
    rows = limit_rows(RolloutLimits(), None, counts(compared=1000, different=2, calls=200, errors=2, seconds=0.05))
    assert [(row["limit"], row["allowed"]) for row in rows] == [
        ("mismatches", "0.1% of the comparisons"),
        ("errors", "0.5% more than the legacy service"),
        ("p50", "1.5 times the legacy service's"),
        ("p99", "1.5 times the legacy service's"),
    ]
    assert [row["measured"] for row in rows[:2]] == ["2 of 1000 (0.2%)", "D-Bus 2 of 200 (1%), legacy 0 of 100 (0%)"]
    assert rows[2]["measured"].startswith("D-Bus 5")
    unknown = [row["measured"] for row in limit_rows(RolloutLimits(), None, BothSides())]
    assert unknown == ["nothing yet", *["D-Bus nothing yet, legacy nothing yet"] * 3]


# One look, for `status`

RAN = side(1000, seconds=0.02)
GOOD = BothSides(1000, 0, RAN, RAN)


@each_case(
    ("sides", "ignored", "says"),
    [
        (BothSides(), 0, Assessment.NO_EVIDENCE),
        (BothSides(control=RAN), 0, Assessment.NO_EVIDENCE),
        (GOOD, 0, Assessment.EQUAL),
        (GOOD, 1, Assessment.IGNORED),
        (replace(GOOD, different=1), 5, Assessment.DIFFERS),
        (replace(GOOD, candidate=side(1000, errors=100, seconds=0.02)), 0, Assessment.FAILS),
        (replace(GOOD, candidate=side(1000, seconds=2.0)), 0, Assessment.SLOW),
        (replace(GOOD, compared=DEFAULT.samples - 1), 0, Assessment.SO_FAR),
        (replace(GOOD, compared=DEFAULT.samples), 0, Assessment.EQUAL),
        (replace(GOOD, compared=0), 0, Assessment.NOT_COMPARED),
    ],
)
def test_the_first_that_fits_is_said(sides: BothSides, ignored: int, says: Assessment) -> None:
    assert assess(sides, ignored) is says


def test_the_order_is_failing_differing_being_slow_and_an_old_service_that_fails_as_often_excuses() -> None:
    bad = BothSides(1000, 1000, RAN, side(1000, errors=500, seconds=2.0))
    assert assess(bad) is Assessment.FAILS
    assert assess(replace(bad, candidate=side(1000, seconds=2.0))) is Assessment.DIFFERS
    assert assess(BothSides(1000, 0, *[side(1000, errors=100, seconds=0.02)] * 2)) is Assessment.EQUAL
    assert assess(BothSides(0, 0, side(50), side(10, errors=10))) is Assessment.FAILS
    assert assess(BothSides(0, 0, side(50), side(50, errors=1))) is Assessment.NOT_COMPARED
