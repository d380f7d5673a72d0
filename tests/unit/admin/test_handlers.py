"""The paths for the gateway as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kit.admin import Api, ask, serving


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


async def test_status_and_routes_are_what_the_gateway_says(api: Api) -> None:
    status, answer = await api.ask("GET", "/v1/status")
    assert (status, answer["ready"], answer["in_flight"]) == (200, True, 3)
    assert await api.ask("GET", "/v1/routes") == (200, api.toy.routes())


async def test_a_refused_reload_is_a_conflict_that_lists_the_problems(api: Api) -> None:
    api.toy.problems = ["x.yaml:1:1: $: no"]
    assert await api.ask("POST", "/v1/reload") == (409, {"revision": "r1", "problems": ["x.yaml:1:1: $: no"]})


async def test_a_reload_is_noted_in_the_audit_and_a_refused_one_is_not(api: Api) -> None:
    assert (await api.ask("POST", "/v1/reload"))[0] == 200
    api.toy.problems = ["x.yaml:1:1: $: no"]
    await api.ask("POST", "/v1/reload")
    _, (entry,) = await api.ask("GET", "/v1/audit")
    assert (entry["what"], entry["numbers"]) == ("reload", {"revision": "r2"})


async def test_a_call_carries_its_parameters(api: Api) -> None:
    status, answer = await api.ask("POST", "/v1/call", {"method": "VM.start", "params": [1, {"a": None}]})
    assert (status, answer["value"]) == (200, [1, {"a": None}])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Input data was truncated"),
        (b"{}", "Object missing required field `method`"),
        (b"", "Object missing required field `method`"),
        (b'{"method": "x", "parms": []}', "Object contains unknown field `parms`"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(api: Api, body: bytes, says: str) -> None:
    assert await ask(api.socket, "POST", "/v1/call", body) == (422, {"error": says})


async def test_what_cannot_be_found_is_told_in_words(api: Api) -> None:
    api.toy.failure = LookupError("no such endpoint; there are: rpc:/RPC2")
    status, answer = await api.ask("POST", "/v1/call", {"method": "x"})
    assert (status, answer) == (422, {"error": "no such endpoint; there are: rpc:/RPC2"})
