"""A proxy between two buses: it owns services' names on one bus and passes each call on to the other.

What it does to calls on the way stands in a file that is read again whenever it changes: a pattern of object paths ->
`slow` (seconds before the answer), `fail` (the share of calls that are answered with an error and not handed on). Each
call of an object is a line in another file: when it came, its path, member and body, what was done to it.
Run: python -m tests.kit.bus_proxy HERE THERE RULES CALLS NAME...
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from tests.kit.programs import json_lines, speaking

ERROR = "org.freedesktop.DBus.Error.Failed"


@dataclass(frozen=True)
class BusProxy:
    """The process."""

    process: subprocess.Popen[str]
    rules: Path
    calls: Path

    def switch(self, rules: Mapping[str, Mapping[str, float]]) -> None:
        """Set the faults from the next call on: pattern of object paths -> slow, fail; none: no faults."""
        new = self.rules.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.rules)

    def called(self) -> list[dict[str, Any]]:
        return json_lines(self.calls)


@contextmanager
def bus_proxy(here: str, there: str, folder: Path, *names: str) -> Iterator[BusProxy]:
    """Serve these names on the bus `here` with the answers of the bus `there`."""
    rules, calls = folder / "between.json", folder / "between.calls"
    calls.touch()
    command = [sys.executable, "-m", "tests.kit.bus_proxy", here, there, str(rules), str(calls), *names]
    with speaking(*command) as (process, _):
        yield BusProxy(process, rules, calls)


class _Porter:
    def __init__(self, here: MessageBus, there: MessageBus, rules: Path, calls: IO[str], names: Sequence[str]) -> None:
        self._here = here
        self._there = there
        self._file = rules
        self._calls = calls
        self._names = names
        self._seen = 0
        self._rules: Mapping[str, Mapping[str, float]] = {}
        self._count: Counter[str] = Counter()
        self._running: set[asyncio.Task[None]] = set()

    def handle(self, call: Message) -> bool:
        """Handle every call to a name that the proxy owns."""
        if call.message_type is not MessageType.METHOD_CALL or call.destination not in self._names:
            return False
        task = asyncio.get_running_loop().create_task(self._carry(call))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _carry(self, call: Message) -> None:
        path = call.path or ""
        rules = self._of(path)
        self._count[path] += 1
        count, share = self._count[path], rules.get("fail", 0)
        failed = int(count * share) > int((count - 1) * share)
        line = {"when": time.time(), "path": call.path, "member": call.member, "body": call.body, "failed": failed}
        line["slow"] = slow = rules.get("slow", 0)
        self._calls.write(f"{json.dumps(line, default=str)}\n")
        self._calls.flush()
        await asyncio.sleep(slow)
        await self._here.send(Message.new_error(call, ERROR, "made to fail") if failed else await self._asked(call))

    async def _asked(self, call: Message) -> Message:
        reply = await self._there.call(
            Message(
                destination=call.destination,
                path=call.path,
                interface=call.interface,
                member=call.member,
                signature=call.signature,
                body=call.body,
            )
        )
        assert reply is not None
        return Message(
            message_type=reply.message_type,
            destination=call.sender,
            reply_serial=call.serial,
            error_name=reply.error_name,
            signature=reply.signature,
            body=reply.body,
        )

    def _of(self, path: str) -> Mapping[str, float]:
        try:
            seen = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if seen != self._seen:
            self._rules, self._seen = json.loads(self._file.read_text()), seen
        return next((rule for pattern, rule in self._rules.items() if fnmatchcase(path, pattern)), {})


async def serve(here: str, there: str, rules: str, calls: IO[str], *names: str) -> None:
    """Own the names, print that, and pass calls on until killed."""
    ours = await MessageBus(bus_address=here).connect()
    theirs = await MessageBus(bus_address=there).connect()
    ours.add_message_handler(_Porter(ours, theirs, Path(rules), calls, names).handle)
    for name in names:
        await ours.request_name(name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await ours.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


if __name__ == "__main__":
    with Path(sys.argv[4]).open("a") as file:
        here, there, rules = sys.argv[1:4]
        asyncio.run(serve(here, there, rules, file, *sys.argv[5:]))
