from __future__ import annotations

from msgspec.structs import replace

from gateway.core.migration.limits import LIMITS, Assessment, BothSides, SideCounts, assess
from gateway.core.migration.statistics import bucket_of, empty_histogram
from tests.kit.cases import each_case

FAST, LATE = bucket_of(0.02), bucket_of(2.0)


def ran(calls: int, errors: int = 0, bucket: int = FAST) -> SideCounts:
    latency = empty_histogram()
    latency[bucket] = calls
    return SideCounts(calls, errors, tuple(latency))


GOOD = BothSides(1000, 0, ran(1000), ran(1000))


@each_case(
    ("sides", "ignored", "says"),
    [
        (BothSides(), 0, Assessment.NO_EVIDENCE),
        (BothSides(control=ran(1000)), 0, Assessment.NO_EVIDENCE),
        (GOOD, 0, Assessment.EQUAL),
        (GOOD, 1, Assessment.IGNORED),
        (replace(GOOD, different=1), 5, Assessment.DIFFERS),
        (replace(GOOD, candidate=ran(1000, errors=100)), 0, Assessment.FAILS),
        (replace(GOOD, candidate=ran(1000, bucket=LATE)), 0, Assessment.SLOW),
        (replace(GOOD, compared=LIMITS.samples - 1), 0, Assessment.SO_FAR),
        (replace(GOOD, compared=LIMITS.samples), 0, Assessment.EQUAL),
        (replace(GOOD, compared=0), 0, Assessment.NOT_COMPARED),
    ],
)
def test_the_first_that_fits_is_said(sides: BothSides, ignored: int, says: Assessment) -> None:
    assert assess(sides, ignored) is says


def test_failing_is_worse_than_differing_and_differing_than_being_slow() -> None:
    bad = BothSides(1000, 1000, ran(1000), ran(1000, errors=500, bucket=LATE))
    assert assess(bad) is Assessment.FAILS
    assert assess(replace(bad, candidate=ran(1000, bucket=LATE))) is Assessment.DIFFERS


def test_an_old_service_that_fails_as_often_is_not_held_against_d_bus() -> None:
    assert assess(BothSides(1000, 0, ran(1000, errors=100), ran(1000, errors=100))) is Assessment.EQUAL


def test_a_few_calls_that_all_fail_are_told_at_once_and_one_is_not() -> None:
    assert assess(BothSides(0, 0, ran(50), ran(10, errors=10))) is Assessment.FAILS
    assert assess(BothSides(0, 0, ran(50), ran(50, errors=1))) is Assessment.NOT_COMPARED


def test_every_word_is_one_that_some_evidence_can_have() -> None:
    assert len({word.value for word in Assessment}) == len(Assessment)
