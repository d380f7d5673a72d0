"""Who asks, by permissions, and who gets a place."""

from __future__ import annotations

import asyncio

import pytest

from adapters.limits import Quota
from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.server.caller import Admission, StoreLimits, caller_of, least_privileged


@pytest.mark.parametrize(
    ("permissions", "domid"),
    [
        (Permissions(0, "n"), 0),
        (Permissions(0, "r", ((5, "r"),)), 0),
        (Permissions(5, "n"), 5),
        (Permissions(5, "n", ((0, "b"),)), 5),
        (Permissions(0, "n", ((5, "b"),)), 5),
        (Permissions(0, "n", ((5, "w"), (7, "r"))), 5),
        (Permissions(5, "n", ((7, "w"),)), None),
        (Permissions(0, "n", ((5, "b"), (7, "b"))), None),
        (Permissions(0, "w"), None),
        (Permissions(5, "b"), None),
    ],
)
def test_it_is_the_one_that_may_have_written(permissions: Permissions, domid: int | None) -> None:
    assert caller_of(permissions) == domid


@pytest.mark.parametrize(
    ("askers", "domid"),
    [([0, 0], 0), ([5, 5], 5), ([0, 5], 5), ([5, 0, 5], 5), ([5, 7], None), ([0, None], None), ([5, None], None)],
)
def test_a_request_of_several_nodes_is_made_in_the_name_of_the_least(
    askers: list[int | None], domid: int | None
) -> None:
    assert least_privileged(askers) == domid


LIMITS = StoreLimits(calls=1, calls_per_domain=2, body=100, body_per_domain=10)


async def test_another_domain_is_told_that_there_is_no_room_and_hurts_nobody_else() -> None:
    room = Quota()
    admission = Admission(LIMITS, room)
    async with admission.admitted(5) as one, admission.admitted(5) as two:
        assert one is not None
        assert two is not None
        assert [one.resize(1), two.resize(10), two.resize(9), two.resize(9)] == [True, False, True, True]
        assert (one.size, two.size, room.calls, room.buffered) == (1, 9, 2, 10)
        async with admission.admitted(5) as three, admission.admitted(7) as other, admission.admitted(0) as dom0:
            assert three is None
            assert other is not None
            assert dom0 is not None
            assert [other.resize(10), dom0.resize(99)] == [True, True]
    assert (room.calls, room.buffered) == (0, 0)
    async with admission.admitted(5) as too_large:
        assert too_large is not None
        assert not too_large.resize(11)


async def test_domain_0_waits_for_its_turn() -> None:
    admission = Admission(LIMITS, Quota())
    turns: list[int] = []

    async def take(number: int) -> None:
        async with admission.admitted(0):
            turns.append(number)

    async with asyncio.TaskGroup() as group, admission.admitted(0):
        group.create_task(take(2))
        await asyncio.sleep(0)
        turns.append(1)
    assert turns == [1, 2]


async def test_what_all_listeners_share_may_be_full_too() -> None:
    room = Quota(max_calls=1)
    admission = Admission(LIMITS, room)
    async with admission.admitted(5), admission.admitted(0) as dom0:
        assert dom0 is None


def test_how_large_a_request_may_be_depends_on_who_asks() -> None:
    admission = Admission(LIMITS, Quota())
    assert (admission.max_body(0), admission.max_body(5)) == (100, 10)
