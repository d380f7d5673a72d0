"""A process that is killed at any moment loses no decision that was confirmed to it, and leaves none by halves."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.state import evidence
from tests.kit.programs import ROOT
from tests.kit.state_programs import PATTERNS, ROLLOUT

ROUNDS = 100
MOST = 8  # confirmations that a process is heard to give before it is killed
LATER = 0.004  # seconds after that, at most


class Writer:
    """Starts processes that write, kills them, and remembers what was confirmed to them."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "tests.kit.state_programs", "writer", str(path)]
        self.program = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.decided = -1  # the last one
        self.flushed = self.killed = 0  # how many

    def round(self, chance: random.Random) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write("go\n")
        self.program.stdin.flush()
        heard = self._hear()
        pid = next(int(number) for word, number in heard if word == "pid")
        for _ in range(chance.randint(0, MOST)):
            next(heard)
        time.sleep(chance.uniform(0, LATER))
        os.kill(pid, signal.SIGKILL)
        self.killed += 1
        for word, _ in heard:
            if word == "gone":
                return

    def _hear(self) -> Iterator[tuple[str, str]]:
        assert self.program.stdout is not None
        for line in self.program.stdout:
            word, _, rest = line.strip().partition(" ")
            assert word in ("pid", "gone", "decided", "flushed"), line
            if word == "decided":
                self.decided = int(rest)
            elif word == "flushed":
                self.flushed += 1
            yield word, rest


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    writer = Writer(path)
    try:
        yield writer
    finally:
        os.killpg(writer.program.pid, signal.SIGKILL)
        writer.program.communicate()


def check(path: Path, writer: Writer) -> None:
    """What is in the file, against what was confirmed."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            assert writer.decided == -1
            return
        noted = [int(why) for (why,) in db.execute("SELECT why FROM audit ORDER BY id")]
        last = len(noted) - 1
        assert noted == list(range(last + 1))  # each once, in order
        assert (
            writer.decided <= last <= writer.decided + 1
        )  # all that was confirmed, and one that could not be any more
        writer.decided = last
        rollouts = db.execute("SELECT name, document FROM rollout").fetchall()
        assert rollouts == ([(ROLLOUT, str(last))] if last >= 0 else [])
        overrides = {int(why) for (why,) in db.execute("SELECT why FROM override")}
        assert overrides == set(noted[-PATTERNS:])
        counted = sum(counts.counters["equal"] for counts in evidence.total(db).values())
        assert writer.flushed <= counted <= writer.flushed + writer.killed
        assert db.execute("SELECT count(*) FROM pair").fetchone() == (min(counted, evidence.PAIRS_OF_METHOD),)


def test_no_confirmed_decision_is_lost_and_none_is_there_by_halves(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    chance = random.Random(5)
    with writing(path) as writer:
        while min(writer.killed, writer.decided, writer.flushed) < ROUNDS:
            writer.round(chance)
            check(path, writer)
