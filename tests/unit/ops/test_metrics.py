"""The metrics, read with Prometheus's own parser; no client can make them grow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import ABANDONED, WITHDRAWN, Call, Fault, FaultCode, Outcome, Reply, http_failure
from gateway.ops.exposition import process, render
from gateway.ops.metrics import BUCKETS, CALLS, REFUSED, SECONDS, SERIES, Calls, Samples, snapshot
from tests.kit.cases import each_case
from tests.kit.mappings import noting

CALL = Call("VM.start", ("a secret",))
VM_START = {"service": "xenopsd", "method": "VM.start", "side": "dbus"}
NOTHING: Mapping[str, Samples] = dict.fromkeys(SERIES, ())


def key(name: str, **labels: str) -> tuple[object, ...]:
    return name, *sorted(labels.items())


def samples(calls: Calls, readings: Mapping[str, Samples] = NOTHING) -> dict[tuple[object, ...], float]:
    """What a scraper reads."""
    families = text_string_to_metric_families(render(snapshot(calls, {**NOTHING, **readings}, process())).decode())
    return {key(sample.name, **sample.labels): sample.value for family in families for sample in family.samples}


def test_a_call_is_counted_by_its_outcome() -> None:
    calls = Calls()
    note = noting(calls.count)
    outcomes: list[Outcome] = [Reply(1), Reply(2), Fault(FaultCode.TIMEOUT, "late"), Fault(FaultCode.REMOTE, "no")]
    for outcome in outcomes:
        note("xenopsd", "VM.start", CALL, outcome, 0.01, Side.DBUS)
    seen = samples(calls)
    for outcome_label, count in (("ok", 2), ("timeout", 1), ("remote", 1)):
        assert seen[key(CALLS, **VM_START, outcome=outcome_label)] == count
    assert calls.ended("xenopsd", "VM.start") == (4, 2)
    assert calls.ended("xenopsd", "VM.stop") == (0, 0)


def test_calls_whose_clients_left_are_counted_and_are_nobodys_fault() -> None:
    calls = Calls()
    note = noting(calls.count)
    for outcome in (ABANDONED, ABANDONED, WITHDRAWN, Fault(FaultCode.NO_REPLY, "cut")):
        note("xenopsd", "VM.start", CALL, outcome, 0.01, Side.DBUS)
    seen = samples(calls)
    for outcome_label, count in (("unknown", 2), ("withdrawn", 1), ("no_reply", 1)):
        assert seen[key(CALLS, **VM_START, outcome=outcome_label)] == count
    assert calls.ended("xenopsd", "VM.start") == (4, 1)


def test_a_redirect_is_an_outcome_of_its_own_and_no_fault() -> None:
    calls = Calls()
    note = noting(calls.count)
    slave = Fault(FaultCode.APPLICATION, "HOST_IS_SLAVE", name="HOST_IS_SLAVE", data=["10.0.0.2"])
    other = Fault(FaultCode.REMOTE, "no such thing", name="302")  # an application's own number
    for outcome in (slave, http_failure(302), http_failure(307), http_failure(404), other):
        note("xenopsd", "VM.start", CALL, outcome, 0.01, Side.LEGACY)
    seen = samples(calls)
    labels = {**VM_START, "side": "legacy"}
    assert [seen[key(CALLS, **labels, outcome=word)] for word in ("redirect", "remote")] == [3, 2]
    assert calls.ended("xenopsd", "VM.start") == (5, 2)


def test_each_side_is_counted_for_itself_and_nobody_as_nobody() -> None:
    calls = Calls()
    note = noting(calls.count)
    for side in (Side.DBUS, Side.LEGACY, Side.LEGACY, None):
        note("xenopsd", "VM.start", CALL, Reply(), 0.01, side)
    seen = samples(calls)
    labels = {**VM_START, "outcome": "ok"}
    assert [seen[key(CALLS, **{**labels, "side": side})] for side in ("dbus", "legacy", "")] == [1, 2, 1]
    assert calls.ended("xenopsd", "VM.start") == (4, 0)


def test_seconds_are_told_as_a_histogram() -> None:
    calls = Calls()
    note = noting(calls.count)
    for seconds in (0.0, 0.001, 0.002, 60.0, 61.0):
        note("xenopsd", "VM.start", CALL, Reply(), seconds, Side.DBUS)
    seen = samples(calls)
    bounds = ("0.001", "0.0025", "30.0", "60.0", "+Inf")
    assert [seen[key(f"{SECONDS}_bucket", **VM_START, le=bound)] for bound in bounds] == [2, 3, 3, 4, 5]
    assert seen[key(f"{SECONDS}_count", **VM_START)] == 5
    assert seen[key(f"{SECONDS}_sum", **VM_START)] == pytest.approx(121.003)


def test_messages_that_hold_no_call_are_counted_apart() -> None:
    calls = Calls()
    for code in (FaultCode.BUSY, FaultCode.PARSE_ERROR, FaultCode.BUSY):
        calls.refuse(Fault(code, "not today"))
    seen = samples(calls)
    assert (seen[key(REFUSED, outcome="busy")], seen[key(REFUSED, outcome="parse_error")]) == (2, 1)


def test_buckets_rise() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))


def test_readings_are_told_under_the_labels_of_their_series() -> None:
    seen = samples(Calls(), {"xcp_gateway_bus_connected": [(("toolstack",), 1)]})
    assert seen[key("xcp_gateway_bus_connected", bus="toolstack")] == 1


def test_every_series_is_there_from_the_start_with_its_help() -> None:
    lines = render(snapshot(Calls(), NOTHING, process())).decode().splitlines()
    told = {line for line in lines if line.startswith(("# HELP xcp_gateway_", "# TYPE xcp_gateway_"))}
    wanted = {f"# HELP {name} {series.help}" for name, series in SERIES.items()}
    wanted |= {f"# TYPE {name} {series.kind}" for name, series in SERIES.items()}
    assert told == wanted


def test_a_reading_that_is_not_taken_is_a_bug() -> None:
    with pytest.raises(KeyError, match="xcp_gateway_build_info"):
        snapshot(Calls(), {}, {})


def test_the_process_itself_is_told_of_too() -> None:
    assert samples(Calls())[key("process_open_fds")] > 0


@each_case("name", SERIES)
def test_names_follow_the_conventions(name: str) -> None:
    """(prometheus.io/docs/practices/naming)"""
    series = SERIES[name]
    assert name.endswith("_total") == (series.kind == "counter")
    assert series.help.endswith(".")


def test_the_table_in_the_docs_is_the_one_in_the_code() -> None:
    page = Path(__file__).parents[3] / "docs/operating.md"
    written = [line for line in page.read_text().splitlines() if line.startswith("| `xcp_gateway_")]
    wanted = [
        f"| `{name}` | {series.kind} | {', '.join(f'`{label}`' for label in series.labels) or '-'} | {series.help} |"
        for name, series in SERIES.items()
    ]
    assert written == wanted
