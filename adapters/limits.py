"""Counts what all listeners share: calls in flight, and bytes of bodies and answers held; knows no listener.

Bytes belong to an account where a peer is known. What one account holds beyond its share counts against that account
alone: others still find the rest of the room, whatever one peer leaves unread.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from gateway.core.interfaces import NOT_SENT, Wanted

CALLS = 1024
BUFFERED = 256 * 1024**2  # bytes


class PeerAccount:
    """The bytes held for one peer, over all listeners."""

    __slots__ = ("buffered", "connections", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.buffered = 0
        self.connections = 0  # connections


class SlowReader(Protocol):
    """A connection whose client has not taken its answer yet."""

    @property
    def account(self) -> PeerAccount | None:
        """Whose bytes these are."""

    @property
    def stalled(self) -> float:
        """Seconds since the client has taken the last bytes."""

    def give_up(self) -> None:
        """Cut the connection, and hold nothing from now on."""


class Quota:
    """How much there is, and how much of it is taken now."""

    def __init__(
        self, max_calls: int = CALLS, max_buffered: int = BUFFERED, max_buffered_per_peer: int | None = None
    ) -> None:
        self.max_calls = max_calls
        self.max_buffered = max_buffered
        self.max_per_account = -(-max_buffered // 2) if max_buffered_per_peer is None else max_buffered_per_peer
        self.calls = 0
        self.buffered = 0  # bytes
        self.slow_readers: set[SlowReader] = set()
        self._beyond = 0  # bytes that accounts hold beyond their share
        self._accounts: dict[str, PeerAccount] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further call may begin."""
        return self.calls >= self.max_calls or self.buffered - self._beyond >= self.max_buffered

    def is_full_for(self, account: PeerAccount) -> bool:
        """Whether no further call of this peer may begin."""
        return self.is_full or account.buffered >= self.max_per_account

    def fits(self, size: int, account: PeerAccount | None = None) -> bool:
        """Whether so many bytes more could be held."""
        if account is not None and account.buffered + size > self.max_per_account:
            return False
        return self.buffered - self._beyond + size <= self.max_buffered

    def reserve(self, size: int, account: PeerAccount | None = None) -> None:
        """Hold so many bytes more; less when negative."""
        self.buffered += size
        if account is not None:
            before, share = account.buffered, self.max_per_account
            account.buffered = after = before + size
            if before > share or after > share:
                self._beyond += max(0, after - share) - max(0, before - share)

    def open_account(self, name: str) -> PeerAccount:
        """The account of a peer, for one more connection of it."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = PeerAccount(name)
        account.connections += 1
        return account

    def close_account(self, account: PeerAccount) -> None:
        """One connection less."""
        account.connections -= 1
        if not account.connections:
            del self._accounts[account.name]

    def relieve(self, account: PeerAccount, size: int, stalled: float) -> None:
        """Cut clients that have read nothing for `stalled` seconds until this peer may hold `size` bytes more.

        Those of the peer itself when its share is used up; else those of whoever holds the most.
        """
        own = account.buffered + size > self.max_per_account
        stuck = [each for each in self.slow_readers if each.stalled >= stalled and (not own or each.account is account)]
        stuck.sort(key=lambda each: (_held(each), each.stalled))
        while stuck and (self.is_full_for(account) or not self.fits(size, account)):
            stuck.pop().give_up()


def _held(reader: SlowReader) -> int:
    return 0 if reader.account is None else reader.account.buffered


class Reservation:
    """The bytes one request holds of a room; `with` gives them back."""

    __slots__ = ("_quota", "size")

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resize(0)

    def fits(self, size: int) -> bool:
        """Whether this request may hold `size` bytes in all."""
        return self._quota.fits(size - self.size)

    def resize(self, size: int) -> None:
        """Hold so many bytes from now on: asked for with `fits` before, or there already and only to be counted."""
        self._quota.reserve(size - self.size)
        self.size = size


# Who may ask one upstream now, and who waits in line for that; knows no wire.


class ConcurrencyLimiter:
    """So many at a time, so many that wait, the first first. Who waits leaves when the call is not wanted any more."""

    def __init__(self, most: int, waiting: int) -> None:
        self._free = most
        self._most_waiting = waiting
        self._queue: dict[asyncio.Future[bool], Wanted] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether one more could not even wait."""
        return not self._free and len(self._queue) >= self._most_waiting

    async def acquire(self, wanted: Wanted) -> bool:
        """Wait for a turn, which the caller gives back; false: the call was not wanted any more, and has none."""
        if self._free:
            self._free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue[turn] = wanted
        try:
            return await turn
        except asyncio.CancelledError as error:
            if self._queue.pop(turn, None) is None and not turn.cancelled() and turn.result():
                self.release()
            error.args = (*error.args, NOT_SENT)
            raise

    def release(self) -> None:
        """Let the one go on that has waited longest."""
        while self._queue:
            turn = next(iter(self._queue))
            del self._queue[turn]
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1

    def review(self) -> None:
        """Send away whoever waits and is not wanted any more."""
        for turn, wanted in tuple(self._queue.items()):
            if not turn.done() and not wanted():
                del self._queue[turn]
                turn.set_result(False)
