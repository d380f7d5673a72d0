from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.judgement import Judgement, judgement
from gateway.core.limits import LIMITS, OneSide, Sides
from gateway.core.tally import BUCKETS

FAST, LATE = 20, 40  # buckets, a hundred times apart


def ran(calls: int, errors: int = 0, bucket: int = FAST) -> OneSide:
    latency = [0] * BUCKETS
    latency[bucket] = calls
    return OneSide(calls, errors, tuple(latency))


GOOD = Sides(1000, 0, ran(1000), ran(1000))


@pytest.mark.parametrize(
    ("sides", "ignored", "says"),
    [
        (Sides(), 0, Judgement.NO_EVIDENCE),
        (Sides(control=ran(1000)), 0, Judgement.NO_EVIDENCE),
        (GOOD, 0, Judgement.EQUAL),
        (GOOD, 1, Judgement.IGNORED),
        (replace(GOOD, different=1), 5, Judgement.DIFFERS),
        (replace(GOOD, candidate=ran(1000, errors=100)), 0, Judgement.FAILS),
        (replace(GOOD, candidate=ran(1000, bucket=LATE)), 0, Judgement.SLOW),
        (replace(GOOD, compared=LIMITS.samples - 1), 0, Judgement.SO_FAR),
        (replace(GOOD, compared=LIMITS.samples), 0, Judgement.EQUAL),
        (replace(GOOD, compared=0), 0, Judgement.NOT_COMPARED),
    ],
)
def test_the_first_that_fits_is_said(sides: Sides, ignored: int, says: Judgement) -> None:
    assert judgement(sides, ignored) is says


def test_failing_is_worse_than_differing_and_differing_than_being_slow() -> None:
    bad = Sides(1000, 1000, ran(1000), ran(1000, errors=500, bucket=LATE))
    assert judgement(bad) is Judgement.FAILS
    assert judgement(replace(bad, candidate=ran(1000, bucket=LATE))) is Judgement.DIFFERS


def test_an_old_service_that_fails_as_often_is_not_held_against_d_bus() -> None:
    assert judgement(Sides(1000, 0, ran(1000, errors=100), ran(1000, errors=100))) is Judgement.EQUAL


def test_a_few_calls_that_all_fail_are_told_at_once_and_one_is_not() -> None:
    assert judgement(Sides(0, 0, ran(50), ran(10, errors=10))) is Judgement.FAILS
    assert judgement(Sides(0, 0, ran(50), ran(50, errors=1))) is Judgement.NOT_COMPARED


def test_every_word_is_one_that_some_evidence_can_have() -> None:
    assert len({word.value for word in Judgement}) == len(Judgement)
