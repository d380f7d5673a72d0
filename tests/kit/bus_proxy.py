"""A proxy between two buses: it owns services' names on one bus and passes each call on to the other.

What it does to calls on the way stands in a file that is read with each call: a pattern of object paths ->
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
from collections.abc import Iterator, Mapping
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


def _rules(file: Path, path: str) -> Mapping[str, float]:
    """The faults of an object's calls."""
    rules = json.loads(file.read_text()) if file.exists() else {}
    return next((rule for pattern, rule in rules.items() if fnmatchcase(path, pattern)), {})


async def _asked(there: MessageBus, call: Message) -> Message:
    reply = await there.call(
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


async def serve(here: str, there: str, rules: str, calls: IO[str], *names: str) -> None:
    """Own the names, print that, and pass calls on until killed."""
    ours = await MessageBus(bus_address=here).connect()
    theirs = await MessageBus(bus_address=there).connect()
    counts: Counter[str] = Counter()
    running: set[asyncio.Task[None]] = set()

    async def carry(call: Message) -> None:
        path = call.path or ""
        rule = _rules(Path(rules), path)
        counts[path] += 1
        count, share, slow = counts[path], rule.get("fail", 0), rule.get("slow", 0)
        failed = int(count * share) > int((count - 1) * share)
        line = {"when": time.time(), "path": call.path, "member": call.member, "body": call.body}
        calls.write(f"{json.dumps({**line, 'failed': failed, 'slow': slow}, default=str)}\n")
        calls.flush()
        await asyncio.sleep(slow)
        await ours.send(Message.new_error(call, ERROR, "made to fail") if failed else await _asked(theirs, call))

    def handle(call: Message) -> bool:
        """Handle every call to a name that the proxy owns."""
        if call.message_type is not MessageType.METHOD_CALL or call.destination not in names:
            return False
        task = asyncio.get_running_loop().create_task(carry(call))
        running.add(task)
        task.add_done_callback(running.discard)
        return True

    ours.add_message_handler(handle)
    for name in names:
        await ours.request_name(name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await ours.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


if __name__ == "__main__":
    with Path(sys.argv[4]).open("a") as file:
        here, there, rules = sys.argv[1:4]
        asyncio.run(serve(here, there, rules, file, *sys.argv[5:]))
