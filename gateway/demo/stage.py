"""Sets the stage: private bus, sample toolstack behind its activation, xenstore, gateway; takes all down again."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.control import client

PATIENCE = 20.0  # seconds for a process to be ready
HELD_BACK = (signal.SIGINT, signal.SIGTERM)

CONFIG = """\
[bus.toolstack]
address  = "{bus}"
services = ["org.xen.xcp.*"]

[listener.rpc]
bind = ["tcp:127.0.0.1:{port}", "unix:{directory}/rpc"]

[listener.store]
bind = ["xenstore:{directory}/store/socket"]

# The old services: `legacy_twin.py NAME --listen unix:{directory}/old-NAME` starts one beside the new ones.
[upstream.xapi]
url = "http+unix://{directory}/old-xapi"
dialect = "xenapi"
speaks = ["jsonrpc"]
[upstream.xenopsd]
url = "http+unix://{directory}/old-xenopsd"
dialect = "xapi_idl"
keepalive = false
arguments = "named"
[upstream.storage]
url = "http+unix://{directory}/old-storage"
dialect = "xapi_idl"
keepalive = false
arguments = "named"
[upstream.squeezed]
url = "http+unix://{directory}/old-squeezed"
dialect = "xapi_idl"
keepalive = false
arguments = "positional"
[upstream.networkd]
url = "http+unix://{directory}/old-networkd"
dialect = "xapi_idl"
keepalive = false

[mappings]
directories = ["{mappings}"]

[control]
socket = "{directory}/control"

[log]
format = "console"
"""

# What the demo runs that is not ours, and the Debian package that has it.
PROGRAMS: Mapping[str, str] = {
    "dbus-daemon": "dbus-daemon",
    "dbus-monitor": "dbus-bin",
    "dbus-send": "dbus-bin",
    "curl": "curl",
}


class StageError(Exception):
    """The demo cannot start; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything running. `url`: where legacy clients go."""

    directory: Path
    bus: str
    url: str
    unix: Path
    store: Path  # XENSTORED_PATH of clients that ask there
    control: Path
    config: Path
    log: Path


def material(name: str) -> Path:
    """Where `mappings`, `toolstack` or `bus` are: in the checkout, or beside an installed gateway."""
    checkout = Path(__file__).parents[2]
    installed = Path(sysconfig.get_path("data")) / "share" / "xcp-gateway" / name
    for place in (checkout / name, checkout / "docker" / name, installed):
        if place.is_dir():
            return place
    raise StageError(f"the folder '{name}' of xcp-gateway is missing: expected {installed}")


@contextlib.contextmanager
def stage(port: int = 0) -> Iterator[Stage]:
    """Start everything; `port` 0 is any free one. Nothing is left when the block ends."""
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        raise StageError(f"the demo needs more programs: apt-get install {' '.join(sorted(missing))}")
    with tempfile.TemporaryDirectory(prefix="xcp-demo-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        address, command = _rendered(directory)
        bus = stack.enter_context(_process("the bus", command, directory / "bus.log"))
        bus.wait((directory / "bus").is_socket)
        start = [sys.executable, str(material("xenstored") / "start.py"), "--dir", str(directory / "store")]
        store = stack.enter_context(_process("the xenstore", start, directory / "store.log"))
        store.wait((directory / "store" / "socket").is_socket)
        config = directory / "gateway.toml"
        config.write_text(
            CONFIG.format(bus=address, port=port, directory=directory, mappings=material("mappings").resolve())
        )
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
        gateway = stack.enter_context(_process("the gateway", command, directory / "gateway.log"))
        listening = _listening(gateway, directory / "control")
        yield Stage(
            directory=directory,
            bus=address,
            url=f"http://{listening.removeprefix('tcp:')}",
            unix=directory / "rpc",
            store=directory / "store" / "socket",
            control=directory / "control",
            config=config,
            log=directory / "gateway.log",
        )


def _rendered(directory: Path) -> tuple[str, Sequence[str]]:
    """Write the bus's configuration; returns its address and the command that starts it."""
    render = [sys.executable, str(material("bus") / "render.py"), "--dir", str(directory)]
    done = subprocess.run(
        [*render, "--toolstack", str(material("toolstack"))], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StageError(done.stderr.strip())
    address, command = done.stdout.splitlines()[:2]
    return address, shlex.split(command)


@dataclass(frozen=True, slots=True)
class _Process:
    """One that runs until the stage is taken down."""

    what: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready; one that has ended will never be."""
        end = time.monotonic() + PATIENCE
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise StageError(f"{self.what} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)


@contextlib.contextmanager
def _process(what: str, command: Sequence[str], log: Path) -> Iterator[_Process]:
    process = None
    try:
        with log.open("wb") as file, _undisturbed():
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=Path(__file__).parents[2])
        yield _Process(what, log, process)
    finally:
        if process is not None:
            _end(process)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM: a process that is just being started would belong to nobody."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in HELD_BACK}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listening(gateway: _Process, control: Path) -> str:
    """Wait until the gateway is ready; returns its first address."""
    addresses: list[str] = []

    def ready() -> bool:
        try:
            status = client.ask(control, "GET", "/v1/status")
        except client.UnreachableError:
            return False
        addresses[:] = status["listening"]
        return bool(status["ready"])

    gateway.wait(ready)
    return addresses[0]
