"""Which modes the mapping files could say themselves, and what is needless once they do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from gateway.core.admin.records import AuditEntry, Change, Rejected, StateRefused
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.promote import Promotion, PromotionPlanner
from gateway.state.store import StateStore
from tests.kit.cases import expect
from tests.kit.mappings import route

NOW = 1_700_000_000.0


def movable(method: str, mode: Mode = Mode.LEGACY, **more: object) -> Route:
    return route(method, service="toy", migration=Migration(Setting(mode), upstream="old"), source="toy.yaml:3", **more)


class World:
    def __init__(self) -> None:
        self.routes = [movable("a"), movable("b"), movable("c")]
        self.overrides = ActiveOverrides(lambda: NOW)
        self.state = StateStore(None, self._changed, now=lambda: NOW)
        self.rollouts: dict[str, str] = {}
        self.promoting = PromotionPlanner(
            lambda: self.routes,
            lambda: {"toy.yaml": "d1"},
            self.overrides,
            self.state,
            lambda: self.rollouts,
            lambda: NOW,
        )

    def _changed(self) -> None:
        self.overrides.replace(self.state.overrides)

    async def set(self, pattern: str, mode: Mode, **more: object) -> None:
        override = replace(Override(pattern, Setting(mode), "alice", NOW), **more)
        await self.state.decide(Change((AuditEntry(NOW, "alice", "mode", pattern),), (override,)))

    def plan(self, pattern: str = "*") -> Promotion:
        return expect(Promotion, self.promoting.plan(pattern))

    async def settle(self) -> list[str]:
        patterns = await self.promoting.settle("*", "alice", "done")
        assert not isinstance(patterns, StateRefused)
        return list(patterns)

    def write(self, **modes: Mode) -> None:
        """As if the files said so."""
        self.routes = [
            movable(each.method, modes.get(each.method, each.migration.setting.mode)) for each in self.routes
        ]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    async with made.state:
        yield made


async def test_what_is_set_at_run_time_is_what_the_file_could_say(world: World) -> None:
    assert world.plan() == Promotion((), ())
    await world.set("a", Mode.DBUS)
    (file,) = world.plan().files
    assert (file.file.rpartition("/")[2], file.sha256) == ("toy.yaml", "d1")
    (method,) = file.methods
    assert (method.method, method.before, method.after, method.setting["mode"]) == ("a", "legacy", "dbus", "dbus")
    assert world.plan("b").files == ()
    assert isinstance(world.promoting.plan("nope"), Rejected)


async def test_what_is_set_for_a_time_or_by_a_rollout_under_way_stays_where_it_is(world: World) -> None:
    await world.set("toy/b", Mode.SHADOW, by="rollout", who="rollout x")
    world.rollouts = {"toy/b": "running"}
    assert world.plan().stays[0].why == "the rollout of toy/b is running"
    world.rollouts = {"toy/b": "done"}
    assert [method.after for method in world.plan().files[0].methods] == ["shadow"]
    world.write(b=Mode.SHADOW)
    await world.set("a", Mode.DBUS, until=NOW + 60)
    plan = world.plan()
    assert (plan.files, plan.stays[0].method, plan.stays[0].why[:14]) == ((), "a", "it is set unti")
    world.write(a=Mode.DBUS)
    assert await world.settle() == ["toy/b"]


async def test_what_the_file_says_need_not_be_set(world: World) -> None:
    await world.set("a", Mode.DBUS)
    await world.set("b", Mode.DBUS)
    world.write(a=Mode.DBUS)
    assert await world.settle() == ["a"]
    assert [override.pattern for override in world.state.overrides] == ["b"]
    entries = await world.state.audit()
    assert not isinstance(entries, StateRefused)
    assert (entries[0].what, entries[0].numbers) == ("promote", {"cleared": ["a"]})


async def test_an_exception_and_what_it_is_one_from_go_together(world: World) -> None:
    await world.set("*", Mode.DBUS)
    await world.set("a", Mode.SHADOW)
    world.write(a=Mode.SHADOW)  # b and c are not written: "*" must stay, and "a" with it
    assert await world.settle() == []
    assert str(world.overrides.setting(world.routes[0])) == "shadow"
    world.write(b=Mode.DBUS, c=Mode.DBUS)
    assert sorted(await world.settle()) == ["*", "a"]


async def test_what_is_hidden_and_harmless_stays(world: World) -> None:
    await world.set("a", Mode.SHADOW)
    await world.set("toy/a", Mode.DBUS)
    await world.set("b", Mode.SHADOW)
    await world.set("toy/b", Mode.DBUS)
    world.write(a=Mode.DBUS)
    assert sorted(await world.settle()) == ["a", "toy/a"]


async def test_nobodys_mode_changes_when_it_is_settled(world: World) -> None:
    for pattern, mode in {"*": Mode.DBUS, "a": Mode.SHADOW, "toy/*": Mode.LEGACY, "toy/b": Mode.DBUS}.items():
        await world.set(pattern, mode)
    world.write(a=Mode.SHADOW, b=Mode.DBUS, c=Mode.LEGACY)
    before = [world.overrides.setting(each) for each in world.routes]
    await world.settle()
    assert [world.overrides.setting(each) for each in world.routes] == before
    assert world.state.overrides == ()
