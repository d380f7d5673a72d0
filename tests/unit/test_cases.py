"""A table in one test (tests/kit/cases.py) fails for each row that fails, and for no other."""

from __future__ import annotations

import pytest

from tests.kit.cases import each_case


async def test_every_row_is_run_and_those_that_fail_are_named() -> None:
    seen: list[object] = []

    def check(one: int, other: int) -> None:
        seen.append((one, other))
        assert one != other
        if one == 7:
            pytest.fail("no seven")

    async def check_later(one: int, other: int) -> None:
        check(one, other)

    rows = [(1, 2), pytest.param(3, 3), (7, 8)]
    tables = each_case("one", [1, 4])(each_case("other", [4])(check)), each_case(("one", "other"), rows)(check_later)
    with pytest.raises(BaseExceptionGroup) as failed:
        tables[0]()
    assert [each.__notes__ for each in failed.value.exceptions] == [["in the row 4"]]
    with pytest.raises(BaseExceptionGroup) as failed:
        await tables[1]()
    assert [type(each).__name__ for each in failed.value.exceptions] == ["AssertionError", "Failed"]
    assert seen == [(1, 4), (4, 4), (1, 2), (3, 3), (7, 8)]
