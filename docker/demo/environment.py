"""Starts the environment of the demo (bus, sample toolstack, old xapi, xenstore, gateway), and stops all of it."""

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

START_TIMEOUT = 120.0  # seconds for a process to be ready, on the slowest machine
DEFERRED = (signal.SIGINT, signal.SIGTERM)

CONFIG = """\
[bus.toolstack]
address  = "{bus}"
services = ["org.xen.xcp.*"]

[listener.rpc]
bind = ["tcp:127.0.0.1:{port}", "unix:{directory}/rpc"]
websocket = true
server_sent_events = true

# The sockets of single services, as in docker/dom0.toml.
[listener.xapi]
bind = ["unix:{directory}/xapi"]
trust_root = true
[listener.memory]
bind = ["unix:{directory}/memory"]
[listener.networkd]
bind = ["unix:{directory}/networkd"]
[listener.storage]
bind = ["unix:{directory}/storage"]
[listener.xenopsd]
bind = ["unix:{directory}/xenopsd"]

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

[admin]
web = "tcp:127.0.0.1:0"
socket = "{directory}/admin"

[state]
file = "{directory}/state.db"

[log]
format = "console"
"""

STORE = """
[listener.store]
bind = ["xenstore:{directory}/store/socket"]
"""
IN_STORE = "*-xenstore.yaml"  # the mapping files that need a store

# Third-party programs that the demo runs, and their Debian packages.
PROGRAMS: Mapping[str, str] = {
    "dbus-daemon": "dbus-daemon",
    "dbus-monitor": "dbus-bin",
    "dbus-send": "dbus-bin",
    "curl": "curl",
}
# For the clients in a xenstore; without them the demo skips those. (start.py checks what xenstored itself needs.)
STORE_PROGRAMS: Mapping[str, str] = {
    "cc": "gcc",
    "xenstore-write": "xenstore-utils",
    "xenstore-watch": "xenstore-utils",
}
PACKAGES = ("dbus_next", "XenAPI", "jsonrpclib")  # Python packages of the extra `demo`


class StartError(Exception):
    """The demo cannot start; the text gives the reason and the cure."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The addresses and files of what runs. `url`: for legacy clients. `no_store`: why there is no store."""

    directory: Path
    bus: str
    url: str
    unix: Path
    store: Path  # XENSTORED_PATH of its clients
    admin: Path
    config: Path
    log: Path
    no_store: str = ""

    @property
    def switches(self) -> Path:
        """The JSON file that makes the old xapi misbehave (docker/toolstack/legacy_switches.py)."""
        return self.directory / "old-xapi.json"


def find_folder(name: str) -> Path:
    """Return the folder `mappings`, `toolstack`, `bus` or `xenstored`, of the checkout or of an installed gateway."""
    checkout = Path(__file__).parents[2]
    installed = Path(sysconfig.get_path("data")) / "share" / "xcp-gateway" / name
    for place in (checkout / name, checkout / "docker" / name, installed):
        if place.is_dir():
            return place
    raise StartError(f"the folder '{name}' is missing: expected {installed}; install xcp-gateway again")


