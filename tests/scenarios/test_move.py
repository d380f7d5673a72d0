"""Location transparency: a service moves from one bus to another while clients keep calling; no mapping changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp

from gateway.server import Gateway
from tests.kit.buses import private_bus
from tests.kit.gateway import Folder
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service


class Clients:
    """Clients that keep asking until `stop`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stop = asyncio.Event()
        self.answers: Counter[str] = Counter()
        self.progress = asyncio.Condition()

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while not self.stop.is_set():
                async with session.post(self._url, json={"jsonrpc": "2.0", "method": "label", "id": 1}) as response:
                    answer = await response.json()
                async with self.progress:
                    self.answers[str(answer.get("result", answer))] += 1
                    self.progress.notify_all()

    async def until(self, label: str, more: int) -> None:
        """Wait for this many more answers with that label."""
        goal = self.answers[label] + more
        async with self.progress, asyncio.timeout(TIMEOUT):
            await self.progress.wait_for(lambda: self.answers[label] >= goal)


async def test_a_service_moves_from_bus_a_to_bus_b_while_clients_keep_calling(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with private_bus() as bus_a, private_bus() as bus_b, toy_service(bus_a.address, "org.example.toy", "A") as at_a:
        folder.buses({"a": (bus_a.address, "org.example.*"), "b": (bus_b.address, "org.example.nothing")})
        mapping = (folder.mappings / "toy.yaml").read_text()
        async with Gateway(folder.config) as gateway, asyncio.TaskGroup() as tasks:
            url = f"http://{gateway.addresses()[0].removeprefix('tcp:')}/jsonrpc"
            clients = Clients(url)
            for _ in range(4):
                tasks.create_task(clients.run())
            await clients.until("A", 20)
            with toy_service(bus_b.address, "org.example.toy", "B"):
                folder.buses({"a": (bus_a.address, "org.example.*"), "b": (bus_b.address, "org.example.toy")})
                answer = await gateway.reload()
                assert "problems" not in answer
                assert answer["needs_restart"] == []
                await clients.until("B", 20)
                asked_of_a = clients.answers["A"]
                at_a.kill()
                await clients.until("B", 20)
                assert clients.answers["A"] == asked_of_a, "the old place was asked after the move"
                assert clients.answers.keys() == {"A", "B"}, "no call was lost on the way"
                clients.stop.set()
        assert (folder.mappings / "toy.yaml").read_text() == mapping
