"""What an operator asks and changes, on a real state that is kept in memory, or in a file that is in trouble."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.admin.service import AdminService
from gateway.core.admin.records import (
    AuditEntry,
    Change,
    CountsBatch,
    MethodId,
    MismatchRecord,
    Rejected,
    StateRefused,
)
from gateway.core.admin.views import ModeRequest, ModeResult
from gateway.core.migration.modes import Key, Migration, Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Effect, Route
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.rollout_commands import RolloutCommands, RolloutView
from gateway.state.store import StateStore
from tests.kit.cases import expect
from tests.kit.mappings import route

NOW = 1_700_000_000.0
KEY = Key("vm", lambda call: str(call.params[0]) if call.params else None)
OLD = Migration(Setting(Mode.LEGACY), upstream="old", key=KEY, may_shadow=True)
STATE = replace(route("VM.get_state", migration=OLD, effect=Effect.READ), service="xenopsd")
LABEL = replace(route("VM.get_label", migration=OLD, effect=Effect.READ), service="xenopsd")
NEW = replace(route("VM.new", effect=Effect.READ), service="xenopsd")
START = replace(route("VM.start", migration=replace(OLD, may_shadow=False, group="life")), service="xenopsd")
STOP = replace(START, method="VM.stop")
LIMIT = "seconds: expected more than 0 and at most 315,360,000, got "
SPLIT = "this would split the group 'life', which shares state: xenopsd/VM.stop would be left out; say group:life"
ROUTES = [STATE, LABEL, NEW, START, STOP]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Desk:
    """A steering with what it stands on."""

    def __init__(self, path: Path | None = None) -> None:
        self.clock = Clock()
        self.overrides = ActiveOverrides(self.clock)
        self.state = StateStore(path, self._changed, now=self.clock)
        self.routes: list[Route] = list(ROUTES)
        commands = RolloutCommands(self.state, lambda: self.routes, self.clock)
        self.admin_service = AdminService(lambda: self.routes, self.overrides, self.state, commands, now=self.clock)

    def _changed(self) -> None:
        self.overrides.replace(self.state.overrides)

    def mode(self, route: Route) -> str:
        return str(self.overrides.setting(route))

    async def set(self, pattern: str, mode: str, **more: object) -> ModeResult:
        return expect(ModeResult, await self.admin_service.set_mode(ModeRequest(pattern, mode, **more), "alice"))  # type: ignore[arg-type]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with desk.state:
        yield desk


async def test_what_is_not_set_cannot_be_taken_back_and_what_is_set_is_named(desk: Desk) -> None:
    async def why(pattern: str) -> str:
        refused = expect(Rejected, await desk.admin_service.clear_mode(pattern, "bob"))
        return refused.why

    assert await why("VM.get_state") == "nothing is set for 'xenopsd/VM.get_state': the mapping holds"
    override = Override("VM.get_state", Setting(Mode.SHADOW), "rollout x", NOW, by="rollout")
    await desk.state.decide(Change((AuditEntry(NOW, "rollout x", "rollout", "VM.get_state"),), (override,)))
    assert await why("VM.get_state") == (
        "what is set for 'xenopsd/VM.get_state' is a rollout's: pause or abort the rollout"
    )
    assert desk.state.overrides == (override,)
    await desk.set("*", "dbus")
    assert (await why("VM.get_label")).startswith(
        "nothing is set for exactly 'xenopsd/VM.get_label'; what holds there is set for '*' (dbus, alice 2023"
    )
    assert (await why("VM.get_stat")).startswith("no mapped method is named 'VM.get_stat'")


async def test_two_spellings_of_a_method_are_one_override(desk: Desk) -> None:
    older = Override("VM.get_state", Setting(Mode.OFF), "alice", NOW)  # as an older gateway has kept it
    await desk.state.decide(Change((AuditEntry(NOW, "alice", "mode", "VM.get_state"),), (older,)))
    for pattern, mode in (("VM.get_state", "dbus"), ("xenopsd/VM.get_state", "off")):
        await desk.set(pattern, mode)
        (each,) = desk.state.overrides
        assert (each.pattern, each.setting.mode.value) == ("xenopsd/VM.get_state", mode)
    assert isinstance(await desk.admin_service.clear_mode("VM.get_state", "bob"), ModeResult)
    assert desk.state.overrides == ()


async def test_a_row_tells_of_the_rollout_that_moves_it_and_a_rollback_of_everything_ends_it(desk: Desk) -> None:
    async def told(method: str) -> tuple[str, str]:
        rows = await desk.admin_service.methods(method)
        assert not isinstance(rows, StateRefused)
        return rows[0].rollout, rows[0].set_by

    assert isinstance(await desk.admin_service.rollouts.start("VM.get_state", "alice"), RolloutView)
    assert await told("VM.get_state") == ("running", "rollout default")
    assert await told("VM.get_label") == ("", "mapping")
    await desk.admin_service.rollback_all("alice")
    assert await told("VM.get_state") == ("aborted", "alice")


async def test_pairs_are_found_by_the_names_clients_use(desk: Desk) -> None:
    pairs = [
        MismatchRecord(NOW + number, MethodId("xenopsd", "VM.get_state"), {"number": number}) for number in range(3)
    ]
    await desk.state.flush(CountsBatch(pairs=[*pairs, MismatchRecord(NOW, MethodId("xenopsd", "VM.get_label"), {})]))
    newest = await desk.admin_service.diff("VM.get_state", limit=2)
    assert not isinstance(newest, StateRefused)
    assert [pair.document for pair in newest] == [{"number": 2}, {"number": 1}]
    every = await desk.admin_service.diff()
    assert not isinstance(every, StateRefused)
    assert len(every) == 4
    assert isinstance(await desk.admin_service.diff("VM.nope"), Rejected)


async def _entries(desk: Desk) -> list[AuditEntry]:
    entries = await desk.admin_service.audit()
    assert not isinstance(entries, StateRefused)
    return list(entries)


async def test_a_mode_for_a_time_ends_after_that_time_whatever_the_wall_clock_says() -> None:
    """The desk's clock is the wall's here, and the steady one another."""
    desk, steady = Desk(), Clock()
    desk.overrides = ActiveOverrides(steady)
    commands = RolloutCommands(desk.state, lambda: desk.routes, desk.clock, steady)
    desk.admin_service = AdminService(
        lambda: desk.routes, desk.overrides, desk.state, commands, now=desk.clock, steady=steady
    )  # fmt: skip
    async with desk.state:
        await desk.admin_service.set_mode(ModeRequest("VM.get_state", "off", seconds=600), "alice")
        desk.clock.now += 86_400
        assert desk.mode(STATE) == "off"
        desk.clock.now -= 10 * 86_400
        steady.now += 599
        assert desk.mode(STATE) == "off"
        steady.now += 2
        assert desk.mode(STATE) == "legacy"
