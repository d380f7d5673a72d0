"""A program that decides and flushes without end, and says on standard output what was confirmed to it.

For each line on its standard input it starts such a process, so that a test can kill many in little time: it answers
with the process's id, and a line for each confirmation, "decided N" or "flushed N". Run: state_writer.py FILE
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
from gateway.state.store import StateStore

PATTERNS = 7
ROLLOUT = "story"


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
            say(f"trouble {state.trouble}")
        for number in count(last(state)[0] + 1):
            refused = await state.decide(decision(number, last(state)[1]))
            say(f"decided {number}" if refused is None else f"refused {refused.why}")
            refused = await state.flush(observed(number))
            say(f"flushed {number}" if refused is None else f"refused {refused.why}")


def say(line: str) -> None:
    """Tell the test, at once."""
    os.write(1, f"{line}\n".encode())


def main() -> None:
    """Start a process for each line, and wait for its end before the next."""
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            asyncio.run(write(Path(sys.argv[1])))
        say(f"pid {pid}")
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main()
