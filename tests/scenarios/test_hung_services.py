"""Services that are stopped, a new one and an old one, with the config of the demo: who else is answered, and when."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo.environment import CONFIG, IN_STORE
from tests.kit.admin import ask
from tests.kit.cases import expect
from tests.kit.clients import Wire, connect, post
from tests.kit.gateway import Process, gateway_process
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toolstack import Toolstack, Twin, twin

CROWD = 240  # clients of each hung service: more than it may have calls
PATHS = {"storage": "/storage/jsonrpc", "xenopsd": "/xenopsd/jsonrpc", "networkd": "/networkd/jsonrpc"}
QUERIES = {"storage": "Query.query", "xenopsd": "query", "networkd": "query"}


@dataclass
class World:
    """The gateway of the demo with the old xenopsd, and clients that ask each service who it is."""

    folder: Path
    process: Process
    toolstack: Toolstack
    old: Twin
    clients: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def send(self, service: str, wire: str = "tcp") -> Wire:
        """Ask over a connection that stays until `clients` is closed."""
        listening = self.process.wait_for("ready")["listening"]
        address = next(each for each in listening if each.startswith(f"{wire}:"))
        client = await self.clients.enter_async_context(connect(address))
        params = {"debug_info" if service == "xenopsd" else "dbg": "test"}
        call = {"jsonrpc": "2.0", "id": 1, "method": QUERIES[service], "params": params}
        await client.send(post(json.dumps(call).encode(), path=PATHS[service]))
        return client

    async def answer(self, service: str) -> dict[str, Any]:
        return read(await (await self.send(service)).reply())

    async def control(self, verb: str, path: str, body: object = None) -> Any:
        status, answer = await ask(
            self.folder / "admin", verb, path, None if body is None else json.dumps(body).encode()
        )
        assert status == 200, answer
        return answer

    async def in_flight(self, holds: Callable[[int], bool]) -> None:
        """Wait until there are as many calls in flight as there should be."""
        async with asyncio.timeout(TIMEOUT):
            while not holds((await self.control("GET", "/v1/status"))["in_flight"]):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)


def left(lines: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """What the log says of calls whose client has left: method, side, outcome."""
    return {(each["method"], each["side"], each["outcome"]) for each in lines if each.get("error") == "ClientLeft"}


def read(reply: Any) -> dict[str, Any]:
    return expect(dict, json.loads(reply.body))


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    shutil.copytree(ROOT / "mappings", folder / "mappings", ignore=shutil.ignore_patterns(IN_STORE, "*.md"))
    async with Toolstack() as toolstack:
        with twin("xenopsd", toolstack.address, folder) as old:
            config = folder / "gateway.toml"
            text = CONFIG.format(bus=toolstack.address, port=0, directory=folder, mappings=folder / "mappings")
            config.write_text(text.replace('"console"', '"json"'))
            with gateway_process(config) as process:
                made = World(folder, process, toolstack, old)
                try:
                    yield made
                finally:
                    await made.clients.aclose()


@pytest.mark.bus
async def test_two_hung_services_take_no_place_from_others_and_give_theirs_back(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for service in PATHS:
            assert "result" in await here.answer(service)
        await here.control("POST", "/v1/mode", {"pattern": "xenopsd/query", "mode": "legacy"})
        assert "result" in await here.answer("xenopsd")
        new = await here.toolstack.pid("storage")
        os.kill(new, signal.SIGSTOP)
        os.kill(here.old.process.pid, signal.SIGSTOP)
        try:
            await asyncio.gather(*(here.send("storage", "unix") for _ in range(CROWD)))
            waiting = await asyncio.gather(*(here.send("xenopsd") for _ in range(CROWD)))
            await here.in_flight(lambda calls: 64 <= calls <= 192 + 192)
            for _ in range(20):
                assert "result" in await here.answer("networkd")

            # The moment for which there are modes: who stands in line is answered by the new side.
            await here.control("POST", "/v1/mode", {"pattern": "xenopsd/query", "mode": "dbus"})
            assert "result" in await here.answer("xenopsd")
            async with asyncio.timeout(TIMEOUT):
                answered = [asyncio.ensure_future(client.reply()) for client in waiting]
                while sum(each.done() for each in answered) < CROWD - 64:
                    await asyncio.wait(answered, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
            answers = [read(each.result()) for each in answered if each.done()]
            assert sum("result" in answer for answer in answers) >= 64
            for each in answered:
                each.cancel()
            await asyncio.wait(answered)

            await here.clients.aclose()
            await here.in_flight(lambda calls: calls == 0)
            unknown = {("query", "legacy", "unknown"), ("Query.query", "dbus", "unknown")}
            await asyncio.to_thread(here.process.wait_until, lambda lines: unknown <= left(lines))
        finally:
            os.kill(new, signal.SIGCONT)
            os.kill(here.old.process.pid, signal.SIGCONT)
        await here.control("POST", "/v1/mode", {"pattern": "xenopsd/query", "mode": "legacy"})
        for service in PATHS:
            assert "result" in await here.answer(service)
