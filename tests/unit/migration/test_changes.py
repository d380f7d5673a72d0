from __future__ import annotations

from dataclasses import replace

from gateway.core.admin.records import Change
from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import Progress, RolloutState
from gateway.migration.rollout_storage import RolloutDocument, counted, moved, read
from tests.kit.migrations import PLAN

NAME = "xenopsd/VM.start"


def _document(state: RolloutState = RolloutState.RUNNING, step: int = 0) -> RolloutDocument:
    return RolloutDocument(PLAN, Progress(state, step, 1.0, why="for a reason"), "alice", 1.0)


def _moved(before: RolloutDocument | None, after: RolloutDocument) -> Change:
    return moved(NAME, 7, before, after, who="alice", when=5.0, numbers={"compared": 3})


def test_a_beginning_sets_its_first_step_and_says_so() -> None:
    change = _moved(None, _document())
    [put], [entry], [rollout] = change.put, change.audit, change.rollouts
    assert (put.pattern, put.setting, put.by, put.who) == (NAME, Setting(Mode.SHADOW), "rollout", "rollout careful")
    assert (entry.when, entry.who, entry.what, entry.subject, entry.why) == (
        5.0,
        "alice",
        "rollout",
        NAME,
        "for a reason",
    )
    assert entry.numbers == {"state": "running", "step": "shadow", "compared": 3}
    assert (rollout.name, rollout.expected, read(rollout.document)) == (NAME, 7, _document())


def test_what_stays_set_is_not_set_again() -> None:
    assert _moved(_document(), _document(RolloutState.PAUSED)).put == ()
    assert [put.setting.mode for put in _moved(_document(), _document(step=3)).put] == [Mode.DBUS]


def test_who_resumes_after_an_override_wants_it_set() -> None:
    assert len(_moved(_document(RolloutState.OVERRIDDEN), _document()).put) == 1
    assert _moved(_document(RolloutState.PAUSED), _document()).put == ()


def test_a_rollback_goes_to_the_old_service_under_its_own_word() -> None:
    change = _moved(_document(step=2), _document(RolloutState.ROLLED_BACK, 2))
    assert [put.setting for put in change.put] == [Setting(Mode.LEGACY)]
    assert change.audit[0].what == "rollback"


def test_what_is_ended_is_left_to_the_mapping() -> None:
    change = _moved(_document(), _document(RolloutState.ENDED))
    assert (change.put, change.drop) == ((), ((NAME, "rollout"),))


def test_where_counts_are_read_from_is_no_decision() -> None:
    change = counted(NAME, 7, replace(_document(), start={}))
    assert (change.audit, change.put, change.drop, len(change.rollouts)) == ((), (), (), 1)
