"""Whose session is whose."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished, Route, SessionLimits
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.pipeline import sessions
from gateway.pipeline.sessions import Sessions
from gateway.state.store import StateStore
from tests.kit.mappings import route


def first(call: Call) -> str | None:
    return str(call.params[0]) if call.params else None


def originator(call: Call) -> str | None:
    return str(call.params[1]) if len(call.params) > 1 else None


LOGIN = route("session.login_with_password", login=first)
STAT = route("VM.stat", session=first)
LOGOUT = route("session.logout", session=first, closes=first, session_check=route("session check"))


def limited(idle: float = 0.0, most: int = 0) -> Route:
    return replace(LOGIN, session_limits=SessionLimits(idle, most, originator))


class Scene:
    """Sessions, and a clock that is set by hand."""

    def __init__(self, state: StateStore | None = None, login: Route = LOGIN) -> None:
        self.now = 1000.0
        self.sessions = Sessions(state=state, now=lambda: self.now)
        self.login = login

    def learn(self, route: Route, *params: Value, outcome: Outcome) -> None:
        self.sessions.learn(CallFinished(route, Call(route.method, params), outcome, Side.DBUS, 0.1), LOGOUT)

    def open(self, ref: str, user: str = "alice", *originator: str) -> None:
        self.learn(self.login, user, *originator, outcome=Reply(ref))

    def user(self, *session: str) -> str:
        return self.sessions.user(STAT, Call("VM.stat", session))

    def over(self, *refs: str) -> list[str]:
        return [ref for ref in refs if self.sessions.is_over(STAT, Call("VM.stat", (ref,)))]

    async def closed(self) -> list[Call]:
        """The calls that close sessions at their service."""
        calls: list[Call] = []

        async def call(_route: Route, call: Call) -> Outcome:
            calls.append(call)
            return Reply(None)

        await self.sessions.look(call)
        return calls


def test_a_login_that_worked_tells_whose_session_its_result_is() -> None:
    scene = Scene()
    scene.open("ref-1")
    assert [scene.user("ref-1"), scene.user("ref-2"), scene.user()] == ["alice", "", ""]
    assert scene.sessions.user(LOGIN, Call("login", ("bob",))) == "bob"  # a login itself is its user's


def test_what_is_no_login_or_did_not_work_teaches_nothing() -> None:
    scene = Scene()
    scene.learn(STAT, "alice", outcome=Reply("ref-1"))
    for outcome in (Fault(FaultCode.APPLICATION, "no"), Reply(5)):
        scene.learn(LOGIN, "alice", outcome=outcome)
    scene.learn(LOGIN, outcome=Reply("ref-1"))
    assert len(scene.sessions._open) == 0


def test_those_used_longest_ago_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CAPACITY", 2)
    scene = Scene()
    for user in ("a", "b"):
        scene.open(f"ref-{user}", user)
    assert scene.user("ref-a") == "a"
    scene.open("ref-c", "c")
    assert [scene.user(f"ref-{user}") for user in "abc"] == ["a", "", "c"]


async def test_a_session_that_is_not_used_ends_and_is_closed_at_its_service() -> None:
    scene = Scene(login=limited(idle=60))
    scene.open("a")
    scene.open("b")
    scene.now += 50
    assert scene.user("a") == "alice"
    scene.now += 50
    assert await scene.closed() == [Call("session.logout", ("b",))]
    assert scene.over("a", "b") == ["b"]
    scene.now += 61
    assert scene.user("a") == ""  # the call itself finds out
    assert scene.over("a", "b") == ["a", "b"]


async def test_a_user_has_so_many_sessions_for_each_originator_and_the_least_used_one_ends() -> None:
    scene = Scene(login=limited(most=2))
    for ref, program in (("1", "xo"), ("2", "xo"), ("3", "backup")):
        scene.open(ref, "alice", program)
    scene.user("1")
    scene.open("4", "alice", "xo")
    assert scene.over(*"1234") == ["2"]
    assert await scene.closed() == [Call("session.logout", ("2",))]


def test_a_logout_makes_room_and_a_reference_that_is_given_again_is_a_new_session() -> None:
    scene = Scene(login=limited(most=1))
    scene.open("1")
    scene.learn(LOGOUT, "1", outcome=Reply(None))
    scene.open("2")
    assert (scene.over("1", "2"), len(scene.sessions._open)) == ([], 1)  # of the first the service knows
    for ref in ("1", "2", "1"):
        scene.open(ref)
    assert scene.over("1", "2") == ["2"]


async def test_a_restart_keeps_users_and_times_but_no_session_is_readable_in_the_file(tmp_path: Path) -> None:
    async with StateStore(tmp_path / "state.db") as state:
        before = Scene(state=state, login=limited(idle=60))
        before.open("OpaqueRef:secret")
        await before.sessions.stop()
    async with StateStore(tmp_path / "state.db") as state:
        scene = Scene(state=state)
        await scene.sessions.start(dict)  # type: ignore[arg-type]  # nothing is closed here
        assert scene.user("OpaqueRef:secret") == "alice"
        scene.now += 61
        assert scene.user("OpaqueRef:secret") == ""
        assert scene.over("OpaqueRef:secret")
        await scene.sessions.stop()
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())
