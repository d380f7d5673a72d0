"""Several processes on one state file: they start together, see each other's decisions and survive its being moved."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

from tests.kit.programs import ROOT

SOON = 60.0  # seconds in which what must come comes, on a busy machine


class Peer:
    """One process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.saw = [""]  # its last words about what it sees

    async def heard(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The words of its first line from now on of which that holds."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SOON):
            while words := (await self.process.stdout.readline()).decode().split():
                self.saw = words if words[0] == "sees" else self.saw
                if holds(words):
                    return words
        raise AssertionError(f"{self.name} has ended")

    async def decide(self, number: int) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n".encode())
        return await self.heard(lambda words: words[0] in ("decided", "refused"))

    async def sees(self, *patterns: str) -> None:
        """Wait until it sees exactly these."""
        if self.saw[1:] != sorted(patterns):
            await self.heard(lambda words: words == ["sees", *sorted(patterns)])


@asynccontextmanager
async def peers(path: Path, *names: str) -> AsyncIterator[list[Peer]]:
    async with AsyncExitStack() as stack:
        yield list(await asyncio.gather(*(stack.enter_async_context(_peer(path, name)) for name in names)))


@asynccontextmanager
async def _peer(path: Path, name: str) -> AsyncIterator[Peer]:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.kit.state_programs", "peer", str(path), name]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe)
    try:
        peer = Peer(name, process)
        assert await peer.heard(lambda words: words[0] == "started") == ["started"]
        yield peer
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends when nobody asks any more
        await process.communicate()


async def test_many_that_start_at_once_make_one_file_and_each_sees_what_the_others_decide(tmp_path: Path) -> None:
    path = tmp_path / "lib/state.db"
    async with peers(path, *"abcdef") as started:
        assert await asyncio.gather(*(peer.decide(1) for peer in started)) == [["decided", "1"]] * 6
        await asyncio.gather(*(peer.sees(*(f"{each.name}.1" for each in started)) for peer in started))
    assert list(path.parent.iterdir()) == [path]  # nothing is left beside it when all have ended


async def test_a_file_that_is_moved_away_alone_is_made_anew_once_and_whole(tmp_path: Path) -> None:
    """SQLite would apply the -wal file that stays behind to the new file, and so damage it."""
    path = tmp_path / "lib/state.db"
    async with peers(path, *"abc") as started:
        for peer in started:
            assert await peer.decide(1) == ["decided", "1"]
        before = ["a.1", "b.1", "c.1"]
        await asyncio.gather(*(peer.sees(*before) for peer in started))
        path.rename(tmp_path / "moved")
        await asyncio.gather(*(peer.heard(lambda words: words[0] == "trouble") for peer in started))
        await asyncio.gather(*(peer.heard(lambda words: words[0] == "sees") for peer in started))
        await asyncio.gather(*(peer.sees(*before) for peer in started))
        assert await asyncio.gather(*(peer.decide(2) for peer in started)) == [["decided", "2"]] * 3
        await asyncio.gather(*(peer.sees(*before, "a.2", "b.2", "c.2") for peer in started))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT what FROM audit ORDER BY id").fetchall() == [("restore",), *[("mode",)] * 3]
    assert [name.name.rpartition("-")[0] for name in path.parent.glob("*.left*")] == ["state.db-wal.left"]
