"""The API paths for recordings, clients and replay: what is refused; tests/unit/cli has what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.admin.traffic import MAX_REPLAYED
from gateway.core.admin.records import ClientKey, ClientRecord, CountsBatch, MethodId
from gateway.pipeline.recorder import MAX_RECORDINGS, RecordingLimits
from tests.kit.admin import Api, serving
from tests.kit.traffic import line

NAME = MethodId("xapi", "VM.get_name")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


async def test_who_is_told_can_be_narrowed_down_the_latest_first(api: Api) -> None:
    keys = {
        ClientKey(NAME, "xmlrpc", "tcp:10.0.0.1", "xe", "alice"): ClientRecord(5, 100.0, 300.0, 7, 8, 2),
        ClientKey(MethodId("xenopsd", "VM.start"), "jsonrpc", "uid 0"): ClientRecord(1, 200.0, 200.0),
        ClientKey(MethodId("squeezed", "balance"), "xenstore", "domid 5", domid=5): ClientRecord(2, 100.0, 100.0),
    }
    assert await api.state.flush(CountsBatch(clients=keys)) is None
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
    assert rows[0] == {
        "service": "squeezed", "method": "balance", "protocol": "xenstore", "peer": "domid 5", "agent": "", "user": "",
        "domid": 5, "count": 2, "first": 100.0, "last": 100.0, "received": 0, "sent": 0, "redirects": 0,
    }  # fmt: skip


async def test_only_so_many_record_at_one_time(api: Api) -> None:
    for _ in range(MAX_RECORDINGS):
        api.sides.recorder.begin(frozenset({NAME}), RecordingLimits())
    status, answer = await api.ask("POST", "/v1/record", {})
    assert (status, answer["error"]) == (
        409,
        f"{MAX_RECORDINGS} recordings are running, which is the maximum; end one first",
    )


WRITES = "only reads are recorded without `writes`, and these methods write: xapi/VM.set_name"
REFUSED: Sequence[tuple[str, Any, str]] = (
    ("record", {"patterns": ["VM.get_nam"]}, "no mapped method is named 'VM.get_nam' (did you mean 'VM.get_name'?)"),
    ("record", {"patterns": ["VM.set_name"]}, WRITES),
    ("record", {"calls": 0}, "calls: expected 1 to 1,000,000, got 0"),
    ("record", {"seconds": 1e9}, "seconds: expected 0.001 to 86,400, got 1e+09"),
    ("record", {"size": 0}, "size: expected 1 to 4,294,967,296, got 0"),
    ("record", {"what": 1}, "Object contains unknown field `what`"),
    ("replay", {"calls": []}, f"calls: expected 1 to {MAX_REPLAYED}, got 0"),
    ("replay", {"calls": [1] * (MAX_REPLAYED + 1)}, f"calls: expected 1 to {MAX_REPLAYED}, got {MAX_REPLAYED + 1}"),
    ("replay", {"calls": [line(), {"method": 5}]}, "calls[1]: 'listener' is missing"),
    ("replay", {"calls": [line(), 5]}, "calls[1]: expected an object"),
    ("replay", {"calls": [], "given": {"session": 5}}, "Expected `str`, got `int` - at `$.given[...]`"),
)


async def test_a_recording_or_replay_that_makes_no_sense_is_refused(api: Api) -> None:
    for path, wish, says in REFUSED:
        assert await api.ask("POST", f"/v1/{path}", wish) == (422, {"error": says})
    assert api.sides.asked == []


async def test_a_recording_ends_when_nobody_reads_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.pipeline.recorder.KEEPALIVE", 0.001)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(api.socket))) as session,
        session.post("http://gateway/v1/record", json={}) as response,
    ):
        assert response.content_type == "application/x-ndjson"
        assert b"recording" in await response.content.readline()
        assert api.sides.recorder.active
    async with asyncio.timeout(60):
        while api.sides.recorder.active:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0)
