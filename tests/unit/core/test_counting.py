from __future__ import annotations

from gateway.core import counting
from gateway.core.migration import Side


def test_every_name_is_another_one() -> None:
    names = [*counting.COMPARED, counting.DROPPED]
    names += [name(side) for name in (counting.calls, counting.errors, counting.answered) for side in Side]
    assert len(names) == len(set(names))
    assert set(counting.MISMATCHES) < set(counting.COMPARED)
