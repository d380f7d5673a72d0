"""Sets the stage: private bus, sample toolstack, old xapi, xenstore, gateway; takes all down again. Makes no call."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.cli import client

PATIENCE = 120.0  # seconds for a process to be ready, on the slowest machine
HELD_BACK = (signal.SIGINT, signal.SIGTERM)

CONFIG = """\
[bus.toolstack]
address  = "{bus}"
services = ["org.xen.xcp.*"]

[listener.rpc]
bind = ["tcp:127.0.0.1:{port}", "unix:{directory}/rpc"]

# The legacy services: `legacy_twin.py NAME --listen unix:{directory}/old-NAME` starts one beside the new ones.
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

[state]
file = "{directory}/state.db"

[log]
format = "console"
"""

STORE = """
[listener.store]
bind = ["xenstore:{directory}/store/socket"]
"""
IN_STORE = "*-xenstore.yaml"  # mapping files that are exposed there

# What the demo runs that is not ours, and the Debian package that has it.
PROGRAMS: Mapping[str, str] = {
    "dbus-daemon": "dbus-daemon",
    "dbus-monitor": "dbus-bin",
    "dbus-send": "dbus-bin",
    "curl": "curl",
}
# For clients that ask in a xenstore; without them the demo does the rest. (start.py says what xenstored itself needs.)
STORE_PROGRAMS: Mapping[str, str] = {
    "cc": "gcc",
    "xenstore-write": "xenstore-utils",
    "xenstore-watch": "xenstore-utils",
}
PACKAGES = ("dbus_next", "XenAPI", "jsonrpclib")  # of Python: the extra `demo`


class StageError(Exception):
    """The demo cannot start; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything running. `url`: where legacy clients go. `no_store`: why there is no `store`."""

    directory: Path
    bus: str
    url: str
    unix: Path
    store: Path  # XENSTORED_PATH of clients that ask there
    control: Path
    config: Path
    log: Path
    no_store: str = ""

    @property
    def switches(self) -> Path:
        """A JSON file that makes the old xapi misbehave: docker/toolstack/legacy_switches.py."""
        return self.directory / "old-xapi.json"


def material(name: str) -> Path:
    """Where `mappings`, `toolstack`, `bus` or `xenstored` are: in the checkout, or beside an installed gateway."""
    checkout = Path(__file__).parents[2]
    installed = Path(sysconfig.get_path("data")) / "share" / "xcp-gateway" / name
    for place in (checkout / name, checkout / "docker" / name, installed):
        if place.is_dir():
            return place
    raise StageError(f"the folder '{name}' of xcp-gateway is missing: expected {installed}")


@contextlib.contextmanager
def stage(port: int = 0) -> Iterator[Stage]:
    """Start everything; `port` 0 is any free one. Nothing is left when the block ends."""
    _check_programs()
    with tempfile.TemporaryDirectory(prefix="xcp-demo-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        address, command = _rendered(directory)
        bus = stack.enter_context(_process("the bus", command, directory / "bus.log"))
        bus.wait((directory / "bus").is_socket)
        old = stack.enter_context(_process("the old xapi", _old_xapi(address, directory), directory / "old-xapi.log"))
        no_store = _start_store(stack, directory)
        config = _configured(directory, address, port, store=not no_store)
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
        gateway = stack.enter_context(_process("the gateway", command, directory / "gateway.log"))
        listening = _listening(gateway, directory / "control")
        old.wait(lambda: _accepts(directory / "old-xapi"))
        yield Stage(
            directory=directory,
            bus=address,
            url=f"http://{listening.removeprefix('tcp:')}",
            unix=directory / "rpc",
            store=directory / "store" / "socket",
            control=directory / "control",
            config=config,
            log=directory / "gateway.log",
            no_store=no_store,
        )


def _check_programs() -> None:
    if packages := missing(PROGRAMS):
        raise StageError(f"the demo needs more programs: apt-get install {packages}")
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise StageError("the demo needs more of Python: pip install 'xcp-gateway[demo]'")


def missing(programs: Mapping[str, str]) -> str:
    """The packages of those that are not here."""
    return " ".join(sorted({package for program, package in programs.items() if shutil.which(program) is None}))


def _start_store(stack: contextlib.ExitStack, directory: Path) -> str:
    """Start the xenstore; returns nothing, or why there is none."""
    if packages := missing(STORE_PROGRAMS):
        return f"apt-get install {packages}"
    command = [sys.executable, str(material("xenstored") / "start.py"), "--dir", str(directory / "store")]
    store = stack.enter_context(_process("the xenstore", command, directory / "store.log"))
    try:
        store.wait(lambda: _accepts(directory / "store" / "socket"))
    except StageError:
        return store.log.read_text(errors="replace").strip() or "it does not start"
    return ""


def _accepts(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _old_xapi(bus: str, directory: Path) -> Sequence[str]:
    twin = [sys.executable, str(material("toolstack") / "legacy_twin.py"), "xapi", "--address", bus]
    return [*twin, "--listen", f"unix:{directory}/old-xapi", "--switches", f"{directory}/old-xapi.json"]


def _configured(directory: Path, bus: str, port: int, *, store: bool) -> Path:
    """Write the gateway's config; without a store also mappings that want none."""
    mappings = material("mappings").resolve()
    if not store:
        mappings = shutil.copytree(mappings, directory / "mappings", ignore=shutil.ignore_patterns(IN_STORE))
    config = directory / "gateway.toml"
    text = CONFIG + (STORE if store else "")
    config.write_text(text.format(bus=bus, port=port, directory=directory, mappings=mappings))
    return config


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
