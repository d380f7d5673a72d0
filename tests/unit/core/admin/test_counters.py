from __future__ import annotations

from gateway.core.admin import counters as counting
from gateway.core.admin.records import Counts
from gateway.core.migration.limits import BothSides, SideCounts
from gateway.core.migration.modes import Side


def test_every_name_is_another_one() -> None:
    names = [*counting.COMPARED, counting.DROPPED]
    names += [name(side) for name in (counting.calls, counting.errors, counting.answered) for side in Side]
    assert len(names) == len(set(names))
    assert set(counting.MISMATCHES) < set(counting.COMPARED)


def test_counters_become_what_both_sides_did() -> None:
    counters = {
        "equal": 5, "ignored": 2, "different": 1, "error_different": 3, "dropped": 9,
        "calls_legacy": 20, "errors_legacy": 1, "calls_dbus": 11, "errors_dbus": 4,
    }  # fmt: skip
    assert counting.sides(Counts(counters, {"dbus": [1, 2]})) == BothSides(
        11, 4, SideCounts(20, 1), SideCounts(11, 4, (1, 2))
    )
    assert counting.sides(Counts()) == BothSides()
