"""The paths for rollouts; what is behind them is tested in tests/unit/rollout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kit.admin import STATE, Api, serving


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


async def test_a_rollout_is_started_paused_resumed_and_aborted(api: Api) -> None:
    status, begun = await api.ask("POST", "/v1/rollouts/start", {"name": "VM.get_state", "why": "try"})
    assert (status, begun["name"], begun["state"], begun["step"]) == (200, "xenopsd/VM.get_state", "running", "shadow")
    for order, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        status, view = await api.ask("POST", f"/v1/rollouts/{order}", {"name": "VM.get_state"})
        assert (status, view["state"]) == (200, state)
    status, (view,) = await api.ask("GET", "/v1/rollouts")
    assert (status, view["state"], view["methods"]) == (200, "aborted", ["xenopsd/VM.get_state"])
    _, entries = await api.ask("GET", "/v1/audit")
    assert len(entries) == 4


async def test_an_order_that_makes_no_sense_is_told_why(api: Api) -> None:
    status, answer = await api.ask("POST", "/v1/rollouts/approve", {"name": "VM.get_state"})
    assert (status, answer["error"]) == (422, "there is no rollout of xenopsd/VM.get_state")
    status, answer = await api.ask("POST", "/v1/rollouts/start", {"name": "VM.nope"})
    assert (status, answer["error"]) == (422, "'VM.nope' is no mapped method and no group")


async def test_what_it_sets_is_told_in_words(api: Api) -> None:
    _, begun = await api.ask("POST", "/v1/rollouts/start", {"name": "VM.get_state"})
    assert begun["setting"]["mode"] == "shadow"
    api.toggles.replace(api.state.overrides)
    assert str(api.toggles.setting(STATE)) == "shadow"
