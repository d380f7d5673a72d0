"""The process that starts the workers and replaces those that end; it serves no call.

It binds the sockets, and starts `workers` processes that inherit them. One of them is the leader: it serves operators
and the xenstores. A worker that ends is started again, after a growing pause when that happens again and again; when it
was the leader, another one is named at once, but only after its process has ended: no two workers lead.

Over TCP each worker has a socket of its own for each address, among which the kernel spreads connections
(SO_REUSEPORT). The supervisor keeps the sockets of a worker that has ended, so that the next one can use them without
root; until then it withdraws them, and the kernel gives all connections to the other workers. A Unix socket and one of
systemd is one for all workers. The sockets of operators are for the leader: while there is none, connections wait.

What one worker tells the others goes through the supervisor (coordinator.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway import __version__, wiring
from gateway.admin import peer_credentials
from gateway.admin.sockets import AdminSocket, listening_at
from gateway.config import Config
from gateway.core.logger import Logger
from gateway.ops import process
from gateway.workers.coordinator import ADMIN, METRICS, WEB, Assignment, Coordinator, Stage, WorkerProcess
from gateway.workers.link import LOOK, LinkClosedError, UnansweredError

FIRST = 1  # the number of the worker that reads the files at the start
HANGS = 10  # looks without a report after which a worker is replaced
STARTS = 120  # the same while it starts
LEAD = 30.0  # seconds for a worker to become the leader
STEADY = 60.0  # seconds after which the end of a worker counts as the first
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0  # seconds before a worker is started whose predecessor did not last
STOP = 10.0  # seconds beyond `grace` until a worker that does not stop is killed

_log = Logger()


class SharedSockets:
    """All sockets, between `bind` and `close`."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        rights = peer_credentials.rights(settings)
        group = peer_credentials.group(settings)
        self._admin = AdminSocket(settings.socket_path(), group, shared=rights.shared)
        self._operators: dict[str, socket.socket] = {}
        self._bound: dict[str, Sequence[wiring.Bound]] = {}  # by name: one for all workers, or one for each

    async def bind(self) -> None:
        """Bind every address; raises OSError that names the address. On failure `close` releases what was bound."""
        self._operators[ADMIN] = self._admin.bind()
        for name, address in ((METRICS, self._settings.admin.metrics), (WEB, self._settings.admin.web)):
            if address is not None:
                self._operators[name] = listening_at(address)
        inherited = wiring.inherited()
        for name, listener in self._settings.listener.items():
            mode = int(listener.socket_mode, 8)
            for index, address in enumerate(() if listener.is_store else listener.bind):
                bound = await wiring.bind_shared(address, mode, inherited, self._settings.workers)
                self._bound[wiring.given_name(name, index)] = bound
        if inherited.names:
            unclaimed = ", ".join(f"systemd:{name}" for name in inherited.names)
            raise OSError(f"systemd passed sockets that no listener of the config binds: {unclaimed}")

    def of(self, slot: int) -> Mapping[str, Sequence[int]]:
        """The descriptors of a worker, by name; `slot` counts from 0."""
        found = {name: [each.fileno()] for name, each in self._operators.items()}
        for name, bound in self._bound.items():
            found[name] = [each.fileno() for each in bound[slot % len(bound)].sockets]
        return found

    def withdraw(self, slot: int) -> None:
        """Listen no more on what belongs to this worker alone; its successor listens again."""
        for bound in self._bound.values():
            if len(bound) > 1:
                for each in bound[slot].sockets:
                    with suppress(OSError):  # it did not listen yet
                        each.shutdown(socket.SHUT_RD)  # on Linux a listening socket stays bound

    @property
    def files(self) -> list[Path]:
        """Socket files and their folders that `bind` has made."""
        made = [each.socket_file for bound in self._bound.values() for each in bound]
        return [*self._admin.made, *(file for file in made if file is not None)]

    @property
    def addresses(self) -> list[str]:
        """The addresses of the listeners, with real ports."""
        stores = [address for each in self._settings.listener.values() if each.is_store for address in each.bind]
        return [*(address for bound in self._bound.values() for address in bound[0].addresses), *stores]

    def close(self) -> None:
        """Close every socket and remove the socket files."""
        for bound in self._bound.values():
            for each in bound:
                each.close()
        for operators in self._operators.values():
            operators.close()
        self._admin.unlink()


