"""What is counted of each call and each comparison."""

from __future__ import annotations

from time import perf_counter

import pytest
from msgspec.structs import replace

from gateway.core.admin import counters as counting
from gateway.core.admin.records import IDENTITIES, OTHERS, ClientKey, ClientRecord, Counts, CountsBatch, MethodId
from gateway.core.comparison.equality import no_checkpoint
from gateway.core.migration.modes import Key, Migration, Side
from gateway.core.migration.statistics import KEY_GROUPS, key_group, quantile, spent
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import (
    ABANDONED,
    WITHDRAWN,
    Call,
    Fault,
    FaultCode,
    Origin,
    Outcome,
    Peer,
    Reply,
    http_failure,
)
from gateway.migration.collector import MAX_PAIRS, StatisticsCollector
from gateway.migration.rollout_controller import CountsWindow, joined, together
from gateway.migration.shadow import MAX_APART, Observation, ObservedCall, code_of
from tests.kit.cases import each_case
from tests.kit.mappings import noting, route
from tests.kit.migrations import counts

STAT = route("VM.stat", migration=Migration(upstream="old", may_shadow=True))
ME = MethodId("toy", "VM.stat")
CALL = Call("VM.stat", ("vm",), peer=Peer("tcp:10.0.0.1:5"), extensions={"protocol": "xmlrpc", "agent": "xe"})


def gather(*calls: tuple[Side | None, Outcome, float]) -> CountsBatch:
    evidence = StatisticsCollector(lambda: 1000.0)
    note = noting(evidence.count)
    for side, outcome, seconds in calls:
        note("toy", "VM.stat", CALL, outcome, seconds, side)
    return evidence.take()


def observed(
    control: Outcome, candidate: Outcome, again: Outcome | None = None, answered: Side = Side.LEGACY
) -> ObservedCall:
    first = Observation(Side.LEGACY, control, 0.001, code_of(control))
    second = Observation(Side.DBUS, candidate, 0.1, code_of(candidate))
    return ObservedCall(STAT, CALL, first, second, again, answered)


def tell(evidence: StatisticsCollector, seen: ObservedCall) -> None:
    evidence.observed(seen, seen.not_compared or evidence.compare(seen, no_checkpoint))


def test_calls_are_counted_by_side_with_their_errors_and_seconds() -> None:
    batch = gather(
        (Side.LEGACY, Reply(1), 0.001),
        (Side.DBUS, Reply(1), 0.2),
        (Side.DBUS, Fault(FaultCode.TIMEOUT, "late"), 0.2),
        (None, Fault(FaultCode.UNAVAILABLE, "off"), 0.0),
        (Side.DBUS, ABANDONED, 5.0),  # the client left, which says nothing of a side
        (Side.DBUS, WITHDRAWN, 5.0),
    )
    assert [seen.count for seen in batch.clients.values()] == [6]
    counts = batch.evidence[ME]
    assert counts.counters == {
        "answered_legacy": 1, "answered_dbus": 2, "calls_legacy": 1, "calls_dbus": 2, "errors_dbus": 1,
    }  # fmt: skip
    assert quantile(counts.histograms["legacy"], 0.5) == pytest.approx(0.001, rel=0.25)
    assert quantile(counts.histograms["dbus"], 0.5) == pytest.approx(0.2, rel=0.25)


def test_calls_that_came_the_same_way_are_counted_for_their_client_and_in_their_time() -> None:
    evidence = StatisticsCollector(lambda: 1000.0)
    origin = Origin({"protocol": "xmlrpc", "agent": "xe"}, is_shared=True)
    one, two = (Call("VM.stat", peer=Peer(f"tcp:10.0.0.{host}:5"), extensions=origin) for host in (1, 2))
    for _ in range(2):  # what was taken is not counted again
        for call in (one, two, one):
            evidence.count(CallFinished(STAT, call, Reply(1), Side.DBUS, 0.1))
        evidence.count(CallFinished(STAT, one, Fault(FaultCode.BUSY, ""), Side.DBUS, 0.1))
        batch = evidence.take()
        assert {key.peer: record.count for key, record in batch.clients.items()} == {
            "tcp:10.0.0.1": 3,
            "tcp:10.0.0.2": 1,
        }
        assert batch.evidence[ME].counters == {"answered_dbus": 4, "calls_dbus": 4, "errors_dbus": 1}


KEYED = Migration(
    upstream="old",
    key=Key("vm", lambda call: str(call.params[0]) if call.params else None),
    client_errors=frozenset({"HANDLE_INVALID", "404"}),
)
BROKEN = Fault(FaultCode.APPLICATION, "broken", "INTERNAL_ERROR")


