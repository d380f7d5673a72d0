"""What the bus carried, and from whom, as dbus-monitor tells it. Knows no call of the demo."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 60.0  # seconds until we say that the monitor shows nothing

_METHOD_CALL = re.compile(
    r"^method call .* sender=(\S+) -> destination=(\S+) .* path=(\S+); interface=(\S+); member=(\S+)$"
)
_DRIVER = "org.freedesktop.DBus"


class MonitorError(Exception):
    """dbus-monitor does not show what is on the bus."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One method call on the bus. `sender`: what its program is called here, or its unique name when it has gone."""

    sender: str
    destination: str
    object_path: str
    interface: str
    member: str

    def __str__(self) -> str:
        return f"{self.sender} → {self.destination} {self.object_path} {self.interface}.{self.member}"


class Monitor:
    """A dbus-monitor process, read up to marks that we put on the bus ourselves: nothing is waited for in vain."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._rest = b""
        self._marks = 0
        self._senders: dict[str, str] = {}
        command = ["dbus-monitor", "--address", address, "type='method_call'"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        self.since_last_time()  # it watches once it has seen a mark
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def since_last_time(self) -> list[Seen]:
        """Every method call to the toolstack since this was last asked, in the order of the bus."""
        self._marks += 1
        mark = f"/mark/{self._marks}"
        seen: list[Seen] = []
        end = time.monotonic() + PATIENCE
        self._send(mark)
        while time.monotonic() < end:
            lines = self._read(0.1)
            for call in map(_method_call, lines):
                if call is not None and call.object_path == mark:
                    return seen
                if call is not None and call.destination.startswith("org.xen.xcp."):
                    seen.append(replace(call, sender=self._named(call.sender)))
            if not lines:
                self._send(mark)  # the first marks come before dbus-monitor has attached itself
        raise MonitorError(f"dbus-monitor shows nothing of {self._address}")

    def _send(self, mark: str) -> None:
        self._driver("--type=method_call", mark, f"{_DRIVER}.GetId")

    def _named(self, sender: str) -> str:
        if sender not in self._senders:
            of = f"{_DRIVER}.GetConnectionUnixProcessID", f"string:{sender}"
            answer = self._driver("--print-reply=literal", "/org/freedesktop/DBus", *of).split()
            self._senders[sender] = program(int(answer[-1])) if answer else sender
        return self._senders[sender]

    def _driver(self, *arguments: str) -> str:
        """What the bus itself answers; nothing when that is an error."""
        command = ["dbus-send", f"--bus={self._address}", f"--dest={_DRIVER}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def _read(self, seconds: float) -> list[str]:
        """The whole lines that came within `seconds`."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return []
        self._rest += os.read(self._process.stdout.fileno(), 65536)
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]


def _method_call(line: str) -> Seen | None:
    match = _METHOD_CALL.match(line)
    return None if match is None else Seen(*match.groups())


def program(pid: int) -> str:
    """What a process runs, in a word or two."""
    try:
        return called(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0"))
    except OSError:
        return f"process {pid}"


def called(words: Sequence[str]) -> str:
    """`xapi` for xapi.py, `old xapi` for `legacy_twin.py xapi`, `gateway` for ours."""
    scripts = [(Path(word).stem, after) for word, after in pairwise((*words, "")) if word.endswith(".py")]
    if scripts:
        stem, after = scripts[0]
        return f"old {after}" if stem == "legacy_twin" else stem
    return "gateway" if "gateway" in words else Path(words[0]).name
