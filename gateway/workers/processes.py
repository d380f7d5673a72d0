"""One worker process as its supervisor sees it, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Self

from gateway.ops.metrics import Snapshot
from gateway.workers.link import Link

BOUND = 5.0  # seconds for a worker to answer
_OF_THE_SERVICE_MANAGER = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}
)


class Stage(Enum):
    """How far a worker is."""

    STARTING = "starting"
    JOINED = "joined"  # it takes part in every decision, and does not serve yet
    SERVING = "serving"
    STOPPING = "stopping"  # it finishes its calls


class WorkerProcess:
    """A worker process. `handle` gets what it asks and tells."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, link: Link) -> None:
        self.number = number
        self.process = process
        self.link = link
        self.stage = Stage.STARTING
        self.began = asyncio.get_running_loop().time()
        self.missed = 0  # looks of the supervisor since the last report
        self.alive_at = self.began  # when its buses have answered
        self.revision = ""
        self.methods = 0
        self.summary = ""
        self.leads = False
        self.snapshot: Snapshot | None = None  # at the last scrape
        self.ended = asyncio.Event()

    @classmethod
    async def start(
        cls, number: int, handle: Callable[[WorkerProcess, str, Any], Awaitable[Any]], descriptors: Sequence[int]
    ) -> Self:
        """Start the program of this process again as a worker that inherits these descriptors."""
        own, its = socket.socketpair()
        with its:
            command = [sys.executable, *sys.orig_argv[1:], "--worker", str(its.fileno())]
            environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_SERVICE_MANAGER}
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[its.fileno(), *descriptors],
                    process_group=0,  # signals of the terminal are the supervisor's
                )
            except BaseException:
                own.close()
                raise
        link = Link(own, lambda name, body: handle(member, name, body))
        member = cls(number, process, link)
        await link.start()
        return member

    @property
    def takes_part(self) -> bool:
        """Whether it serves calls, or may do so at any time."""
        return self.stage is not Stage.STARTING and not self.ended.is_set()

    @property
    def status(self) -> int:
        """The exit status; negative: the signal that has ended it."""
        assert self.process.returncode is not None, "ended"
        return self.process.returncode

    async def wait(self) -> None:
        """Wait until the process has ended, and close its link."""
        await self.process.wait()
        await self.link.close()
        self.ended.set()

    async def kill(self) -> None:
        """End it at once, and return when it has ended."""
        if not self.ended.is_set() and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.ended.wait()

    async def ask(self, name: str, body: Any, seconds: float) -> Any:
        """Ask it; raises TimeoutError, LinkClosedError or UnansweredError."""
        async with asyncio.timeout(seconds):
            return await self.link.ask(name, body)