def gather_keyed(*calls: tuple[str | None, Outcome], side: Side = Side.DBUS) -> Counts:
    evidence = StatisticsCollector()
    keyed = route("VM.start", migration=KEYED)
    for key, outcome in calls:
        evidence.count(CallFinished(keyed, Call("VM.start", () if key is None else (key,)), outcome, side, 0.1))
    return evidence.take().evidence[MethodId.of(keyed)]


def test_calls_and_errors_are_counted_by_group_of_keys_and_without_a_key_are_independent() -> None:
    seen = counting.sides(gather_keyed(("a", Reply(1)), ("a", BROKEN), ("b", Reply(1)))).candidate
    calls, errors = [0] * KEY_GROUPS, [0] * KEY_GROUPS
    calls[key_group("a")], calls[key_group("b")], errors[key_group("a")] = 2, 1, 1
    assert seen.keys == (*calls, *errors)
    assert key_group("a") != key_group("b")
    seen = counting.sides(gather_keyed(*[(None, BROKEN)] * KEY_GROUPS)).candidate
    assert seen.keys == (1,) * KEY_GROUPS * 2


@each_case("side", Side)
def test_faults_of_clients_count_for_neither_side(side: Side) -> None:
    faults = (Fault(FaultCode.APPLICATION, "no VM", "HANDLE_INVALID"), Fault(FaultCode.REMOTE, "no VM", "404"))
    counts = gather_keyed(("a", Reply(1)), *(("a", fault) for fault in faults), side=side)
    assert counts.counters == {
        counting.answered(side): 3, counting.calls(side): 1, counting.client_errors(side): 2,
    }  # fmt: skip
    assert sum(counts.histograms[side.value]) == sum(counts.histograms[counting.keys(side)]) == 1
    assert counts.histograms[counting.client_keys(side)][key_group("a")] == 2


def test_the_bytes_and_redirects_of_a_caller_are_added_up() -> None:
    evidence = StatisticsCollector(lambda: 1000.0)
    finished = CallFinished(STAT, CALL, Reply(), Side.LEGACY, 0.1, received=5, sent=7)
    moved = replace(finished, outcome=Fault(FaultCode.APPLICATION, "", name="HOST_IS_SLAVE", data=["10.0.0.2"]))
    for each in (finished, moved, replace(finished, outcome=http_failure(302)), finished):
        evidence.count(each)
    key = ClientKey(ME, "xmlrpc", "tcp:10.0.0.1", "xe")
    assert evidence.take().clients == {key: ClientRecord(4, 1000.0, 1000.0, 20, 28, 2)}


def test_a_bounded_number_of_callers_is_told_apart_of_one_peer_and_of_all() -> None:
    evidence = StatisticsCollector(lambda: 1000.0, max_clients=IDENTITIES + 2)
    note = noting(evidence.count)
    for number in range(IDENTITIES + 5):
        call = replace(CALL, extensions={"protocol": "xmlrpc", "agent": f"evil-{number}"})
        note("toy", "VM.stat", call, Reply(1), 0.1, Side.DBUS)
    for number in (2, 3, 4):
        note("toy", "VM.stat", replace(CALL, peer=Peer(f"tcp:10.0.0.{number}:5")), Reply(1), 0.1, Side.DBUS)
    seen = evidence.take().clients
    assert len(seen) == IDENTITIES + 3
    assert seen[ClientKey(ME, "xmlrpc", "tcp:10.0.0.1", OTHERS)] == ClientRecord(5, 1000.0, 1000.0)
    assert ClientKey(ME, "xmlrpc", "tcp:10.0.0.2", "xe") in seen
    assert seen[ClientKey(ME, "xmlrpc", OTHERS, OTHERS)] == ClientRecord(2, 1000.0, 1000.0)


@each_case(("outcome", "user"), [(Reply("session"), "alice"), (Fault(FaultCode.APPLICATION, "no"), "")])
def test_the_user_of_a_failed_login_is_not_kept(outcome: Outcome, user: str) -> None:
    evidence = StatisticsCollector(lambda: 1000.0)
    call = replace(CALL, extensions={"protocol": "xmlrpc", "user": "alice", "login": True})
    noting(evidence.count)("toy", "VM.stat", call, outcome, 0.1, Side.DBUS)
    assert [key.user for key in evidence.take().clients] == [user]


