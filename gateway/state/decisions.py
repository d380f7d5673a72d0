"""Overrides, rollouts, leases and the audit as rows of the state file. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import get_args

import msgspec

from gateway.clock import Reading
from gateway.core.kept import Change, Entry, Json, Kept, PutRollout, Refused, Rollout, rolled_back
from gateway.core.migration import Mode, Setting, Side, percent, share
from gateway.core.override import By, Override
from gateway.state import evidence
from gateway.state.trouble import Unreadable

_BY: Mapping[str, By] = {by: by for by in get_args(By)}

AUDIT_KEPT = 100_000  # lines, the newest

_PUT = """INSERT INTO override (pattern, set_by, setting, who, moment, why, until) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET setting = excluded.setting, who = excluded.who, moment = excluded.moment,
    why = excluded.why, until = excluded.until"""
_OVERRIDES = "SELECT pattern, setting, who, moment, why, until, set_by FROM override ORDER BY pattern, set_by"
_AUDIT = """SELECT moment, who, what, subject, why, numbers FROM audit
    WHERE moment >= ?1 AND (?2 IS NULL OR subject = ?2) ORDER BY id DESC LIMIT ?3"""


def load(db: sqlite3.Connection) -> Kept:
    """What every process has a copy of."""
    return Kept(tuple(_overrides(db)), dict(_rollouts(db)))


def decide(db: sqlite3.Connection, change: Change) -> Refused | Kept:
    """Write a change down; what holds after it, or why it does not come about. The caller then undoes all of it."""
    for put in change.rollouts:
        if put.expected is not None and put.expected != (version := _version(db, put.name)):
            return _outrun(put, version)
    if change.back is not None:
        _roll_back(db, change.back)
    db.executemany("DELETE FROM override WHERE pattern = ? AND set_by = ?", change.drop)
    if change.expired_by is not None:
        over = [(each.pattern, each.by) for each in _overrides(db) if each.expired(change.expired_by)]
        db.executemany("DELETE FROM override WHERE pattern = ? AND set_by = ?", over)
    db.executemany(_PUT, map(_row, change.put))
    for put in change.rollouts:
        _put_rollout(db, put)
    for method in change.clear:
        evidence.clear(db, method)
    note(db, change.audit)
    return load(db)


def restore(db: sqlite3.Connection, kept: Kept, when: float) -> None:
    """What was in memory when a new file had to be made."""
    rollouts = tuple(PutRollout(name, rollout.document) for name, rollout in kept.rollouts.items())
    numbers = {"overrides": len(kept.overrides), "rollouts": len(rollouts)}
    entry = Entry(when, "gateway", "restore", "*", "the state file was new; these were in force", numbers)
    decide(db, Change((entry,), kept.overrides, rollouts=rollouts))


def note(db: sqlite3.Connection, entries: tuple[Entry, ...]) -> None:
    """Append to the audit, and forget its oldest lines."""
    rows = [(e.when, e.who, e.what, e.subject, e.why, _json(e.numbers)) for e in entries]
    db.executemany("INSERT INTO audit (moment, who, what, subject, why, numbers) VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (AUDIT_KEPT,))


def audit(db: sqlite3.Connection, limit: int, since: float, subject: str | None) -> list[Entry]:
    """The newest lines, newest first."""
    rows = db.execute(_AUDIT, (since, subject, limit))
    return [Entry(when, who, what, about, why, _numbers(numbers)) for when, who, what, about, why, numbers in rows]


def hold_lease(db: sqlite3.Connection, name: str, holder: str, boot: str, now: float, until: float) -> bool:
    """Take or prolong a lease unless another has it. Moments are of a clock that starts with the host, at `boot`."""
    row = db.execute("SELECT holder, boot, until FROM lease WHERE name = ?", (name,)).fetchone()
    if row is not None and row[0] != holder and row[1] == boot and row[2] > now:
        return False
    db.execute(
        "INSERT OR REPLACE INTO lease (name, holder, boot, until) VALUES (?, ?, ?, ?)", (name, holder, boot, until)
    )
    return True


def written(setting: Setting, until: float | None = None) -> str:
    """A setting as a person can read it in the file, with the clock of the moment until which it holds."""
    words: dict[str, str | bool] = {
        "mode": setting.mode.value,
        "share": percent(setting.buckets),
        "control": setting.control.value,
        "observe": setting.observe,
        "noise": setting.noise,
    }
    return _json(words if until is None else {**words, "clock": str(Reading.here())})


def read(text: str) -> Setting:
    """The same backwards; raises ValueError, KeyError or TypeError."""
    words = msgspec.json.decode(text, type=dict[str, str | bool])
    mode, control = Mode(words["mode"]), Side(words["control"])
    return Setting(mode, share(str(words["share"])), control, bool(words["observe"]), bool(words["noise"]))


def _roll_back(db: sqlite3.Connection, back: Override) -> None:
    """By what is in the file, which others may have changed; a row that cannot be read is in nobody's way."""
    found = []
    for row in db.execute(_OVERRIDES).fetchall():
        with suppress(Unreadable):
            found.append(_override(row))
    db.execute("DELETE FROM override")
    db.executemany(_PUT, map(_row, rolled_back(found, back)))


