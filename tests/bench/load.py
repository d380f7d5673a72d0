"""Programs started and stopped, their CPU time, and load over real sockets. Knows nothing of what is measured.

The load comes from this process: one uvloop protocol for each connection, which sends a request as soon as its answer
is whole (closed loop), or at random moments at a given rate (open loop). Every answer must be 200 and hold the text
that is expected.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import subprocess
import sys
import time
import xmlrpc.client
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, cast

import msgspec
import uvloop

from gateway.cli import client
from tests.kit.gateway import REST
from tests.kit.programs import free_port

UUID = "8a5b2c1e-7f7d-4a53-9f0c-000000000001"
VALUES = {"uuid": UUID, "memory": 4_294_967_296, "running": True, "share": 0.25}
TICK = 0.001  # seconds: uvloop's timers are no finer
STUCK = 300.0  # seconds of a turn
START = 240.0  # seconds until a program listens


@dataclass(frozen=True)
class Request:
    """One request, and the text that its answer holds."""

    path: str
    content_type: str
    body: bytes
    expected: bytes = UUID.encode()

    @property
    def raw(self) -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {self.content_type}\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


def json_rpc(method: str, *params: object) -> Request:
    call = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
    return Request("/jsonrpc", "application/json", msgspec.json.encode(call))


def xml_rpc(method: str, *params: object) -> Request:
    text = xmlrpc.client.dumps(cast("tuple[str, ...]", params), method)  # theirs says only what it can, not all it can
    return Request("/RPC2", "text/xml", text.encode())


def batch(method: str, count: int, *params: object) -> Request:
    """A JSON-RPC batch."""
    calls = [{"jsonrpc": "2.0", "method": method, "params": params, "id": at} for at in range(count)]
    return Request("/jsonrpc", "application/json", msgspec.json.encode(calls), b'"id":%d}]' % (count - 1))


SHORT = {**VALUES, "memory": 4096}
REQUESTS = {"JSON-RPC": json_rpc("echo", SHORT), "XML-RPC": xml_rpc("echo", SHORT)}  # an a{sv} of four values
TEXT_REQUESTS = {"JSON-RPC": json_rpc("say", UUID), "XML-RPC": xml_rpc("say", UUID)}  # one text


HERE = Path(__file__).parent
ECHO = (sys.executable, str(HERE / "echo_service.py"))  # and the address of a bus


def bench_mapping() -> dict[str, str]:
    """The mapping file of the echo service, and its IDL."""
    return {file.name: file.read_text() for file in (HERE / "mapping").iterdir()}


# Parts of configs
BUS = '[bus.bench]\naddress = "{address}"\nservices = ["*"]\n'
RPC = '[listener.rpc]\nbind = ["tcp:127.0.0.1:{port}"]\n'


@contextlib.contextmanager
def gateway(
    folder: Path, config: str, mappings: Mapping[str, str], level: str = "info", **values: object
) -> Iterator[tuple[int, int]]:
    """Run a gateway in a folder until the block ends; yields its port (`{port}` of the config) and its process id.

    The admin socket and the log, at this level, are added to the config.
    """
    (folder / "mappings").mkdir(parents=True)
    for name, text in mappings.items():
        (folder / "mappings" / name).write_text(text)
    port = free_port()
    text = f'{config}{REST}level = "{level}"\n'
    (folder / "gateway.toml").write_text(text.format(port=port, folder=folder, **values))
    command = [sys.executable, "-m", "gateway", "run", "--config", str(folder / "gateway.toml")]
    with (folder / "gateway.log").open("wb") as log, started(*command, stderr=log) as process:
        end = time.monotonic() + START
        while not _is_ready(folder / "control"):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError("the gateway is not ready: " + (folder / "gateway.log").read_text()[-2000:])
            time.sleep(0.05)
        yield port, process.pid


def _is_ready(control: Path) -> bool:
    with contextlib.suppress(client.UnreachableError):
        return bool(client.ask(control, "GET", "/v1/status")["ready"])
    return False


@contextlib.contextmanager
def started(
    *command: str, ready: str | None = None, stderr: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """Run a program for the time of the block; `ready` is the first line to wait for on its standard output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        if ready is not None and ready not in process.stdout.readline():
            raise RuntimeError(f"{command[0]} did not start")
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for_port(port: int, seconds: float = START) -> None:
    """Wait until something accepts on a port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens on port {port}")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, in user and kernel mode (clock_getcpuclockid(3), Linux)."""
    return time.clock_gettime((~pid << 3) | 2)


@dataclass(frozen=True)
class Seen:
    """What the clients of one turn have seen."""

    calls: int
    seconds: float
    latencies: array[float]  # seconds, in order

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds

    def quantile(self, part: float) -> float:
        """Seconds that this part of the calls did not exceed."""
        return self.latencies[min(int(len(self.latencies) * part), len(self.latencies) - 1)]