def test_an_observation_counts_for_the_candidate_and_for_the_verdict() -> None:
    evidence = StatisticsCollector()
    tell(evidence, observed(Reply(1), Reply(1)))
    tell(evidence, observed(Reply(1), Fault(FaultCode.REMOTE, "no")))
    tell(evidence, observed(Reply({"up": 1}), Reply({"up": 3}), again=Reply({"up": 2})))  # noise is no difference
    evidence.not_compared(STAT, counting.NOT_SAMPLED)
    batch = evidence.take()
    seen = batch.evidence[ME]
    assert seen.counters == {
        "equal": 1, "ignored": 1, "error_different": 1, "not_sampled": 1, "calls_dbus": 3, "errors_dbus": 1,
    }  # fmt: skip
    assert seen.histograms.keys() == {"dbus"}
    (pair,) = batch.pairs
    assert pair.method == ME
    assert evidence.take() == CountsBatch({}, [], {})


def test_where_dbus_answered_the_legacy_side_was_observed_and_is_the_control() -> None:
    evidence = StatisticsCollector()
    tell(evidence, observed(Reply(1), Reply(2), answered=Side.DBUS))
    tell(evidence, observed(Fault(FaultCode.UNAVAILABLE, "away"), Reply(2), answered=Side.DBUS))
    late = Observation(Side.DBUS, Reply(2), 0.1, None, 1.0 + MAX_APART)
    tell(evidence, ObservedCall(STAT, CALL, Observation(Side.LEGACY, Reply(1), 0.1), late))
    full = Observation(Side.DBUS, Fault(FaultCode.BUSY, "no room"), 0.1, FaultCode.BUSY)
    tell(evidence, ObservedCall(STAT, CALL, Observation(Side.LEGACY, Reply(1), 0.1), full))  # not a call at all
    evidence.fell_back(STAT, CALL, Side.DBUS, Fault(FaultCode.UNAVAILABLE, "away"), 0.1)  # seen by no client
    batch = evidence.take()
    assert batch.evidence[ME].counters == {
        "different": 1, "unanswered": 1, "apart": 1, "dropped": 1,
        "calls_legacy": 2, "errors_legacy": 1, "calls_dbus": 2, "errors_dbus": 1,
    }  # fmt: skip
    (pair,) = batch.pairs
    assert isinstance(pair.document, dict)
    assert [pair.document[role]["side"] for role in ("control", "candidate")] == ["legacy", "dbus"]


def test_a_pair_has_the_moments_of_both_calls() -> None:
    evidence, now = StatisticsCollector(lambda: 5000.0), perf_counter()
    legacy = Observation(Side.LEGACY, Reply(1), 0.5, None, now - 2)
    tell(evidence, ObservedCall(STAT, CALL, legacy, Observation(Side.DBUS, Reply(2), 0.5, None, now - 1.45)))
    (pair,) = evidence.take().pairs
    assert isinstance(pair.document, dict)
    moments = [pair.document[role]["at"] for role in ("control", "candidate")]
    assert moments[1] - moments[0] == pytest.approx(0.55, abs=0.1)
    assert 4900 < moments[0] <= 4998


def test_of_many_pairs_the_newest_are_kept() -> None:
    evidence = StatisticsCollector()
    for number in range(MAX_PAIRS + 5):
        tell(evidence, observed(Reply(number), Reply(-1)))
    batch = evidence.take()
    assert len(batch.pairs) == MAX_PAIRS
    assert batch.evidence[ME].counters["different"] == MAX_PAIRS + 5


# Windows of counts


def test_each_method_counts_since_its_start_and_one_that_joins_starts_where_it_is() -> None:
    start = {"a": counts(compared=5), "b": counts(compared=1)}
    seen = {"a": counts(compared=7), "b": counts(compared=4), "new": counts(compared=100)}
    assert together(seen, start).compared == 5
    assert joined({"a": counts(compared=9)}, start) is None
    assert joined(seen, start) == {**start, "new": counts(compared=100)}


def test_windows_hold_the_last_counts_and_share_the_error_probability() -> None:
    window = CountsWindow({"a": counts()}, since=0.0, window=60.0)
    for minute in range(11):
        seen = {"a": counts(compared=minute * 100)}
        parts = window.parts(seen, minute * 60.0, alpha=0.01)
    assert {where: part.counts.compared for where, part in parts.items()} == {
        "in the last 60 s": 100,
        "in the last 2 min": 200,
    }  # those of long ago are forgotten
    assert window.since_start(seen).compared == 1000
    assert [part.alpha for part in parts.values()] == [spent(0.01, 17), spent(0.01, 19)]
