"""The share of each peer in the connections and calls of one listener.

A peer is a user of this host, an IPv4 address or an IPv6 network. Over loopback TCP all local clients have one
address and so one share, which is the whole unless the config says a number. When connections run out, the one that
has been idle for the longest time is closed for a new one: one of the same peer where its share is used up, else one
of the peer that has the most.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from adapters.limits import PeerAccount, Quota
from gateway.core.rpc import model
from gateway.core.rpc.model import Peer

STALLED = 1.0  # seconds without reading after which a client is aborted when others need its bytes


class HttpLimits(Struct, frozen=True):
    """The limits of one listener; beyond them a request is refused or its connection aborted."""

    body: int = 300 * 1024  # bytes, before and after inflating
    header_bytes: int = 16 * 1024  # request line and headers together
    header_timeout: float = 10.0  # seconds from connecting, or from a request's first byte, to the end of its head
    body_timeout: float = 60.0  # seconds for the whole body; streamed: without a byte
    write_timeout: float = 60.0  # seconds until the client has read the whole response; streamed: any of it
    keepalive_timeout: float = 75.0  # seconds between an answer and the next request
    max_calls: int = 512
    max_connections: int = 1024
    max_calls_per_peer: int | None = None  # None: half of the whole; the whole over loopback TCP
    max_connections_per_peer: int | None = None  # the same
    tunnels: tuple[str, ...] = ()  # paths, and all below them, at which a tunnel may be opened
    max_tunnels: int = 64
    max_waiting: int = 4096  # calls that wait for events: they are not calls in flight
    tunnel_grace: float | None = None  # seconds for tunnels at stop; None: as long as for calls
    poll_interval: float = 1.0  # seconds between two checks whether a client that sends nothing is connected and reads
    probe_after: float = 2.0  # seconds until a half-closed client is sent 100 (Continue), to learn whether it reads


class StreamTotals(Struct):
    """What a listener has streamed: bytes of bodies, or of tunnels."""

    received: int = 0  # bytes from clients
    sent: int = 0  # bytes to clients
    opened: int = 0  # tunnels


class QuotaMember(Protocol):
    """A connection that is counted."""

    def evict(self, whose: str, among: int) -> None:
        """Close this idle connection for a new one; its peer `whose` has `among` connections."""


class PeerShare:
    """The connections and calls of one peer."""

    __slots__ = (
        "account",
        "calls",
        "connections",
        "idle",
        "max_calls",
        "max_connections",
        "max_waiting",
        "name",
        "waiting",
    )

    def __init__(self, name: str, account: PeerAccount) -> None:
        self.name = name
        self.account = account  # its bytes, over all listeners
        self.max_connections = self.max_calls = self.max_waiting = 0
        self.calls = 0
        self.waiting = 0  # calls that wait for events
        self.connections: set[QuotaMember] = set()
        self.idle: dict[QuotaMember, None] = {}  # the longest idle first


class Quotas:
    """All shares of one listener. None as a number of a peer: half of the whole, rounded up."""

    def __init__(self, quota: Quota, limits: HttpLimits) -> None:
        self.connections = 0
        self.waiting = 0  # calls that wait for events
        self.tunnels = 0  # each is a call too
        self.streamed = {"http": StreamTotals(), "tunnel": StreamTotals()}  # by the protocol that `clients` shows
        self.calls = 0
        self.max_calls = limits.max_calls
        self._limits = limits
        self._quota = quota
        self._shares: dict[str, PeerShare] = {}

    def enter(self, member: QuotaMember, peer: Peer) -> PeerShare | None:
        """Count a new connection; returns its peer's share, or None when there are too many connections."""
        name = model.share_owner(peer)
        share = self._shares.get(name)
        if share is not None and len(share.connections) >= share.max_connections:
            if not share.idle:
                return None
            self._evict(share)
        elif self.connections >= self._limits.max_connections:
            crowded = [each for each in self._shares.values() if each.idle]
            if not crowded:
                return None
            self._evict(max(crowded, key=lambda each: len(each.connections)))
        share = self._shares.get(name)  # the eviction may have removed it
        if share is None:
            share = self._shares[name] = self._new(name, peer)
        share.connections.add(member)
        share.idle[member] = None
        self.connections += 1
        return share

    def leave(self, member: QuotaMember, share: PeerShare) -> None:
        """Stop counting a connection; a second time does nothing."""
        if member not in share.connections:
            return
        share.connections.discard(member)
        share.idle.pop(member, None)
        self.connections -= 1
        if not share.connections:
            self._forget(share)

    def fits(self, share: PeerShare, size: int) -> bool:
        """Whether this peer may start a call whose body takes `size` more bytes than it has reserved."""
        quota = self._quota
        if self.calls >= self.max_calls or share.calls >= share.max_calls or quota.calls >= quota.max_calls:
            return False
        return self.has_room(share, size)

    def has_room(self, share: PeerShare, size: int) -> bool:
        """Whether `size` more bytes of this peer fit; clients that do not read are aborted for them."""
        quota, account = self._quota, share.account
        if quota.fits(size, account) and not quota.is_full_for(account):
            return True
        quota.relieve(account, size, STALLED)
        return not quota.is_full_for(account) and quota.fits(size, account)

    def begin_call(self, share: PeerShare, size: int) -> bool:
        """Count a new call and the bytes that it takes, unless there are too many; see `fits`."""
        quota, account = self._quota, share.account
        held, of_peer = quota.buffered + size, account.buffered + size
        if (  # the usual case is decided here; `fits` has the rules
            size < 0
            or held >= quota.max_buffered
            or of_peer >= quota.max_per_account
            or self.calls >= self.max_calls
            or share.calls >= share.max_calls
            or quota.calls >= quota.max_calls
        ):
            if not self.fits(share, size):
                return False
            quota.reserve(size, account)
        else:
            quota.buffered, account.buffered = held, of_peer  # the peer is not beyond its share, and was not
        share.calls += 1
        self.calls += 1
        quota.calls += 1
        return True

    def end_call(self, share: PeerShare) -> None:
        """Stop counting a call."""
        share.calls -= 1
        self.calls -= 1
        self._quota.calls -= 1
        if not share.calls and not share.connections:
            self._forget(share)

    def release(self, share: PeerShare, size: int) -> None:
        """Stop counting bytes that a call took; see `begin_call`."""
        quota, account = self._quota, share.account
        if account.buffered > quota.max_per_account:
            quota.reserve(-size, account)
        else:
            quota.buffered -= size
            account.buffered -= size

    def begin_wait(self, share: PeerShare) -> bool:
        """A call begins to wait for events and gives back its slot; false if too many wait already."""
        if self.waiting >= self._limits.max_waiting or share.waiting >= share.max_waiting:
            return False
        self._wait(share, 1)
        return True

    def end_wait(self, share: PeerShare) -> None:
        """A call that waited goes on. It has its slot at once, so that what it waited for is answered."""
        self._wait(share, -1)

    def _wait(self, share: PeerShare, calls: int) -> None:
        for each in (share, self):
            each.waiting += calls
            each.calls -= calls
        self._quota.calls -= calls

    def _new(self, name: str, peer: Peer) -> PeerShare:
        alone, limits = model.is_loopback(peer), self._limits

        def most(of_one: int | None, whole: int) -> int:
            if of_one is not None:
                return min(of_one, whole)
            return whole if alone else -(-whole // 2)

        share = PeerShare(name, self._quota.open_account(name))
        share.max_connections = most(limits.max_connections_per_peer, limits.max_connections)
        share.max_calls = most(limits.max_calls_per_peer, limits.max_calls)
        share.max_waiting = most(None, limits.max_waiting)
        return share

    def _forget(self, share: PeerShare) -> None:
        """Remove a share without calls: an aborted call may end after the last connection of its peer."""
        if not share.calls and not share.waiting and self._shares.get(share.name) is share:
            del self._shares[share.name]
            self._quota.close_account(share.account)

    def _evict(self, share: PeerShare) -> None:
        member, among = next(iter(share.idle)), len(share.connections)
        self.leave(member, share)
        member.evict(share.name, among)
