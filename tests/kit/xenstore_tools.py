"""Debian's `xenstore-*` tools, as a toolstack's scripts use them; knows no gateway."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0  # seconds


class Tools:
    """The tools on one store."""

    def __init__(self, path: Path | str) -> None:
        self._env = {**os.environ, "XENSTORED_PATH": str(path)}

    def run(self, name: str, *arguments: str, check: bool = True) -> str:
        """What `xenstore-NAME` prints."""
        command = [f"xenstore-{name}", *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def put(self, path: str, value: str) -> None:
        """Write one node."""
        self.run("write", path, value)

    def read(self, path: str) -> str | None:
        """A value; None when there is no such node."""
        found = self.run("read", path, check=False)
        return found.removesuffix("\n") if found else None

    @contextmanager
    def watching(self, path: str) -> Iterator[Callable[[Callable[[str | None], bool]], str | None]]:
        """`xenstore-watch`; gives a function that waits until the value of the path is as wanted, and returns it."""
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
