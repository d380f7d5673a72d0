"""The paths for moving methods; what is behind them is tested in tests/unit/admin/test_service.py."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.admin.records import Counts, CountsBatch, MethodId, MismatchRecord
from tests.kit.admin import STATE, Api, ask, serving

VM_STATE = MethodId("xenopsd", "VM.get_state")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


async def test_a_mode_is_set_shown_and_taken_back(api: Api) -> None:
    wish = {"pattern": "VM.get_state", "mode": "canary", "percent": 12.5, "seconds": 600, "why": "try"}
    status, changed = await api.ask("POST", "/v1/mode", wish)
    assert (status, changed["mode"], changed["methods"][0]["after"]) == (200, "canary 12.5%", "canary 12.5%")
    assert str(api.toggles.setting(STATE)) == "canary 12.5%"
    status, (mode,) = await api.ask("GET", "/v1/modes")
    assert (mode["pattern"], mode["who"], mode["why"], mode["by"]) == (
        "xenopsd/VM.get_state", getpass.getuser(), "try", "person"
    )  # fmt: skip
    assert mode["until"] == pytest.approx(mode["when"] + 600)
    status, changed = await api.ask("POST", "/v1/mode/clear", {"pattern": "VM.get_state"})
    assert (status, changed["mode"], changed["methods"][0]["after"]) == (200, "mapping", "legacy")


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/mode", {"pattern": "VM.nope", "mode": "dbus"}, "no mapped method is named 'VM.nope'"),
        ("/v1/mode", {"pattern": "VM.start", "mode": "shadow"}, "shadow is refused"),
        ("/v1/mode", {"pattern": "VM.start"}, "Object missing required field `mode`"),
        ("/v1/mode", {"pattern": "VM.start", "mode": "canary", "percent": []}, "Expected `float | str | null`"),
        ("/v1/mode/clear", {"pattern": "VM.start"}, "nothing is set for 'xenopsd/VM.start'"),
        ("/v1/explain", {"method": "VM.nope"}, "no mapped method is named 'VM.nope'"),
        ("/v1/evidence/clear", {"pattern": "VM.nope"}, "no mapped method is named 'VM.nope'"),
    ],
)
async def test_a_wish_that_makes_no_sense_is_told_why(api: Api, path: str, body: object, says: str) -> None:
    status, answer = await api.ask("POST", path, body)
    assert status == 422
    assert answer["error"].startswith(says)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/audit?limit=0", "limit: expected 1 to 10000, got 0"),
        ("/v1/diff?limit=10001", "limit: expected 1 to 10000, got 10001"),
        ("/v1/audit?limit=many", "Expected `int`, got `str` - at `$.limit`"),
        ("/v1/audit?limt=1", "Object contains unknown field `limt`"),
        ("/v1/methods?pattern=VM.nope", "no mapped method is named 'VM.nope'"),
    ],
)
async def test_a_question_that_makes_no_sense_is_told_why(api: Api, path: str, says: str) -> None:
    assert await api.ask("GET", path) == (422, {"error": says})


async def test_methods_have_what_is_set_and_what_was_counted(api: Api) -> None:
    await api.state.flush(CountsBatch({VM_STATE: Counts({"equal": 5, "calls_dbus": 5, "calls_legacy": 5})}))
    status, rows = await api.ask("GET", "/v1/methods")
    assert (status, [row["method"] for row in rows]) == (200, ["VM.get_state", "VM.start"])
    assert (rows[0]["comparisons"], rows[0]["verdict"], rows[0]["dbus"]["calls"]) == (5, "equal so far", 5)
    status, rows = await api.ask("GET", "/v1/methods?pattern=group:life")
    assert [row["method"] for row in rows] == ["VM.start"]


async def test_a_call_is_explained(api: Api) -> None:
    await api.ask("POST", "/v1/mode", {"pattern": "VM.get_state", "mode": "canary", "percent": "50%"})
    status, (told,) = await api.ask("POST", "/v1/explain", {"method": "VM.get_state", "params": ["vm-1"]})
    assert (status, told["value"], told["buckets"]) == (200, "vm-1", 50_000)
    status, (told,) = await api.ask("POST", "/v1/explain", {"method": "VM.get_state", "key": "vm-2"})
    assert told["value"] == "vm-2"


async def test_everything_goes_back_and_all_of_it_is_in_the_audit(api: Api) -> None:
    await api.ask("POST", "/v1/mode", {"pattern": "VM.get_state", "mode": "dbus"})
    status, changed = await api.ask("POST", "/v1/rollback", {"why": "smoke"})
    assert (status, {moved["after"] for moved in changed["methods"]}) == (200, {"legacy"})
    status, entries = await api.ask("GET", "/v1/audit")
    assert [(entry["what"], entry["subject"]) for entry in entries] == [
        ("rollback", "*"),
        ("mode", "xenopsd/VM.get_state"),
    ]
    status, entries = await api.ask("GET", "/v1/audit?limit=1&subject=VM.get_state")
    assert [entry["what"] for entry in entries] == ["mode"]


async def test_everything_goes_back_without_a_word(api: Api) -> None:
    assert (await api.ask("POST", "/v1/rollback"))[0] == 200


async def test_pairs_that_differ_are_shown_and_forgotten(api: Api) -> None:
    await api.state.flush(CountsBatch(pairs=[MismatchRecord(1.5, VM_STATE, {"differences": ["$.x"]})]))
    pair = {"when": 1.5, "method": ["xenopsd", "VM.get_state"], "document": {"differences": ["$.x"]}}
    assert await api.ask("GET", "/v1/diff") == (200, [pair])
    assert await api.ask("GET", "/v1/diff?method=VM.get_state&limit=1") == (200, [pair])
    assert await api.ask("POST", "/v1/evidence/clear", {"pattern": "VM.get_state"}) == (
        200, [["xenopsd", "VM.get_state"]]
    )  # fmt: skip
    assert await api.ask("GET", "/v1/diff") == (200, [])


async def test_trouble_with_the_state_file_is_told_and_the_way_back_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    async with serving(tmp_path, file=tmp_path / "state") as api:
        status, answer = await api.ask("POST", "/v1/mode", {"pattern": "VM.get_state", "mode": "dbus"})
        assert status == 503
        assert "cannot be opened" in answer["error"]
        assert (await api.ask("GET", "/v1/audit"))[0] == 503
        assert (await api.ask("GET", "/v1/methods"))[0] == 200
        status, changed = await api.ask("POST", "/v1/rollback", {})
        assert status == 200
        assert "cannot be opened" in changed["held"]


async def test_a_body_that_is_no_json_is_told(api: Api) -> None:
    status, answer = await ask(api.socket, "POST", "/v1/mode", b"{")
    assert (status, answer["error"]) == (422, "Input data was truncated")
