"""The state file in every trouble a file can be in: what holds meanwhile, what is said, and how it gets well again."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from gateway.core.admin.records import Change, PutRollout, StateRefused, StoredState
from gateway.core.migration.modes import Mode
from gateway.state import evidence, file, tables
from gateway.state.file import RETRY, StateFile
from tests.kit.cases import each_case, expect
from tests.kit.migrations import counts_batch, entry, mode, override

NOBODY = 65534
LEGACY, DBUS = override("VM.*", Mode.LEGACY), override("VM.*", Mode.DBUS)


class Clock:
    """Time as a test tells it."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Opened:
    """Files on one path, by one clock, closed at the end."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.files: list[StateFile] = []

    def __call__(self, path: Path | None) -> StateFile:
        made = StateFile(path, now=lambda: 1000.0, clock=self.clock)
        self.files.append(made)
        made.open()
        return made

    def later(self, *looking: StateFile, seconds: float = RETRY) -> None:
        """Some time goes by, and they look."""
        self.clock.time += seconds
        for each in looking:
            each.look()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LOCK_PATIENCE", 0.02)


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    for each in made.files:
        each.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lib/state.db"


def put(into: StateFile, change: Change) -> None:
    assert into.decide(change) is None


def refused(by: StateFile, change: Change | None = None) -> str:
    """Return the answer to an operator who changes something now."""
    result = expect(StateRefused, by.decide(change or mode("SR.*", Mode.OFF)))
    assert not result.conflict
    return result.why


def filled(opened: Opened, path: Path) -> None:
    """A file with one override and so much else that it is larger than SQLite's cache of it."""
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY))
    entries = tuple(entry("x", why="y" * 5000) for _ in range(800))
    put(made, Change(entries))
    made.close()


def junk(path: Path, at: float, size: int = 64 * 1024) -> bytes:
    """Overwrite a part of a file; all that is in it then."""
    length = path.stat().st_size
    with path.open("r+b") as damaged:
        damaged.seek(int(length * at))
        damaged.write(os.urandom(min(size, length)))
    return path.read_bytes()


def test_a_new_file_is_made_with_its_folder_and_is_nobody_elses_business(opened: Opened, path: Path) -> None:
    made = opened(path)
    assert (made.trouble, made.kept) == ("", StoredState())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o750


def test_a_refused_decision_and_a_bug_in_the_middle_of_a_write_leave_nothing_behind(opened: Opened, path: Path) -> None:
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY, PutRollout("r", 1)))
    change = mode("VM.*", Mode.DBUS, PutRollout("other", 1), PutRollout("r", 2, expected=7))
    result = expect(StateRefused, made.decide(change))
    assert result.conflict

    def half(db: sqlite3.Connection) -> None:
        evidence.add(db, "me", counts_batch(equal=1).evidence, 1.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made.write(half, durable=False)
    made.close()
    again = opened(path)
    assert (again.kept, again.kept.overrides) == (made.kept, (LEGACY,))
    assert len(again.read(lambda db: tables.audit(db, 9, 0.0, None))) == 1  # type: ignore[arg-type]
    assert again.read(evidence.total) == {}


def test_only_what_must_survive_a_power_cut_waits_for_the_disk(opened: Opened, path: Path) -> None:
    made = opened(path)
    assert made.write(lambda db: tables.number(db, "synchronous"), durable=True) == 2  # FULL
    assert made.write(lambda db: tables.number(db, "synchronous"), durable=False) == 1  # NORMAL
    assert made.read(lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file in the hands of another program."""
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(made: StateFile) -> Iterator[None]:
    """A disk without room for more pages than there are."""
    assert made._db is not None
    made._db.execute("PRAGMA max_page_count=1")
    yield
    made._db.execute("PRAGMA max_page_count=1000000")


@contextmanager
def bounded() -> Iterator[None]:
    """A process whose files must not grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


TROUBLES: Sequence[tuple[Callable[[StateFile, Path], AbstractContextManager[None]], str]] = (
    (lambda _, path: locked(path), "is locked by another program: end that program"),
    (lambda made, _: full(made), "cannot grow, the disk is full: free some space"),
    (lambda *_: bounded(), "check for a full or failing disk"),
)


@each_case(("trouble", "says"), TROUBLES)
def test_an_open_file_in_trouble_refuses_changes_and_keeps_the_modes_until_that_is_over(
    opened: Opened, path: Path, trouble: Callable[[StateFile, Path], AbstractContextManager[None]], says: str
) -> None:
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY))
    big = Change(tuple(entry(why="x" * 5000) for _ in range(200)), (override("VM.*", Mode.DBUS),))
    before = made.read(evidence.total), made.read(lambda db: tables.audit(db, 9, 0.0, None))
    with trouble(made, path):
        words = refused(made, big)
        assert words.startswith(f"state file {path} ")
        assert (says in words, words) == (True, made.trouble)
        opened.later(made)
        assert made.kept.overrides == (LEGACY,)
        assert (made.read(evidence.total), made.read(lambda db: tables.audit(db, 9, 0.0, None))) == before
    opened.later(made)
    put(made, big)
    assert (made.trouble, made.kept.overrides) == ("", (DBUS,))
    made.close()
    again = opened(path)
    assert (again.trouble, again.kept.overrides) == ("", (DBUS,))


