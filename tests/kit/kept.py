"""Decisions and observations in few words, for tests of the state."""

from __future__ import annotations

from gateway.core.admin.records import (
    AuditEntry,
    Change,
    ClientKey,
    ClientRecord,
    Counts,
    CountsBatch,
    MethodId,
    MismatchRecord,
    PutRollout,
)
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import By, Override

START, STOP = MethodId("xenopsd", "VM.start"), MethodId("xenopsd", "VM.stop")


def override(pattern: str = "VM.*", mode: Mode = Mode.DBUS, *, why: str = "", by: By = "person") -> Override:
    """An override of alice's."""
    return Override(pattern, Setting(mode), "alice", 1.0, why, None, by)


def entry(subject: str = "VM.*", what: str = "mode", *, when: float = 1.0, why: str = "") -> AuditEntry:
    """A line of the audit."""
    return AuditEntry(when, "alice", what, subject, why, {"calls": 3})


def mode(pattern: str, mode: Mode = Mode.DBUS, *rollouts: PutRollout, why: str = "") -> Change:
    """A person sets a mode."""
    return Change((entry(pattern, why=why),), (override(pattern, mode, why=why),), rollouts=rollouts)


def counted(method: MethodId = START, **counters: int) -> CountsBatch:
    """What one process has counted of one method."""
    return CountsBatch({method: Counts(counters, {"dbus": [1, 2]})})


def pair(number: int, method: MethodId = START) -> MismatchRecord:
    """A pair that says which it is."""
    return MismatchRecord(float(number), method, {"number": number})


def client(peer: str, last: float = 2.0, *, method: MethodId = START, domid: int | None = None) -> CountsBatch:
    """One client, seen once."""
    return CountsBatch(
        clients={ClientKey(method, "xmlrpc", peer, "curl", "root", domid): ClientRecord(1, last - 1.0, last)}
    )
