"""Calls members on D-Bus message buses and says what came of it; knows no legacy protocol and no library.

Which service lives on which bus is told by config alone, so a service moves without a change in any mapping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase

from adapters.backends import outcomes
from adapters.backends.dbus_connection import Received
from adapters.backends.dbus_pool import Bus, BusStatus, Pool, Surroundings
from gateway.core import marshal, ports
from gateway.core.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.route import Route
from gateway.core.signature import parse

__all__ = ["ERROR_NAMES", "Backend", "Bus", "BusStatus", "Surroundings"]

SWAP_PATIENCE = 1.0  # seconds a reload waits for a new bus before calls are sent its way all the same

_ERROR = "org.freedesktop.DBus.Error."

# D-Bus specification, "Error names"; dbus-protocol.h has the list. Any other name is REMOTE.
ERROR_NAMES: dict[str, FaultCode] = {
    _ERROR + name: code
    for code, names in {
        FaultCode.UNAVAILABLE: (
            "ServiceUnknown NameHasNoOwner Spawn.ExecFailed Spawn.ForkFailed Spawn.ChildExited Spawn.ChildSignaled"
            " Spawn.Failed Spawn.FailedToSetup Spawn.ConfigInvalid Spawn.ServiceNotValid Spawn.ServiceNotFound"
            " Spawn.PermissionsInvalid Spawn.FileInvalid Spawn.NoMemory"
        ),
        FaultCode.BUSY: "LimitsExceeded",
        FaultCode.NO_REPLY: "NoReply Disconnected",
        FaultCode.TIMEOUT: "Timeout TimedOut",
        FaultCode.ACCESS_DENIED: "AccessDenied AuthFailed InteractiveAuthorizationRequired PropertyReadOnly",
        FaultCode.UNKNOWN_METHOD: "UnknownMethod",
        FaultCode.NOT_FOUND: "UnknownObject UnknownInterface UnknownProperty FileNotFound",
        FaultCode.INVALID_PARAMS: "InvalidArgs InvalidSignature",
        FaultCode.REMOTE: (
            "Failed NoMemory IOError BadAddress NotSupported NoServer NoNetwork AddressInUse FileExists"
            " UnixProcessIdUnknown InvalidFileContent SELinuxSecurityContextUnknown AdtAuditDataUnknown ObjectPathInUse"
            " InconsistentMessage MatchRuleNotFound MatchRuleInvalid NotContainer"
        ),
    }.items()
    for name in names.split()
}


class Backend(ports.Backend):
    """Answers calls from services on one bus or several."""

    def __init__(self, buses: Mapping[str, Bus], around: Surroundings | None = None) -> None:
        self._around = around or Surroundings()
        self._pools: dict[Bus, Pool] = {}  # by bus, without its services
        self._homes: dict[str, Pool] = {}  # pattern of bus names -> where they live, the most specific first
        self._known: dict[str, Pool | None] = {}  # bus name -> where it lives, as found before
        self._leaving: dict[Pool, asyncio.Task[None]] = {}  # calls in flight keep them; each with a task that drains it
        self._adopt(buses.values())

    async def start(self) -> None:
        """Begin to connect; returns at once and keeps trying."""
        for pool in self._pools.values():
            pool.start()

    async def connected(self) -> None:
        """Wait until every bus is connected; the caller holds the deadline."""
        for pool in list(self._pools.values()):
            await pool.connected()

    async def call(self, route: Route, call: Call) -> Outcome:
        """Answer one call; the dispatcher holds the deadline and cancels past it."""
        method_call = outcomes.bind(route, call)
        if isinstance(method_call, Fault):
            return method_call
        pool = self._home(method_call.bus_name)
        if pool is None:
            return _homeless(method_call.bus_name)
        answer = await pool.call(method_call, oneway=call.oneway)
        if answer is None:
            return Reply(None)
        if isinstance(answer, Fault):
            return answer
        if answer.error_name:
            return route.translate(fault(answer), call)
        return reply(route, answer)

    async def stop(self) -> None:
        """Fail what is still waiting, close."""
        pools = [*self._pools.values(), *self._leaving]
        self._adopt(())
        await asyncio.gather(*(pool.close() for pool in pools))

    async def reconfigure(self, buses: Mapping[str, Bus]) -> None:
        """Other buses from now on. One that stays keeps its connections, one that goes ends its calls first."""
        before = self._pools
        joining = [Pool(key, self._around) for key in map(_key, buses.values()) if key not in before]
        for pool in joining:
            pool.start()
        try:
            await _wait_a_little(joining)
        except asyncio.CancelledError:
            await asyncio.gather(*(pool.close() for pool in joining))
            raise
        self._adopt(buses.values(), {**before, **{pool.bus: pool for pool in joining}})
        for key, pool in before.items():
            if key not in self._pools:
                self._drain(pool)

    async def introspect(self, bus_name: str, object_path: str) -> str | Fault:
        """The object's introspection XML, remembered until the name's owner changes; the caller holds the deadline."""
        pool = self._home(bus_name)
        if pool is None:
            return _homeless(bus_name)
        answer = await pool.introspect(bus_name, object_path)
        return fault(answer) if isinstance(answer, Received) else answer

    async def is_alive(self, patience: float) -> bool:
        """Whether every bus answers, or is being looked for; see Pool."""
        return all(await asyncio.gather(*(pool.is_alive(patience) for pool in self._pools.values())))

    def status(self) -> tuple[BusStatus, ...]:
        """How each bus is doing."""
        return tuple(pool.status() for pool in self._pools.values())

    # Who lives where

    def _adopt(self, buses: Iterable[Bus], pools: Mapping[Bus, Pool] | None = None) -> None:
        """Take these buses, with the pools at hand or new ones."""
        buses = list(buses)
        at_hand = pools or {}
        self._pools = {key: at_hand.get(key) or Pool(key, self._around) for key in map(_key, buses)}
        homes = {pattern: self._pools[_key(bus)] for bus in buses for pattern in bus.services}
        self._homes = dict(sorted(homes.items(), key=lambda home: _specificity(home[0]), reverse=True))
        self._known = {}

    def _home(self, bus_name: str) -> Pool | None:
        if bus_name not in self._known:
            found = (pool for pattern, pool in self._homes.items() if fnmatchcase(bus_name, pattern))
            self._known[bus_name] = next(found, None)
        return self._known[bus_name]

    def _drain(self, pool: Pool) -> None:
        draining = asyncio.get_running_loop().create_task(pool.drain())
        self._leaving[pool] = draining
        draining.add_done_callback(lambda _: self._leaving.pop(pool))


def reply(route: Route, message: Received) -> Outcome:
    """What a method return tells the client. Another shape than promised is refused, not guessed at."""
    expected = route.target.reply_signature
    if message.signature != expected:
        text = f"{route.target}: expected reply signature '{expected}', got '{message.signature}'"
        return Fault(FaultCode.UNREPRESENTABLE, text)
    return outcomes.shape(route, message.body)


def fault(message: Received) -> Fault:
    """What a D-Bus error tells, before any mapping translates it: name, text and arguments as they came."""
    arguments = _arguments(message)
    name = message.error_name or ""
    text = arguments[0] if arguments and isinstance(arguments[0], str) else name
    return Fault(ERROR_NAMES.get(name, FaultCode.REMOTE), text, name=name, data=arguments)


def _arguments(message: Received) -> list[Value]:
    """The arguments of an error; none when they are nothing a legacy client can be told."""
    try:
        types = parse(message.signature)
        return [marshal.from_dbus(type_)(value) for type_, value in zip(types, message.body, strict=True)]
    except (ValueError, marshal.MarshalError):
        return []


def _homeless(bus_name: str) -> Fault:
    return Fault(FaultCode.UNAVAILABLE, f"no bus is configured for {bus_name}; the call was not sent")


def _key(bus: Bus) -> Bus:
    """What decides whether connections stay: all but the services."""
    return replace(bus, services=())


def _specificity(pattern: str) -> tuple[bool, int]:
    """An exact name before a pattern, a long pattern before a short one."""
    return not any(wildcard in pattern for wildcard in "*?["), len(pattern)


async def _wait_a_little(pools: Iterable[Pool]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SWAP_PATIENCE):
            for pool in pools:
                await pool.connected()
