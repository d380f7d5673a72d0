"""Makes each call of the demo, checks it and prints it: the call, the method calls that the bus saw, the answer.

The bus is watched by dbus-monitor, a program that is not ours. To know that everything up to now was read, a mark (a
call with a path of its own) is sent over the bus and waited for; so nothing depends on how fast the machine is.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

TIMEOUT = 60.0  # seconds for dbus-monitor to show a mark
WIDTH = 160  # characters of an answer that are printed
MOST_SEEN = 20  # method calls of one call of a client that are printed singly
GATEWAY, OLD = "gateway", "old xapi"  # the programs that call D-Bus for the two sides of a method
SIDES = frozenset((GATEWAY, OLD))

Expectation = Callable[[Any], bool]
out = Console(highlight=False)

_METHOD_CALL = re.compile(
    r"^method call .* sender=(\S+) -> destination=(\S+) .* path=(\S+); interface=(\S+); member=(\S+)$"
)
_DRIVER = "org.freedesktop.DBus"


class CommandOutput(str):
    """What a command printed, with its colours: an answer that is printed unchanged."""

    __slots__ = ()


class CallCheck(Protocol):
    """Makes one call of the demo and checks it."""

    def __call__(
        self,
        client: str,
        call: str,
        target: str,
        make_call: Callable[[], Any],
        expected: Expectation,
        senders: Collection[str] = (),
    ) -> Any:
        """Make a call, and record whether its target and its answer were right; return the answer.

        `target`: the end of the method call that must be seen on the bus; empty: none may be seen. `senders`: the
        programs among `SIDES` that must call, and no others.
        """


def equals(expected: object) -> Expectation:
    """The answer must be this value, of this type."""
    return lambda answer: type(answer) is type(expected) and answer == expected


class Reporter:
    """Makes, checks and prints calls, and counts those that were right; a `CallCheck`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.right = 0
        self.wrong = 0
        self.calls: list[Mapping[str, object]] = []  # what was printed of each call

    @property
    def total(self) -> int:
        """The number of calls so far."""
        return self.right + self.wrong

    def __call__(
        self,
        client: str,
        call: str,
        target: str,
        make_call: Callable[[], Any],
        expected: Expectation,
        senders: Collection[str] = (),
    ) -> Any:
        """See `CallCheck`."""
        try:
            answer = make_call()
        except Exception as error:  # noqa: BLE001 - whatever a third-party client raises is a wrong answer, and printed
            answer = error
        seen = self._monitor.read_calls()
        good = reached_target(seen, target, senders) and _is_expected(answer, expected)
        self.right += good
        self.wrong += not good
        text = Text.from_ansi(answer).plain if isinstance(answer, CommandOutput) else repr(answer)
        self.calls.append({"client": client, "call": call, "bus": list(map(str, seen)), "answer": text, "right": good})
        _print_call(client, call, good=good)
        _print_seen(seen, silent=isinstance(answer, CommandOutput))
        _print_answer(answer)
        return answer


def reached_target(seen: Sequence[SeenCall], target: str, senders: Collection[str]) -> bool:
    """Whether the wanted method call was made, and by the wanted programs."""
    fits = any(str(one).endswith(target) for one in seen) if target else not seen
    return fits and (not senders or {one.sender for one in seen} & SIDES == set(senders))


def _is_expected(answer: Any, expected: Expectation) -> bool:
    try:
        return not isinstance(answer, Exception) and expected(answer)
    except (LookupError, TypeError, AttributeError, ValueError):  # not even of the expected kind
        return False


def _print_call(client: str, call: str, *, good: bool) -> None:
    mark = ("  ✓ ", "green") if good else ("  ✗ ", "bold red")
    _print("", Text.assemble(mark, (f"{client:16}", "cyan")), Text(call))


def _print_seen(seen: Sequence[SeenCall], *, silent: bool) -> None:
    """Print what the bus saw; of many calls one line for each member of a service, with their number.

    `silent`: print nothing when the bus saw nothing, since this kind of call never makes one.
    """
    lines = [str(one) for one in seen]
    if len(seen) > MOST_SEEN:
        members = Counter(f"{one.sender} → {one.destination} {one.interface}.{one.member}" for one in seen)
        lines = [f"{line} ({number} times)" if number > 1 else line for line, number in members.items()]
    for line in lines or ([] if silent else ["(nothing on the bus)"]):
        _print("      ", Text("bus     ", "dim"), Text(line, "dim"))


