"""What the bus carried, as dbus-monitor tells it."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PATIENCE = 20.0  # seconds until we say that the monitor shows nothing

_METHOD_CALL = re.compile(r"^method call .* destination=(\S+) .* path=(\S+); interface=(\S+); member=(\S+)$")


class MonitorError(Exception):
    """dbus-monitor does not show what is on the bus."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One method call on the bus."""

    destination: str
    object_path: str
    interface: str
    member: str

    def __str__(self) -> str:
        return f"{self.destination} {self.object_path} {self.interface}.{self.member}"


class Monitor:
    """A dbus-monitor process, read up to marks that we put on the bus ourselves: nothing is waited for in vain."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._rest = b""
        self._marks = 0
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
                    seen.append(call)
            if not lines:
                self._send(mark)  # the first marks come before dbus-monitor has attached itself
        raise MonitorError(f"dbus-monitor shows nothing of {self._address}")

    def _send(self, mark: str) -> None:
        to = [f"--bus={self._address}", "--type=method_call", "--dest=org.freedesktop.DBus"]
        subprocess.run(["dbus-send", *to, mark, "org.freedesktop.DBus.GetId"], check=True)

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
