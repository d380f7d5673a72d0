"""A gateway for tests: a folder with its config and mapping files, and the real process with its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

from gateway.cli import client
from tests.kit.clients import UnixConnection
from tests.kit.programs import ROOT, TIMEOUT

# The toy service of tests/kit/toy_service.py, as IDL and mapping.
TOY_IDL = """\
<node>
  <interface name="org.example.Toy1">
    <method name="Echo"><arg name="text" type="s" direction="in"/><arg name="same" type="s" direction="out"/></method>
    <method name="Label"><arg name="label" type="s" direction="out"/></method>
    <method name="Hold"><arg name="word" type="s" direction="out"/></method>
    <method name="Held"><arg name="count" type="u" direction="out"/></method>
    <method name="Release"><arg name="count" type="u" direction="out"/></method>
    <method name="Hang"/>
    <method name="Leave"/>
  </interface>
</node>
"""

TOY_MAPPING = """\
mapping: 1
service: toy
dbus: {bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}
expose:
  - {listener: rpc, path: /RPC2, codec: xmlrpc, dialect: plain}
  - {listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: plain}
defaults: {timeout: 10s, effect: read}
methods:
  echo: {member: Echo, params: [text]}
  label: {member: Label}
  hold: {member: Hold}
  held: {member: Held}
  release: {member: Release}
  hang: {member: Hang, timeout: 100ms}
  leave: {member: Leave, effect: write}
"""

REST = """\
[mappings]
directories = ["mappings"]
[admin]
socket = "{folder}/control"
[log]
format = "json"
"""
CONFIG = '{buses}\n[listener.rpc]\nbind = ["tcp:127.0.0.1:0", "unix:{folder}/rpc"]\n' + REST
# Parts of other configs
TOOLSTACK = '[bus.toolstack]\naddress = "{bus}"\nservices = ["org.xen.xcp.*", "org.example.*"]\n'
RPC = '[listener.rpc]\nbind = ["tcp:127.0.0.1:0"]\n'
STORE = '[listener.store]\nbind = ["xenstore:{store}"]\n'


class Folder:
    """The folder of a gateway's config (`config`) and mapping files (`mappings`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "gateway.toml"
        self.mappings = path / "mappings"
        self.control = path / "control"
        self.mappings.mkdir(exist_ok=True)
        (self.mappings / "toy.xml").write_text(TOY_IDL)
        self.mapping(TOY_MAPPING)

    def mapping(self, text: str) -> None:
        """Write the toy service's mapping file."""
        (self.mappings / "toy.yaml").write_text(text)

    def buses(self, buses: Mapping[str, tuple[str, str]]) -> None:
        """Write the config: bus name in the config -> (address, pattern of services)."""
        sections = (
            f'[bus.{name}]\naddress = "{address}"\nservices = ["{services}"]\n'
            for name, (address, services) in buses.items()
        )
        self.config.write_text(CONFIG.format(buses="".join(sections), folder=self.path))


def ship(folder: Path, *names: str, defaults: str = "") -> None:
    """Put files of the project into `folder/mappings`, with their IDL, and these keys in the defaults of each."""
    mappings = folder / "mappings"
    mappings.mkdir(exist_ok=True)
    (mappings / "idl").symlink_to(ROOT / "mappings/idl")
    for name in names:
        text = (ROOT / f"mappings/{name}.yaml").read_text()
        (mappings / f"{name}.yaml").write_text(text.replace("defaults: {", f"defaults: {{{defaults}, ", bool(defaults)))


class Process:
    """A running `xcp-gateway run`. `lines` is its log so far; `wait_for` reads on until an event comes."""

    def __init__(
        self,
        config: Path,
        *,
        through: Sequence[str] = (),  # a command that runs the command after it
        environment: Mapping[str, str] = MappingProxyType({}),
        pass_fds: Sequence[int] = (),
    ) -> None:
        command = [*through, sys.executable, "-m", "gateway", "run", "--config", str(config)]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment}, pass_fds=pass_fds
        )
        self.config = config
        self.control = config.parent / "control"
        self.lines: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, event: str, seconds: float = TIMEOUT) -> dict[str, Any]:
        """Return the first line of the log whose event starts so."""
        with self._more:
            found = self._more.wait_for(lambda: self._find(event) or self._process.poll() is not None, seconds)
            assert found, f"no '{event}' in {self.lines}"
        line = self._find(event)
        assert line is not None, f"ended without '{event}': {self.lines}"
        return line

    def wait_until(self, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Read on until the log is as wanted."""
        with self._more:
            assert self._more.wait_for(lambda: holds(self.lines), TIMEOUT), self.lines

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        """The port of its first address, once it is ready."""
        return int(self.wait_for("ready")["listening"][0].rpartition(":")[2])

    @property
    def url(self) -> str:
        """The URL of its first address, once it is ready."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, verb: str, path: str, body: object = None) -> Any:
        """Make an admin request."""
        return client.ask(self.control, verb, path, body)

    def series(self, start: str) -> float:
        """The sum of the samples of /metrics that begin so."""
        connection = UnixConnection(self.control)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = TIMEOUT) -> int:
        """Wait until it has ended and the log is read to the end; return the exit status."""
        status = self._process.wait(seconds)
        self._reader.join(seconds)
        return status

    def end(self) -> None:
        """Kill it if it still runs, and read the log to the end."""
        self._process.kill()
        self.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _find(self, event: str) -> dict[str, Any] | None:
        return next((line for line in self.lines if str(line.get("event", "")).startswith(event)), None)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            with self._more:
                self.lines.append(json.loads(text) if text.startswith("{") else {"event": text.rstrip()})
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


# What systemd does between fork and exec, sd_listen_fds(3).
PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def passed(path: Path, name: str) -> Iterator[Surroundings]:
    """The surroundings of a process that systemd passes a listening socket to."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        through = [sys.executable, "-c", PASS_SOCKET, str(listening.fileno()), name]
        yield {"through": through, "pass_fds": [listening.fileno()]}


class Surroundings(TypedDict, total=False):
    through: Sequence[str]
    environment: Mapping[str, str]
    pass_fds: Sequence[int]


@contextmanager
def gateway_process(config: Path, **around: Unpack[Surroundings]) -> Iterator[Process]:
    """Run the command until the block ends; it is ready when the block begins."""
    process = Process(config, **around)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.end()


@contextmanager
def configured(
    folder: Path, config: str, mappings: Mapping[str, str] = MappingProxyType({}), /, **values: object
) -> Iterator[Process]:
    """Write mapping files and a config (REST is put behind it, values into it), and run the gateway."""
    (folder / "mappings").mkdir(exist_ok=True)
    for name, text in mappings.items():
        (folder / "mappings" / name).write_text(text)
    path = folder / "gateway.toml"
    path.write_text((config + REST).format(folder=folder, **values))
    with gateway_process(path) as process:
        yield process
