"""A gateway with several workers for tests, and calls that reach a certain one of them."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import count
from typing import Any

from tests.kit.gateway import Folder, Process
from tests.kit.programs import TIMEOUT, until

START = 4 * TIMEOUT  # three programs start, on a machine that may be busy
_numbers = count()


def kill(pid: int) -> None:
    """Kill a process, and wait until its sockets are closed: until then the kernel may give it a new connection."""
    ended = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([ended], [], [], TIMEOUT)[0], f"process {pid} has not ended"
    finally:
        os.close(ended)


class Team:
    """The running gateway: its processes, its log, and its admin socket."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.control = process.control
        self.port = process.port
        self.ask = process.ask
        self.series = process.series

    def rows(self) -> list[dict[str, Any]]:
        """The workers, as `status` shows them."""
        found: list[dict[str, Any]] = self.ask("GET", "/v1/status")["workers"]
        return found

    def leader(self) -> dict[str, Any]:
        rows = self.until(lambda rows: any(row["leads"] for row in rows))
        return next(row for row in rows if row["leads"])

    def follower(self) -> dict[str, Any]:
        """The row of another worker."""
        return next(row for row in self.rows() if not row["leads"])

    def until(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Wait until the workers are as wanted."""
        return until(lambda: rows if holds(rows := self.rows()) else [])

    def restarted(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until the worker of this row was started again and serves, and there is a leader."""

        def back(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [each for each in rows if each["number"] == row["number"] and each["restarts"] > row["restarts"]]

        def holds(rows: list[dict[str, Any]]) -> bool:
            return any(each["state"] == "serving" for each in back(rows)) and any(each["leads"] for each in rows)

        return back(self.until(holds))[0]

    def connect(self) -> Connection:
        """Open a connection, which any worker may take."""
        return Connection(self)

    @contextmanager
    def connected_to(self, number: int) -> Iterator[Connection]:
        """A connection that a certain worker has taken."""

        def take() -> Connection | None:
            if (connection := self.connect()).worker == number:
                return connection
            connection.close()
            return None

        taken = until(take)
        assert taken is not None
        with closing(taken):
            yield taken

    def line(self, request: str) -> dict[str, Any]:
        """The line of the log of a call, by the id that its client gave it."""
        self.process.wait_until(lambda lines: any(line.get("request_id") == request for line in lines))
        return next(line for line in self.process.lines if line.get("request_id") == request)


class Connection:
    """A connection of a client. `worker`: the one that has taken it."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._http = HTTPConnection("127.0.0.1", team.port, timeout=TIMEOUT)
        self.last = ""
        self.call("label")
        self.worker = team.line(self.last)["worker"]

    def send(self, method: str, *params: object) -> None:
        self.last = f"r{next(_numbers)}"
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
        self._http.request("POST", "/jsonrpc", body, {"X-Request-Id": self.last})

    def answer(self) -> Any:
        """The answer to the call that was sent: its result, or the message of its fault."""
        told = json.loads(self._http.getresponse().read())
        return told["result"] if "result" in told else told["error"]["message"]

    def call(self, method: str, *params: object) -> Any:
        """Send a call and return its answer."""
        self.send(method, *params)
        return self.answer()

    def line(self) -> dict[str, Any]:
        """The line of the log of the last call."""
        return self._team.line(self.last)

    def close(self) -> None:
        self._http.close()


def with_workers(folder: Folder, workers: object = 2) -> None:
    """Let a gateway have so many workers, and a state file."""
    config = folder.config.read_text()
    folder.config.write_text(f'workers = {workers}\n{config}[state]\nfile = "{folder.path}/state.db"\n')


@contextmanager
def running_team(folder: Folder, **around: Any) -> Iterator[Team]:
    """Run the gateway until the block ends; every worker serves when it begins."""
    process = Process(folder.config, **around)
    try:
        process.wait_for("ready", START)
        yield Team(process)
    finally:
        process.end()
