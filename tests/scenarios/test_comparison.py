"""What is compared, on a running gateway: a legacy service, a D-Bus service, clients that call, and what is counted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.migration.shadow import MAX_APART
from gateway.server import Gateway
from tests.kit.admin import ask
from tests.kit.buses import private_bus
from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.side_by_side import until
from tests.kit.toy_service import toy_service
from tests.kit.upstreams import legacy_server, ok

pytestmark = pytest.mark.bus

UPSTREAM = '[upstream.old]\nurl = "{url}"\ncodec = "jsonrpc"\n[state]\nfile = "state.db"\n'


class World:
    """A running gateway; `label` is "old" by the legacy service and "new" by D-Bus."""

    def __init__(self, folder: Folder, url: str, session: aiohttp.ClientSession) -> None:
        self._folder = folder
        self._url = url
        self._session = session

    async def call(self, method: str = "label") -> Any:
        body = {"jsonrpc": "2.0", "method": method, "id": 1}
        async with self._session.post(self._url, json=body) as response:
            return (await response.json())["result"]

    async def ask(self, path: str, body: Any = None) -> Any:
        status, answer = await ask(
            self._folder.control, "GET" if body is None else "POST", path, json.dumps(body).encode() if body else b""
        )
        assert status == 200, answer
        return answer

    async def row(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = await self.ask("/v1/methods?pattern=label")
        return rows[0]


def old_answers(request: bytes) -> bytes:
    call = json.loads(request.partition(b"\r\n\r\n")[2])
    answer = {"jsonrpc": "2.0", "id": call["id"], "result": "old"}
    return ok(json.dumps(answer).encode(), "Content-Type: application/json")


@asynccontextmanager
async def world(directory: Path, label: str = "{member: Label}") -> AsyncIterator[World]:
    folder = Folder(directory)
    mapping = TOY_MAPPING.replace("label: {member: Label}", f"label: {label}")
    folder.mapping(mapping.replace("\ndbus:", "\nlegacy: {upstream: old}\ndbus:"))
    with private_bus() as bus, toy_service(bus.address, "org.example.toy", "new"):
        async with legacy_server(old_answers) as old:
            folder.buses({"a": (bus.address, "org.example.*")})
            folder.config.write_text(folder.config.read_text() + UPSTREAM.format(url=old.url))
            async with Gateway(folder.config) as gateway, aiohttp.ClientSession() as session:
                address = gateway.addresses()[0].removeprefix("tcp:")
                yield World(folder, f"http://{address}/jsonrpc", session)


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ({"mode": "shadow"}, "old"),
        ({"mode": "shadow", "control": "dbus"}, "new"),
        ({"mode": "legacy", "observe": True}, "old"),
        ({"mode": "dbus", "observe": True, "noise": True}, "new"),
    ],
)
async def test_the_control_is_the_legacy_side_whoever_answers(
    tmp_path: Path, mode: dict[str, Any], answer: str
) -> None:
    async with world(tmp_path) as here:
        await here.ask("/v1/mode", {"pattern": "label", **mode})

        async def differs() -> bool:
            assert await here.call() == answer
            return bool((await here.row())["different"])

        await until(differs)
        pair = (await here.ask("/v1/diff"))[0]["document"]
        control, candidate = pair["control"], pair["candidate"]
        assert (control["side"], control["reply"]) == ("legacy", "old")
        assert (candidate["side"], candidate["reply"]) == ("dbus", "new")
        first, second = sorted((control, candidate), key=lambda run: float(run["at"]))
        assert second["at"] - first["at"] - first["ms"] / 1000 <= MAX_APART


async def test_a_sample_is_compared_and_all_other_calls_are_counted(tmp_path: Path) -> None:
    compare = "{share: 20%, rules: [{path: $, ignore: true}]}"
    async with world(tmp_path, f"{{member: Label, mode: shadow, compare: {compare}}}") as here:
        for _ in range(200):
            assert await here.call() == "old"

        async def all_counted() -> bool:
            row = await here.row()
            return bool(row["comparisons"] + sum(row["not_compared"].values()) == 200)

        await until(all_counted)
        row = await here.row()
        assert row["comparisons"] == row["ignored"]
        assert 0 < row["comparisons"] <= 200 - row["not_compared"]["not_sampled"] < 100
        assert row["compared_share"] == pytest.approx(row["comparisons"] / 200)
