"""The API paths for recordings, clients and replay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.admin.traffic import MAX_REPLAYED
from gateway.core.admin.records import ClientKey, ClientRecord, CountsBatch, MethodId
from gateway.core.rpc.model import Reply
from gateway.pipeline.recorder import MAX_RECORDINGS, RecordingLimits
from tests.kit.admin import Api, serving
from tests.kit.traffic import SESSION, line

NAME = MethodId("xapi", "VM.get_name")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


# Clients


async def called(api: Api) -> None:
    keys = {
        ClientKey(NAME, "xmlrpc", "tcp:10.0.0.1", "xe", "alice"): ClientRecord(5, 100.0, 300.0, 7, 8, 2),
        ClientKey(MethodId("xenopsd", "VM.start"), "jsonrpc", "uid 0"): ClientRecord(1, 200.0, 200.0),
        ClientKey(MethodId("squeezed", "balance"), "xenstore", "domid 5", domid=5): ClientRecord(2, 100.0, 100.0),
    }
    assert await api.state.flush(CountsBatch(clients=keys)) is None


async def test_who_has_called_is_told_with_all_that_was_counted(api: Api) -> None:
    await called(api)
    status, rows = await api.ask("GET", "/v1/clients")
    assert (status, rows[2]["domid"]) == (200, 5)
    assert rows[0] == {
        "service": "xapi", "method": "VM.get_name", "protocol": "xmlrpc", "peer": "tcp:10.0.0.1", "agent": "xe",
        "user": "alice", "domid": None, "count": 5, "first": 100.0, "last": 300.0,
        "received": 7, "sent": 8, "redirects": 2,
    }  # fmt: skip


async def test_who_is_told_can_be_narrowed_down_the_latest_first(api: Api) -> None:
    await called(api)
    for query, protocols in {
        "": ["xmlrpc", "jsonrpc", "xenstore"],
        "method=VM.start": ["jsonrpc"],
        "method=VM.*": ["xmlrpc", "jsonrpc"],
        "method=xapi/*": ["xmlrpc"],
        "method=VM.nope": [],
        "service=squeezed": ["xenstore"],
        "since=150": ["xmlrpc", "jsonrpc"],
        "limit=1": ["xmlrpc"],
        "limit=1&method=balance": ["xenstore"],
    }.items():
        status, rows = await api.ask("GET", f"/v1/clients?{query}")
        assert (status, [row["protocol"] for row in rows]) == (200, protocols), query


async def test_without_a_state_file_that_can_be_read_nobody_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    async with serving(tmp_path, file=tmp_path / "state") as api:
        assert (await api.ask("GET", "/v1/clients"))[0] == 503


# Recordings


async def recorded(api: Api, **wish: Any) -> list[dict[str, Any]]:
    """What is recorded while clients call; the calls begin when the first line has come."""
    found: list[dict[str, Any]] = []
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(api.socket))) as session,
        session.post("http://gateway/v1/record", json=wish) as response,
    ):
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        async for text in response.content:
            if text.strip():
                found.append(json.loads(text))
            if "recording" in found[-1]:
                for name in ("a", "b", "c"):
                    await api.sides.call("VM.get_name", SESSION, name)
                    await api.sides.call("VM.set_name", SESSION, name)
    return found


async def test_calls_are_recorded_while_clients_call_and_writes_on_demand(api: Api) -> None:
    first, *calls, last = await recorded(api, calls=2)
    assert (first["revision"], first["methods"]) == ("r1", ["xapi/VM.get_name", "xapi/VM.get_new"])
    assert [(call["method"], call["params"], call["reply"]) for call in calls] == [
        ("VM.get_name", [{"$redacted": "text"}, name], name) for name in ("a", "b")
    ]
    assert last["end"] == "2 calls"
    assert api.sides.recorder.active is False
    first, *calls, _ = await recorded(api, patterns=["VM.set_*"], writes=True, calls=3)
    assert (first["methods"], {call["method"] for call in calls}) == (["xapi/VM.set_name"], {"VM.set_name"})


async def test_only_so_many_record_at_one_time(api: Api) -> None:
    for _ in range(MAX_RECORDINGS):
        api.sides.recorder.begin(frozenset({NAME}), RecordingLimits())
    status, answer = await api.ask("POST", "/v1/record", {})
    assert (status, answer["error"]) == (
        409,
        f"{MAX_RECORDINGS} recordings are running, which is the maximum; end one first",
    )


async def test_a_recording_that_makes_no_sense_is_refused(api: Api) -> None:
    writes = "only reads are recorded without `writes`, and these methods write: xapi/VM.set_name"
    wishes: list[tuple[Any, str]] = [
        ({"patterns": ["VM.get_nam"]}, "no mapped method is named 'VM.get_nam' (did you mean 'VM.get_name'?)"),
        ({"patterns": ["VM.set_name"]}, writes),
        ({"calls": 0}, "calls: expected 1 to 1,000,000, got 0"),
        ({"seconds": 1e9}, "seconds: expected 0.001 to 86,400, got 1e+09"),
        ({"size": 0}, "size: expected 1 to 4,294,967,296, got 0"),
        ({"what": 1}, "Object contains unknown field `what`"),
    ]
    for wish, says in wishes:
        assert await api.ask("POST", "/v1/record", wish) == (422, {"error": says})


async def test_a_recording_ends_when_nobody_reads_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.pipeline.recorder.KEEPALIVE", 0.001)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(api.socket))) as session,
        session.post("http://gateway/v1/record", json={}) as response,
    ):
        assert b"recording" in await response.content.readline()
        assert api.sides.recorder.active
    async with asyncio.timeout(60):
        while api.sides.recorder.active:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0)


# Replays


async def test_calls_are_replayed_and_each_is_told_with_writes_and_noise_on_demand(api: Api) -> None:
    wish = {"calls": [line("VM.set_name"), line()], "given": {"session": SESSION}, "writes": True, "noise": True}
    status, results = await api.ask("POST", "/v1/replay", wish)
    assert (status, [result["verdict"] for result in results], len(api.sides.asked)) == (200, ["equal", "equal"], 5)
    api.sides.new = lambda call: Reply("db" if call.params[1] == "db" else call.params[1])
    api.sides.old = lambda call: Reply("DB" if call.params[1] == "db" else call.params[1])
    calls = [line(), line(params=[{"$redacted": "text"}, "db"]), line("VM.set_name")]
    status, results = await api.ask("POST", "/v1/replay", {"calls": calls, "given": {"session": SESSION}})
    assert (status, [result["verdict"] for result in results]) == (200, ["equal", "different", "skipped"])
    assert results[1]["pair"]["differences"] == [{"path": "$", "control": "DB", "candidate": "db"}]
    assert SESSION not in json.dumps(results)


async def test_a_replay_that_makes_no_sense_is_refused(api: Api) -> None:
    wishes: list[tuple[Any, str]] = [
        ({"calls": []}, f"calls: expected 1 to {MAX_REPLAYED}, got 0"),
        ({"calls": [line()] * (MAX_REPLAYED + 1)}, f"calls: expected 1 to {MAX_REPLAYED}, got {MAX_REPLAYED + 1}"),
        ({"calls": [line(), {"method": 5}]}, "calls[1]: 'listener' is missing"),
        ({"calls": [line(), 5]}, "calls[1]: expected an object"),
        ({"calls": [line()], "given": {"session": 5}}, "Expected `str`, got `int` - at `$.given[...]`"),
    ]
    for wish, says in wishes:
        assert await api.ask("POST", "/v1/replay", wish) == (422, {"error": says})
    assert api.sides.asked == []
