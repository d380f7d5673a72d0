"""One of several processes that share a state file: decides what it is told to, and says what it sees.

Run: state_peer.py FILE NAME. A line "N" on its standard input makes it decide on the pattern NAME.N, and it answers
"decided N" or "refused WHY". It says "started" once, and "sees PATTERN..." or "trouble WORDS" for each change.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.state import file
from gateway.state.store import StateStore
from tests.kit.kept import mode

PATIENCE = 60.0  # seconds that the file has: a busy machine is no trouble


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def peer(path: Path, name: str) -> None:
    """Until nobody asks any more."""
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)

    def changed() -> None:
        seen = sorted(each.pattern for each in state.overrides)
        say(*(["trouble", state.trouble] if state.trouble else ["sees", *seen]))

    file.LOCK_PATIENCE = PATIENCE  # all decide at once
    async with StateStore(path, changed, patience=PATIENCE) as state:
        say("started", state.trouble)
        while number := (await told.readline()).decode().strip():
            refused = await state.decide(mode(f"{name}.{number}"))
            say(*(["refused", refused.why] if refused else ["decided", number]))


if __name__ == "__main__":
    asyncio.run(peer(Path(sys.argv[1]), sys.argv[2]))
