"""How the demo judges: a call is right when it went where it should and its answer is the wanted one, not otherwise."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from rich.console import Console

from demo import __main__
from demo.__main__ import WIDTH, Showing, went_right
from demo.monitor import Monitor, MonitorError, Seen
from demo.show import GATEWAY, OLD, Printed
from demo.stage import Stage, StageError
from tests.kit.buses import private_bus

TARGET = "Thing1.Do"

pytestmark = pytest.mark.bus


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus:
        yield bus.address


@pytest.fixture
def show(address: str) -> Iterator[Showing]:
    with Monitor(address) as monitor:
        yield Showing(monitor)


def calling(address: str, answer: object) -> Callable[[], object]:
    """A client's call that becomes one on the bus."""

    def ask() -> object:
        to = [f"--bus={address}", "--type=method_call", "--dest=org.xen.xcp.x", "/x"]
        subprocess.run(["dbus-send", *to, f"org.xen.xcp.x.{TARGET}"], check=True)
        return answer

    return ask


def failing() -> object:
    raise ConnectionError("nobody there")


def test_a_call_that_goes_where_it_should_and_is_answered_right(show: Showing, address: str) -> None:
    assert show("client", "do()", TARGET, calling(address, 5), lambda answer: bool(answer == 5)) == 5
    assert (show.right, show.wrong, show.total) == (1, 0, 1)


def test_a_call_that_must_not_reach_the_bus(show: Showing) -> None:
    show("client", "do(-1)", "", lambda: "refused", lambda answer: True)
    assert (show.right, show.wrong) == (1, 0)


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
def test_a_call_that_is_wrong(show: Showing, address: str, target: str, right: Callable[[Any], bool]) -> None:
    show("client", "do()", target, calling(address, 5), right)
    assert (show.right, show.wrong) == (0, 1)


@pytest.mark.parametrize("target", [TARGET, ""])
def test_a_client_that_fails_is_wrong_and_shown(show: Showing, capsys: pytest.CaptureFixture[str], target: str) -> None:
    answer = show("client", "do()", target, failing, lambda answer: True)
    assert isinstance(answer, ConnectionError)
    assert (show.right, show.wrong) == (0, 1)
    assert "nobody there" in capsys.readouterr().out


def test_what_is_shown_is_the_call_what_the_bus_saw_and_the_answer(
    show: Showing, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show("client", "do([b]x[/b])", TARGET, calling(address, "[b]" * WIDTH), lambda answer: True)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[:2]] == [
        ["✓", "client", "do([b]x[/b])"],
        ["bus", shown[1].split()[1], "→", "org.xen.xcp.x", "/x", f"org.xen.xcp.x.{TARGET}"],
    ]
    assert shown[2] == "      answer  " + repr("[b]" * WIDTH)[:WIDTH] + " ..."


def test_what_a_command_printed_is_shown_line_by_line(show: Showing, capsys: pytest.CaptureFixture[str]) -> None:
    show("command", "do", "", lambda: Printed("\x1b[1mone\x1b[0m [two]\n  three\n"), lambda answer: True)
    assert capsys.readouterr().out.splitlines()[1:] == ["      one [two]", "        three"]


def test_in_a_terminal_what_is_left_of_a_line_stands_below_its_begin(
    show: Showing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "_out", Console(width=30, force_terminal=True, color_system=None))
    show("client", "do()", "", lambda: "one two three four", lambda answer: True)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "  ✓ client          do()",
        "      bus     (nothing on the",
        "              bus)",
        "      answer  'one two three",
        "              four'",
    ]


@pytest.mark.parametrize(
    ("senders", "by", "good"),
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
def test_the_wanted_sides_and_no_other_must_have_asked(senders: Sequence[str], by: Sequence[str], good: bool) -> None:
    seen = [Seen(sender, "org.xen.xcp.x", "/x", "org.xen.xcp.x.Thing1", "Do") for sender in senders]
    assert went_right(seen, TARGET, by) is good


# The exit status


def staging(error: BaseException) -> Callable[..., AbstractContextManager[Stage]]:
    """A stage on which this happens."""

    @contextmanager
    def stage(port: int = 0) -> Iterator[Stage]:
        yield from ()
        raise error

    return stage


@pytest.mark.parametrize("error", [StageError("no programs [at all]"), MonitorError("no programs [at all]")])
def test_a_demo_that_cannot_be_shown_fails_with_its_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "stage", staging(error))
    assert __main__.run(stay=False) == 1
    assert capsys.readouterr().out == "no programs [at all]\n"


@pytest.mark.parametrize(("stay", "status"), [(True, 0), (False, 130)])
def test_sigterm_ends_it_and_is_what_it_was_afterwards(
    stay: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    @contextmanager
    def stage(port: int = 0) -> Iterator[Stage]:
        signal.raise_signal(signal.SIGTERM)
        yield from ()

    monkeypatch.setattr(__main__, "stage", stage)
    assert __main__.run(stay=stay) == status
    assert signal.getsignal(signal.SIGTERM) is before