def _ends(setting: str, until: float | None) -> float | None:
    """By the clock of this process; without a word about the clock, it was the wall's."""
    if until is None:
        return None
    words = msgspec.json.decode(setting, type=dict[str, str | bool])
    written_by = words.get("clock")
    return Reading.read(str(written_by)).translated(until) if written_by else until


def _overrides(db: sqlite3.Connection) -> Iterator[Override]:
    yield from map(_override, db.execute(_OVERRIDES))


def _override(row: tuple[str, str, str, float, str, float | None, str]) -> Override:
    pattern, setting, who, when, why, until, by = row
    with _named(f"override of '{pattern}'"):
        return Override(pattern, read(setting), who, when, why, _ends(setting, until), _BY[by])


def _rollouts(db: sqlite3.Connection) -> Iterator[tuple[str, Rollout]]:
    for name, document, version in db.execute("SELECT name, document, version FROM rollout ORDER BY name"):
        with _named(f"rollout '{name}'"):
            yield name, Rollout(msgspec.json.decode(document), version)


def _row(override: Override) -> tuple[str | float | None, ...]:
    setting = written(override.setting, override.until)
    return (
        override.pattern, override.by, setting, override.who, override.when, override.why, override.until
    )  # fmt: skip


def _version(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT version FROM rollout WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def _outrun(put: PutRollout, version: int) -> Refused:
    now = f"at version {version} and not at {put.expected}" if version else "there no more"
    if put.expected == 0:
        now = "there already"
    return Refused(f"rollout '{put.name}' is {now}: somebody else has decided meanwhile", conflict=True)


def _put_rollout(db: sqlite3.Connection, put: PutRollout) -> None:
    if put.document is None:
        db.execute("DELETE FROM rollout WHERE name = ?", (put.name,))
        return
    db.execute("UPDATE counter SET value = value + 1 WHERE name = 'version'")
    db.execute(
        """INSERT OR REPLACE INTO rollout (name, document, version)
        SELECT ?, ?, value FROM counter WHERE name = 'version'""",
        (put.name, _json(put.document)),
    )


def _json(document: object) -> str:
    return msgspec.json.encode(document).decode()


def _numbers(text: str) -> dict[str, Json]:
    with _named("audit"):
        numbers: dict[str, Json] = msgspec.json.decode(text, type=dict)
        return numbers


@contextmanager
def _named(what: str) -> Iterator[None]:
    """A row that cannot be read is named."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:  # msgspec's errors are ValueErrors
        raise Unreadable(f"{what}: {error}") from error
