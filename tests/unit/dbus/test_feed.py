from __future__ import annotations

import asyncio

from adapters.dbus.signals import SignalEvent, SignalQueue
from gateway.core.rpc.model import Event, EventsLost, Value
from tests.kit.programs import TIMEOUT


def change(invalidated: str = "", path: str = "/a", **properties: Value) -> Event:
    return Event("org.example", path, "org.example.VM1", properties=properties, invalidated=frozenset(invalidated))


def signal(number: int) -> Event:
    return Event("org.example", "/a", "org.example.VM1", "Told", (number,))


async def heard(feed: SignalQueue, count: int) -> list[SignalEvent]:
    async with asyncio.timeout(TIMEOUT):
        return [await anext(feed) for _ in range(count)]


async def nothing_more(feed: SignalQueue) -> bool:
    more = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    waiting = not more.done()
    more.cancel()
    await asyncio.wait({more})
    return waiting


async def test_signals_are_heard_one_by_one_in_their_order_and_who_waits_is_told() -> None:
    feed = SignalQueue()
    waiting = asyncio.ensure_future(heard(feed, 3))
    for number in range(3):
        await asyncio.sleep(0)
        assert feed.put(signal(number))
    assert await waiting == [signal(0), signal(1), signal(2)]
    assert await nothing_more(feed)


async def test_of_a_property_only_the_last_value_is_heard() -> None:
    feed = SignalQueue()
    for number in range(10_000):
        assert feed.put(change(A=number))
    feed.put(change(B="b"))
    assert await heard(feed, 1) == [change(A=9999, B="b")]
    assert await nothing_more(feed)


async def test_objects_are_kept_apart_and_a_change_takes_its_place_behind_what_came_before_it() -> None:
    feed = SignalQueue()
    for event in (change(A=1), signal(1), change(path="/b", A=2), change(A=3)):
        feed.put(event)
    assert await heard(feed, 3) == [signal(1), change(path="/b", A=2), change(A=3)]


async def test_an_invalidated_property_has_no_value_and_a_new_value_makes_it_good() -> None:
    feed = SignalQueue()
    feed.put(change(A=1, B=1))
    feed.put(change(invalidated="A"))
    assert await heard(feed, 1) == [change(invalidated="A", B=1)]
    feed.put(change(invalidated="AB"))
    feed.put(change(A=2))
    assert await heard(feed, 1) == [change(invalidated="B", A=2)]


async def test_there_is_no_room_for_more_than_the_bound_but_for_what_was_there() -> None:
    feed = SignalQueue(bound=2)
    assert feed.put(change(A=1))
    assert feed.put(signal(1))
    assert not feed.put(signal(2))
    assert feed.put(change(A=2))
    assert await heard(feed, 2) == [signal(1), change(A=2)]


async def test_what_is_read_after_a_gap_is_newer_than_the_changes_before_it() -> None:
    feed = SignalQueue(bound=2)
    missed, again = EventsLost("org.example", ":1.1", "one"), EventsLost("org.example", ":1.2", "two")
    feed.put(change(A=1))
    feed.put(signal(1))
    feed.miss(missed)
    feed.miss(again)
    feed.miss(EventsLost("org.example.Other", "", "another"))
    assert await heard(feed, 3) == [signal(1), again, EventsLost("org.example.Other", "", "another")]
    assert await nothing_more(feed)
