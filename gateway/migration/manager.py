"""The parts that move methods, started and stopped together: overrides, collected counts, state file and rollouts.

The path of a call only looks up a setting and adds to counts; all other work runs in tasks of this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self
from uuid import uuid4

from gateway.core.admin import counters as counting
from gateway.core.admin.records import Counts, MethodId, StateRefused
from gateway.core.logger import Logger
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.collector import StatisticsCollector
from gateway.migration.rollout_controller import RolloutController
from gateway.migration.shadow import CallSide, Shadow
from gateway.ops.metrics import Samples
from gateway.state.store import StateStore

FLUSH = 0.2  # seconds between two flushes of what was seen

_log = Logger("moving")


class MigrationManager:
    """`async with moving:` the file is read first, and written a last time at the end."""

    def __init__(self, file: Path | None, routes: Callable[[], Sequence[Route]]) -> None:
        self.toggles = ActiveOverrides()
        self.evidence = StatisticsCollector()
        self.state = StateStore(file, self._changed)
        self.here: dict[MethodId, Counts] = {}  # what this process has seen since it began
        self.rollouts = RolloutController(self.state, routes, self.here, uuid4().hex)
        self._stack = AsyncExitStack()

    def shadow(self, call_side: CallSide, quota: int) -> Shadow:
        """What observes calls for this gateway."""
        return Shadow(call_side, self.evidence, quota)

    def readings(self) -> Mapping[str, Samples]:
        """What a scrape reads."""
        seen = {method: counts.counters for method, counts in self.here.items()}
        series = {"comparisons": counting.COMPARED, "not_compared": counting.NOT_COMPARED}
        counted: dict[str, Samples] = {
            f"xcp_gateway_{name}_total": [
                ((*method, word), counters[word])
                for method, counters in seen.items()
                for word in words
                if word in counters
            ]
            for name, words in series.items()
        }
        return {
            **counted,
            "xcp_gateway_state_trouble": [((), bool(self.state.trouble))],
            "xcp_gateway_rollouts_breached": [((), len(self.rollouts.breached()))],
        }

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.state)
            self._changed()
            stack.push_async_callback(self.flush)
            for work in (self._flushing, self.rollouts.run):
                task = asyncio.get_running_loop().create_task(work())
                stack.push_async_callback(_end, task)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _changed(self) -> None:
        """This or another process has changed overrides or rollouts."""
        self.toggles.replace(self.state.overrides)

    async def _flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - a bug costs what was seen in this moment and nothing else
                _log.exception("a bug lost what was seen")

    async def flush(self) -> None:
        """Write down what was counted since the last flush."""
        batch = self.evidence.take()
        if not batch.evidence and not batch.clients:
            return
        for method, counts in batch.evidence.items():
            self.here[method] = self.here.get(method, Counts()) + counts
        if isinstance(await self.state.flush(batch), StateRefused):
            _log.debug("what was seen could not be written", lost=self.state.lost)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
