"""What a rollout moves (a method, or a group), its JSON document in the state file, and the changes of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.admin.records import AuditEntry, Change, Json, PutRollout
from gateway.core.migration.limits import BothSides
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import OVER, Progress, RolloutPlan, RolloutState, RolloutStep, setting
from gateway.core.routing import selection
from gateway.core.routing.overrides import GROUP, By, Override
from gateway.core.routing.route import Route
from gateway.mapping.problem import did_you_mean
from gateway.state.clock import ClockReading


def str_of(route: Route) -> str:
    """A method as a document names it."""
    return f"{route.service}/{route.method}"


def subject_of(route: Route) -> str:
    """What a method moves with."""
    return f"{GROUP}{route.migration.group}" if route.migration.group else str_of(route)


def members(name: str, routes: Iterable[Route]) -> tuple[Route, ...]:
    """The methods that a rollout of this name moves now."""
    return tuple(route for route in routes if subject_of(route) == name)


def find(name: str, routes: Sequence[Route]) -> tuple[Route, ...] | str:
    """The methods that move with what a person means: "VM.start", "xenopsd/VM.start", "group:NAME".

    In words why that is nothing to move.
    """
    exact = members(name, routes)
    if exact:
        return exact
    meant = selection.routes_named(routes, name)
    if not meant:
        known = [*{subject_of(route) for route in routes}, *{route.method for route in routes}]
        return f"'{name}' is neither a mapped method nor a group{did_you_mean(name, known)}"
    if any(route.migration.group for route in meant):
        return f"{name} moves with its group: say {subject_of(meant[0])}"
    subjects = sorted({subject_of(route) for route in meant})
    if len(subjects) > 1:
        return f"{name} is a method of several services: say {' or '.join(subjects)}"
    return members(subjects[0], routes)


def unmovable(routes: Sequence[Route]) -> str:
    """In words why these methods, which move together, cannot begin to; nothing when they can."""
    for route in routes:
        moving = route.migration
        if moving.upstream is None:
            return f"no legacy service answers {route.method}: there is nothing to move it from"
        if moving.setting.mode is Mode.OFF:
            return f"{route.method} is switched off ({route.source})"
        if moving.key is None and any(step.setting.mode is Mode.CANARY for step in routes[0].rollout.steps):
            return f"a canary of {route.method} has no key to divide by: the mapping must say `key:` ({route.source})"
    return ""


def set_by_persons(routes: Sequence[Route], overrides: Iterable[Override], now: float) -> Sequence[Override]:
    """What persons have set for these methods, the strongest first: it comes before whatever a rollout sets."""
    ranked = sorted(overrides, key=lambda each: each.rank, reverse=True)
    theirs = (each for each in ranked if each.by == "person" and not each.expired(now))
    return [override for override in theirs if any(map(override.applies_to, routes))]


def in_words(override: Override) -> str:
    """What a person has set, for messages."""
    guarded = " (guarded)" if override.guarded else ""
    return f"{override.who} has set {override.pattern} to {override.setting}{guarded}"


# The document: all that another gateway needs to continue.


FORMAT = 1
UNREADABLE = "cannot be read by this version of the gateway"
LONGEST = 300  # characters of why


class RolloutDocument(Struct, frozen=True):
    """`start`: what each member had counted when the step began; None until the counts of the one before are in.

    `progress.since` is a moment of this process's steady clock; in the file, of the clock that `clock` describes.
    """

    plan: RolloutPlan  # as it was when the rollout began, whatever the mapping says later
    progress: Progress
    who: str
    began: float  # seconds since 1970
    start: Mapping[str, BothSides] | None = None
    format: int = FORMAT
    mapping: Mapping[str, str] = field(default_factory=dict)  # of each member: the fingerprint that was counted
    clock: str = ""  # a ClockReading, in the file

    @property
    def step(self) -> RolloutStep:
        """Where it is."""
        return self.plan.steps[self.progress.step]

    @property
    def over(self) -> bool:
        """Whether it does nothing any more."""
        return self.progress.state in OVER

    def remapped(self, routes: Iterable[Route]) -> list[str]:
        """The members whose mapping has changed since this step's counts began."""
        if self.start is None:
            return []  # they have not begun
        pairs = ((route, self.mapping.get(str_of(route))) for route in routes)
        return [route.method for route, counted in pairs if counted not in (None, route.fingerprint)]

    def at(self, progress: Progress) -> RolloutDocument:
        """The same rollout further on. What begins now begins with counts of its own."""
        return replace(self, progress=progress, start=self.start if progress.since == self.progress.since else None)


def write(document: RolloutDocument) -> Json:
    """The document as JSON."""
    json: Json = msgspec.to_builtins(replace(document, clock=str(ClockReading.here())))
    return json


def read(json: Json) -> RolloutDocument | str:
    """The same backwards, or in words why it cannot be read: another version of the gateway wrote it."""
    try:
        document = msgspec.convert(json, RolloutDocument)
        since = ClockReading.read(document.clock).translated(document.progress.since)
        document = replace(document, progress=replace(document.progress, since=since), clock="")
    except ValueError as error:  # a msgspec.ValidationError is one
        return f"{UNREADABLE}: {str(error)[:LONGEST]}"
    step, count = document.progress.step, len(document.plan.steps)
    return document if 0 <= step < count else f"{UNREADABLE}: it is at step {step}, and its plan has {count}"


# Changes: the document, the override of its methods, and a line of the audit, in one transaction.


def moved(
    name: str,
    version: int,
    before: RolloutDocument | None,
    after: RolloutDocument,
    *,
    who: str,
    when: float,
    numbers: Mapping[str, Json] | None = None,
    ended: Iterable[Override] = (),
) -> Change:
    """From one document to the next; `before` None: it has just begun. The new progress says why.

    `ended`: what persons had set, and what a breach ends.
    """
    progress = after.progress
    wanted = setting(after.plan, progress)
    put: tuple[Override, ...] = ()
    drop: list[tuple[str, By]] = [(each.pattern, each.by) for each in ended]
    if wanted is None:
        drop.insert(0, (name, "rollout"))
    else:
        # A person may have removed what an overridden rollout had set; a resume sets it again.
        was = None if before is None else before.progress.state
        again = was in (RolloutState.OVERRIDDEN, RolloutState.BREACHED) and progress.state is RolloutState.RUNNING
        if before is None or again or setting(before.plan, before.progress) != wanted:
            put = (Override(name, wanted, f"rollout {after.plan.name}", when, progress.why, by="rollout"),)
    said = {"state": progress.state.value, "step": str(after.step), **(numbers or {})}
    entry = AuditEntry(when, who, _AUDITED.get(progress.state, "rollout"), name, progress.why, said)
    return Change((entry,), put=put, drop=tuple(drop), rollouts=(PutRollout(name, write(after), version),))


_AUDITED = {RolloutState.ROLLED_BACK: "rollback", RolloutState.BREACHED: "breach"}


def counted(name: str, version: int, after: RolloutDocument) -> Change:
    """Only from where counts are read: nothing that anybody decided."""
    return Change((), rollouts=(PutRollout(name, write(after), version),))
