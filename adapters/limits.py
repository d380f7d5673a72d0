"""Quotas of calls and bytes that all listeners share, and the concurrency limit of one upstream.

Bytes belong to an account where a peer is known. The bytes of an account beyond its share count against that account
alone, so a peer that does not read its responses leaves the rest of the quota to the others.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.core.interfaces import NOT_SENT, Wanted

CALLS = 1024
BUFFERED = 256 * 1024**2  # bytes


class PeerAccount:
    """The bytes held for one peer, over all listeners."""

    __slots__ = ("buffered", "connections", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.buffered = 0
        self.connections = 0


class SlowReader(Protocol):
    """A connection whose client has not read its whole response."""

    @property
    def account(self) -> PeerAccount | None:
        """The account of its peer."""

    @property
    def stalled(self) -> float:
        """Seconds since the client last read."""

    def give_up(self) -> None:
        """Abort the connection, and release its bytes."""


class Quota:
    """A limit of calls and bytes, and the part that is in use."""

    def __init__(
        self, max_calls: int = CALLS, max_buffered: int = BUFFERED, max_buffered_per_peer: int | None = None
    ) -> None:
        self.max_calls = max_calls
        self.max_buffered = max_buffered
        self.max_per_account = -(-max_buffered // 2) if max_buffered_per_peer is None else max_buffered_per_peer
        self.calls = 0
        self.buffered = 0  # bytes
        self.slow_readers: set[SlowReader] = set()
        self._beyond = 0  # bytes of accounts beyond their share
        self._accounts: dict[str, PeerAccount] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further call may start."""
        return self.calls >= self.max_calls or self.buffered - self._beyond >= self.max_buffered

    def is_full_for(self, account: PeerAccount) -> bool:
        """Whether no further call of this peer may start."""
        return self.is_full or account.buffered >= self.max_per_account

    def fits(self, size: int, account: PeerAccount | None = None) -> bool:
        """Whether `size` more bytes fit."""
        if account is not None and account.buffered + size > self.max_per_account:
            return False
        return self.buffered - self._beyond + size <= self.max_buffered

    def reserve(self, size: int, account: PeerAccount | None = None) -> None:
        """Count `size` more bytes, or fewer when it is negative."""
        self.buffered += size
        if account is not None:
            before, share = account.buffered, self.max_per_account
            account.buffered = after = before + size
            if before > share or after > share:
                self._beyond += max(0, after - share) - max(0, before - share)

    def open_account(self, name: str) -> PeerAccount:
        """Count one more connection of a peer; returns its account."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = PeerAccount(name)
        account.connections += 1
        return account

    def close_account(self, account: PeerAccount) -> None:
        """Count one connection less."""
        account.connections -= 1
        if not account.connections:
            del self._accounts[account.name]

    def relieve(self, account: PeerAccount, size: int, stalled: float) -> None:
        """Abort clients that have read nothing for `stalled` seconds, until `size` more bytes of this peer fit.

        They are the peer's own when its share is used up; else those of the peers that hold the most.
        """
        own = account.buffered + size > self.max_per_account
        stuck = [each for each in self.slow_readers if each.stalled >= stalled and (not own or each.account is account)]
        stuck.sort(key=lambda each: (each.account.buffered if each.account else 0, each.stalled))
        while stuck and (self.is_full_for(account) or not self.fits(size, account)):
            stuck.pop().give_up()


class ConcurrencyLimiter:
    """At most `most` calls at a time; `waiting` more wait, first in, first out, while their calls are wanted."""

    def __init__(self, most: int, waiting: int) -> None:
        self._free = most
        self._most_waiting = waiting
        self._queue: dict[asyncio.Future[bool], Wanted] = {}

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether no further call may even wait."""
        return not self._free and len(self._queue) >= self._most_waiting

    def take(self) -> bool:
        """Take a slot that is free, which the caller releases. False: there is none."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self, wanted: Wanted) -> bool:
        """Wait for a slot, which the caller releases. False: the call is not wanted any more, and has no slot."""
        if self.take():
            return True
        slot: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue[slot] = wanted
        try:
            return await slot
        except asyncio.CancelledError as error:
            if self._queue.pop(slot, None) is None and not slot.cancelled() and slot.result():
                self.release()
            error.args = (*error.args, NOT_SENT)
            raise

    def release(self) -> None:
        """Give the slot to the call that has waited longest."""
        while self._queue:
            slot = next(iter(self._queue))
            del self._queue[slot]
            if not slot.done():
                slot.set_result(True)
                return
        self._free += 1

    def review(self) -> None:
        """End the wait of each call that is not wanted any more."""
        for slot, wanted in tuple(self._queue.items()):
            if not slot.done() and not wanted():
                del self._queue[slot]
                slot.set_result(False)
