"""Reload: the whole table at once, or not at all; calls in flight keep their route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.server import Gateway
from tests.kit.buses import private_bus
from tests.kit.cases import expect
from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.toy_service import toy_service

WITHOUT_HOLD = TOY_MAPPING.replace("  hold: {member: Hold}\n", "  wait: {member: Hold}\n")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
async def gateway(folder: Folder) -> AsyncIterator[Gateway]:
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        async with Gateway(folder.config) as running:
            yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def call(gateway: Gateway, session: aiohttp.ClientSession, method: str, *params: object) -> dict[str, Any]:
    url = f"http://{gateway.addresses()[0].removeprefix('tcp:')}/jsonrpc"
    body = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
    async with session.post(url, json=body) as response:
        return expect(dict, await response.json())


async def test_a_call_in_flight_keeps_its_route_when_the_method_is_gone(
    gateway: Gateway, folder: Folder, session: aiohttp.ClientSession
) -> None:
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(call(gateway, session, "hold"))
        assert (await call(gateway, session, "held"))["result"] == 1
        folder.mapping(WITHOUT_HOLD)
        answer = await gateway.reload()
        assert (answer["added"], answer["removed"]) == (["wait"], ["hold"])
        assert (await call(gateway, session, "hold"))["error"]["message"] == "unknown method 'hold'"
        await call(gateway, session, "release")
    assert held.result()["result"] == "released"


async def test_a_bad_file_keeps_the_old_table_and_says_which_revision_is_live(
    gateway: Gateway, folder: Folder, session: aiohttp.ClientSession
) -> None:
    before = gateway.table.revision
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    answer = await gateway.reload()
    assert answer["revision"] == before
    (problem,) = expect(list, answer["problems"])
    assert "toy.yaml:9" in problem
    assert "Ecko" in problem
    assert (await call(gateway, session, "echo", "still here"))["result"] == "still here"


async def test_two_reloads_at_once_do_not_mix(gateway: Gateway, folder: Folder) -> None:
    folder.mapping(WITHOUT_HOLD)
    first, second = await asyncio.gather(gateway.reload(), gateway.reload())
    assert first["revision"] == second["revision"] == second["before"]
    assert (first["added"], second["added"]) == (["wait"], [])
