"""One worker serves the xenstore. When it is killed, another one does, and no write is executed twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from adapters.codecs.xenstore import FAULT_CODES
from adapters.xenstore.client.client import XenstoreClient
from gateway.core.rpc.model import FaultCode
from tests.kit.ledger import Ledger, ledger
from tests.kit.programs import TIMEOUT
from tests.kit.xenstore_clients import TreeClient

pytestmark = pytest.mark.bus

UNKNOWN = str(FAULT_CODES[FaultCode.NO_REPLY])
WRITES = 60


def leader(world: Ledger) -> int:
    """The pid of the worker that leads, which answers this question."""
    rows = world.control("GET", "/v1/status")["workers"]
    return next(int(row["pid"]) for row in rows if row["leads"])


async def write(path: str, tokens: list[str], answers: dict[str, str], third: asyncio.Event) -> None:
    """One client that makes a write after the other."""
    async with XenstoreClient(path) as store:
        client = TreeClient(store, "/ledger")
        while tokens:
            token = tokens.pop()
            answers[token] = str((await client.call("write", token, token=token, pause="20")).get("code", "done"))
            if len(answers) >= WRITES // 3:
                third.set()


async def test_a_leader_that_is_killed_loses_no_request_and_repeats_no_write(tmp_path: Path) -> None:
    with ledger(tmp_path, workers=2) as world:
        tokens, answers, third = [f"w{number}" for number in range(WRITES)], dict[str, str](), asyncio.Event()
        async with asyncio.timeout(4 * TIMEOUT), asyncio.TaskGroup() as group:
            killed = await asyncio.to_thread(leader, world)
            for _ in range(8):
                group.create_task(write(world.store.path, tokens, answers, third))
            await third.wait()
            os.kill(killed, signal.SIGKILL)
            assert await asyncio.to_thread(leader, world) != killed
        assert len(answers) == WRITES
        journal = world.journal
        assert set(journal.values()) == {1}
        unknown = {token for token, answer in answers.items() if answer == UNKNOWN}
        assert {token for token, answer in answers.items() if answer == "done"} == answers.keys() - unknown
        assert journal.keys() >= answers.keys() - unknown
        assert Counter(answers.values())[UNKNOWN] <= 8, "of each client at most one was in flight"
