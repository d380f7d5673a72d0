"""One run: warm-up, the measured time, settling, evaluation."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tests.soak import gauges, healthy, verdict
from tests.soak.chaos import Chaos
from tests.soak.clients import crowd
from tests.soak.crowding import crowd_around
from tests.soak.store_clients import nodes_left, store_crowd
from tests.soak.story import Ledger
from tests.soak.verdict import Check
from tests.soak.world import HOMES, SETTLE, World, world

WARM_UP = 3.0  # seconds with all clients and without harm, so that everything that stays is there
STOP_TIMEOUT = 20.0  # seconds

Run: TypeAlias = Callable[[asyncio.Event], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a run."""

    ledger: Ledger
    checks: Sequence[Check]
    late_replies: int


async def soak(folder: Path, seconds: float, seed: str, nuisances: Collection[str], slack: float) -> Report:
    """Run for so long, with these nuisances beside; everything that is written stays in the folder."""
    async with world(folder, slack) as running:
        ledger, memory = Ledger(), list[int]()
        await _warm_up(running, seed)
        before = await gauges.read(running)
        async with running.healthy_clients():
            watching = asyncio.ensure_future(gauges.watch_memory(running.gateway.pid, memory))
            try:
                await _storm(running, ledger, seconds, seed, nuisances)
            finally:
                watching.cancel()
        after = await gauges.read_until_let_go(running, before)
        await asyncio.sleep(SETTLE)  # as after the warm-up
        left = await nodes_left(running.store.path)
        running.gateway.signal(signal.SIGTERM)
        status = await asyncio.to_thread(running.gateway.wait, STOP_TIMEOUT * slack)
        reports = {kind: healthy.read(report) for kind, report in running.reports.items()}
        checks = [
            *verdict.judge_calls(ledger, slack),
            *verdict.judge_journals(ledger, {name: _executed(running, name) for name in HOMES}),
            verdict.judge_store(ledger, left),
            verdict.judge_calm(ledger, slack),
            *verdict.judge_healthy(reports, _executed(running, healthy.NAME), slack),
            *verdict.judge_gauges(before, after, memory, slack),
            *verdict.judge_log(running.log.read_text(encoding="utf-8").splitlines(), status),
        ]
        return Report(ledger, checks, after["late_replies"])


def _executed(running: World, name: str) -> list[str]:
    return [line for journal in running.journals(name) for line in journal.read_text().splitlines()]


async def _warm_up(running: World, seed: str) -> None:
    """Run the clients without evaluating their calls."""
    await running.control("POST", "/v1/reload")
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(WARM_UP, over.set)
    # Names of their own: the gateway answers a request from memory when the store has forgotten it and it comes again.
    await _until(over, _clients(running, Ledger(), f"{seed} warm-up", "w"))
    await asyncio.sleep(SETTLE)  # for the last notification to be executed, and closed connections to be released
    for name in HOMES:
        for journal in running.journals(name):
            journal.write_text("")


async def _storm(running: World, ledger: Ledger, seconds: float, seed: str, nuisances: Collection[str]) -> None:
    """All clients, all harm; ended in order: first the harm is mended, then the clients have their last answers."""
    chaos = Chaos(running, ledger, seed, asyncio.Event())

    async def harm(calm_again: asyncio.Event) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, chaos.over.set)
        try:
            await chaos.run()
        finally:
            timer.cancel()
            calm_again.set()

    beside = partial(crowd_around, running, ledger, seed, nuisances)
    await _until(asyncio.Event(), [harm, beside, *_clients(running, ledger, seed, "")])


def _clients(running: World, ledger: Ledger, seed: str, prefix: str) -> Sequence[Run]:
    """`prefix`: with what their names begin, and the tokens of their calls."""
    over_sockets = [client.run for client in crowd(running, ledger, seed, prefix)]
    return [*over_sockets, *(client.run for client in store_crowd(running, ledger, seed, prefix))]


async def _until(over: asyncio.Event, runs: Sequence[Run]) -> None:
    """Run them together until this event; stop all when one of them fails."""
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(run(over))
