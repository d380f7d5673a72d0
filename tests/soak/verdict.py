"""Evaluates a run: compares the records with the journals and the gauges. Pure, with tests of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from gateway.core.rpc.model import FaultCode
from tests.soak.gauges import FITS, Reading, held_beside, memory_after
from tests.soak.healthy import SILENT, Asked
from tests.soak.story import Disturbance, Ending, Ledger, Story
from tests.soak.world import CALM, HOMES, NARROW

CALM_BOUND = 2.0  # seconds; less than a call to a hung service takes, so that one delayed call is noticed
HEALTHY_BOUND = 1.0  # seconds
MUST_ASK = 20  # calls of a healthy client
RIGHT = "right"
GROWTH_BOUND = 16 * 1024  # KiB between a third of the run and its end
MUST_CALL = 200  # correct calls; a run with fewer proves nothing
LOST_WITHIN = 5.0  # seconds after a notification was taken in which a kill may still swallow it

# The faults that are expected, and when. No other fault is.
HUNG = frozenset({FaultCode.TIMEOUT, FaultCode.BUSY, FaultCode.UNAVAILABLE})  # the last from an open circuit breaker
GONE = frozenset({FaultCode.NO_REPLY, FaultCode.UNAVAILABLE})
SITUATIONS: Mapping[str, frozenset[FaultCode]] = {
    "service: kill": GONE,
    "service: stop": HUNG,
    "service: stop and kill": HUNG | GONE,
    "broker: kill": GONE,
    "broker: stop": HUNG,
    "legacy service: kill": GONE,
    "legacy service: stop": HUNG,
}

# How often a write may stand in the journal.
NEVER, ONCE, AT_MOST_ONCE = (0,), (1,), (0, 1)
EXECUTED: Mapping[FaultCode | Ending | None, tuple[int, ...]] = {
    Ending.RIGHT: ONCE,
    Ending.LEFT: AT_MOST_ONCE,
    Ending.NOTIFIED: AT_MOST_ONCE,
    FaultCode.UNAVAILABLE: NEVER,
    FaultCode.BUSY: NEVER,
    FaultCode.TIMEOUT: AT_MOST_ONCE,
    FaultCode.NO_REPLY: AT_MOST_ONCE,
}
UNKNOWN = frozenset({FaultCode.TIMEOUT, FaultCode.NO_REPLY})
NO_CAPACITY = "has no capacity"  # of BUSY, which clients of xapi_idl cannot tell from UNAVAILABLE
SAYS_SO = re.compile(r"may have been executed|unknown whether|is unknown").search


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the verdict."""

    what: str
    measured: str
    bound: str
    offences: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.offences


def judge_calls(ledger: Ledger, slack: float = 1.0) -> Iterator[Check]:
    """Every call got one answer, and the right one, or a fault that fits what was done to its service.

    `slack`: how many times longer everything may take, since the machine has other things to do.
    """
    total, least = sum(ledger.counts.values()), max(1, MUST_CALL / slack)
    right = sum(count for (_, ending), count in ledger.counts.items() if ending == Ending.RIGHT.value)
    few = [f"only {right} calls went right"] if right < least else []
    yield Check("calls that went right", f"{right} of {total}", f"at least {least:g}", few)
    for ending, what in ((Ending.SILENT, "calls without an answer"), (Ending.WRONG, "wrong answers")):
        found = [str(story) for story in ledger.stories if story.ending is ending]
        yield Check(what, str(len(found)), "0", found)
    faults = [story for story in ledger.stories if story.ending is Ending.FAULT]
    strange = [str(story) for story in faults if not is_expected(story, ledger.disturbances, slack)]
    yield Check("faults that do not fit what happened", f"{len(strange)} of {len(faults)}", "0", strange)
    unknown = [story for story in faults if story.method == "write" and story.code in UNKNOWN]
    mute = [str(story) for story in unknown if SAYS_SO(story.text) is None]
    yield Check("writes whose outcome is not known, and not called so", str(len(mute)), "0", mute)
    yield Check("seen on the way", str(len(ledger.offences)), "0", ledger.offences)


def is_expected(story: Story, disturbances: Sequence[Disturbance], slack: float = 1.0) -> bool:
    """Whether a fault fits the harm to its service or its bus; on a busy machine any service may take too long."""
    allowed = {FaultCode.BUSY} if HOMES[story.service] == NARROW else set()
    allowed |= HUNG if slack > 1 else set()
    for one in disturbances:
        if one.place in (story.service, HOMES[story.service]) and one.touches(story):
            allowed |= SITUATIONS[one.kind]
    return story.code in allowed or (FaultCode.BUSY in allowed and NO_CAPACITY in story.text)


