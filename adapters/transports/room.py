"""Counts what all listeners share: calls in flight, and bytes of bodies and answers held; knows no listener."""

from __future__ import annotations

from types import TracebackType
from typing import Self

CALLS = 1024
BUFFERED = 256 * 1024**2  # bytes


class Room:
    """How much there is, and how much of it is taken now."""

    def __init__(self, max_calls: int = CALLS, max_buffered: int = BUFFERED) -> None:
        self.max_calls = max_calls
        self.max_buffered = max_buffered
        self.calls = 0
        self.buffered = 0  # bytes

    @property
    def is_full(self) -> bool:
        """Whether no further call may begin."""
        return self.calls >= self.max_calls or self.buffered >= self.max_buffered

    def fits(self, size: int) -> bool:
        """Whether so many bytes more could be held."""
        return self.buffered + size <= self.max_buffered


class Held:
    """The bytes one request holds of a room; `with` gives them back."""

    __slots__ = ("_room", "size")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.become(0)

    def fits(self, size: int) -> bool:
        """Whether this request may hold `size` bytes in all."""
        return self._room.fits(size - self.size)

    def become(self, size: int) -> None:
        """Hold so many bytes from now on: asked for with `fits` before, or there already and only to be counted."""
        self._room.buffered += size - self.size
        self.size = size
