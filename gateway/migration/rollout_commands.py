"""The commands of operators for rollouts: start, pause, resume, approve, abort, list; and rollback of everything."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.admin import counters
from gateway.core.admin.records import PendingDecision, PutRollout, Rejected, StateRefused, all_to_legacy
from gateway.core.admin.views import SettingView, setting_view
from gateway.core.migration.limits import BothSides, LimitRow, limit_rows
from gateway.core.migration.rollout_plan import (
    GUARDED,
    Command,
    Progress,
    RolloutState,
    apply_command,
    begins_anew,
    decide,
    setting,
)
from gateway.core.routing.route import Route
from gateway.migration import rollout_storage
from gateway.migration.rollout_controller import WindowCounts, together
from gateway.migration.rollout_storage import (
    RolloutDocument,
    find,
    in_words,
    members,
    set_by_persons,
    str_of,
    subject_of,
    unmovable,
)
from gateway.state import clock
from gateway.state.store import StateStore as Store


class RolloutView(Struct, frozen=True):
    """One rollout. `number`: of the step, from 1; `since`: its beginning; `why`: what it waits for or was ended by.

    `numbers`: what was measured in this step; `limits`: the same beside the limits of the plan, in words.
    """

    name: str
    plan: str
    state: str
    step: str  # "canary 10%"
    number: int
    steps: tuple[str, ...]
    setting: SettingView | None
    who: str
    began: float  # seconds since 1970
    since: float
    why: str
    methods: tuple[str, ...]
    numbers: Mapping[str, Any]
    limits: tuple[LimitRow, ...]


class RolloutCommands(Struct, frozen=True):
    """`StateRefused`: not done, and why. `PendingDecision`: done in this process, and not written down yet."""

    state: Store
    routes: Callable[[], Sequence[Route]]
    now: Callable[[], float] = time
    steady: Callable[[], float] = clock.steady  # of rollouts and of modes that end

    async def start(self, name: str, who: str, why: str = "") -> RolloutView | StateRefused:
        """Begin with the first step of the plan that the mapping says."""
        moving = find(name, self.routes())
        if isinstance(moving, str):
            return Rejected(moving)
        name, plan = subject_of(moving[0]), moving[0].rollout  # the plan is the same for all members
        version, before = self._known(name)
        wrong = self._under_way(name, before) or unmovable(moving) or self._set_by_a_person(moving)
        if wrong:
            return Rejected(wrong)
        now = self.now()
        begun = RolloutDocument(plan, Progress(since=self.steady(), why=why or f"started by {who}"), who, now)
        refused = await self.state.decide(rollout_storage.moved(name, version, None, begun, who=who, when=now))
        return refused or self._view(name, begun, {})

    async def pause(self, name: str, who: str, why: str = "") -> RolloutView | StateRefused:
        """Hold the step; a breach still acts."""
        return await self._obey(name, Command.PAUSE, who, why or f"paused by {who}")

    async def resume(self, name: str, who: str, why: str = "") -> RolloutView | StateRefused:
        """Go on after a pause, a step down, a freeze or an override."""
        return await self._obey(name, Command.RESUME, who, why or f"resumed by {who}")

    async def approve(self, name: str, who: str, why: str = "") -> RolloutView | StateRefused:
        """Open the gate at which it waits; refused while its counts are of an older mapping."""
        return await self._obey(name, Command.APPROVE, who, why or f"approved by {who}")

    async def abort(self, name: str, who: str, why: str = "") -> RolloutView | StateRefused:
        """End it and give its methods to the legacy service, whatever the state file says."""
        return await self._obey(name, Command.ABORT, who, why or f"aborted by {who}")

    async def rollback_all(self, who: str, why: str = "") -> StateRefused | PendingDecision | None:
        """Everything to the legacy services at once; works without a bus, and with a state file in trouble."""
        ended = []
        for name in self.state.rollouts:
            _, before = self._known(name)
            if not isinstance(before, RolloutDocument):
                ended.append(PutRollout(name, None))
            elif not before.over:
                why_ended = f"everything was rolled back by {who}"
                progress = apply_command(before.progress, Command.ABORT, why_ended)
                ended.append(PutRollout(name, rollout_storage.write(before.at(progress))))
        return await self.state.decide_anyway(all_to_legacy(who, self.now(), why, tuple(ended)))

    async def list(self) -> Sequence[RolloutView] | StateRefused:
        """Every rollout, those that are over too."""
        counts = await self._counts()
        known = ((name, self._known(name)[1]) for name in self.state.rollouts)
        return [self._view(name, each, counts) for name, each in known if isinstance(each, RolloutDocument)]

    def unguarded(self, pattern: str) -> Sequence[str]:
        """In words why no rollout guards a mode of this pattern; nothing when one does."""
        found = find(pattern, self.routes())
        if isinstance(found, str):
            return (f"guarded: expected one method or group that a rollout moves: {found}",)
        name = subject_of(found[0])
        _, known = self._known(name)
        if isinstance(known, RolloutDocument) and known.progress.state in GUARDED:
            return ()
        state = known.progress.state.value if isinstance(known, RolloutDocument) else "not started"
        start = f"start it with `xcp-gateway rollout start {name}`"
        return (f"guarded: expected a rollout of {name} under way; it is {state}: {start}",)

    def states(self) -> Mapping[str, str]:
        """The state of every rollout, by its name."""
        known = ((name, self._known(name)[1]) for name in self.state.rollouts)
        return {name: each.progress.state.value for name, each in known if isinstance(each, RolloutDocument)}

    def holds(self, name: str) -> str:
        """Why what the rollout of this name has set cannot be cleared, and what to do; nothing when it is over."""
        _, known = self._known(name)
        if isinstance(known, str):
            return f"the rollout of {name} {known}: `xcp-gateway rollback --all` ends it"
        if known is None or known.over:
            return ""
        end, clear = (f"`xcp-gateway {verb} {shlex.quote(name)}`" for verb in ("rollout abort", "mode clear"))
        return f"it is {known.progress.state.value}; {end} ends it and sets its methods to legacy, then {clear}"

    # How

    async def _obey(self, name: str, command: Command, who: str, why: str) -> RolloutView | StateRefused:
        found = find(name, self.routes())
        name = name if name in self.state.rollouts or isinstance(found, str) else subject_of(found[0])
        version, before = self._known(name)
        if isinstance(before, str):
            return Rejected(f"the rollout of {name} {before}")
        if before is None:
            return Rejected(found if isinstance(found, str) else f"there is no rollout of {name}: {_LISTED}")
        wrong = self._set_by_a_person(found) if command is Command.RESUME and not isinstance(found, str) else ""
        if command is Command.APPROVE and (changed := before.remapped(members(name, self.routes()))):
            wrong = f"the mapping of {', '.join(changed)} has changed, its counts begin anew: wait for the gate"
        if wrong:
            return Rejected(wrong)
        try:
            progress = apply_command(before.progress, command, why)
        except ValueError as error:
            left = before.over and self._has_set(name)
            clear = f": `xcp-gateway mode clear {shlex.quote(name)}` clears the mode that it has left" if left else ""
            return Rejected(f"{error}{clear}")
        if begins_anew(before.progress.state, command):
            progress = replace(progress, since=self.steady())
        after = before.at(progress)
        change = rollout_storage.moved(name, version, before, after, who=who, when=self.now())
        decide_it = self.state.decide_anyway if command is Command.ABORT else self.state.decide
        refused = await decide_it(change)
        return refused if isinstance(refused, StateRefused) else self._view(name, after, await self._counts())

    async def _counts(self) -> WindowCounts:
        """What each method has counted; nothing while the state file cannot be read."""
        counted = await self.state.evidence()
        kept = {} if isinstance(counted, StateRefused) else counted
        return {f"{each.service}/{each.method}": counters.sides(one) for each, one in kept.items()}

    def _known(self, name: str) -> tuple[int, RolloutDocument | str | None]:
        kept = self.state.rollouts.get(name)
        return (0, None) if kept is None else (kept.version, rollout_storage.read(kept.document))

    def _under_way(self, name: str, before: RolloutDocument | str | None) -> str:
        """Why no rollout of this name can start. One that is done, and whose mode is cleared or promoted, is over."""
        if not isinstance(before, RolloutDocument):
            return ""
        if not before.over:
            return f"the rollout of {name} is under way: {before.progress.state.value}, at {before.step}; {_LISTED}"
        if before.progress.state is RolloutState.DONE and self._has_set(name):
            promote = f"`xcp-gateway promote {shlex.quote(name)}` writes its mode into the mapping"
            end = f"`xcp-gateway rollout abort {shlex.quote(name)}` sets its methods to legacy"
            return (
                f"the rollout of {name} is done, and its mode is in force: {promote}, {end}; then a new one can start"
            )
        return ""

    def _has_set(self, name: str) -> bool:
        return any(each.by == "rollout" and each.pattern == name for each in self.state.overrides)

    def _set_by_a_person(self, moving: Sequence[Route]) -> str:
        theirs = set_by_persons(moving, self.state.overrides, self.steady())
        if not theirs:
            return ""
        clear = f"`xcp-gateway mode clear {shlex.quote(theirs[0].pattern)}`"
        return f"{in_words(theirs[0])}, which has precedence over a rollout: clear that mode first, with {clear}"

    def _view(self, name: str, known: RolloutDocument, seen: WindowCounts) -> RolloutView:
        progress, plan = known.progress, known.plan
        counts = together({method: seen.get(method, BothSides()) for method in known.start or ()}, known.start or {})
        decision = decide(plan, progress, counts, self.steady())
        wanted = setting(plan, progress)
        waits = progress.state in (RolloutState.RUNNING, RolloutState.WAITING)
        return RolloutView(
            name,
            plan.name,
            progress.state.value,
            str(known.step),
            progress.step + 1,
            tuple(map(str, plan.steps)),
            None if wanted is None else setting_view(wanted),
            known.who,
            known.began,
            clock.wall(progress.since),
            decision.why if waits else progress.why,
            tuple(str_of(route) for route in members(name, self.routes())),
            decision.numbers,
            limit_rows(plan.limits, progress.baseline, counts),
        )


_LISTED = "`xcp-gateway rollout list` shows every rollout"