def _print_answer(answer: Any) -> None:
    if isinstance(answer, CommandOutput):
        for line in Text.from_ansi(answer).split():
            line.rstrip()
            _print("      ", Text(), line)
        return
    text = repr(answer)
    _print("      ", Text("answer  "), Text(text if len(text) <= WIDTH else text[:WIDTH] + " ..."))


def _print(indent: str, label: Text, text: Text) -> None:
    """Print a line; a terminal that is too narrow gets the rest below the beginning of `text`."""
    if not out.is_terminal:
        out.print(Text.assemble(indent, label, text), soft_wrap=True)
        return
    line = Table.grid(padding=0)
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(Text.assemble(indent, label), text)
    out.print(line)


# The bus monitor


class MonitorError(Exception):
    """dbus-monitor does not show the calls of the bus."""


@dataclass(frozen=True, slots=True)
class SeenCall:
    """One method call on the bus. `sender`: the name of its program, or its unique name when the program has ended."""

    sender: str
    destination: str
    object_path: str
    interface: str
    member: str

    def __str__(self) -> str:
        return f"{self.sender} → {self.destination} {self.object_path} {self.interface}.{self.member}"


class Monitor:
    """A running dbus-monitor of one bus."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._rest = b""
        self._marks = 0
        self._senders: dict[str, str] = {}
        command = ["dbus-monitor", "--address", address, "type='method_call'"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        self.read_calls()  # it is attached once it has shown a mark
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def read_calls(self) -> list[SeenCall]:
        """Return every method call to the toolstack since the last time, in their order; raises MonitorError."""
        self._marks += 1
        mark = f"/mark/{self._marks}"
        seen: list[SeenCall] = []
        end = time.monotonic() + TIMEOUT
        self._send(mark)
        while time.monotonic() < end:
            lines = self._read(0.1)
            for call in map(_method_call, lines):
                if call is not None and call.object_path == mark:
                    return seen
                if call is not None and call.destination.startswith("org.xen.xcp."):
                    seen.append(replace(call, sender=self._sender_name(call.sender)))
            if not lines:
                self._send(mark)  # the first marks are sent before dbus-monitor is attached
        raise MonitorError(
            f"dbus-monitor shows nothing of {self._address} within {TIMEOUT:g} s; does it run by itself?"
        )

    def _send(self, mark: str) -> None:
        self._call_driver("--type=method_call", mark, f"{_DRIVER}.GetId")

    def _sender_name(self, sender: str) -> str:
        if sender not in self._senders:
            question = f"{_DRIVER}.GetConnectionUnixProcessID", f"string:{sender}"
            answer = self._call_driver("--print-reply=literal", "/org/freedesktop/DBus", *question).split()
            self._senders[sender] = program(int(answer[-1])) if answer else sender
        return self._senders[sender]

    def _call_driver(self, *arguments: str) -> str:
        """Return the answer of the bus itself, or the empty text when it is an error."""
        command = ["dbus-send", f"--bus={self._address}", f"--dest={_DRIVER}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def _read(self, seconds: float) -> list[str]:
        """Return the whole lines that arrive within `seconds`."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return []
        self._rest += os.read(self._process.stdout.fileno(), 65536)
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]


def _method_call(line: str) -> SeenCall | None:
    match = _METHOD_CALL.match(line)
    return None if match is None else SeenCall(*match.groups())


def program(pid: int) -> str:
    """Return the name of the program that a process runs."""
    try:
        return program_name(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0"))
    except OSError:
        return f"process {pid}"


def program_name(command: Sequence[str]) -> str:
    """Return `xapi` for xapi.py, `old xapi` for `legacy_twin.py xapi`, `gateway` for the gateway."""
    scripts = [(Path(word).stem, after) for word, after in pairwise((*command, "")) if word.endswith(".py")]
    if scripts:
        stem, after = scripts[0]
        return f"old {after}" if stem == "legacy_twin" else stem
    return "gateway" if "gateway" in command else Path(command[0]).name
