"""Routes, and the plan of a call."""

from __future__ import annotations

from gateway.core.migration.modes import BUCKETS, Key, Migration, Mode, Setting, Side
from gateway.core.routing import policy
from gateway.core.routing.policy import CallPlan, bucket, task_plan
from gateway.core.rpc.model import Call
from tests.kit.cases import each_case
from tests.kit.mappings import route

# Plans


VM = Key("vm", lambda call: str(call.params[0]) if call.params else None)
READ = Migration(upstream="old", key=VM, may_shadow=True)
WRITE = Migration(upstream="old", key=VM)


def canary(buckets: int) -> Setting:
    return Setting(Mode.CANARY, buckets=buckets)


def plan(method: str, migration: Migration, setting: Setting, call: Call, forced: Side | None = None) -> CallPlan:
    return policy.plan_call(route(method, migration=migration), setting, call, forced)


def side(setting: Setting, key: object, migration: Migration = READ, method: str = "VM.start") -> Side | None:
    return plan(method, migration, setting, Call(method, (str(key),))).answer


@each_case(
    ("setting", "answer", "candidate"),
    [
        (Setting(Mode.LEGACY), Side.LEGACY, None),
        (Setting(Mode.LEGACY, observe=True), Side.LEGACY, Side.DBUS),
        (Setting(Mode.SHADOW), Side.LEGACY, Side.DBUS),
        (Setting(Mode.SHADOW, control=Side.DBUS), Side.DBUS, Side.LEGACY),
        (Setting(Mode.DBUS), Side.DBUS, None),
        (Setting(Mode.DBUS, observe=True), Side.DBUS, Side.LEGACY),
        (Setting(Mode.OFF), None, None),
        (Setting(Mode.OFF, observe=True), None, None),
    ],
)
def test_a_mode_says_who_answers_and_who_is_observed(setting: Setting, answer: Side | None, candidate: object) -> None:
    made = plan("VM.stat", READ, setting, Call("VM.stat"))
    assert (made.answer, made.candidate) == (answer, candidate)


def test_a_write_is_never_run_twice_whatever_is_set() -> None:
    for mode in Mode:
        for control in Side:
            setting = Setting(mode, buckets=BUCKETS // 2, control=control, observe=True)
            assert plan("VM.start", WRITE, setting, Call("VM.start", ("a",))).candidate is None
    assert plan("m", Migration(may_shadow=True), Setting(Mode.DBUS, observe=True), Call("m")).candidate is None


def test_who_is_in_at_a_share_is_in_at_every_larger_one() -> None:
    inside: set[int] = set()
    for buckets in (0, 1, 10, 1_000, 10_000, 50_000, 99_999, BUCKETS):
        now = {key for key in range(2_000) if side(canary(buckets), key) is Side.DBUS}
        assert inside <= now
        inside = now
    assert inside == set(range(2_000))
    assert 1_800 <= sum(side(canary(10_000), key) is Side.DBUS for key in range(20_000)) <= 2_200
    assert bucket("VM.start", "11111111-aaaa-4aaa-8aaa-000000000001") == 91283  # on every host, in every version


def test_methods_ramp_independently_and_a_group_moves_together_and_a_plan_says_why() -> None:
    group = Migration(upstream="old", key=VM, group="vm-lifecycle")
    starts = [side(canary(50_000), key, method="VM.start") for key in range(100)]
    assert starts != [side(canary(50_000), key, method="VM.stop") for key in range(100)]
    together = [side(canary(50_000), key, group, "VM.start") for key in range(100)]
    assert together == [side(canary(50_000), key, group, "VM.stop") for key in range(100)]
    made = plan("VM.start", READ, canary(10_000), Call("VM.start", ("a",)))
    assert made == CallPlan(Side.LEGACY, None, f"canary at 10%: vm is in bucket {bucket('toy/VM.start', 'a')} >= 10000")


def test_a_call_without_the_key_goes_to_the_old_service_and_lists_come_before_the_share() -> None:
    without = Call("VM.start")
    assert plan("VM.start", READ, canary(99_999), without).answer is Side.LEGACY
    assert plan("VM.start", READ, canary(BUCKETS), without).answer is Side.DBUS
    assert plan("VM.start", Migration(upstream="old"), canary(BUCKETS), without).answer is Side.DBUS
    listed = Migration(upstream="old", key=VM, always=frozenset("ab"), never=frozenset("b"))
    assert side(canary(0), "a", listed) is Side.DBUS
    assert side(canary(BUCKETS), "b", listed) is Side.LEGACY


def test_a_client_may_ask_for_a_side_and_gets_no_fallback_then() -> None:
    assert plan("m", READ, Setting(Mode.LEGACY), Call("m"), forced=Side.DBUS).answer is Side.DBUS
    assert plan("m", READ, Setting(Mode.OFF), Call("m"), forced=Side.DBUS).answer is None
    back = Migration(upstream="old", key=VM, fallback=True)
    assert plan("m", back, Setting(Mode.DBUS), Call("m")).fallback
    assert not plan("m", back, Setting(Mode.LEGACY), Call("m")).fallback
    assert not plan("m", back, Setting(Mode.DBUS), Call("m"), forced=Side.DBUS).fallback
    assert not plan("m", Migration(fallback=True), Setting(Mode.DBUS), Call("m")).fallback


def test_a_task_is_that_of_the_side_that_answers_and_is_never_observed() -> None:
    rejected = Migration(tasks="reject")
    staying = Migration(upstream="old", key=VM, may_shadow=True, fallback=True, tasks="legacy")
    for migration, setting, answer in (
        (READ, Setting(Mode.LEGACY), Side.LEGACY),
        (READ, Setting(Mode.SHADOW), Side.LEGACY),
        (READ, canary(0), Side.LEGACY),
        (READ, Setting(Mode.DBUS), Side.DBUS),
        (READ, canary(BUCKETS), Side.DBUS),
        (READ, Setting(Mode.SHADOW, control=Side.DBUS), Side.DBUS),
        (rejected, Setting(Mode.DBUS), None),
        (staying, Setting(Mode.DBUS), Side.LEGACY),
        (staying, Setting(Mode.OFF), None),
    ):
        chosen = plan("m", migration, setting, Call("m", ("a",)))
        found = task_plan(route("m", migration=migration), chosen)
        assert (found.answer, found.candidate, found.fallback) == (answer, None, False)
