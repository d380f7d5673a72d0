"""Style `mailbox`: command and parameter of a device model, answered by its state."""

from __future__ import annotations

from adapters.xenstore.styles.base import Request
from adapters.xenstore.styles.mailbox import word
from gateway.core.xenstore.exposure import StateWords
from tests.kit.xenstore_clients import ERROR, Tried

ANSWERS = (
    ("save", StateWords(done="paused")),
    ("pci-ins", StateWords(done="pci-inserted", failed="pci-insert-failed")),
)
MAILBOX = Tried("mailbox", "/local/domain/0/device-model/{domid}", answers=ANSWERS)
NODE = "/local/domain/0/device-model/5"
DEVICE = b"0000:00:19.0"
SAVE = Request("save", [], {f"{NODE}/command": b"save", f"{NODE}/parameter": None})
INSERT = Request("pci-ins", [("parameter", DEVICE)], {f"{NODE}/command": b"pci-ins", f"{NODE}/parameter": DEVICE})


def test_a_command_asks_with_its_parameter() -> None:
    assert MAILBOX.request(NODE, command=b"pci-ins", parameter=DEVICE) == INSERT
    assert MAILBOX.request(NODE, command=b"save") == SAVE


def test_no_command_or_an_empty_one_asks_nothing() -> None:
    assert MAILBOX.request(NODE, parameter=b"x") is None
    assert MAILBOX.request(NODE, command=b"") is None


def test_who_asks_is_known_by_the_command() -> None:
    assert MAILBOX.style.owner_node(MAILBOX.match(f"{NODE}/state")) == f"{NODE}/command"


def test_what_is_done_is_told_by_the_state_and_the_command_is_gone() -> None:
    done = [(f"{NODE}/state", b"paused"), (f"{NODE}/command", None)]
    assert MAILBOX.answer(NODE, SAVE, []) == done


def test_a_result_is_the_parameter_and_stands_there_before_the_state() -> None:
    inserted = [(f"{NODE}/parameter", b"0x20"), (f"{NODE}/state", b"pci-inserted"), (f"{NODE}/command", None)]
    assert MAILBOX.answer(NODE, INSERT, [("", b"0x20")]) == inserted
    assert MAILBOX.answer(NODE, INSERT, [("parameter", b"0x20")]) == inserted
    assert "one text" in MAILBOX.refusal(NODE, INSERT, [("a", b"1"), ("b", b"2")])


def test_an_error_is_told_where_there_is_a_word_for_it_and_else_changes_no_state() -> None:
    assert MAILBOX.answer(NODE, INSERT, ERROR) == [
        (f"{NODE}/state", b"pci-insert-failed"),
        (f"{NODE}/command", None),
    ]
    assert MAILBOX.answer(NODE, SAVE, ERROR) == [(f"{NODE}/command", None)]
    unknown = Request("no@2esuch", [], {})
    assert MAILBOX.answer(NODE, unknown, ERROR) == [(f"{NODE}/command", None)]


def test_a_word_is_a_methods_name_whatever_it_holds() -> None:
    assert [word(value) for value in (b"pci-ins", b"a b/..", b"\xff")] == ["pci-ins", "a@20b@2f@2e@2e", "@ef@bf@bd"]
