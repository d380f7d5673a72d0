"""A gateway with several workers for tests, and calls that reach a certain one of them."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

from gateway.cli import client
from tests.kit.clients import UnixConnection
from tests.kit.gateway import Folder, Process
from tests.kit.programs import TIMEOUT

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

    def __init__(self, process: Process, control: Path) -> None:
        self.process = process
        self.control = control
        self.port = process.port

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

    def ask(self, verb: str, path: str, body: object = None) -> Any:
        """Make an admin request."""
        return client.ask(self.control, verb, path, body)

    def series(self, name: str) -> float:
        """The sum of all samples of a series."""
        connection = UnixConnection(str(self.control))
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        assert lines, name
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def until(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Wait until the workers are as wanted."""
        end = time.monotonic() + TIMEOUT
        while not holds(rows := self.rows()):
            assert time.monotonic() < end, rows
            time.sleep(0.05)
        return rows

    def restarted(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until the worker of this row was started again and serves, and there is a leader."""
        rows = self.until(lambda rows: _is_back(rows, row))
        return next(each for each in rows if each["number"] == row["number"])

    def connect(self) -> Connection:
        """Open a connection, which any worker may take."""
        return Connection(self)

    @contextmanager
    def connected_to(self, number: int) -> Iterator[Connection]:
        """A connection that a certain worker has taken."""
        end = time.monotonic() + TIMEOUT
        while (connection := self.connect()).worker != number:
            connection.close()
            assert time.monotonic() < end, f"worker {number} takes no connection"
        try:
            yield connection
        finally:
            connection.close()

    def line(self, request: str) -> dict[str, Any]:
        """The line of the log of a call, by the id that its client gave it."""

        def found(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
            return next((line for line in lines if line.get("request_id") == request), None)

        self.process.wait_until(lambda lines: found(lines) is not None)
        line = found(self.process.lines)
        assert line is not None
        return line


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


def _is_back(rows: list[dict[str, Any]], before: Mapping[str, Any]) -> bool:
    back = [row for row in rows if row["number"] == before["number"] and row["restarts"] > before["restarts"]]
    return any(row["state"] == "serving" for row in back) and any(row["leads"] for row in rows)


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
        yield Team(process, folder.control)
    finally:
        process.end()