def judge_journals(ledger: Ledger, journals: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """No write was executed twice, none that was said not to be, each that was said to be."""
    executed = Counter((service, token) for service, tokens in journals.items() for token in tokens)
    twice = [
        f"{token} was executed {times} times by {service}" for (service, token), times in executed.items() if times > 1
    ]
    yield Check("writes executed twice", f"{len(twice)} of {sum(executed.values())}", "0", twice)
    writes = [story for story in ledger.stories if story.method == "write"]
    false = [
        f"executed {executed[story.service, story.token]} times: {story}"
        for story in writes
        if executed[story.service, story.token] not in EXECUTED.get(story.code or story.ending, AT_MOST_ONCE)
    ]
    yield Check("writes about which the client was told wrong", f"{len(false)} of {len(writes)}", "0", false)
    unknown = [f"{token} in {service}" for service, token in executed.keys() - {(w.service, w.token) for w in writes}]
    yield Check("journal entries that nobody asked for", str(len(unknown)), "0", unknown)
    lost = [
        str(story)
        for story in writes
        if story.ending is Ending.NOTIFIED
        and not executed[story.service, story.token]
        and not _may_be_lost(story, ledger)
    ]
    notified = sum(story.ending is Ending.NOTIFIED for story in writes)
    yield Check("notifications lost without a cause", f"{len(lost)} of {notified}", "0", lost)


def _may_be_lost(story: Story, ledger: Ledger) -> bool:
    later = replace(story, ended=story.ended + LOST_WITHIN, code=FaultCode.UNAVAILABLE)
    return HOMES[story.service] == NARROW or is_expected(later, ledger.disturbances)


def judge_store(ledger: Ledger, left: Sequence[str]) -> Check:
    """Nothing stays in the store but requests whose client left, and the answers to them."""
    unwanted = {story.token for story in ledger.stories if story.ending is Ending.LEFT}
    found = [node for node in left if node not in unwanted]
    return Check("nodes in the store that nobody left there", f"{len(found)} of {len(left)}", "0", found)


def judge_calm(ledger: Ledger, slack: float = 1.0) -> Check:
    """Harm to other services does not delay the calls to an undisturbed service; `slack` as above."""
    bus, (bound, expected) = HOMES[CALM], _bound(CALM_BOUND, slack)
    harms = [one for one in ledger.disturbances if one.place == bus]
    calls = [
        story
        for story in ledger.calm
        if story.ending is not Ending.LEFT and not any(one.touches(story) for one in harms)
    ]
    took = sorted(story.ended - story.began for story in calls)
    if not took:
        return Check("99th percentile of calm calls", "none", expected, ["no call to the calm service counts"])
    worst = _most(took)
    slow = [str(max(calls, key=lambda story: story.ended - story.began))] if worst > bound else []
    middle = took[len(took) // 2]
    return Check(f"calm calls ({len(took)}): median, 99th percentile", f"{middle:.3f}, {worst:.3f} s", expected, slow)


def _bound(seconds: float, slack: float) -> tuple[float, str]:
    """The bound of a 99th percentile, and its text. With slack it is not judged: the machine decides."""
    return (seconds, f"{seconds:g} s") if slack <= 1 else (inf, "told, not judged")


def judge_healthy(
    reports: Mapping[str, Sequence[Asked]], journal: Sequence[str], slack: float = 1.0
) -> Iterator[Check]:
    """A correct client of an undisturbed service gets right answers soon, whatever other clients do."""
    executed = Counter(journal)
    for kind, calls in reports.items():
        least = max(1, int(MUST_ASK / slack))
        few = [f"only {len(calls)} calls"] if len(calls) < least else []
        yield Check(f"healthy client, {kind}: calls", str(len(calls)), f"at least {least}", few)
        silent = [str(one) for one in calls if one.said.startswith(SILENT)]
        yield Check(f"healthy client, {kind}: calls without an answer", str(len(silent)), "0", silent)
        wrong = [str(one) for one in calls if one.said != RIGHT and not one.said.startswith(SILENT)]
        yield Check(f"healthy client, {kind}: other answers", str(len(wrong)), "0", wrong)
        worst, (bound, expected) = _most([one.took for one in calls]), _bound(HEALTHY_BOUND, slack)
        slow = [str(max(calls, key=lambda one: one.took))] if worst > bound else []
        yield Check(f"healthy client, {kind}: 99th percentile", f"{worst:.3f} s", expected, slow)
        writes = [one for one in calls if one.method == "write"]
        twice = [str(one) for one in writes if executed[one.token] > 1]
        yield Check(f"healthy client, {kind}: writes executed twice", f"{len(twice)} of {len(writes)}", "0", twice)
        lost = [str(one) for one in writes if one.said == RIGHT and not executed[one.token]]
        yield Check(f"healthy client, {kind}: writes told and not done", str(len(lost)), "0", lost)


def _most(values: Sequence[float]) -> float:
    """The 99th percentile."""
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


def judge_gauges(before: Reading, after: Reading, memory: Sequence[int], slack: float = 1.0) -> Iterator[Check]:
    """No resource is held that was not held after the warm-up; `slack` as above, for large answers on their way."""
    held = held_beside(before, after)
    for name in FITS:
        measured = f"{before[name]} -> {after[name]}"
        yield Check(name, measured, "as before", [f"{name}: {measured}"] if name in held else [])
    third, end = memory_after(memory, 1 / 3), memory_after(memory, 1)
    bound = slack * GROWTH_BOUND
    grown = [f"grew by {end - third:.0f} KiB"] if end - third > bound else []
    measured = f"{third / 1024:.1f} -> {end / 1024:.1f} MiB"
    yield Check("memory, after a third -> at the end", measured, f"+{bound / 1024:g} MiB", grown)


def judge_log(lines: Sequence[str], status: int | None) -> Iterator[Check]:
    """The gateway logged no bug and no lost task, and stopped normally."""
    bugs = [line.rstrip() for line in lines if not line.startswith("{") or '"a bug' in line or "raceback" in line]
    yield Check("bugs in the gateway's log", f"{len(bugs)} of {len(lines)} lines", "0", bugs)
    ending = next((line.rstrip() for line in reversed(lines) if '"stopped' in line), "never stopped")
    unclean = [] if status == 0 and "nothing in flight" in ending else [f"exit status {status}: {ending}"]
    yield Check("end of the gateway", f"exit status {status}", "0, nothing in flight", unclean)
