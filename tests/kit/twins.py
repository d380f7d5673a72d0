"""The legacy services of the sample toolstack as real processes, and the file that makes one misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "docker/toolstack/legacy_twin.py"
PATIENCE = 60.0


@dataclass(frozen=True)
class Twin:
    """One legacy service. `url`: as the config has it."""

    process: subprocess.Popen[str]
    url: str
    file: Path
    calls: Path

    def called(self) -> list[dict[str, Any]]:
        """Every call so far: when, method, params."""
        return [json.loads(line) for line in self.calls.read_text().splitlines()] if self.calls.exists() else []

    def switch(self, **rules: Any) -> None:
        """Make it misbehave from the next call on: method or pattern -> what is wrong; nothing: well-behaved."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.file)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE)


@contextmanager
def twin(
    service: str, bus: str, directory: Path, *, tcp: bool = False, port: int = 0, json: bool = False
) -> Iterator[Twin]:
    """Run one beside the D-Bus services on this bus until the block ends; `port` 0 is any free one."""
    socket = directory / f"old-{service}"
    file = directory / f"old-{service}.json"
    calls = directory / f"old-{service}.calls"
    command = [sys.executable, str(PROGRAM), service, "--address", bus, "--switches", str(file), "--calls", str(calls)]
    command += ["--listen", f"tcp:127.0.0.1:{port}" if tcp else f"unix:{socket}", *(["--json"] if json else [])]
    with _running(command) as (process, listening):
        yield Twin(process, listening.replace("tcp:", "http://").replace("unix:", "http+unix://"), file, calls)


@contextmanager
def squeezed_over_xenstore(bus: str, store: Path, directory: Path, root: str = "/squeezed") -> Iterator[Twin]:
    """The old squeezed as it was before it had a socket."""
    file, calls = directory / "old-store.json", directory / "old-store.calls"
    command = [sys.executable, str(PROGRAM), "squeezed", "--address", bus, "--switches", str(file)]
    command += ["--calls", str(calls), "--store", str(store), "--root", root]
    with _running(command) as (process, url):
        yield Twin(process, url, file, calls)


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline().strip()
        assert said, "the twin did not start"
        yield process, said
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