class _Caller(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._begun = 0.0
        self._got = bytearray()
        self._whole = 0  # bytes of the answer that is coming, once its head has come
        self._length = 0  # bytes of the last answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clients.fail("the server has closed a connection")

    def send(self, due: float) -> None:
        """Send the request; `due`: the moment from which its latency counts."""
        self._begun = due
        self.transport.write(self._clients.raw)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer. A long one is gathered in place: copies of it would delay the other clients."""
        answer: bytes | bytearray = data
        if self._got:
            self._got += data
            answer = self._got
        if len(answer) != self._length and not self._is_whole(answer):
            if not self._got:
                self._got = bytearray(data)
            return
        self._got, self._whole = bytearray(), 0
        if not answer.startswith(b"HTTP/1.1 200 ") or self._clients.expected not in answer:
            self._clients.fail(f"expected {self._clients.expected!r}, got {answer[:300]!r}")
        else:
            self._clients.answered(self, time.perf_counter() - self._begun)

    def _is_whole(self, answer: bytes | bytearray) -> bool:
        if not self._whole:
            end = answer.find(b"\r\n\r\n")
            found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer[: max(end, 0)])
            if found is None:
                return False
            self._whole = end + 4 + int(found[1])
        if len(answer) < self._whole:
            return False
        self._length = len(answer)
        return True


class Clients:
    """Clients of one server, which stay connected from turn to turn."""

    def __init__(self, request: Request) -> None:
        self.raw, self.expected = request.raw, request.expected
        self._callers: list[_Caller] = []
        self._latencies = array("d")
        self._left = 0  # requests that are still to be sent (closed loop)
        self._under_way = 0
        self._ended: asyncio.Future[None] | None = None
        self._idle: deque[_Caller] | None = None  # open loop: connections without a request
        self._late: deque[float] = deque()  # moments of requests that found no idle connection

    async def connect(self, port: int, connections: int) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, caller = await loop.create_connection(lambda: _Caller(self), "127.0.0.1", port)
            self._callers.append(caller)
        return self

    def close(self) -> None:
        self._ended = None
        for caller in self._callers:
            caller.transport.abort()

    def fail(self, why: str) -> None:
        """End the turn with an error."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(RuntimeError(why))

    async def calls(self, count: int) -> Seen:
        """Closed loop: each connection calls without a pause, until there were `count` calls."""
        started_at = self._begin()
        first = self._callers[:count]
        self._left, self._under_way = count - len(first), len(first)
        for caller in first:
            caller.send(time.perf_counter())
        return await self._seen(started_at)

    async def at_random(self, rate: float, seconds: float) -> Seen:
        """Open loop: calls begin at random moments, `rate` of them a second."""
        started_at = self._begin()
        self._idle, self._under_way = deque(self._callers), 1  # this loop itself
        due = started_at
        while (now := time.perf_counter()) < started_at + seconds:
            while due <= now:
                due += random.expovariate(rate)
                self._under_way += 1
                if self._idle:
                    self._idle.popleft().send(time.perf_counter())
                else:
                    self._late.append(now)
            await asyncio.sleep(TICK)
        self._done()
        seen = await self._seen(started_at)
        self._idle = None
        return seen

    def answered(self, caller: _Caller, seconds: float) -> None:
        """A whole answer has come."""
        self._latencies.append(seconds)
        if self._left:
            self._left -= 1
            caller.send(time.perf_counter())
            return
        if self._late:
            caller.send(self._late.popleft())
        elif self._idle is not None:
            self._idle.append(caller)
        self._done()

    def _begin(self) -> float:
        self._latencies = array("d")
        self._ended = asyncio.get_running_loop().create_future()
        return time.perf_counter()

    def _done(self) -> None:
        self._under_way -= 1
        if not self._under_way and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _seen(self, started_at: float) -> Seen:
        assert self._ended is not None
        async with asyncio.timeout(STUCK):
            await self._ended
        taken = time.perf_counter() - started_at
        return Seen(len(self._latencies), taken, array("d", sorted(self._latencies)))


def rate(port: int, request: Request, connections: int, seconds: float) -> float:
    """Return the calls a second that a server answers over this many connections."""

    async def run() -> float:
        clients = await Clients(request).connect(port, connections)
        turns: list[Seen] = []
        end = time.perf_counter() + seconds
        while not turns or time.perf_counter() < end:
            turns.append(await clients.calls(10 * connections))
        clients.close()
        return sum(turn.calls for turn in turns) / sum(turn.seconds for turn in turns)

    return uvloop.run(run())
