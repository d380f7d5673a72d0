"""Whose session is whose."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished, Route, SessionLimits
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.pipeline.sessions import Sessions
from gateway.state.store import StateStore
from tests.kit.mappings import route


def first(call: Call) -> str | None:
    return str(call.params[0]) if call.params else None


LOGIN = route("session.login_with_password", login=first)
STAT = route("VM.stat", session=first)


def learn(sessions: Sessions, route: Route, call: Call, outcome: Outcome) -> None:
    sessions.learn(CallFinished(route, call, outcome, Side.DBUS, 0.1))


def test_a_login_that_worked_tells_whose_session_its_result_is() -> None:
    sessions = Sessions()
    learn(sessions, LOGIN, Call("login", ("alice", "secret")), Reply("ref-1"))
    assert sessions.user(STAT, Call("VM.stat", ("ref-1",))) == "alice"
    assert sessions.user(STAT, Call("VM.stat", ("ref-2",))) == ""
    assert sessions.user(STAT, Call("VM.stat")) == ""


def test_a_login_itself_is_its_users() -> None:
    assert Sessions().user(LOGIN, Call("login", ("alice",))) == "alice"


def test_what_is_no_login_or_did_not_work_teaches_nothing() -> None:
    sessions = Sessions()
    learn(sessions, STAT, Call("VM.stat", ("alice",)), Reply("ref-1"))
    learn(sessions, LOGIN, Call("login", ("alice",)), Fault(FaultCode.APPLICATION, "no"))
    learn(sessions, LOGIN, Call("login", ("alice",)), Reply(5))
    learn(sessions, LOGIN, Call("login"), Reply("ref-1"))
    assert len(sessions) == 0


def test_those_used_longest_ago_are_forgotten_first() -> None:
    sessions = Sessions(capacity=2)
    for user in ("a", "b"):
        learn(sessions, LOGIN, Call("login", (user,)), Reply(f"ref-{user}"))
    assert sessions.user(STAT, Call("VM.stat", ("ref-a",))) == "a"
    learn(sessions, LOGIN, Call("login", ("c",)), Reply("ref-c"))
    assert [sessions.user(STAT, Call("VM.stat", (f"ref-{user}",))) for user in "abc"] == ["a", "", "c"]


# Limits

CHECK = route("session check")
LOGOUT = route("session.logout", session=first, closes=first, session_check=CHECK)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(idle: float = 0.0, most: int = 0) -> Route:
    def originator(call: Call) -> str | None:
        return str(call.params[1]) if len(call.params) > 1 else None

    return replace(LOGIN, session_limits=SessionLimits(idle, most, originator))


async def closed(sessions: Sessions) -> list[Call]:
    """The calls that close sessions at their service."""
    calls: list[Call] = []

    async def call(_route: Route, call: Call) -> Outcome:
        calls.append(call)
        return Reply(None)

    await sessions.look(call)
    return calls


async def test_a_session_that_is_not_used_ends_and_is_closed_at_its_service() -> None:
    clock = Clock()
    sessions = Sessions(now=clock)
    login = limited(idle=60)
    for name in ("a", "b"):
        sessions.learn(CallFinished(login, Call("login", ("alice",)), Reply(f"ref-{name}"), Side.DBUS, 0.1), LOGOUT)
    clock.now += 50
    assert sessions.user(STAT, Call("VM.stat", ("ref-a",))) == "alice"
    clock.now += 50
    assert await closed(sessions) == [Call("session.logout", ("ref-b",))]
    assert sessions.is_over(STAT, Call("VM.stat", ("ref-b",)))
    assert not sessions.is_over(STAT, Call("VM.stat", ("ref-a",)))
    clock.now += 61
    assert sessions.user(STAT, Call("VM.stat", ("ref-a",))) == ""  # the call itself finds out
    assert sessions.is_over(STAT, Call("VM.stat", ("ref-a",)))


async def test_a_user_has_so_many_sessions_for_each_originator_and_the_least_used_one_ends() -> None:
    sessions = Sessions()
    login = limited(most=2)

    def open_one(ref: str, originator: str) -> None:
        call = Call("login", ("alice", originator))
        sessions.learn(CallFinished(login, call, Reply(ref), Side.DBUS, 0.1), LOGOUT)

    open_one("1", "xo")
    open_one("2", "xo")
    open_one("3", "backup")
    sessions.user(STAT, Call("VM.stat", ("1",)))
    open_one("4", "xo")
    assert [ref for ref in "1234" if sessions.is_over(STAT, Call("VM.stat", (ref,)))] == ["2"]
    assert await closed(sessions) == [Call("session.logout", ("2",))]


def test_a_logout_makes_room_for_another_session() -> None:
    sessions = Sessions()
    login = limited(most=1)
    sessions.learn(CallFinished(login, Call("login", ("alice",)), Reply("1"), Side.DBUS, 0.1), LOGOUT)
    learn(sessions, LOGOUT, Call("session.logout", ("1",)), Reply(None))
    sessions.learn(CallFinished(login, Call("login", ("alice",)), Reply("2"), Side.DBUS, 0.1), LOGOUT)
    assert not sessions.is_over(STAT, Call("VM.stat", ("1",)))  # the service knows
    assert len(sessions) == 1


def test_a_reference_that_the_service_gives_again_is_a_new_session() -> None:
    sessions = Sessions()
    login = limited(most=1)
    for ref in ("1", "2", "1"):
        sessions.learn(CallFinished(login, Call("login", ("alice",)), Reply(ref), Side.DBUS, 0.1), LOGOUT)
    assert [ref for ref in "12" if sessions.is_over(STAT, Call("VM.stat", (ref,)))] == ["2"]


async def test_a_restart_keeps_users_and_times_but_no_session_is_readable_in_the_file(tmp_path: Path) -> None:
    clock = Clock()
    async with StateStore(tmp_path / "state.db") as state:
        sessions = Sessions(state=state, now=clock)
        learn(sessions, limited(idle=60), Call("login", ("alice",)), Reply("OpaqueRef:secret"))
        await sessions.stop()
    async with StateStore(tmp_path / "state.db") as state:
        again = Sessions(state=state, now=clock)
        await again.start(dict)  # type: ignore[arg-type]  # nothing is closed here
        assert again.user(STAT, Call("VM.stat", ("OpaqueRef:secret",))) == "alice"
        clock.now += 61
        assert again.user(STAT, Call("VM.stat", ("OpaqueRef:secret",))) == ""
        assert again.is_over(STAT, Call("VM.stat", ("OpaqueRef:secret",)))
        await again.stop()
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())
