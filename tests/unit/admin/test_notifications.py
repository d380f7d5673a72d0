"""Notifications of changes, by any client."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.admin.service import Notifier
from gateway.core.admin.views import ModeChange, Notification, RollbackDone
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides
from tests.kit.admin import START, STATE
from tests.kit.cases import expect


class Watched:
    """A notifier, its inputs, and its notifications."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.overrides = ActiveOverrides(lambda: self.now)
        self.routes: list[Route] = [STATE, START]
        self.rollouts: dict[str, str] = {}
        self.notifier = Notifier(lambda: self.routes, self.overrides, lambda: self.rollouts)
        self.told: list[Notification] = []
        self.end = self.notifier.subscribe(self.told.append)


def override(pattern: str, mode: Mode, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 1.0, "try"), **more)


def test_a_rollback_of_everything_is_told_once_and_before_the_modes() -> None:
    watched = Watched()
    watched.overrides.replace([override("VM.get_state", Mode.DBUS)])
    back = override("*", Mode.LEGACY, who="bob", why="smoke")
    watched.told.clear()
    watched.overrides.replace([back])
    watched.overrides.replace([back])
    assert watched.told[0] == RollbackDone("*", "bob", "smoke")
    assert [type(news) for news in watched.told[1:]] == [ModeChange, ModeChange]


def test_a_rollout_that_goes_back_by_itself_is_told_with_its_reason_and_none_that_a_person_ends() -> None:
    watched = Watched()
    name = "xenopsd/VM.get_state"
    for state in ("aborted", "running", "done", "running", "ended", "running"):  # a person does that
        watched.rollouts = {name: state}
        watched.notifier.update()
    assert watched.told == []
    watched.overrides.replace([override(name, Mode.CANARY, who="rollout default", by="rollout")])
    watched.told.clear()
    watched.rollouts = {name: "rolled back"}
    watched.overrides.replace([override(name, Mode.LEGACY, who="rollout default", why="5 of 100 differ", by="rollout")])
    assert watched.told[0] == RollbackDone(name, "rollout default", "5 of 100 differ")


def test_a_mapping_that_says_another_mode_is_told() -> None:
    watched = Watched()
    watched.routes = [replace(STATE, migration=replace(STATE.migration, setting=Setting(Mode.DBUS))), START]
    watched.notifier.update()
    news = expect(ModeChange, *watched.told)
    assert (news.before, news.after, news.set_by) == ("legacy", "dbus", "mapping")


def test_a_listener_that_fails_costs_nobody_else_anything_and_one_that_has_ended_is_told_nothing() -> None:
    watched = Watched()

    def broken(_: Notification) -> None:
        raise RuntimeError

    watched.notifier.subscribe(broken)
    later: list[Notification] = []
    watched.notifier.subscribe(later.append)
    for _ in range(3):  # what stays is not told again
        watched.overrides.replace([override("VM.get_state", Mode.DBUS)])
    watched.end()
    watched.overrides.replace([])
    told = [(news.after, news.set_by) for news in later if isinstance(news, ModeChange)]
    assert told == [("dbus", "alice"), ("legacy", "mapping")]
    assert watched.told == later[:1]
