"""What one subscriber has still to hear: bounded, and of a property only the last value; knows no bus."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from itertools import count
from typing import Self, TypeAlias

from gateway.core.model import Event, Missed, Value

BOUND = 1024  # events that wait to be heard

News: TypeAlias = "Event | Missed"


class Feed:
    """`async for news in feed:` never ends by itself."""

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._queue: OrderedDict[Hashable, News] = OrderedDict()
        self._numbers = count()
        self._more = asyncio.Event()

    def put(self, event: Event) -> bool:
        """Take an event, whatever else is known of its properties; false when there is no room, and it is lost."""
        key = self._key(event)
        before = self._queue.pop(key, None)
        if before is None and len(self._queue) >= self._bound:
            return False
        self._queue[key] = event if not isinstance(before, Event) else _together(before, event)
        self._more.set()
        return True

    def miss(self, missed: Missed) -> None:
        """Tell that events may have been lost; what is read then is newer than all that was told before of properties.

        There is always room for it: of each bus name one waits at most.
        """
        self._queue.pop(missed.bus_name, None)
        stale = [key for key, news in self._queue.items() if isinstance(news, Event) and _is_outdated(news, missed)]
        for key in stale:
            del self._queue[key]
        self._queue[missed.bus_name] = missed
        self._more.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        while not self._queue:
            self._more.clear()
            await self._more.wait()
        return self._queue.popitem(last=False)[1]

    def _key(self, event: Event) -> Hashable:
        """Events of one key are heard as one."""
        if event.member:
            return next(self._numbers)
        return event.bus_name, event.object_path, event.interface


def _is_outdated(event: Event, missed: Missed) -> bool:
    return not event.member and event.bus_name == missed.bus_name


def _together(before: Event, after: Event) -> Event:
    return Event(
        after.bus_name,
        after.object_path,
        after.interface,
        properties={**_without(before, after), **after.properties},
        invalidated=(before.invalidated - after.properties.keys()) | after.invalidated,
    )


def _without(before: Event, after: Event) -> dict[str, Value]:
    return {name: value for name, value in before.properties.items() if name not in after.invalidated}
