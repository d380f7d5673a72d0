"""A call of the demo is right when the bus saw its target and its answer is the expected one, and not otherwise."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from demo import __main__, report
from demo.environment import Environment, StartError
from demo.report import (
    GATEWAY,
    OLD,
    WIDTH,
    Monitor,
    MonitorError,
    Reporter,
    SeenCall,
    equals,
    reached_target,
)
from tests.kit.buses import private_bus
from tests.kit.cases import expect

TARGET = "Thing1.Do"

pytestmark = pytest.mark.bus


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus:
        yield bus.address


@pytest.fixture
def reporter(address: str) -> Iterator[Reporter]:
    with Monitor(address) as monitor:
        yield Reporter(monitor)


def calling(address: str, answer: object) -> Callable[[], object]:
    """A client's call that becomes one on the bus."""

    def make_call() -> object:
        to = [f"--bus={address}", "--type=method_call", "--dest=org.xen.xcp.x", "/x"]
        subprocess.run(["dbus-send", *to, f"org.xen.xcp.x.{TARGET}"], check=True)
        return answer

    return make_call


def failing() -> object:
    raise ConnectionError("no server")


def test_a_call_that_goes_where_it_should_and_is_answered_right(reporter: Reporter, address: str) -> None:
    assert reporter("client", "do()", TARGET, calling(address, 5), lambda answer: bool(answer == 5)) == 5
    assert (reporter.right, reporter.wrong, reporter.total) == (1, 0, 1)


def test_a_call_that_must_not_reach_the_bus(reporter: Reporter) -> None:
    reporter("client", "do(-1)", "", lambda: "refused", lambda answer: True)
    assert (reporter.right, reporter.wrong) == (1, 0)


@pytest.mark.parametrize(
    ("target", "right"),
    [
        (TARGET, lambda answer: False),
        (TARGET, lambda answer: answer["Status"] == "Success"),
        (TARGET, lambda answer: answer.year == 2026),
        ("Thing1.DoElse", lambda answer: True),
        ("", lambda answer: True),
    ],
    ids=["another answer", "no struct", "no date", "another member", "none may be made"],
)
def test_a_call_that_is_wrong(reporter: Reporter, address: str, target: str, right: Callable[[Any], bool]) -> None:
    reporter("client", "do()", target, calling(address, 5), right)
    assert (reporter.right, reporter.wrong) == (0, 1)


@pytest.mark.parametrize("target", [TARGET, ""])
def test_a_client_that_fails_is_wrong_and_shown(
    reporter: Reporter, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    expect(ConnectionError, reporter("client", "do()", target, failing, lambda answer: True))
    assert (reporter.right, reporter.wrong) == (0, 1)
    assert "no server" in capsys.readouterr().out


def test_what_is_shown_is_the_call_what_the_bus_saw_and_the_answer(
    reporter: Reporter, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter("client", "do([b]x[/b])", TARGET, calling(address, "[b]" * WIDTH), lambda answer: True)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[:2]] == [
        ["✓", "client", "do([b]x[/b])"],
        ["bus", shown[1].split()[1], "→", "org.xen.xcp.x", "/x", f"org.xen.xcp.x.{TARGET}"],
    ]
    assert shown[2] == "      answer  " + repr("[b]" * WIDTH)[:WIDTH] + " ..."


@pytest.mark.parametrize(
    ("seen_senders", "senders", "good"),
    [
        ((OLD,), (OLD,), True),
        ((OLD, GATEWAY), (GATEWAY, OLD), True),
        ((GATEWAY, "xapi", "xenopsd"), (GATEWAY,), True),
        ((OLD, GATEWAY), (OLD,), False),
        ((OLD,), (OLD, GATEWAY), False),
        (("xapi",), (GATEWAY,), False),
        ((GATEWAY,), (), True),
    ],
)
def test_the_wanted_sides_and_no_other_must_have_asked(
    seen_senders: Sequence[str], senders: Sequence[str], good: bool
) -> None:
    seen = [SeenCall(sender, "org.xen.xcp.x", "/x", "org.xen.xcp.x.Thing1", "Do") for sender in seen_senders]
    assert reached_target(seen, TARGET, senders) is good


# The exit status


def failing_start(error: BaseException) -> Callable[..., AbstractContextManager[Environment]]:
    """A start that fails with this error."""

    @contextmanager
    def start_environment(port: int = 0) -> Iterator[Environment]:
        yield from ()
        raise error

    return start_environment


@pytest.mark.parametrize("error", [StartError("no programs [at all]"), MonitorError("no programs [at all]")])
def test_a_demo_that_cannot_be_shown_fails_with_its_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "start_environment", failing_start(error))
    assert __main__.run(stay=False) == 1
    assert capsys.readouterr().out == "no programs [at all]\n"


@pytest.mark.parametrize(("stay", "status"), [(True, 0), (False, 130)])
def test_sigterm_ends_it_and_is_what_it_was_afterwards(
    stay: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    @contextmanager
    def start_environment(port: int = 0) -> Iterator[Environment]:
        signal.raise_signal(signal.SIGTERM)
        yield from ()

    monkeypatch.setattr(__main__, "start_environment", start_environment)
    assert __main__.run(stay=stay) == status
    assert signal.getsignal(signal.SIGTERM) is before


# The monitor on a real bus


def send(address: str, destination: str, member: str) -> None:
    """Call a member of a name that has no owner."""
    to = [f"--bus={address}", "--type=method_call", f"--dest={destination}"]
    subprocess.run(["dbus-send", *to, "/org/xen/xcp/x", f"org.xen.xcp.x.Thing1.{member}"], check=True)


def test_calls_are_seen_in_their_order_and_each_once(address: str) -> None:
    with Monitor(address) as watching:
        assert watching.read_calls() == []
        send(address, "org.xen.xcp.x", "First")
        send(address, "org.xen.xcp.y", "Second")
        assert [(one.destination, one.member) for one in watching.read_calls()] == [
            ("org.xen.xcp.x", "First"),
            ("org.xen.xcp.y", "Second"),
        ]
        send(address, "org.xen.xcp.x", "Third")
        assert [one.member for one in watching.read_calls()] == ["Third"]


def test_calls_to_others_than_the_toolstack_are_left_out(address: str) -> None:
    with Monitor(address) as watching:
        send(address, "org.example.toy", "First")
        send(address, "org.freedesktop.DBus", "Second")
        assert watching.read_calls() == []


def test_a_monitor_that_shows_nothing_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with private_bus() as other, Monitor(other.address) as watching:
        monkeypatch.setattr(report, "TIMEOUT", 0.5)
        watching._address = address  # the marks go where it does not look
        with pytest.raises(MonitorError, match="shows nothing of unix:"):
            watching.read_calls()


# Expectations


@pytest.mark.parametrize(
    ("expected", "wrong"), [(0, False), ("", None), ("1", 1), (["a"], ("a",)), ([1], [2]), (None, "")]
)
def test_an_answer_of_another_type_is_wrong(expected: object, wrong: object) -> None:
    assert equals(expected)(expected)
    assert not equals(expected)(wrong)
