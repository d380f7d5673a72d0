"""The records of moving methods, beside overrides: audit, counts, pairs, clients, rollouts.

Moments are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import By, Override
from gateway.core.routing.route import Route

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

OTHERS = "(others)"  # the agent or peer under which all further ones are counted
IDENTITIES = 32  # agents and users counted separately for each peer and protocol

EVERYTHING = "*"  # the pattern of a rollback of everything


class MethodId(NamedTuple):
    """A mapped method: its service in logs and commands, and the name that clients use."""

    service: str
    method: str

    @classmethod
    def of(cls, route: Route) -> MethodId:
        """The method that a route answers."""
        return cls(route.service, route.method)


class Counts(Struct, frozen=True):
    """What has been counted of one method, or what has been added to it since: all of it only grows."""

    counters: Mapping[str, int] = field(default_factory=dict)  # "equal", "calls_legacy" ...
    histograms: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of one side's latency: calls by bucket

    def __add__(self, other: Counts) -> Counts:
        counters = dict(self.counters)
        for name, count in other.counters.items():
            counters[name] = counters.get(name, 0) + count
        histograms = dict(self.histograms)
        for side, more in other.histograms.items():
            histograms[side] = [a + b for a, b in zip_longest(histograms.get(side, ()), more, fillvalue=0)]
        return Counts(counters, histograms)


class AuditEntry(Struct, frozen=True):
    """One line of the audit: a decision, who made it, and the numbers that made it."""

    when: float
    who: str  # a person, or "rollout NAME"
    what: str  # "mode", "rollout", "rollback", "promote", "reload" ...
    subject: str  # a pattern, or the name of a rollout
    why: str = ""
    numbers: Mapping[str, Json] = field(default_factory=dict)


class MismatchRecord(Struct, frozen=True):
    """Two outcomes that differ, and the request that made them: a document that only its writer understands."""

    when: float
    method: MethodId
    document: Json


class SavedObject(NamedTuple):
    """An object with events as a change log had it when it was written down. The generations are those of the log."""

    name: str  # of its class, in lower case
    ref: str
    created: int
    modified: int  # of an object that is deleted: its deletion
    is_deleted: bool
    digest: bytes | None  # of its record; None: not known, so it equals no other
    before: tuple[tuple[int, int], ...] = ()  # creation and deletion of each earlier time that it was there

    def was_there(self, generation: int) -> bool:
        """Whether a client that knows everything up to a generation has this object."""
        end = self.modified if self.is_deleted else generation + 1
        return any(created <= generation < deleted for created, deleted in (*self.before, (self.created, end)))


class SavedLog(NamedTuple):
    """A change log as it was written down: it is known what a client with a token up to generation `saved` has."""

    service: str
    epoch: int  # no other log has it
    saved: int
    forgotten: int  # deletions up to this generation are not remembered
    objects: tuple[SavedObject, ...] = ()  # of a part that is to be added: those that have changed

    def has(self, generation: int) -> bool:
        """Whether it is known what a client has that knows everything up to this generation."""
        return self.forgotten <= generation <= self.saved


class ClientKey(Struct, frozen=True):
    """Who still calls what over which protocol."""

    method: MethodId
    protocol: str
    peer: str  # an address without its port, which every connection has anew
    agent: str = ""
    user: str = ""
    domid: int | None = None


class ClientRecord(Struct, frozen=True):
    """How often a client has called, and when. Bytes are those of streamed bodies and tunnels."""

    count: int
    first: float
    last: float
    received: int = 0  # bytes from the client
    sent: int = 0  # bytes to it
    redirects: int = 0  # calls that an upstream answered with another address


class CountsBatch(Struct, frozen=True):
    """What one process has observed since it last wrote it down."""

    evidence: Mapping[MethodId, Counts] = field(default_factory=dict)
    pairs: Sequence[MismatchRecord] = ()
    clients: Mapping[ClientKey, ClientRecord] = field(default_factory=dict)


class Rollout(Struct, frozen=True):
    """A rollout as it is kept. A version is never used twice, not even by a rollout that takes an old one's name."""

    document: Json
    version: int


