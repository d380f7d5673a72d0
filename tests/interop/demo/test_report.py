"""A call of the demo is right when the bus saw its target and its answer is the expected one, and not otherwise."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest

from demo.report import GATEWAY, OLD, WIDTH, Expectation, Monitor, Reporter, SeenCall, equals, reached_target
from tests.kit.buses import private_bus
from tests.kit.cases import each_case

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
        if isinstance(answer, Exception):
            raise answer
        return answer

    return make_call


CALLS: Sequence[tuple[str, object, Expectation, bool]] = (  # target, answer, what is expected, whether it is right
    (TARGET, 5, lambda answer: bool(answer == 5), True),
    (TARGET, 5, lambda answer: False, False),
    (TARGET, 5, lambda answer: bool(answer["Status"] == "Success"), False),
    (TARGET, 5, lambda answer: bool(answer.year == 2026), False),
    ("Thing1.DoElse", 5, lambda answer: True, False),
    ("", 5, lambda answer: True, False),  # none may be made
    (TARGET, ConnectionError("no server"), lambda answer: True, False),
)


def test_a_call_is_right_when_it_goes_where_it_should_and_is_answered_right(
    reporter: Reporter, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, answer, expected, _ in CALLS:
        assert reporter("client", "do()", target, calling(address, answer), expected) == answer
    assert [each["right"] for each in reporter.calls] == [right for *_, right in CALLS]
    assert (reporter.right, reporter.wrong) == (1, len(CALLS) - 1)
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


@each_case(
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


@each_case(("expected", "wrong"), [(0, False), ("", None), ("1", 1), (["a"], ("a",)), ([1], [2]), (None, "")])
def test_an_answer_of_another_type_is_wrong(expected: object, wrong: object) -> None:
    assert equals(expected)(expected)
    assert not equals(expected)(wrong)
