"""The operator's API over a real Unix socket."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.control.api import CallRequest, Server


class Toy:
    """Operations that answer what a test sets."""

    def __init__(self) -> None:
        self.ready = True
        self.problems: list[str] = []
        self.failure: Exception | None = None

    async def status(self) -> Mapping[str, object]:
        return {"ready": self.ready, "in_flight": 3}

    async def unready(self) -> list[str]:
        return [] if self.ready else ["no bus"]

    async def metrics(self) -> bytes:
        return b"toy_total 1.0\n"

    def routes(self) -> list[Mapping[str, object]]:
        return [{"method": "VM.start"}]

    async def reload(self) -> Mapping[str, object]:
        return {"revision": "r2", "problems": self.problems}

    async def call(self, request: CallRequest) -> Mapping[str, object]:
        if self.failure is not None:
            raise self.failure
        return {"value": request.params, "steps": []}


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
async def socket(toy: Toy, tmp_path: Path) -> AsyncIterator[Path]:
    server = Server(tmp_path / "deep" / "control", toy)
    await server.start()
    yield tmp_path / "deep" / "control"
    await server.stop()


async def ask(socket: Path, verb: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.request(verb, f"http://gateway{path}", data=body) as response,
    ):
        return response.status, await response.json()


async def test_only_the_owner_can_open_the_socket(socket: Path) -> None:
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


async def test_what_machines_ask_is_answered_here_too(toy: Toy, socket: Path) -> None:
    assert await ask(socket, "GET", "/healthz") == (200, {"alive": True})
    assert await ask(socket, "GET", "/readyz") == (200, {"ready": True, "reasons": []})
    toy.ready = False
    assert await ask(socket, "GET", "/readyz") == (503, {"ready": False, "reasons": ["no bus"]})


async def test_status_and_routes_are_what_the_gateway_says(socket: Path) -> None:
    assert await ask(socket, "GET", "/v1/status") == (200, {"ready": True, "in_flight": 3})
    assert await ask(socket, "GET", "/v1/routes") == (200, [{"method": "VM.start"}])


async def test_a_refused_reload_is_a_conflict_that_lists_the_problems(toy: Toy, socket: Path) -> None:
    assert (await ask(socket, "POST", "/v1/reload"))[0] == 200
    toy.problems = ["x.yaml:1:1: $: no"]
    assert await ask(socket, "POST", "/v1/reload") == (409, {"revision": "r2", "problems": ["x.yaml:1:1: $: no"]})


async def test_a_call_carries_its_parameters(socket: Path) -> None:
    status, answer = await ask(socket, "POST", "/v1/call", b'{"method": "VM.start", "params": [1, {"a": null}]}')
    assert (status, answer["value"]) == (200, [1, {"a": None}])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Input data was truncated"),
        (b"{}", "Object missing required field `method`"),
        (b'{"method": "x", "parms": []}', "Object contains unknown field `parms`"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(socket: Path, body: bytes, says: str) -> None:
    assert await ask(socket, "POST", "/v1/call", body) == (422, {"error": says})


async def test_what_cannot_be_found_is_told_in_words(toy: Toy, socket: Path) -> None:
    toy.failure = LookupError("no such endpoint; there are: rpc:/RPC2")
    status, answer = await ask(socket, "POST", "/v1/call", b'{"method": "x"}')
    assert (status, answer) == (422, {"error": "no such endpoint; there are: rpc:/RPC2"})


async def test_a_bug_is_told_without_its_text(toy: Toy, socket: Path) -> None:
    toy.failure = RuntimeError("a secret")
    assert await ask(socket, "POST", "/v1/call", b'{"method": "x"}') == (500, {"error": "internal error"})


async def test_an_unknown_path_is_a_404_in_json(socket: Path) -> None:
    assert await ask(socket, "GET", "/v1/nope") == (404, {"error": "Not Found"})


async def test_a_socket_that_another_gateway_answers_on_is_not_taken_over(toy: Toy, socket: Path) -> None:
    with pytest.raises(OSError, match="another gateway answers on this control socket"):
        await Server(socket, toy).start()
    assert (await ask(socket, "GET", "/healthz"))[0] == 200


async def test_a_socket_left_behind_by_a_dead_gateway_is_replaced(toy: Toy, tmp_path: Path) -> None:
    import socket as sockets

    path = tmp_path / "control"
    with sockets.socket(sockets.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    server = Server(path, toy)
    await server.start()
    assert (await ask(path, "GET", "/healthz"))[0] == 200
    await server.stop()
    assert not path.exists()


async def test_a_socket_that_is_bound_lets_nobody_in_before_start(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "control"
    server = Server(path, toy)
    server.bind()
    assert server.made == (path.parent, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(aiohttp.ClientConnectionError):
        await ask(path, "GET", "/healthz")
    await server.start()
    assert (await ask(path, "GET", "/healthz"))[0] == 200
    await server.stop()
    await server.stop()
    assert not path.exists()
