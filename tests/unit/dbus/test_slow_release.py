from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

import pytest

from adapters.dbus import slow_release
from adapters.dbus.slow_release import release_slowly
from tests.kit.programs import TIMEOUT

COUNT, SLICE = 1000, 100


class Record(dict[str, object]):
    """A part of a value, whose end is seen."""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_release, "_INTERVAL", 0.001)
    monkeypatch.setattr(slow_release, "_SLICE", SLICE)


def records(freed: Callable[[], None]) -> dict[str, Record]:
    made = {f"{at}": Record(label="x") for at in range(COUNT)}
    for record in made.values():
        weakref.finalize(record, freed)
    return made


@pytest.mark.parametrize("is_body", [False, True], ids=["the result is a part of the body", "there is no result"])
async def test_a_value_is_freed_in_slices_once_nothing_else_refers_to_it(*, is_body: bool) -> None:
    turn, turns = 0, dict[int, int]()

    def freed() -> None:
        turns[turn] = turns.get(turn, 0) + 1

    value: list[object] | dict[str, object] = {"Value": records(freed)}
    if is_body:
        value = [value]
        release_slowly(value, None)
    else:
        release_slowly([value], value)
    async with asyncio.timeout(TIMEOUT):
        for _ in range(20):
            await asyncio.sleep(0.001)
            turn += 1
        assert not turns, "it is still in use"
        del value
        while sum(turns.values()) < COUNT:
            await asyncio.sleep(0)
            turn += 1
    assert max(turns.values()) <= SLICE


async def test_a_value_that_stays_in_use_is_left_to_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_release, "_PATIENCE", 0.0)
    ends: list[None] = []
    value = records(lambda: ends.append(None))
    left = asyncio.Event()
    weakref.finalize(slow_release._Release([value]), left.set)
    async with asyncio.timeout(TIMEOUT):
        await left.wait()
    assert not ends
    del value
    assert len(ends) == COUNT
