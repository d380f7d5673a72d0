"""The demo's calls in a xenstore that nobody serves: none is left out, none is taken for right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import old_squeezed, store_calls
from demo.stage import Stage
from demo.store_calls import CLIENTS, mailbox
from tests.kit.demo_calls import Asked, Asking, members, nowhere
from tests.kit.stores import Xenstored, xenstored


@pytest.fixture(scope="module")
def store() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


@pytest.fixture(scope="module")
def stage(store: Xenstored) -> Stage:
    return nowhere(store=Path(store.path))


@pytest.fixture
def asked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(old_squeezed, "PATIENCE", 0.05)
    monkeypatch.setattr(store_calls, "PATIENCE", 0.2)
    asking = Asking()
    for client in CLIENTS:
        client(stage, asking)
    return asking.asked


def test_each_client_asks_and_what_nobody_answers_is_never_right(asked: Asked) -> None:
    assert {one.client for one in asked} == {"pyxs", "xenstore-write"}
    for one in asked:
        assert isinstance(one.answer, Exception) or not one.right(one.answer), one


def test_every_target_is_a_member_of_the_toolstack(asked: Asked) -> None:
    known = members()
    for one in asked:
        assert not one.target or any(member.endswith(one.target) for member in known), one


def test_a_mailbox_is_read_until_it_holds_what_is_wanted(stage: Stage, store: Xenstored) -> None:
    assert mailbox(stage, "/box/word", "do", "/box/word", "do")() == "do"
    assert store.tool("read", "/box/word") == "do\n"


def test_what_is_there_before_is_no_answer(stage: Stage, store: Xenstored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_calls, "PATIENCE", 0.1)
    store.tool("write", "/box/state", "done")
    assert mailbox(stage, "/box/command", "do", "/box/state", "done")() is None


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_calls, "PATIENCE", 0.1)
    assert mailbox(stage, "/box/other", "do", "/box/nothing", "done")() is None
