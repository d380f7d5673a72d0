"""Real xenstores for tests, the `xenstore-*` tools, and waits for nodes.

It is the C xenstored unless a test asks for oxenstored, which XCP-ng hosts run. Nothing survives a kill: after `start`
the store holds what a host's does after a boot. The nodes of either are in memory; with `--internal-db=off` (C, 4.17
only) they are in a file, which it deletes when it starts. Watches, transactions and introduced domains belong to a
process and are gone with it. The socket's file stays, and connecting to it is refused until the next start.
`live_update` is how a host changes its store: the new one takes over nodes, watches, connections.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

from adapters.xenstore.client.client import XenstoreClient
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.programs import until as wait_until
from tests.kit.toolstack import load

starting = load(ROOT / "docker/xenstored/start.py")
C_STORE, OXENSTORED = BOTH = starting.STORES


class Tools:
    """The tools on one store."""

    def __init__(self, path: Path | str) -> None:
        self._env = {**os.environ, "XENSTORED_PATH": str(path)}

    def run(self, name: str, *arguments: str, check: bool = True) -> str:
        """Run Debian's `xenstore-NAME`; return its output. `check`: it must succeed."""
        command = [f"xenstore-{name}", *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def put(self, path: str, value: str) -> None:
        self.run("write", path, value)

    def read(self, path: str) -> str | None:
        """Return a value; None when there is no such node."""
        found = self.run("read", path, check=False)
        return found.removesuffix("\n") if found else None

    @contextmanager
    def watching(self, path: str) -> Iterator[Callable[[Callable[[str | None], bool]], str | None]]:
        """Run `xenstore-watch`; yields a function that waits until the value is as wanted, and returns it."""
        with subprocess.Popen(["xenstore-watch", path], env=self._env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")

            def wait(wanted: Callable[[str | None], bool]) -> str | None:
                for _ in lines:
                    value = self.read(path)
                    if wanted(value):
                        return value
                raise AssertionError(f"the watch of {path} ended")

            try:
                yield wait
            finally:
                process.kill()


class Xenstored:
    """One store. `path` is its socket: there when the context is entered, and again after `start`."""

    def __init__(self, directory: Path, *options: str, name: str = C_STORE) -> None:
        self.name = name
        self._store = starting.prepare(directory, _shim(), name, options)
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.path = str(self._store.socket)
        self.tool = Tools(self.path).run

    @property
    def env(self) -> Mapping[str, str]:
        """An environment in which the `xenstore-*` tools and pyxs find the store."""
        return {**os.environ, "XENSTORED_PATH": self.path}

    @property
    def pid(self) -> int:
        """The store's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it accepts."""
        assert self._process is None, "it runs"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._store.command,
                env={**os.environ, **self._store.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started = self._process
        wait_until(lambda: starting.listens(self._store.socket) or started.poll() is not None)
        assert started.poll() is None, self._log.read_text()

    def kill(self) -> None:
        """Kill it and wait until it has ended; clients see the end of their connections."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Kill it if it runs, then start it on the same path, empty."""
        self.kill()
        self.start()

    def live_update(self) -> None:
        """Make the store replace itself by a new process image, which keeps its state."""
        control = self._store.program.with_name("xenstore-control")  # the one in PATH needs Xen
        command = [str(control), "live-update", str(self._store.program)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        restoring = {C_STORE: b"-U", OXENSTORED: b"--live"}[self.name]
        assert restoring in Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0"), (
            "the new one is not told to restore"
        )

    @contextmanager
    def watching(self, *paths: str) -> Iterator[subprocess.Popen[str]]:
        """`xenstore-watch` on these paths; each line of its `stdout` is a path, each watched path being the first."""
        with subprocess.Popen(["xenstore-watch", *paths], env=self.env, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def xenstored(*options: str, name: str = C_STORE) -> Iterator[Xenstored]:
    """Run a store. `options`: its arguments (`-E 5`, ...), for oxenstored lines of its configuration."""
    with tempfile.TemporaryDirectory(prefix="xenstored-") as directory:
        store = Xenstored(Path(directory), *options, name=name)
        store.start()
        try:
            yield store
        finally:
            store.kill()


@cache
def _shim() -> Path:
    """Compiled once for all tests of a run."""
    directory = Path(tempfile.mkdtemp(prefix="xenstored-shim-"))
    atexit.register(shutil.rmtree, directory)
    return Path(starting.compile_shim(directory))


# Nodes


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[XenstoreClient]:
    """A client of the store at this socket."""
    async with XenstoreClient(path) as store, asyncio.timeout(TIMEOUT):
        await store.until_connected()
        yield store


async def until(store: XenstoreClient, path: str, wanted: bytes | Callable[[bytes | None], bool] | None) -> None:
    """Wait until a node has this value, or has none."""
    watch = store.watch(path)
    try:
        async for _ in watch:
            found = await store.read(path)
            if wanted(found) if callable(wanted) else found == wanted:
                return
    finally:
        watch.close()


async def tree(store: XenstoreClient, path: str) -> dict[str, bytes]:
    """Return all nodes with a value below a path, by their relative paths."""
    found: dict[str, bytes] = {}
    waiting = [path]
    while waiting:
        here = waiting.pop()
        value = await store.read(here)
        if value:
            found[here.removeprefix(path).removeprefix("/")] = value
        waiting += [f"{here}/{name}" for name in await store.list(here) or ()]
    return found
