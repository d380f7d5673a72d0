"""The other workers, as one worker sees them: it asks them, tells them news, and answers what they ask."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.ops.process import ServiceManager
from gateway.workers.coordinator import LOOK, Answers, Question
from gateway.workers.link import Link, LinkClosedError
from gateway.workers.processes import BOUND

ALONE = Answers({}, ("the supervisor has ended, so the other workers are not asked; all of them stop",))


class OtherWorkers:
    """The link of one worker. `handlers` answer questions by their name; `stop` and `reload` are set by the supervisor.

    Questions come only after this worker has joined, when every handler is there.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.link = Link(connection, self._handle)
        self.handlers: dict[str, Callable[[Any], Awaitable[Any]]] = {}
        self.summary: Callable[[], str] = lambda: "starting"
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()

    async def everyone(self, name: str, body: Any = None, *, must: bool = True, seconds: float = BOUND) -> Answers:
        """Ask all others; see coordinator.Question."""
        try:
            answers: Answers = await self.link.ask("everyone", Question(name, body, seconds, must))
        except LinkClosedError:
            return ALONE
        return answers

    async def one(self, number: int, name: str, body: Any) -> tuple[bool, Any]:
        """Ask one other worker; whether it has answered, and its answer."""
        try:
            answer: tuple[bool, Any] = await self.link.ask("to", (number, Question(name, body, must=False)))
        except LinkClosedError:
            return False, ""
        return answer

    def news(self, name: str, body: Any) -> None:
        """Tell all others; their handlers get the number of this worker and the body."""
        self.link.tell("news", (name, body))

    async def report(self) -> None:
        """Report that the event loop turns, until cancelled."""
        while True:
            self.link.tell("report", self.summary())
            await asyncio.sleep(LOOK)

    async def _handle(self, name: str, body: Any) -> Any:
        if name in ("stop", "reload"):
            (self.stop if name == "stop" else self.reload).set()
            return None
        return await self.handlers[name](body)


class RelayedNotifications(ServiceManager):
    """Notifications of a worker: the supervisor passes those of the leader on to the service manager."""

    def __init__(self, other_workers: OtherWorkers, watchdog: float | None) -> None:
        super().__init__("", watchdog)
        self._other_workers = other_workers

    def alive(self, status: str) -> None:
        """Report that the buses answer."""
        del status
        self._other_workers.link.tell("alive")

    def stopping(self) -> None:
        """Report that this worker takes no more calls."""
        self._other_workers.link.tell("stopping")

    def _notify(self, *lines: str) -> None:
        self._other_workers.link.tell("notify", lines)
