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

from tests.soak.story import Ledger
from tests.soak.world import BROKEN, BUSES, CALM, HOMES, MORE, MOVED, SETTLE, World

# The kinds of harm, and their weights.
TO_SERVICES: Mapping[str, int] = {"kill": 6, "stop": 2, "stop and kill": 1}
TO_BROKERS: Mapping[str, int] = {"kill": 2, "stop": 1}
TO_OLD: Mapping[str, int] = {"kill": 3, "stop": 1}
TO_STORE: Mapping[str, int] = {"kill": 2, "stop": 1}
BROKERS_SHARE = 0.35  # of all harm
AWAY = (0.0, 1.0)  # seconds until a killed process is started again
HELD = (0.5, 4.0)  # seconds until a stopped process continues: shorter and longer than a call may take
PAUSE = (0.1, 1.0)  # seconds between two harms to one bus


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
                group.create_task(self._harm(bus))
            group.create_task(self._reload())
            group.create_task(self._harm_old())
            group.create_task(self._harm_store())
            group.create_task(self._move())

    def _note(self, what: str) -> None:
        with self.world.history.open("a", encoding="utf-8") as history:
            history.write(f"{time.monotonic() - self.started:8.3f} s  {what}\n")

    async def _pause(self, chance: random.Random) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), chance.uniform(*PAUSE))

    async def _harm(self, bus: str) -> None:
        chance = random.Random(f"{self.seed} {bus}")
        victims = [name for name in BUSES[bus] if name != CALM]
        while not self.over.is_set():
            if chance.random() < BROKERS_SHARE:
                await self._harm_broker(bus, _one_of(TO_BROKERS, chance), chance)
            else:
                await self._harm_service(chance.choice(victims), _one_of(TO_SERVICES, chance), chance)
            await self._pause(chance)

    async def _harm_broker(self, name: str, kind: str, chance: random.Random) -> None:
        held, bus = chance.uniform(*(HELD if kind == "stop" else AWAY)), self.world.buses[name]
        self._note(f"{kind} broker {name} for {held:.2f} s")
        with self.ledger.disturbance(f"broker: {kind}", name):
            if kind == "stop":
                self.world.signal_broker(name, signal.SIGSTOP)
                await asyncio.sleep(held)
                self.world.signal_broker(name, signal.SIGCONT)
            else:
                await asyncio.to_thread(bus.kill)
                await asyncio.sleep(held)
                await asyncio.to_thread(bus.start)
            await self._back(*BUSES[name])

    async def _harm_service(self, name: str, kind: str, chance: random.Random) -> None:
        held, service = chance.uniform(*(AWAY if kind == "kill" else HELD)), self.world.services[name]
        self._note(f"{kind} service {name} for {held:.2f} s")
        with self.ledger.disturbance(f"service: {kind}", name):
            if kind != "kill":
                service.signal(signal.SIGSTOP)
                await asyncio.sleep(held)
            if kind == "stop":
                service.signal(signal.SIGCONT)
            else:
                await asyncio.to_thread(service.kill)
                await asyncio.sleep(chance.uniform(*AWAY) if kind != "kill" else held)
                service.start()
            await self._back(name)

    async def _harm_old(self) -> None:
        chance = random.Random(f"{self.seed} old")
        while not self.over.is_set():
            kind = _one_of(TO_OLD, chance)
            held, old = chance.uniform(*(AWAY if kind == "kill" else HELD)), self.world.old
            self._note(f"{kind} the legacy service for {held:.2f} s")
            with self.ledger.disturbance(f"legacy service: {kind}", MOVED):
                if kind == "kill":
                    await asyncio.to_thread(old.kill)
                    await asyncio.sleep(held)
                    old.start()
                else:
                    old.signal(signal.SIGSTOP)
                    await asyncio.sleep(held)
                    old.signal(signal.SIGCONT)
                self._found(await self.world.old_is_back())
                await asyncio.sleep(SETTLE)
            await self._pause(chance)

    async def _harm_store(self) -> None:
        """Restart the store. No fault is expected: a client writes a forgotten request again."""
        chance = random.Random(f"{self.seed} store")
        while not self.over.is_set():
            kind = _one_of(TO_STORE, chance)
            held, store = chance.uniform(*(AWAY if kind == "kill" else HELD)), self.world.store
            self._note(f"{kind} the store for {held:.2f} s")
            with self.ledger.disturbance(f"store: {kind}", "store"):
                if kind == "kill":
                    await asyncio.to_thread(store.kill)
                    await asyncio.sleep(held)
                    await asyncio.to_thread(store.start)
                else:
                    os.kill(store.pid, signal.SIGSTOP)
                    await asyncio.sleep(held)
                    os.kill(store.pid, signal.SIGCONT)
                self._found(await self.world.store_is_back())
            await self._pause(chance)

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

    async def _back(self, *names: str) -> None:
        self._found(await self.world.back(*names))
        self._note(f"{', '.join(names)}: back")

    async def _reload(self) -> None:
        chance = random.Random(f"{self.seed} reload")
        while not self.over.is_set():
            name, how = chance.choice([*HOMES]), chance.choice([*RELOADS])
            self._note(f"reload: {how} ({name})")
            await RELOADS[how](self, name, chance)
            self.ledger.other[f"reload: {how}"] += 1
            await self._pause(chance)

    async def by_signal(self, name: str, chance: random.Random) -> None:
        """Send SIGHUP."""
        self.world.gateway.signal(signal.SIGHUP)

    async def with_more(self, name: str, chance: random.Random) -> None:
        """Reload with one method added or changed; it must be accepted."""
        self.world.write_mapping(name, MORE.format(name=name, number=chance.randrange(1000)))
        status, answer = await self.world.control("POST", "/v1/reload")
        if status != 200:
            self.ledger.offences.append(f"a good mapping was refused: {answer}")

    async def with_a_mistake(self, name: str, chance: random.Random) -> None:
        """Reload with a bad mapping; it must be refused, and the old one must stay."""
        self.world.write_mapping(name, BROKEN.format(name=name))
        status, answer = await self.world.control("POST", "/v1/reload")
        self.world.write_mapping(name)
        if status != 409 or "Nonsense" not in str(answer):
            self.ledger.offences.append(f"a broken mapping was not refused: {status} {answer}")


ONE_SIDE: Sequence[Mapping[str, object]] = ({"mode": "legacy"}, {"mode": "dbus"}, {"mode": "canary"})
BOTH: Sequence[Mapping[str, object]] = (
    {"mode": "shadow"},
    {"mode": "shadow", "control": "dbus"},
    {"mode": "canary", "observe": True},
)
MODES: Mapping[str, Sequence[Mapping[str, object]]] = {
    "read": (*ONE_SIDE, *BOTH),
    "record": (*ONE_SIDE, *BOTH),
    "refuse": (*ONE_SIDE, *BOTH),
    "write": ONE_SIDE,
}
RELOADS: Mapping[str, Callable[[Chaos, str, random.Random], Awaitable[None]]] = {
    "by SIGHUP": Chaos.by_signal,
    "with one method more": Chaos.with_more,
    "with a mistake": Chaos.with_a_mistake,
}


def _one_of(weights: Mapping[str, int], chance: random.Random) -> str:
    return chance.choices([*weights], [*weights.values()])[0]
