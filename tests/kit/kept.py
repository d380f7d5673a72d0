"""Decisions and observations in few words, for tests of the state."""

from __future__ import annotations

from gateway.core.kept import Batch, Change, ClientKey, Counts, Entry, MethodId, Pair, PutRollout, Seen
from gateway.core.migration import Mode, Setting
from gateway.core.override import By, Override

START, STOP = MethodId("xenopsd", "VM.start"), MethodId("xenopsd", "VM.stop")


def override(pattern: str = "VM.*", mode: Mode = Mode.DBUS, *, why: str = "", by: By = "person") -> Override:
    """An override of alice's."""
    return Override(pattern, Setting(mode), "alice", 1.0, why, None, by)


def entry(subject: str = "VM.*", what: str = "mode", *, when: float = 1.0, why: str = "") -> Entry:
    """A line of the audit."""
    return Entry(when, "alice", what, subject, why, {"calls": 3})


def mode(pattern: str, mode: Mode = Mode.DBUS, *rollouts: PutRollout, why: str = "") -> Change:
    """A person sets a mode."""
    return Change((entry(pattern, why=why),), (override(pattern, mode, why=why),), rollouts=rollouts)


def counted(method: MethodId = START, **counters: int) -> Batch:
    """What one process has counted of one method."""
    return Batch({method: Counts(counters, {"dbus": [1, 2]})})


def pair(number: int, method: MethodId = START) -> Pair:
    """A pair that says which it is."""
    return Pair(float(number), method, {"number": number})


def client(peer: str, last: float = 2.0, *, method: MethodId = START, domid: int | None = None) -> Batch:
    """One client, seen once."""
    return Batch(clients={ClientKey(method, "xmlrpc", peer, "curl", "root", domid): Seen(1, last - 1.0, last)})