@contextlib.contextmanager
def start_environment(port: int = 0) -> Iterator[Environment]:
    """Start everything, and stop it when the block ends. `port`: of the gateway; 0 is any free one."""
    _check_programs()
    with tempfile.TemporaryDirectory(prefix="xcp-demo-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        address, command = _render_bus(directory)
        bus = stack.enter_context(_process("the bus", command, directory / "bus.log"))
        bus.wait((directory / "bus").is_socket)
        old = stack.enter_context(_process("the old xapi", _old_xapi(address, directory), directory / "old-xapi.log"))
        no_store = _start_store(stack, directory)
        config = _write_config(directory, address, port, store=not no_store)
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
        gateway = stack.enter_context(_process("the gateway", command, directory / "gateway.log"))
        listening = _wait_for_gateway(gateway, directory / "admin")
        old.wait(lambda: _accepts(directory / "old-xapi"))
        yield Environment(
            directory=directory,
            bus=address,
            url=f"http://{listening.removeprefix('tcp:')}",
            unix=directory / "rpc",
            store=directory / "store" / "socket",
            admin=directory / "admin",
            config=config,
            log=directory / "gateway.log",
            no_store=no_store,
        )


def _check_programs() -> None:
    if packages := missing_packages(PROGRAMS):
        raise StartError(f"the demo needs programs that are not installed: apt-get install {packages}")
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise StartError("the demo needs Python packages that are not installed: pip install 'xcp-gateway[demo]'")


def missing_packages(programs: Mapping[str, str]) -> str:
    """Return the packages of the programs that are not installed."""
    return " ".join(sorted({package for program, package in programs.items() if shutil.which(program) is None}))


def _start_store(stack: contextlib.ExitStack, directory: Path) -> str:
    """Start the xenstore; return the empty text, or the reason why there is none."""
    if packages := missing_packages(STORE_PROGRAMS):
        return f"apt-get install {packages}"
    command = [sys.executable, str(find_folder("xenstored") / "start.py"), "--dir", str(directory / "store")]
    store = stack.enter_context(_process("the xenstore", command, directory / "store.log"))
    try:
        store.wait(lambda: _accepts(directory / "store" / "socket"))
    except StartError:
        return store.log.read_text(errors="replace").strip() or "it did not start"
    return ""


def _accepts(path: Path) -> bool:
    """Whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _old_xapi(bus: str, directory: Path) -> Sequence[str]:
    twin = [sys.executable, str(find_folder("toolstack") / "legacy_twin.py"), "xapi", "--address", bus]
    return [*twin, "--listen", f"unix:{directory}/old-xapi", "--switches", f"{directory}/old-xapi.json"]


def _write_config(directory: Path, bus: str, port: int, *, store: bool) -> Path:
    """Write the gateway's config, and a copy of the mappings, which `promote` may change; without a store those that
    need none."""
    ignored = None if store else shutil.ignore_patterns(IN_STORE)
    mappings = shutil.copytree(find_folder("mappings"), directory / "mappings", ignore=ignored)
    config = directory / "gateway.toml"
    text = CONFIG + (STORE if store else "")
    config.write_text(text.format(bus=bus, port=port, directory=directory, mappings=mappings))
    return config


def _render_bus(directory: Path) -> tuple[str, Sequence[str]]:
    """Write the configuration of the bus; return its address and the command that starts it."""
    render = [sys.executable, str(find_folder("bus") / "render.py"), "--dir", str(directory)]
    done = subprocess.run(
        [*render, "--toolstack", str(find_folder("toolstack"))], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StartError(done.stderr.strip())
    address, command = done.stdout.splitlines()[:2]
    return address, shlex.split(command)


@dataclass(frozen=True, slots=True)
class _Process:
    """A process that runs until the environment is stopped."""

    what: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready; raises StartError when it ends or takes too long."""
        end = time.monotonic() + START_TIMEOUT
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise StartError(f"{self.what} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)


@contextlib.contextmanager
def _process(what: str, command: Sequence[str], log: Path) -> Iterator[_Process]:
    process = None
    try:
        with log.open("wb") as file, _signals_deferred():
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=Path(__file__).parents[2])
        yield _Process(what, log, process)
    finally:
        if process is not None:
            _end(process)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM: between fork and assignment a new process would have no owner to stop it."""
    pending: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: pending.append(number)) for number in DEFERRED}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_gateway(gateway: _Process, admin: Path) -> str:
    """Wait until the gateway is ready; return its first address."""
    addresses: list[str] = []

    def ready() -> bool:
        try:
            status = client.ask(admin, "GET", "/v1/status")
        except client.UnreachableError:
            return False
        addresses[:] = status["listening"]
        return bool(status["ready"])

    gateway.wait(ready)
    return addresses[0]
