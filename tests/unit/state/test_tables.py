"""The tables: settings, rollouts, audit; counts of many processes; clients."""

from __future__ import annotations

import re
import sqlite3

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.admin.records import (
    IDENTITIES,
    OTHERS,
    Change,
    ClientKey,
    ClientRecord,
    Counts,
    Json,
    MethodId,
    MismatchRecord,
    PutRollout,
    Rollout,
    StateRefused,
    StoredState,
    applied,
)
from gateway.core.migration.modes import BUCKETS, Mode, Setting, Side, percent
from gateway.core.routing.overrides import Override
from gateway.state import clock, evidence, tables
from gateway.state.tables import Unreadable
from tests.kit.cases import expect
from tests.kit.migrations import VM_START, VM_STOP, client_batch, counts_batch, entry, mismatch, mode, override

SETTINGS = st.builds(
    Setting, st.sampled_from(Mode), st.integers(0, BUCKETS), st.sampled_from(Side), st.booleans(), st.booleans()
)


@given(SETTINGS)
def test_every_setting_comes_back_as_it_was_and_is_readable_in_the_file(setting: Setting) -> None:
    assert tables.read(msgspec.json.decode(tables.written(setting))) == setting
    assert f'"mode":"{setting.mode.value}","share":"{percent(setting.buckets)}"' in tables.written(setting)


