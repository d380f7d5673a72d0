"""One run: warm-up, the measured time, settling, evaluation."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
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
        ledger = Ledger()
        await _warm_up(running, seed)
        before = await gauges.read(running)
        memory = gauges.Memory(running.gateway.pid)
        async with running.healthy_clients():
            await _storm(running, ledger, memory, seconds, seed, nuisances)
        after = await gauges.read_until_let_go(running, before)
        await asyncio.sleep(SETTLE)  # as after the warm-up
        left = await nodes_left(running.store.path)
        running.gateway.signal(signal.SIGTERM)
        status = await asyncio.to_thread(running.gateway.wait, STOP_TIMEOUT * slack)
        journals = {name: [line for path in running.journals(name) for line in _lines(path)] for name in HOMES}
        checks = [
            *verdict.judge_calls(ledger, slack),
            *verdict.judge_journals(ledger, journals),
            verdict.judge_store(ledger, left),
            verdict.judge_calm(ledger, slack),
            *verdict.judge_healthy(
                {kind: healthy.read(report) for kind, report in running.clients.items()},
                _lines(running.journals(healthy.NAME)[0]),
                slack,
            ),
            *verdict.judge_gauges(before, after, memory, slack),
            *verdict.judge_log(_lines(running.log), status),
        ]
        return Report(ledger, checks, after.late_replies)


async def _warm_up(running: World, seed: str) -> None:
    """Run the clients without evaluating their calls."""
    await running.control("POST", "/v1/reload")
    # Names of their own: the gateway answers a request from memory when the store has forgotten it and it comes again.
    await _for(WARM_UP, _clients(running, Ledger(), f"{seed} warm-up", "w"))
    await asyncio.sleep(SETTLE)  # for the last notification to be executed, and closed connections to be released
    for name in HOMES:
        for path in running.journals(name):
            path.write_text("")


async def _storm(
    running: World, ledger: Ledger, memory: gauges.Memory, seconds: float, seed: str, nuisances: Collection[str]
) -> None:
    """All clients, all harm; ended in order: first the harm is mended, then the clients have their last answers."""
    calm_again = asyncio.Event()
    chaos = Chaos(running, ledger, seed, asyncio.Event())

    async def beside(over: asyncio.Event) -> None:
        await crowd_around(running, ledger, seed, nuisances, over)

    async def harm(_: asyncio.Event) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, chaos.over.set)
        try:
            await chaos.run()
        finally:
            timer.cancel()
            calm_again.set()

    watching = asyncio.ensure_future(memory.watch())
    try:
        await _until(calm_again, [harm, beside, *_clients(running, ledger, seed)])
    finally:
        watching.cancel()


def _clients(running: World, ledger: Ledger, seed: str, prefix: str = "") -> Sequence[Run]:
    """`prefix`: with what their names begin, and the tokens of their calls."""
    over_sockets = [client.run for client in crowd(running, ledger, seed, prefix)]
    return [*over_sockets, *(client.run for client in store_crowd(running, ledger, seed, prefix))]


async def _for(seconds: float, runs: Sequence[Run]) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await _until(over, runs)


async def _until(over: asyncio.Event, runs: Sequence[Run]) -> None:
    """Stop all when one of them fails."""
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(run(over))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []  # only one service has an old one
