"""A call of the demo is right when the bus saw its target and its answer is the expected one, and not otherwise."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from demo.report import GATEWAY, OLD, WIDTH, Monitor, Reporter, SeenCall, equals, reached_target
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


# Expectations


@pytest.mark.parametrize(
    ("expected", "wrong"), [(0, False), ("", None), ("1", 1), (["a"], ("a",)), ([1], [2]), (None, "")]
)
def test_an_answer_of_another_type_is_wrong(expected: object, wrong: object) -> None:
    assert equals(expected)(expected)
    assert not equals(expected)(wrong)