def test_the_file_and_the_copy_in_memory_agree_after_every_change(db: sqlite3.Connection) -> None:
    kept = StoredState()
    long = Override("group:x", Setting(Mode.SHADOW, control=Side.DBUS), "bob", 2.5, "why not", 9.5, "rollout")
    for change in (
        Change((entry(),), (override("VM.*"), override("VM.*", by="rollout"), long)),
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
        assert tables.decide(db, change) == tables.load(db) == kept


def test_a_rollout_is_only_replaced_at_the_version_that_was_expected_and_none_is_used_again(
    db: sqlite3.Connection,
) -> None:
    for expected, document in ((0, "a"), (1, "b"), (2, "c"), (None, "d")):
        assert isinstance(tables.decide(db, Change((), rollouts=(PutRollout("r", document, expected),))), StoredState)
    for expected in (0, 3, 5):
        refused = expect(StateRefused, tables.decide(db, Change((), rollouts=(PutRollout("r", "e", expected),))))
        assert refused.conflict
        assert "rollout 'r'" in refused.why
    assert tables.load(db).rollouts == {"r": Rollout("d", 4)}
    tables.decide(db, Change((), rollouts=(PutRollout("r", None, 4),)))
    gone = expect(StateRefused, tables.decide(db, Change((), rollouts=(PutRollout("r", None, 4),))))
    assert "there no more" in gone.why
    tables.decide(db, Change((), rollouts=(PutRollout("r", 2, 0),)))
    assert tables.load(db).rollouts == {"r": Rollout(2, 5)}


def test_the_audit_keeps_its_newest_lines_and_is_read_newest_first_by_time_and_by_subject(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "AUDIT_KEPT", 6)
    lines = tuple(entry("ab"[number % 2], when=float(number)) for number in range(-2, 6))
    for line in lines:
        tables.note(db, (line,))
    assert tables.audit(db, 100, -9.0, None) == list(reversed(lines))[:6]
    assert [line.when for line in tables.audit(db, 2, 0.0, "a")] == [4.0, 2.0]
    assert [line.when for line in tables.audit(db, 100, 4.0, None)] == [5.0, 4.0]


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


def _read_all(db: sqlite3.Connection) -> None:
    tables.load(db)
    tables.audit(db, 1, 0.0, None)
    evidence.total(db)
    evidence.pairs(db, None, 1)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE override SET setting = '{'", "override of 'VM.*'"),
        ("UPDATE override SET setting = '{}'", "override of 'VM.*'"),
        ("""UPDATE override SET setting = '{"mode": "magic"}'""", "override of 'VM.*'"),
        ("UPDATE override SET set_by = 'magic'", "override of 'VM.*'"),
        ("UPDATE rollout SET document = 'x'", "rollout 'r'"),
        ("UPDATE audit SET numbers = '[]'", "audit"),
        ("UPDATE evidence SET counters = '[1]'", "evidence"),
        ("UPDATE pair SET document = '{'", "pair 1"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(db: sqlite3.Connection, damage: str, named: str) -> None:
    tables.decide(db, mode("VM.*", Mode.DBUS, PutRollout("r", 1)))
    evidence.add(db, "a", counts_batch(equal=1).evidence, 1.0)
    evidence.add_pairs(db, [mismatch(1)])
    _read_all(db)
    db.execute(damage)
    with pytest.raises(Unreadable, match=re.escape(named)):
        _read_all(db)


def test_a_rollback_of_everything_is_not_kept_from_it_by_a_row_that_cannot_be_read(db: sqlite3.Connection) -> None:
    tables.decide(db, Change((), (override("VM.a", Mode.OFF), override("VM.b"), override("VM.c"))))
    db.execute("UPDATE override SET setting = 'nonsense' WHERE pattern = 'VM.c'")
    kept = expect(StoredState, tables.decide(db, Change((), back=override("*", Mode.LEGACY))))
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


# Counts and pairs


def test_deltas_are_added_and_processes_summed(db: sqlite3.Connection) -> None:
    evidence.add(db, "a", counts_batch(equal=1, different=2).evidence, 1.0)
    evidence.add(db, "a", counts_batch(equal=10).evidence, 2.0)
    evidence.add(db, "b", counts_batch(equal=100).evidence, 3.0)
    evidence.add(db, "b", counts_batch(VM_STOP, dropped=1).evidence, 3.0)
    assert evidence.total(db) == {
        VM_START: Counts({"equal": 111, "different": 2}, {"dbus": [3, 6]}),
        VM_STOP: Counts({"dropped": 1}, {"dbus": [1, 2]}),
    }


def test_what_ended_processes_have_counted_is_kept_in_one_row_a_method(db: sqlite3.Connection) -> None:
    for number in range(5):
        evidence.add(db, f"process {number}", counts_batch(equal=1).evidence, float(number))
    evidence.add(db, "alive", counts_batch(equal=1).evidence, 9000.0)
    before = evidence.total(db)
    evidence.retire(db, 10_000.0)
    evidence.retire(db, 20_000.0 - 9000.0)
    assert evidence.total(db) == before
    assert db.execute("SELECT instance FROM evidence ORDER BY 1").fetchall() == [("",), ("alive",)]


def test_pairs_are_read_newest_first_of_a_method_or_of_all_and_one_method_is_forgotten(db: sqlite3.Connection) -> None:
    evidence.add(db, "me", counts_batch(equal=1).evidence, 1.0)
    evidence.add(db, "me", counts_batch(VM_STOP, equal=1).evidence, 1.0)
    evidence.add_pairs(db, [mismatch(1), mismatch(2, VM_STOP), mismatch(3)])
    assert evidence.pairs(db, None, 2) == [mismatch(3), mismatch(2, VM_STOP)]
    assert evidence.pairs(db, VM_START, 9) == [mismatch(3), mismatch(1)]
    assert evidence.pairs(db, MethodId("xapi", "VM.start"), 9) == []
    tables.decide(db, Change((entry(),), clear=(VM_START,)))
    assert (list(evidence.total(db)), evidence.pairs(db, None, 9)) == ([VM_STOP], [mismatch(2, VM_STOP)])


def test_the_newest_pairs_of_a_method_and_of_all_are_kept(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence.add_pairs(db, [mismatch(0, VM_STOP)])
    for number in range(60):
        evidence.add_pairs(db, [mismatch(number)])
    kept = evidence.pairs(db, VM_START, 1000)
    assert [one.when for one in kept] == [float(number) for number in range(59, 9, -1)]
    assert evidence.pairs(db, VM_STOP, 9) == [mismatch(0, VM_STOP)]
    monkeypatch.setattr(evidence, "PAIRS", 20)
    evidence.add_pairs(db, [mismatch(60)])
    assert [one.when for one in evidence.pairs(db, None, 1000)] == [float(number) for number in range(60, 40, -1)]


@pytest.mark.parametrize("document", ["x" * evidence.DOCUMENT, {"half": "\ud800"}])
def test_a_document_that_cannot_be_kept_is_replaced_and_costs_no_other(db: sqlite3.Connection, document: Json) -> None:
    evidence.add_pairs(db, [MismatchRecord(1.0, VM_START, document), mismatch(2)])
    fine, replaced = evidence.pairs(db, VM_START, 9)
    assert fine == mismatch(2)
    assert isinstance(replaced.document, dict)
    assert list(replaced.document) == ["omitted"]


# Clients


def test_clients_are_counted_on_and_found_by_service_and_time_the_latest_first(db: sqlite3.Connection) -> None:
    for last in (5.0, 9.0, 7.0):
        evidence.add_clients(db, client_batch("10.0.0.1", last).clients)
    key = ClientKey(VM_START, "xmlrpc", "10.0.0.1", "curl", "root")
    assert evidence.read_clients(db, None, 0.0, 9) == {key: ClientRecord(3, 4.0, 9.0)}
    db.execute("DELETE FROM client")
    evidence.add_clients(db, client_batch("a", 2.0).clients)
    evidence.add_clients(db, client_batch("b", 4.0, method=VM_STOP, domid=7).clients)
    evidence.add_clients(db, client_batch("c", 3.0).clients)

    def peers(service: str | None = None, since: float = 0.0) -> list[str]:
        return [key.peer for key in evidence.read_clients(db, service, since, 9)]

    assert peers() == peers("xenopsd") == ["b", "c", "a"]
    assert peers("xapi") == []
    assert peers(None, 3.0) == ["b", "c"]
    assert next(iter(evidence.read_clients(db, None, 0.0, 9))).domid == 7


def test_the_agents_of_one_peer_are_bounded_and_the_others_are_counted_together(db: sqlite3.Connection) -> None:
    """Who is known keeps its name, unless it was not seen for long; other peers keep theirs."""
    evidence.add_clients(db, client_batch("real", 1.0).clients)
    evidence.add_clients(db, client_batch("crowd", 1.5).clients)
    (known,) = client_batch("crowd").clients
    for number in range(0, 3 * IDENTITIES, IDENTITIES):
        flood = {
            replace(known, agent=f"evil-{number + at}"): ClientRecord(1, 2.0 + number, 2.0 + number)
            for at in range(IDENTITIES)
        }
        evidence.add_clients(db, flood)
    rows = evidence.read_clients(db, None, 0.0, 9999)
    crowd = {key: seen for key, seen in rows.items() if key.peer == "crowd"}
    assert len(crowd) == IDENTITIES + 1
    assert sum(seen.count for seen in crowd.values()) == 3 * IDENTITIES + 1
    (others,) = [key for key in crowd if key.agent == OTHERS]
    assert crowd[others].count == 2 * IDENTITIES + 1
    assert known in crowd
    assert [key.agent for key in rows if key.peer == "real"] == ["curl"]
    late = 200.0 + evidence.FRESH
    new = {replace(known, agent=f"new-{number}"): ClientRecord(1, late, late) for number in range(IDENTITIES)}
    evidence.add_clients(db, new)
    assert known not in evidence.read_clients(db, None, 0.0, 9999)


def test_the_least_recently_seen_are_told_together(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "CLIENTS", 2)
    for peer, last in (("a", 5.0), ("b", 3.0), ("c", 4.0)):
        evidence.add_clients(db, client_batch(peer, last).clients)
    rows = evidence.read_clients(db, None, 0.0, 9)
    assert [(key.peer, key.agent) for key in rows] == [("a", "curl"), ("c", "curl"), (OTHERS, OTHERS)]
    evidence.add_clients(db, client_batch("d", 9.0).clients)
    rows = evidence.read_clients(db, None, 0.0, 9)
    assert [(key.peer, seen.count) for key, seen in rows.items()] == [("d", 1), ("a", 1), (OTHERS, 2)]


def test_what_a_client_says_of_itself_is_cut_and_may_be_no_text_at_all(db: sqlite3.Connection) -> None:
    evidence.add_clients(db, client_batch("\ud800" + "x" * 1000).clients)
    (key,) = evidence.read_clients(db, None, 0.0, 9)
    assert key.peer == "?" + "x" * (evidence.TEXT - 1)


def test_every_table_refuses_a_value_of_the_wrong_type(db: sqlite3.Connection) -> None:
    rows = db.execute("SELECT name, strict FROM pragma_table_list WHERE name NOT LIKE 'sqlite%'").fetchall()
    assert rows
    assert all(strict for _, strict in rows)