@pytest.fixture
def mortal() -> Iterator[Path]:
    """A folder of somebody who is not root, and who we are while the test runs."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("folder_mode", [0o500, 0o700])
def test_a_file_that_can_only_be_read_still_tells_its_modes(opened: Opened, mortal: Path, folder_mode: int) -> None:
    path = mortal / "state.db"
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY))
    made.close()
    path.chmod(0o400)
    mortal.chmod(folder_mode)
    again = opened(path)
    assert again.kept.overrides == (LEGACY,)
    assert "let the gateway's user write" in again.trouble or "the gateway's user must write there" in again.trouble
    assert refused(again) == again.trouble
    mortal.chmod(0o700)
    for name in mortal.iterdir():
        name.chmod(0o600)
    opened.later(again)
    assert again.trouble == ""
    put(again, mode("VM.*", Mode.DBUS))


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_a_damaged_file_is_left_alone_and_replaced_only_when_it_was_moved_away(
    opened: Opened, path: Path, at: float
) -> None:
    filled(opened, path)
    held = junk(path, at)
    made = opened(path)
    assert "is damaged" in made.trouble
    assert "move it away together with its -wal and -shm files" in made.trouble
    assert refused(made) == made.trouble
    for _ in range(3):
        opened.later(made)
    assert "is damaged" in made.trouble
    assert path.read_bytes() == held
    path.rename(path.with_name("damaged"))
    opened.later(made)
    opened.later(made)
    assert made.trouble == ""
    put(made, mode("VM.*", Mode.DBUS))


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_a_file_that_is_damaged_while_it_is_open_keeps_the_modes_which_a_new_file_gets(
    opened: Opened, path: Path, at: float
) -> None:
    filled(opened, path)
    made = opened(path)
    junk(path, at, 2**24)
    expect(StateRefused, made.read(lambda db: tables.audit(db, 10_000, 0.0, None)))
    opened.later(made)
    assert "is damaged" in made.trouble
    assert len(made.trouble) < 500
    assert made.kept.overrides == (LEGACY,)
    for name in path.parent.iterdir():
        name.rename(name.with_name(f"damaged-{name.name}"))
    opened.later(made)
    opened.later(made)
    assert made.trouble == ""
    again = opened(path)
    assert again.kept.overrides == (LEGACY,)
    (line,) = again.read(lambda db: tables.audit(db, 9, 0.0, None))  # type: ignore[misc]
    assert line.what == "restore"


def test_a_file_that_was_replaced_by_another_is_followed(opened: Opened, path: Path) -> None:
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY))
    backup = path.with_name("backup")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    put(made, mode("VM.*", Mode.DBUS))
    for name in [path, *path.parent.glob("state.db-*")]:
        name.rename(name.with_name(f"old-{name.name}"))
    backup.rename(path)
    opened.later(made)
    opened.later(made)
    assert (made.trouble, made.kept.overrides) == ("", (LEGACY,))


@pytest.mark.parametrize(("by", "version"), [("a newer", tables.VERSION + 1), ("an older", tables.VERSION - 1)])
def test_a_file_of_another_format_is_refused_and_left_alone(opened: Opened, path: Path, by: str, version: int) -> None:
    opened(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version={version}")
    made = opened(path)
    assert f"was written by {by} gateway (format {version}" in refused(made)
    with closing(sqlite3.connect(path)) as same:
        same.execute(f"PRAGMA user_version={tables.VERSION}")
    opened.later(made)
    opened.later(made)
    assert made.trouble == ""


def test_a_file_of_another_program_is_refused_and_left_alone(opened: Opened, tmp_path: Path) -> None:
    database, letter = tmp_path / "cookies.db", tmp_path / "letter.txt"
    with closing(sqlite3.connect(database)) as other:
        other.execute("CREATE TABLE cookie (x)")
    letter.write_text("Dear operator, " * 100)
    for path, says in ((database, "belongs to another program"), (letter, "is damaged, or is not a state file")):
        before = path.read_bytes()
        assert says in refused(opened(path))
        assert path.read_bytes() == before
    assert "cannot be opened" in refused(opened(tmp_path))


def test_a_folder_that_is_not_there_is_named_and_the_file_is_made_when_it_is(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "a/b/state.db"
    made = opened(path)
    assert refused(made).startswith(f"state file {path} cannot be opened: its directory must exist")
    path.parent.mkdir(parents=True)
    opened.later(made)
    assert made.trouble == ""


def test_a_row_that_nobody_can_read_keeps_the_modes_and_is_named_until_it_is_mended(opened: Opened, path: Path) -> None:
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY))
    with closing(sqlite3.connect(path, isolation_level=None)) as editor:
        editor.execute("UPDATE override SET setting = replace(setting, 'legacy', 'lagacy')")
        made.look()
        assert "override of 'VM.*': 'lagacy' is not a valid Mode" in made.trouble
        assert made.kept.overrides == (LEGACY,)
        assert "lagacy" in refused(made)
        editor.execute("UPDATE override SET setting = replace(setting, 'lagacy', 'legacy')")
    opened.later(made)
    assert (made.trouble, made.kept.overrides) == ("", (LEGACY,))


def test_what_is_held_is_written_once_the_file_is_good_in_its_order(opened: Opened, path: Path) -> None:
    made, other = opened(path), opened(path)
    put(made, mode("VM.*", Mode.LEGACY, PutRollout("r", "a"), PutRollout("s", "a")))
    with locked(path):
        refused(made)
        made.hold(mode("VM.*", Mode.DBUS, PutRollout("r", "b", 1)))
        made.hold(Change((entry("*", "rollback"),), back=override("*", Mode.LEGACY)))
        assert made.kept.overrides == (override("*", Mode.LEGACY),)
        opened.later(made)
        assert made.trouble
        assert refused(made) == made.trouble  # nothing overtakes what is held
    opened.later(made)
    assert made.trouble == ""
    other.look()
    assert other.kept == made.kept
    assert other.kept.overrides == (override("*", Mode.LEGACY),)
    assert other.kept.rollouts["r"].document == "b"
    audit = other.read(lambda db: tables.audit(db, 9, 0.0, None))
    assert [line.what for line in audit] == ["rollback", "mode", "mode"]  # type: ignore[union-attr]


def test_a_rollout_that_others_went_on_with_stays_theirs_when_what_was_held_is_written(
    opened: Opened, path: Path
) -> None:
    made, other = opened(path), opened(path)
    put(made, mode("VM.*", Mode.DBUS, PutRollout("r", "a"), PutRollout("s", "a")))
    made.hold(mode("VM.*", Mode.LEGACY, PutRollout("r", "b", 1), PutRollout("s", "b")))
    put(other, mode("SR.*", Mode.OFF, PutRollout("r", "c", 1)))
    opened.later(made)
    put(made, mode("x", Mode.OFF))
    other.look()
    assert {name: rollout.document for name, rollout in other.kept.rollouts.items()} == {"r": "c", "s": "b"}
    assert override("VM.*", Mode.LEGACY) in other.kept.overrides


def test_whatever_byte_is_wrong_the_file_is_used_or_told_to_be_in_trouble(opened: Opened, path: Path) -> None:
    put(opened(path), mode("VM.*", Mode.LEGACY, PutRollout("r", {"step": 1})))
    for each in opened.files:
        each.close()
    whole = path.read_bytes()
    for at in (*range(0, 4096, 41), *range(4096, len(whole), 1499)):
        path.write_bytes(whole[:at] + b"\xa6" + whole[at + 1 :])
        made = opened(path)
        made.look()
        made.read(evidence.total)
        assert isinstance(made.trouble, str)
        made.close()
        for rest in path.parent.glob(f"{path.name}-*"):
            rest.unlink()


def test_a_row_that_is_no_text_is_damage(opened: Opened, path: Path) -> None:
    made = opened(path)
    put(made, mode("VM.*", Mode.LEGACY, why="because"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE override SET why = CAST(x'a6a6' AS TEXT)")
    made.look()
    assert "is damaged" in made.trouble
    assert made.kept.overrides[0].why == "because"


# Changes of other workers


def test_it_is_in_force_even_where_the_file_cannot_be_read(opened: Opened, path: Path) -> None:
    made = opened(path)
    path.with_name("moved").hardlink_to(path)
    path.unlink()
    path.mkdir()
    made.look()
    assert made.trouble
    made.follow(mode("VM.*", Mode.DBUS), is_stored=True)
    assert made.kept.overrides == (DBUS,)
    made.adopt(StoredState((LEGACY,)), ())
    assert made.kept.overrides == (LEGACY,)


ROLLBACK = Change((entry("*", "rollback"),), back=override("*", Mode.LEGACY))


def test_what_others_hold_stays_in_force_when_the_file_is_opened_again(opened: Opened, path: Path) -> None:
    made = opened(path)
    put(made, mode("VM.*", Mode.DBUS))
    with locked(path):
        made.follow(ROLLBACK, is_stored=False)
        late = opened(path)
        late.adopt(made.kept, made.held)
        late.adopt(made.kept, made.held)
        late._stale = True  # as after an error of the disk
        opened.later(late)
        assert late.trouble
        assert late.kept.overrides == (override("*", Mode.LEGACY),)
        assert late.held == (ROLLBACK,)


def test_what_several_workers_hold_is_in_force_in_all_and_written_by_one_of_them(opened: Opened, path: Path) -> None:
    workers = [opened(path) for _ in range(3)]
    with locked(path):
        refused(workers[0])
        for each in workers:
            each.holds_together = True
            each.follow(ROLLBACK, is_stored=False)
            assert each.kept.overrides == (override("*", Mode.LEGACY),)
    late = opened(path)  # the file works again, and the others have not looked yet
    assert not late.kept.overrides
    late.holds_together = True
    late.adopt(workers[0].kept, workers[0].held)
    assert (late.kept.overrides, late.held) == ((override("*", Mode.LEGACY),), ())  # it is stored
    opened.later(*workers)
    undone = Change((entry("*", "undo"),), drop=(("*", "person"),))
    put(workers[0], undone)
    workers[1].follow(undone, is_stored=True)
    assert workers[1].kept == StoredState()
    opened.later(*workers)
    assert [each.kept for each in workers] == [StoredState()] * 3
    with closing(sqlite3.connect(path)) as db:
        assert [what for (what,) in db.execute("SELECT what FROM audit ORDER BY id")] == ["rollback", "undo"]
