"""Whose session is whose."""

from __future__ import annotations

from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.pipeline.sessions import Sessions
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
