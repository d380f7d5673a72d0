"""A real store for one test, on a private folder: starts, dies, comes back; knows nothing of who talks to it.

It is the C xenstored unless a test asks for oxenstored, which XCP-ng hosts run. Nothing survives a kill: after `start`
the store holds what a host's does after a boot. The nodes of either are in memory; with `--internal-db=off` (C, 4.17
only) they are in a file, which it deletes when it starts. Watches, transactions and introduced domains belong to a
process and are gone with it. The socket's file stays, and connecting to it is refused until the next start.
`live_update` is how a host changes its store: the new one takes over nodes, watches, connections.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.kit.toolstack import load

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for it to listen

starting = load(ROOT / "docker/xenstored/start.py")
C_STORE, OXENSTORED = BOTH = starting.STORES


class Xenstored:
    """One store. `path` is its socket: there when the context is entered, and again after `start`."""

    def __init__(self, directory: Path, *options: str, name: str = C_STORE) -> None:
        self.name = name
        self._store = starting.prepare(directory, _shim(), name, options)
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.path = str(self._store.socket)

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
        end = time.monotonic() + PATIENCE
        while not starting.listens(self._store.socket):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, f"it does not listen: {self._log.read_text()}"
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone; clients see the end of their connection."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Kill it if it runs, then start it on the same path, empty."""
        self.kill()
        self.start()

    def terminate(self) -> None:
        """Ask it to end, and wait until it is gone."""
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        process.terminate()
        process.wait(PATIENCE)

    def live_update(self) -> None:
        """Have the store replace itself with a new process image, which goes on where it was."""
        control = self._store.program.with_name("xenstore-control")  # the one in the PATH asks for Xen first
        command = [str(control), "live-update", str(self._store.program)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        restoring = {C_STORE: b"-U", OXENSTORED: b"--live"}[self.name]
        assert restoring in Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0"), (
            "the new one is not told to restore"
        )

    def tool(self, name: str, *arguments: str, check: bool = True) -> str:
        """What Debian's `xenstore-NAME` prints; `check`: it must succeed."""
        command = [f"xenstore-{name}", *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

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
    """A store that runs; options are its own: arguments (`-E 5`, ...), for oxenstored lines of its configuration."""
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
