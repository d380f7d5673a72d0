"""Two programs for tests of the state file: `peer` shares the file with others, `writer` is killed while it writes.

`state_programs.py peer FILE NAME`: on a line "N" on standard input it decides on the pattern NAME.N and prints
"decided N" or "refused REASON". It prints "started" once, and "sees PATTERN..." or "trouble TEXT" for each change.

`state_programs.py writer FILE`: for each line on standard input it forks a process that decides and flushes until it is
killed, so that a test can kill many in little time. It prints "pid N", then one line for each confirmation
("decided N", "flushed N"), and "gone" when the process has ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from gateway.core.admin.records import AuditEntry, Change, Counts, CountsBatch, MethodId, MismatchRecord, PutRollout
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.state import file
from gateway.state.store import StateStore
from tests.kit.migrations import mode
from tests.kit.programs import TIMEOUT

PATTERNS = 7
ROLLOUT = "story"


def say(*words: object) -> None:
    """Print one line for the test in one unbuffered write."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def peer(path: Path, name: str) -> None:
    """Decide as the lines on standard input ask, until it ends."""
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    def changed() -> None:
        seen = sorted(each.pattern for each in state.overrides)
        say(*(["trouble", state.trouble] if state.trouble else ["sees", *seen]))

    file.LOCK_PATIENCE = TIMEOUT  # all decide at once
    async with StateStore(path, changed, patience=TIMEOUT) as state:
        say("started", state.trouble)
        while number := (await commands.readline()).decode().strip():
            refused = await state.decide(mode(f"{name}.{number}"))
            say(*(["refused", refused.why] if refused else ["decided", number]))


def decision(number: int, expected: int) -> Change:
    """The n-th: an override, a rollout's document and a line of the audit, which all name it."""
    name = str(number)
    override = Override(f"VM.m{number % PATTERNS}", Setting(Mode.CANARY, number % 100_000), "writer", 1.0, name)
    return Change(
        (AuditEntry(1.0, "writer", "mode", override.pattern, name),),
        (override,),
        rollouts=(PutRollout(ROLLOUT, number, expected),),
    )


def observed(number: int) -> CountsBatch:
    """The n-th observation."""
    method = MethodId("xenopsd", "VM.start")
    return CountsBatch({method: Counts({"equal": 1}, {"dbus": [1]})}, [MismatchRecord(1.0, method, number)])


def last(state: StateStore) -> tuple[int, int]:
    """The number of the last decision, and the version of the rollout that says so."""
    rollout = state.rollouts.get(ROLLOUT)
    return (-1, 0) if rollout is None else (int(str(rollout.document)), rollout.version)


async def write(path: Path) -> None:
    """Go on where the last process was killed."""
    async with StateStore(path) as state:
        if state.trouble:
            say("trouble", state.trouble)
        for number in count(last(state)[0] + 1):
            refused = await state.decide(decision(number, last(state)[1]))
            say(*(["decided", number] if refused is None else ["refused", refused.why]))
            refused = await state.flush(observed(number))
            say(*(["flushed", number] if refused is None else ["refused", refused.why]))


def writer(path: Path) -> None:
    """Fork a process for each line, and wait for its end before the next."""
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            asyncio.run(write(path))
        say("pid", pid)
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", path, name]:
            asyncio.run(peer(Path(path), name))
        case ["writer", path]:
            writer(Path(path))
        case arguments:
            sys.exit(f"unknown arguments {arguments}; expected: peer FILE NAME, or writer FILE")
