"""Kills and stops brokers, services, the legacy service and the store at random, by a seed.

Meanwhile the mapping is reloaded, and the methods of one service migrate between the legacy service and D-Bus.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tests.soak.story import Ledger
from tests.soak.world import BROKEN, BUSES, CALM, HOMES, MORE, MOVED, World

# The kinds of harm, and their weights.
TO_SERVICES: Mapping[str, int] = {"kill": 6, "stop": 2, "stop and kill": 1}
TO_OTHERS: Mapping[str, int] = {"kill": 2, "stop": 1}
AWAY = (0.0, 1.0)  # seconds until a killed process is started again
HELD = (0.5, 4.0)  # seconds until a stopped process continues: shorter and longer than a call may take
PAUSE = (0.1, 1.0)  # seconds between two harms to one bus


class Killable(Protocol):
    """A process that can be started again."""

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Victim:
    """What harm is done to: the place that is disturbed, the kinds of harm, and the wait until all is well."""

    what: str
    place: str
    process: Killable
    kinds: Mapping[str, int]
    back: Callable[[], Awaitable[str]]
    weight: float = 1.0


@dataclass
class Chaos:
    """The harm of a whole run; `over` ends it, with everything repaired."""

    world: World
    ledger: Ledger
    seed: str
    over: asyncio.Event
    started: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Run one task for each bus, each other process, reloads and modes, so that they overlap."""
        async with asyncio.TaskGroup() as group:
            for bus in BUSES:
                group.create_task(self._harm(bus, self._on_bus(bus)))
            old = Victim("legacy service", MOVED, self.world.old, TO_OTHERS, self.world.old_is_back)
            group.create_task(self._harm("old", [old]))
            # No fault is expected of a restart of the store: a client writes a forgotten request again.
            store = Victim("store", "store", self.world.store, TO_OTHERS, self.world.store_is_back)
            group.create_task(self._harm("store", [store]))
            group.create_task(self._reload())
            group.create_task(self._move())

    def _note(self, what: str) -> None:
        with self.world.history.open("a", encoding="utf-8") as history:
            history.write(f"{time.monotonic() - self.started:8.3f} s  {what}\n")

    async def _pause(self, chance: random.Random) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), chance.uniform(*PAUSE))

    async def _harm(self, name: str, victims: Sequence[Victim]) -> None:
        """Kill one of them and start it again, or stop it and let it go on, or both; over and over."""
        chance = random.Random(f"{self.seed} {name}")
        while not self.over.is_set():
            [victim] = chance.choices(victims, [each.weight for each in victims])
            [kind] = chance.choices([*victim.kinds], [*victim.kinds.values()])
            self._note(f"{kind} {victim.what} ({victim.place})")
            with self.ledger.disturbance(f"{victim.what}: {kind}", victim.place):
                if kind != "kill":
                    os.kill(victim.process.pid, signal.SIGSTOP)
                    await asyncio.sleep(chance.uniform(*HELD))
                if kind == "stop":
                    os.kill(victim.process.pid, signal.SIGCONT)
                else:
                    await asyncio.to_thread(victim.process.kill)
                    await asyncio.sleep(chance.uniform(*AWAY))
                    await asyncio.to_thread(victim.process.start)
                self._found(await victim.back())
            self._note(f"{victim.what} ({victim.place}): back")
            await self._pause(chance)

    def _on_bus(self, bus: str) -> list[Victim]:
        broker = Victim("broker", bus, self.world.buses[bus], TO_OTHERS, lambda: self.world.back(*BUSES[bus]), 35)
        names = [name for name in BUSES[bus] if name != CALM]
        services = self.world.services
        return [
            broker,
            *(
                Victim("service", name, services[name], TO_SERVICES, partial(self.world.back, name), 65 / len(names))
                for name in names
            ),
        ]

    async def _move(self) -> None:
        """Change the modes of methods; writes run on one side at a time."""
        chance = random.Random(f"{self.seed} modes")
        while not self.over.is_set():
            method = chance.choice([*MODES])
            mode = {"pattern": f"{MOVED}.{method}", **chance.choice(MODES[method])}
            if mode["mode"] == "canary":
                mode["percent"] = chance.randrange(1, 100)
            self._note(f"{mode}")
            status, answer = await self.world.control("POST", "/v1/mode", mode)
            self._found("" if status == 200 else f"{mode} was refused: {status} {answer}")
            self.ledger.other[f"mode: {mode['mode']}"] += 1
            await self._pause(chance)

    def _found(self, problem: str) -> None:
        if problem:
            self.ledger.offences.append(problem)

    async def _reload(self) -> None:
        chance = random.Random(f"{self.seed} reload")
        while not self.over.is_set():
            name, how = chance.choice([*HOMES]), chance.choice(RELOADS)
            self._note(f"reload: {how} ({name})")
            if how == "by SIGHUP":
                self.world.gateway.signal(signal.SIGHUP)
            elif how == "with one method more":
                self.world.write_mapping(name, MORE.format(name=name, number=chance.randrange(1000)))
                status, answer = await self.world.control("POST", "/v1/reload")
                self._found("" if status == 200 else f"a good mapping was refused: {answer}")
            else:
                self.world.write_mapping(name, BROKEN.format(name=name))
                status, answer = await self.world.control("POST", "/v1/reload")
                self.world.write_mapping(name)
                refused = status == 409 and "Nonsense" in str(answer)
                self._found("" if refused else f"a broken mapping was not refused: {status} {answer}")
            self.ledger.other[f"reload: {how}"] += 1
            await self._pause(chance)


ONE_SIDE: Sequence[Mapping[str, object]] = ({"mode": "legacy"}, {"mode": "dbus"}, {"mode": "canary"})
BOTH: Sequence[Mapping[str, object]] = (
    {"mode": "shadow"},
    {"mode": "shadow", "control": "dbus"},
    {"mode": "canary", "observe": True},
)
MODES = {**dict.fromkeys(("read", "record", "refuse"), (*ONE_SIDE, *BOTH)), "write": ONE_SIDE}
RELOADS = ("by SIGHUP", "with one method more", "with a mistake")
