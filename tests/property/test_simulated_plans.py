"""The short form of `make statistics`: whole plans over the real decision functions, always the same ones."""

from __future__ import annotations

from tests.kit.cases import each_case
from tests.simulation.plans import EQUAL, WORSE, Row, outcome, simulate_number

PLANS = 6  # a row
SEED = 17


@each_case("row", EQUAL)
def test_plans_of_equal_sides_are_done(row: Row) -> None:
    found = outcome(row, [simulate_number(row, SEED, number) for number in range(PLANS)])
    assert (found.back, found.stuck) == (0.0, 0.0)


@each_case("row", WORSE)
def test_plans_of_a_worse_d_bus_are_rolled_back_soon(row: Row) -> None:
    found = outcome(row, [simulate_number(row, SEED, number) for number in range(PLANS)])
    assert (found.back, found.early) == (1.0, 0.0)
    assert found.median <= 1.5 * row.most  # of so few plans
