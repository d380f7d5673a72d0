"""Overrides, rollouts, leases and audit lines in and out of the tables."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admin.records import Change, PutRollout, Rollout, StateRefused, StoredState, applied
from gateway.core.migration.modes import BUCKETS, Mode, Setting, Side
from gateway.core.routing.overrides import Override
from gateway.state import clock, tables
from gateway.state.tables import Unreadable
from tests.kit.migrations import VM_START, counts_batch, entry, mismatch, mode, override

SETTINGS = st.builds(
    Setting, st.sampled_from(Mode), st.integers(0, BUCKETS), st.sampled_from(Side), st.booleans(), st.booleans()
)


@given(SETTINGS)
def test_every_setting_comes_back_as_it_was(setting: Setting) -> None:
    assert tables.read(tables.written(setting)) == setting


def test_a_setting_is_readable_in_the_file() -> None:
    text = tables.written(Setting(Mode.CANARY, 12_500, Side.LEGACY, observe=True))
    assert text == '{"mode":"canary","share":"12.5%","control":"legacy","observe":true,"noise":false}'


def test_what_is_decided_is_what_is_loaded(db: sqlite3.Connection) -> None:
    long = Override("group:x", Setting(Mode.SHADOW, control=Side.DBUS), "bob", 2.5, "why not", 9.5, "rollout")
    change = Change((entry(),), (override("VM.*"), override("VM.*", by="rollout"), long))
    kept = tables.decide(db, change)
    assert kept == tables.load(db) == StoredState((override("VM.*"), override("VM.*", by="rollout"), long))


def test_the_file_and_the_copy_in_memory_agree_after_every_change(db: sqlite3.Connection) -> None:
    kept = StoredState()
    for change in (
        mode("VM.*", Mode.LEGACY, PutRollout("a", {"step": 1})),
        mode("VM.*", Mode.OFF),
        Change((entry(),), (replace(override("VM.a"), until=5.0), replace(override("VM.b"), until=5.5))),
        Change((entry(),), expired_by=5.0),
        Change((entry(),), drop=(("VM.*", "rollout"),)),
        Change((entry(),), (override("SR.*", by="rollout"),), drop=(("VM.*", "person"),)),
        Change((entry(),), back=override("*", Mode.LEGACY), rollouts=(PutRollout("a", None),)),
        Change((entry(),), (override("VM.start", Mode.OFF), override("VM.*"), override("SR.*", by="rollout"))),
        Change((entry(),), back=override("*", Mode.LEGACY)),
    ):
        kept = applied(kept, change)
        assert tables.decide(db, change) == kept


def test_a_rollout_is_only_replaced_at_the_version_that_was_expected(db: sqlite3.Connection) -> None:
    for expected, document in ((0, "a"), (1, "b"), (2, "c"), (None, "d")):
        assert isinstance(tables.decide(db, Change((), rollouts=(PutRollout("r", document, expected),))), StoredState)
    assert tables.load(db).rollouts == {"r": Rollout("d", 4)}
    for expected in (0, 3, 5):
        refused = tables.decide(db, Change((), rollouts=(PutRollout("r", "e", expected),)))
        assert isinstance(refused, StateRefused)
        assert refused.conflict
        assert "rollout 'r'" in refused.why
    assert tables.load(db).rollouts == {"r": Rollout("d", 4)}


def test_a_version_is_never_used_again_not_even_after_the_rollout_was_removed(db: sqlite3.Connection) -> None:
    tables.decide(db, Change((), rollouts=(PutRollout("r", 1),)))
    tables.decide(db, Change((), rollouts=(PutRollout("r", None, 1),)))
    gone = tables.decide(db, Change((), rollouts=(PutRollout("r", None, 1),)))
    assert isinstance(gone, StateRefused)
    assert "there no more" in gone.why
    tables.decide(db, Change((), rollouts=(PutRollout("r", 2, 0),)))
    assert tables.load(db).rollouts == {"r": Rollout(2, 2)}


def test_a_change_can_forget_the_evidence_of_a_method(db: sqlite3.Connection) -> None:
    tables.add(db, "me", counts_batch(equal=1).evidence, 1.0)
    tables.add_pairs(db, [mismatch(1)])
    tables.decide(db, Change((entry(),), clear=(VM_START,)))
    assert (tables.total(db), tables.pairs(db, None, 9)) == ({}, [])


def test_the_audit_is_read_newest_first_by_time_and_by_subject(db: sqlite3.Connection) -> None:
    lines = tuple(entry("ab"[number % 2], when=float(number)) for number in range(6))
    tables.note(db, lines)
    assert tables.audit(db, 100, 0.0, None) == list(reversed(lines))
    assert [line.when for line in tables.audit(db, 2, 0.0, "a")] == [4.0, 2.0]
    assert [line.when for line in tables.audit(db, 100, 4.0, None)] == [5.0, 4.0]


def test_the_audit_keeps_its_newest_lines(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "AUDIT_KEPT", 3)
    for number in range(5):
        tables.note(db, (entry(when=float(number)),))
    assert [line.when for line in tables.audit(db, 100, 0.0, None)] == [4.0, 3.0, 2.0]


def test_what_was_in_memory_is_restored_with_a_line_that_says_so(db: sqlite3.Connection) -> None:
    kept = StoredState((override("VM.*"),), {"r": Rollout({"step": 2}, 41)})
    tables.restore(db, kept, 7.0)
    assert tables.load(db) == StoredState((override("VM.*"),), {"r": Rollout({"step": 2}, 1)})
    (line,) = tables.audit(db, 9, 0.0, None)
    assert (line.when, line.what, line.numbers) == (7.0, "restore", {"overrides": 1, "rollouts": 1})


def test_a_lease_has_one_holder_until_it_ends_or_the_host_starts_anew(db: sqlite3.Connection) -> None:
    def hold(holder: str, now: float, boot: str = "today") -> bool:
        return tables.hold_lease(db, "driver", holder, boot, now, now + 10)

    assert hold("a", 100)
    assert not hold("b", 105)
    assert hold("a", 106)  # prolonged until 116
    assert not hold("b", 115)
    assert hold("b", 116)
    assert not hold("a", 117)
    assert hold("a", 3, boot="tomorrow")  # the clock of the host began again
    assert tables.hold_lease(db, "another lease", "b", "tomorrow", 3, 13)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE override SET setting = '{'", "override of 'VM.*'"),
        ("UPDATE override SET setting = '{}'", "override of 'VM.*'"),
        ("""UPDATE override SET setting = '{"mode": "magic"}'""", "override of 'VM.*'"),
        ("UPDATE override SET set_by = 'magic'", "override of 'VM.*'"),
        ("UPDATE rollout SET document = 'x'", "rollout 'r'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(db: sqlite3.Connection, damage: str, named: str) -> None:
    tables.decide(db, mode("VM.*", Mode.DBUS, PutRollout("r", 1)))
    db.execute(damage)
    with pytest.raises(Unreadable, match=named.replace("*", r"\*")):
        tables.load(db)


def test_a_line_of_the_audit_that_cannot_be_read_is_an_error_of_the_file(db: sqlite3.Connection) -> None:
    tables.note(db, (entry(),))
    db.execute("UPDATE audit SET numbers = '[]'")
    with pytest.raises(Unreadable, match="audit"):
        tables.audit(db, 1, 0.0, None)


def test_a_rollback_of_everything_is_not_kept_from_it_by_a_row_that_cannot_be_read(db: sqlite3.Connection) -> None:
    tables.decide(db, Change((), (override("VM.a", Mode.OFF), override("VM.b"), override("VM.c"))))
    db.execute("UPDATE override SET setting = 'nonsense' WHERE pattern = 'VM.c'")
    kept = tables.decide(db, Change((), back=override("*", Mode.LEGACY)))
    assert isinstance(kept, StoredState)
    assert {each.pattern: each.setting.mode for each in kept.overrides} == {
        "*": Mode.LEGACY, "VM.a": Mode.OFF, "VM.b": Mode.LEGACY
    }  # fmt: skip


def test_a_mode_that_ends_ends_as_far_away_for_a_process_that_began_by_another_wall_clock(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = replace(override("VM.a"), until=clock.steady() + 60)
    tables.decide(db, Change((), (ends, override("VM.b"))))
    assert tables.load(db).overrides == (ends, override("VM.b"))
    monkeypatch.setattr(clock, "_began", clock._began - 3600)
    loaded, forever = tables.load(db).overrides
    assert loaded.until == pytest.approx(clock.steady() + 60, abs=1.0)
    assert forever.until is None
    assert not isinstance(tables.decide(db, Change((), expired_by=clock.steady() + 59)), StateRefused)
    assert len(tables.load(db).overrides) == 2
    assert not isinstance(tables.decide(db, Change((), expired_by=clock.steady() + 61)), StateRefused)
    assert tables.load(db).overrides == (override("VM.b"),)


def test_a_mode_of_a_gateway_that_wrote_no_clock_ends_by_the_wall_clock(db: sqlite3.Connection) -> None:
    tables.decide(db, Change((), (replace(override("VM.a"), until=9.5),)))
    db.execute("UPDATE override SET setting = ?", (tables.written(override().setting),))
    assert tables.load(db).overrides[0].until == 9.5
