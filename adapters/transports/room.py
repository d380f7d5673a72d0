"""Counts what all listeners share: calls in flight, and bytes of bodies and answers held; knows no listener.

Bytes belong to an account where a peer is known. What one account holds beyond its share counts against that account
alone: others still find the rest of the room, whatever one peer leaves unread.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

CALLS = 1024
BUFFERED = 256 * 1024**2  # bytes


class Account:
    """The bytes held for one peer, over all listeners."""

    __slots__ = ("buffered", "name", "users")

    def __init__(self, name: str) -> None:
        self.name = name
        self.buffered = 0
        self.users = 0  # connections


class SlowReader(Protocol):
    """A connection whose client has not taken its answer yet."""

    @property
    def account(self) -> Account | None:
        """Whose bytes these are."""

    @property
    def stalled(self) -> float:
        """Seconds since the client has taken the last bytes."""

    def give_up(self) -> None:
        """Cut the connection, and hold nothing from now on."""


class Room:
    """How much there is, and how much of it is taken now."""

    def __init__(
        self, max_calls: int = CALLS, max_buffered: int = BUFFERED, max_buffered_per_peer: int | None = None
    ) -> None:
        self.max_calls = max_calls
        self.max_buffered = max_buffered
        self.max_per_account = -(-max_buffered // 2) if max_buffered_per_peer is None else max_buffered_per_peer
        self.calls = 0
        self.buffered = 0  # bytes
        self.slow: set[SlowReader] = set()
        self._beyond = 0  # bytes that accounts hold beyond their share
        self._accounts: dict[str, Account] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further call may begin."""
        return self.calls >= self.max_calls or self.buffered - self._beyond >= self.max_buffered

    def is_full_for(self, account: Account) -> bool:
        """Whether no further call of this peer may begin."""
        return self.is_full or account.buffered >= self.max_per_account

    def fits(self, size: int, account: Account | None = None) -> bool:
        """Whether so many bytes more could be held."""
        if account is not None and account.buffered + size > self.max_per_account:
            return False
        return self.buffered - self._beyond + size <= self.max_buffered

    def hold(self, size: int, account: Account | None = None) -> None:
        """Hold so many bytes more; less when negative."""
        self.buffered += size
        if account is not None:
            before, share = account.buffered, self.max_per_account
            account.buffered = after = before + size
            if before > share or after > share:
                self._beyond += max(0, after - share) - max(0, before - share)

    def open_account(self, name: str) -> Account:
        """The account of a peer, for one more connection of it."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(name)
        account.users += 1
        return account

    def close_account(self, account: Account) -> None:
        """One connection less."""
        account.users -= 1
        if not account.users:
            del self._accounts[account.name]

    def relieve(self, account: Account, size: int, stalled: float) -> None:
        """Cut clients that have read nothing for `stalled` seconds until this peer may hold `size` bytes more.

        Those of the peer itself when its share is used up; else those of whoever holds the most.
        """
        own = account.buffered + size > self.max_per_account
        stuck = [each for each in self.slow if each.stalled >= stalled and (not own or each.account is account)]
        stuck.sort(key=lambda each: (_held(each), each.stalled))
        while stuck and (self.is_full_for(account) or not self.fits(size, account)):
            stuck.pop().give_up()


def _held(reader: SlowReader) -> int:
    return 0 if reader.account is None else reader.account.buffered


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
        self._room.hold(size - self.size)
        self.size = size
