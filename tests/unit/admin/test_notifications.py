"""What is told of changes, whoever makes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.admin.notifications import Notifier as Teller
from gateway.core.admin.records import MethodId
from gateway.core.admin.views import MappingsReloaded, ModeChange, Notification, RollbackDone
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides
from tests.kit.admin import START, STATE


class Watched:
    """A teller, what it looks at, and what it has told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.toggles = ActiveOverrides(lambda: self.now)
        self.routes: list[Route] = [STATE, START]
        self.rollouts: dict[str, str] = {}
        self.teller = Teller(lambda: self.routes, self.toggles, lambda: self.rollouts)
        self.told: list[Notification] = []
        self.end = self.teller.tell(self.told.append)


def override(pattern: str, mode: Mode, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 1.0, "try"), **more)  # type: ignore[arg-type]


def test_a_method_that_has_another_mode_is_told() -> None:
    watched = Watched()
    watched.toggles.replace([override("VM.get_state", Mode.SHADOW)])
    (news,) = watched.told
    assert isinstance(news, ModeChange)
    assert (news.method, news.before, news.after, news.set_by) == ("VM.get_state", "legacy", "shadow", "alice")
    assert news.setting["mode"] == "shadow"


def test_what_stays_is_not_told_again() -> None:
    watched = Watched()
    for _ in range(3):
        watched.toggles.replace([override("VM.get_state", Mode.SHADOW)])
    assert len(watched.told) == 1


def test_a_mode_whose_time_is_over_is_told_when_it_is_dropped() -> None:
    watched = Watched()
    watched.toggles.replace([override("VM.get_state", Mode.DBUS, until=1010.0)])
    watched.now = 1010.0
    watched.toggles.replace([])
    assert [(news.after, news.set_by) for news in watched.told if isinstance(news, ModeChange)] == [
        ("dbus", "alice"),
        ("legacy", "mapping"),
    ]


def test_a_rollback_of_everything_is_told_once_and_before_the_modes() -> None:
    watched = Watched()
    watched.toggles.replace([override("VM.get_state", Mode.DBUS)])
    back = override("*", Mode.LEGACY, who="bob", why="smoke")
    watched.told.clear()
    watched.toggles.replace([back])
    watched.toggles.replace([back])
    assert watched.told[0] == RollbackDone("*", "bob", "smoke")
    assert [type(news) for news in watched.told[1:]] == [ModeChange, ModeChange]


def test_a_rollout_that_goes_back_by_itself_is_told_with_its_reason() -> None:
    watched = Watched()
    name = "xenopsd/VM.get_state"
    watched.rollouts = {name: "running"}
    watched.toggles.replace([override(name, Mode.CANARY, who="rollout default", by="rollout")])
    watched.told.clear()
    watched.rollouts = {name: "rolled back"}
    watched.toggles.replace([override(name, Mode.LEGACY, who="rollout default", why="5 of 100 differ", by="rollout")])
    assert watched.told[0] == RollbackDone(name, "rollout default", "5 of 100 differ")


@pytest.mark.parametrize("state", ["aborted", "done", "ended"])
def test_a_rollout_that_a_person_ends_is_no_rollback(state: str) -> None:
    watched = Watched()
    watched.rollouts = {"VM.get_state": "running"}
    watched.teller.look()
    watched.rollouts = {"VM.get_state": state}
    watched.teller.look()
    assert watched.told == []


def test_methods_that_a_reload_brings_and_takes_are_told_and_no_mode_of_theirs() -> None:
    watched = Watched()
    watched.routes = [STATE]
    watched.teller.look()
    watched.routes = [STATE, START]
    watched.teller.look()
    start = MethodId("xenopsd", "VM.start")
    assert watched.told == [MappingsReloaded((), (start,)), MappingsReloaded((start,), ())]


def test_a_mapping_that_says_another_mode_is_told() -> None:
    watched = Watched()
    watched.routes = [replace(STATE, migration=replace(STATE.migration, setting=Setting(Mode.DBUS))), START]
    watched.teller.look()
    (news,) = watched.told
    assert isinstance(news, ModeChange)
    assert (news.before, news.after, news.set_by) == ("legacy", "dbus", "mapping")


def test_a_listener_that_fails_costs_nobody_else_anything() -> None:
    watched = Watched()

    def broken(_: Notification) -> None:
        raise RuntimeError

    watched.teller.tell(broken)
    later: list[Notification] = []
    watched.teller.tell(later.append)
    watched.toggles.replace([override("VM.get_state", Mode.DBUS)])
    assert len(watched.told) == len(later) == 1


def test_who_has_ended_it_is_told_nothing_more() -> None:
    watched = Watched()
    watched.end()
    watched.toggles.replace([override("VM.get_state", Mode.DBUS)])
    assert watched.told == []
