"""What machines ask, over TCP and beside the operator's API."""

from __future__ import annotations

import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gateway.admin.monitoring import MonitoringServer
from gateway.ops.metrics import CONTENT_TYPE


class Toy:
    """Says what a test sets."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.told: list[str] = []

    async def unready(self) -> list[str]:
        return self.reasons

    def warnings(self) -> list[str]:
        return self.told

    async def metrics(self) -> bytes:
        return b"toy_total 1.0\n"


@pytest.fixture
def toy() -> Toy:
    return Toy()


@asynccontextmanager
async def serving(toy: Toy, address: str = "tcp:127.0.0.1:0") -> AsyncIterator[str]:
    server = MonitoringServer(address, toy)
    await server.start()
    try:
        yield server.address.replace("tcp:", "http://")
    finally:
        await server.stop()


async def get(url: str, verb: str = "GET") -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.request(verb, url) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_it_is_alive_as_long_as_it_answers(toy: Toy) -> None:
    toy.reasons = ["bus 'toolstack' is not connected"]
    async with serving(toy) as url:
        assert (await get(f"{url}/healthz"))[::2] == (200, '{"alive":true}')


async def test_it_is_ready_or_says_why_not(toy: Toy) -> None:
    async with serving(toy) as url:
        assert (await get(f"{url}/readyz"))[::2] == (200, '{"ready":true,"reasons":[],"warnings":[]}')
        toy.reasons = ["org.x is absent on bus 'b'"]
        expected = """{"ready":false,"reasons":["org.x is absent on bus 'b'"],"warnings":[]}"""
        assert (await get(f"{url}/readyz"))[::2] == (503, expected)


async def test_metrics_are_text_that_prometheus_knows_by_its_type(toy: Toy) -> None:
    async with serving(toy) as url:
        assert await get(f"{url}/metrics") == (200, CONTENT_TYPE, "toy_total 1.0\n")


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [("GET", "/v1/status", 404), ("POST", "/v1/reload", 404), ("POST", "/v1/call", 404), ("POST", "/metrics", 405)],
)
async def test_over_tcp_nothing_else_can_be_asked(toy: Toy, verb: str, path: str, status: int) -> None:
    async with serving(toy) as url:
        assert (await get(url + path, verb))[0] == status


async def test_ipv6_is_written_with_brackets(toy: Toy) -> None:
    async with serving(toy, "tcp:[::1]:0") as url:
        assert url.startswith("http://[::1]:")
        assert (await get(f"{url}/healthz"))[0] == 200


async def test_an_address_that_is_taken_is_named(toy: Toy) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: Address already in use"):
            MonitoringServer(address, toy).bind()
    with pytest.raises(OSError, match=r"cannot listen on tcp:127.0.0.1:99999: port 99999: expected at most 65535"):
        MonitoringServer("tcp:127.0.0.1:99999", toy).bind()