class Supervisor:
    """The workers of one gateway. `run` starts them and returns the exit status. `text`: of the config."""

    def __init__(self, path: Path, text: str, settings: Config) -> None:
        self._path = path
        self._text = text
        self._settings = settings
        self._sockets = SharedSockets(settings)
        self._manager = process.from_environment()
        self._coordinator = Coordinator()
        self._naming = asyncio.Lock()
        self._begun = asyncio.Event()  # the first worker serves the files
        self._stopping = asyncio.Event()
        self._is_ready = False
        self._tasks = asyncio.TaskGroup()
        self._status = 0
        self._failure = ""  # why the first worker could not be started
        self._cut = 0  # calls that were cut off at stop

    async def run(self) -> int:
        """Run the workers until a signal; returns the exit status."""
        try:
            await self._sockets.bind()
            if self._settings.user is not None:
                process.become(self._settings.user, self._sockets.files)
            self._listen_to_signals()
            async with self._tasks as tasks:
                slots = [tasks.create_task(self._keep(number)) for number in range(1, self._settings.workers + 1)]
                looking = [tasks.create_task(self._look()), tasks.create_task(self._feed_watchdog())]
                await self._stopping.wait()
                await self._stop(slots)
                for task in looking:
                    task.cancel()
        finally:
            self._sockets.close()
        if self._failure:
            raise OSError(self._failure)
        if self._begun.is_set():
            grace = self._settings.grace
            cut = f"stopped after {grace:g} s, {self._cut} calls cut off" if self._cut else ""
            _log.warning(cut) if cut else _log.info("stopped, nothing in flight")
        return self._status

    # Processes

    async def _keep(self, number: int) -> None:
        """Start a worker again whenever it has ended, until the gateway stops."""
        short = 0  # lives in a row that were short
        while not self._stopping.is_set():
            member = await self._start(number)
            if member is None:
                await _wait_at_most(self._stopping, LAST_PAUSE)
                continue
            self._coordinator.members[number] = member
            if self._stopping.is_set():
                member.process.kill()
            await member.wait()
            self._sockets.withdraw(number - 1)
            self._coordinator.retire(member)
            if self._stopping.is_set():
                return
            if number == FIRST and not self._begun.is_set():  # it has printed why it cannot serve the files
                self._status = max(member.status, 1)
                if member.status < 0:
                    _log.error(f"the first worker was ended by {_ending(member.status)} before it could serve")
                self._stopping.set()
                return
            self._tasks.create_task(self._name_leader())
            lived = asyncio.get_running_loop().time() - member.began
            short = 0 if lived >= STEADY else short + 1
            pause = min(LAST_PAUSE, FIRST_PAUSE * 2 ** (short - 2)) if short > 1 else 0.0
            self._coordinator.restarts[number] = self._coordinator.restarts.get(number, 0) + 1
            _log.error(
                f"worker {number} has ended; its calls in flight are lost, and it is started again",
                pid=member.process.pid,
                status=_ending(member.status),
                lived=round(lived, 1),
                pause=pause,
            )
            self._check_ready()
            await _wait_at_most(self._stopping, pause)

    async def _start(self, number: int) -> WorkerProcess | None:
        """Start a worker; None: that is not possible now, which ends the start of the gateway."""
        descriptors = [each for found in self._sockets.of(number - 1).values() for each in found]
        try:
            return await WorkerProcess.start(number, self._handle, descriptors)
        except OSError as error:
            why = f"worker {number} cannot be started: {sys.executable}: {error.strerror or error}"
            if self._begun.is_set():
                _log.error(why)
            else:
                self._failure = f"{why}; the user of the gateway must be able to run this program"
                self._stopping.set()
            return None

    async def _stop(self, slots: list[asyncio.Task[None]]) -> None:
        self._manager.stopping()
        members = [each for each in self._coordinator.members.values() if not each.ended.is_set()]
        for member in members:
            if member.stage is Stage.STARTING:  # it has no calls, and may wait for the first worker
                member.process.kill()
            member.link.tell("stop")
        late = (await asyncio.wait(slots, timeout=self._settings.grace + STOP))[1]
        for member in members if late else ():
            if not member.ended.is_set():
                _log.error(f"worker {member.number} does not stop: it is killed", pid=member.process.pid)
                await member.kill()

    async def _name_leader(self) -> None:
        """Make a worker that serves the leader, unless there is one."""
        coordinator = self._coordinator
        async with self._naming:
            while (coordinator.leader is None or coordinator.leader.ended.is_set()) and not self._stopping.is_set():
                serving = filter(coordinator.is_serving, sorted(coordinator.members))
                member = coordinator.leader = coordinator.members.get(next(serving, 0))
                if member is None:
                    return
                try:
                    await member.ask("lead", None, LEAD)
                except (TimeoutError, LinkClosedError, UnansweredError) as error:
                    why = str(error) or type(error).__name__
                    _log.error(f"worker {member.number} cannot lead: it is replaced", why=why)
                    await member.kill()
                    continue
                member.leads = True
                _log.info(f"worker {member.number} leads: it serves operators and xenstores", pid=member.process.pid)
        self._check_ready()

    async def _look(self) -> None:
        """Replace workers that hang. Looks are counted and not seconds: a host that was paused harms no worker."""
        while True:
            await asyncio.sleep(LOOK)
            for member in [*self._coordinator.members.values()]:
                member.missed += 1
                allowed = STARTS if member.stage in (Stage.STARTING, Stage.JOINED) else HANGS
                if member.missed >= allowed and not member.ended.is_set():
                    why = f"worker {member.number} has not reported for {member.missed * LOOK:g} s: it is replaced"
                    _log.error(why, pid=member.process.pid)
                    await member.kill()

    async def _feed_watchdog(self) -> None:
        """Notify systemd's watchdog while a worker reports that its buses answer; replace one that does not."""
        interval = self._manager.watchdog
        if interval is None:
            return
        while True:
            await asyncio.sleep(interval / 2)
            if not self._is_ready:
                continue
            now = asyncio.get_running_loop().time()
            serving = [each for each in self._coordinator.members.values() if each.stage is Stage.SERVING]
            stale = [each for each in serving if now - each.alive_at > interval]
            if len(stale) < len(serving) or not serving:
                self._manager.alive(self._coordinator.summary())
                for member in stale:
                    _log.error(f"worker {member.number} has no answer from its buses: it is replaced")
                    await member.kill()

    def _check_ready(self) -> None:
        """Tell that the gateway is ready: there is a leader, and each worker serves, or has failed once."""
        coordinator, numbers = self._coordinator, range(1, self._settings.workers + 1)
        leader = coordinator.leader
        if self._is_ready or leader is None or not leader.leads:
            return
        if all(number in coordinator.restarts or coordinator.is_serving(number) for number in numbers):
            self._is_ready = True
            _log.info(
                "ready",
                revision=leader.revision,
                methods=leader.methods,
                listening=self._sockets.addresses,
                workers=sum(map(coordinator.is_serving, numbers)),
            )
            self._manager.ready(coordinator.summary())

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def first_signal() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, second_signal, number)
            self._stopping.set()

        def second_signal(number: int) -> None:
            for member in self._coordinator.members.values():
                if member.process.returncode is None:
                    member.process.kill()
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        def reload() -> None:
            if self._coordinator.leader is not None:
                self._coordinator.leader.link.tell("reload")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, first_signal)
        loop.add_signal_handler(signal.SIGHUP, reload)

    async def _handle(self, member: WorkerProcess, name: str, body: Any) -> Any:
        """Answer what a worker asks, and take what it tells."""
        coordinator, now = self._coordinator, asyncio.get_running_loop().time()
        match name:
            case "begin":
                return await self._assignment(member, body)
            case "join":  # whether it takes part from now on; no: the mapping has changed since its start
                is_current = await coordinator.join(member, *body)
                self._begun.set()
                return is_current
            case "serving":
                member.revision, member.methods = body
                member.stage, member.missed, member.alive_at = Stage.SERVING, 0, now
                self._tasks.create_task(self._name_leader())
            case "stopping":
                member.stage = Stage.STOPPING
            case "stopped":
                self._cut += body if self._stopping.is_set() else 0
            case "report":
                member.missed, member.summary = 0, body
            case "alive":
                member.alive_at = now
            case "notify":
                if member is coordinator.leader and self._is_ready:
                    self._manager.notify(*body)
            case _:
                return await coordinator.answers[name](member, body)
        return None

    async def _assignment(self, member: WorkerProcess, version: str) -> Assignment | None:
        """The first worker reads the files; the others load their program meanwhile, and then get the same files.

        None: it is another version of the program, which would not understand the others.
        """
        if version != __version__:
            return None
        if member.number != FIRST:
            await self._begun.wait()
        known, sockets = self._coordinator, self._sockets.of(member.number - 1)
        return Assignment(
            member.number, self._text, known.started, known.live, known.version, sockets, self._manager.watchdog
        )


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _ending(status: int) -> str:
    return str(status) if status >= 0 else signal.Signals(-status).name
