"""The programs that a test may run: those of scripts/setup, and those of every Debian; ports for them, and waits."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0  # seconds until a test that waits gives up
SYSTEM = ("/bin/", "/sbin/", "/usr/")  # programs elsewhere belong to a test or to .venv
XEN = "/usr/lib/xen-"  # of the package that scripts/setup finds by its version
ESSENTIAL = frozenset({"bash", "cat", "echo", "false", "prlimit", "sh", "sleep", "test", "timeout", "true", "uname"})
SOUGHT = frozenset({"python3", "unshare"})  # a test that runs one looks for it first, and is skipped without it


def promised(which: str = "--programs") -> Mapping[str, str]:
    """Program -> its package, as scripts/setup installs them; `--optional`: those without which tests are skipped."""
    done = subprocess.run([ROOT / "scripts/setup", which], capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def forbid_others() -> None:
    """Make this process fail an assertion when it starts another program."""
    known = promised().keys() | promised("--optional").keys() | ESSENTIAL | SOUGHT

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            path = (arguments[3] or os.environ).get("PATH")  # in the environment of the program
            program = shutil.which(os.fsdecode(arguments[0]), path=path) or os.fsdecode(arguments[0])
            of_system = "/" not in program or (program.startswith(SYSTEM) and program != sys.executable)
            if of_system and not program.startswith(XEN):
                assert Path(program).name in known, (
                    f"{program}: not in PACKAGE of scripts/setup; add it there with its package"
                )

    sys.addaudithook(look)


def json_lines(file: Path) -> list[Any]:
    """The lines of a file to which another process appends; not the last one while it is being written."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def until(read: Callable[[], T], holds: Callable[[T], object] = bool) -> T:
    """Read until it is true (or `holds`) what other processes or threads say; return what was read."""
    end = time.monotonic() + TIMEOUT
    while not holds(found := read()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


@contextmanager
def speaking(*command: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a program until the block ends; with the first line that it prints, which says that it is ready."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            assert said, f"{command} did not start"
            yield process, said
        finally:
            process.kill()


def resident_bytes(pid: int, what: str = "VmRSS") -> int:
    """Memory of a process (VmRSS), or the most that it has had (VmHWM)."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def free_port() -> int:
    """A TCP port for a program that cannot choose one: below those that the kernel gives to any other."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.SystemRandom().sample(range(10_000, max(first, 20_000)), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")
