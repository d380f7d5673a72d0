"""The demo's move, where no gateway is: every step is made, none is taken for right; and its numbers are true."""

from __future__ import annotations

import pytest

from demo import moving
from demo.calls import WEB
from demo.moving import CLIENTS, DB, METHOD, OF_DB, OF_WEB, SHARE, run
from demo.show import GATEWAY, OLD, SIDES, Printed
from gateway.core.migration.modes import share
from gateway.core.routing.policy import bucket
from tests.kit.demo_calls import Asked, Asking, nowhere
from tests.kit.toolstack import ROOT, load


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    asking = Asking()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(moving, "run", lambda *_: Printed("no gateway answers"))
        for client in CLIENTS:
            client(nowhere("http://127.0.0.1:1", directory=tmp_path_factory.mktemp("stage")), asking)
    return asking.asked


def test_every_step_is_made_and_none_is_right(asked: Asked) -> None:
    assert [one.call.split()[0] for one in asked if one.client == "xcp-gateway"] == [
        "mode", "mode", "diff", "diff", "status", "mode", "explain", "mode", "rollback",
    ]  # fmt: skip
    for one in asked:
        assert isinstance(one.answer, Exception) or not one.right(one.answer), one


def test_both_sides_are_asked_alone_and_together(asked: Asked) -> None:
    called = {frozenset(one.by) for one in asked if one.client == "XenAPI"}
    assert called == {frozenset({GATEWAY}), frozenset({OLD}), SIDES}


def test_the_share_parts_the_two_vms() -> None:
    web, db = (bucket(f"xapi/{METHOD}", vm) for vm in (WEB, DB))
    assert web < share(SHARE) <= db


def test_the_memory_of_the_vms_is_that_of_the_sample() -> None:
    sample = load(ROOT / "docker/toolstack/sample.py")
    memory = {sample.ref(uuid): str(static) for uuid, _, _, static, _, _ in sample.VMS}
    assert (memory[WEB], memory[DB]) == (OF_WEB, OF_DB)


def test_a_command_is_our_own() -> None:
    assert "no gateway answers on /nowhere" in run(nowhere(), "mode")