class PutRollout(Struct, frozen=True):
    """A rollout's new document; None removes it."""

    name: str
    document: Json
    expected: int | None = None  # the version that it replaces, 0: there must be none; None: whatever there is


class Change(Struct, frozen=True):
    """One decision: all of it comes about, with its lines of the audit, or nothing does.

    Overrides are dropped before others are put; a person's and a rollout's of one pattern are two.
    """

    audit: tuple[AuditEntry, ...]
    put: tuple[Override, ...] = ()
    drop: tuple[tuple[str, By], ...] = ()
    back: Override | None = None  # everything to this, but for what persons have switched off; see `rolled_back`
    expired_by: float | None = (
        None  # by gateway.clock: overrides whose time is over then are dropped too, whoever set them
    )
    rollouts: tuple[PutRollout, ...] = ()
    clear: tuple[MethodId, ...] = ()  # methods whose evidence and pairs are forgotten


class StateRefused(Struct, frozen=True):
    """A change that was not made, or a question without an answer; `why` is for an operator."""

    why: str
    conflict: bool = False  # another process has decided meanwhile: read the state again


class Rejected(StateRefused, frozen=True):
    """A change that is wrong in itself, whatever the state of the gateway."""


class PendingDecision(Struct, frozen=True):
    """A decision that holds in this process only; it is written down once that can be done."""

    why: str


class StoredState(Struct, frozen=True):
    """What every process has a copy of: the modes that are in force, and the rollouts that change them."""

    overrides: tuple[Override, ...] = ()  # by pattern and who set them; those whose time is over too
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)


def applied(kept: StoredState, change: Change) -> StoredState:
    """What is kept after a change. Versions are a guess until the change is written down."""
    left = kept.overrides if change.back is None else rolled_back(kept.overrides, change.back)
    overrides = {(each.pattern, each.by): each for each in left}
    for key in change.drop:
        overrides.pop(key, None)
    if change.expired_by is not None:
        overrides = {key: each for key, each in overrides.items() if not each.expired(change.expired_by)}
    overrides.update(((each.pattern, each.by), each) for each in change.put)
    rollouts = dict(kept.rollouts)
    for put in change.rollouts:
        before = rollouts.pop(put.name, Rollout(None, 0))
        if put.document is not None:
            rollouts[put.name] = Rollout(put.document, before.version + 1)
    return StoredState(tuple(overrides[key] for key in sorted(overrides)), dict(sorted(rollouts.items())))


def unconditional(change: Change) -> Change:
    """The same without what it expects of rollouts: those that expect something stay out."""
    return replace(change, rollouts=tuple(put for put in change.rollouts if put.expected is None))


def rolled_back(overrides: Iterable[Override], back: Override) -> tuple[Override, ...]:
    """What is left of these when everything goes back: the new override, and what persons have switched off.

    What a person has set otherwise inside a pattern that is off goes back under its own pattern; else it would be off.
    """
    persons = [each for each in overrides if each.by == "person"]
    off = {each.pattern: each for each in persons if each.setting.mode is Mode.OFF}
    exceptions = {each.pattern: replace(back, pattern=each.pattern) for each in persons} if off else {}
    return tuple({back.pattern: back, **exceptions, **off}.values())


def all_to_legacy(who: str, when: float, why: str, rollouts: tuple[PutRollout, ...] = ()) -> Change:
    """Every method to its legacy service, whatever had been set before, but for what a person has switched off."""
    override = Override(EVERYTHING, Setting(Mode.LEGACY), who, when, why)
    entry = AuditEntry(when, who, "rollback", EVERYTHING, why)
    return Change((entry,), back=override, rollouts=rollouts)
