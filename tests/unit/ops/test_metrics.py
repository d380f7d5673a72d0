"""The metrics, read with Prometheus's own parser; no client can make them grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import ABANDONED, WITHDRAWN, Call, Fault, FaultCode, Outcome, Reply, http_failure
from gateway.ops.exposition import process, render
from gateway.ops.metrics import CALLS, REFUSED, SECONDS, SERIES, Calls, Samples, snapshot
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


SLAVE = Fault(FaultCode.APPLICATION, "HOST_IS_SLAVE", name="HOST_IS_SLAVE", data=["10.0.0.2"])
OUTCOMES: Mapping[str, Sequence[Outcome]] = {
    "ok": [Reply(1), Reply(2)],
    "unknown": [ABANDONED, ABANDONED],
    "withdrawn": [WITHDRAWN],
    "redirect": [SLAVE, http_failure(302), http_failure(307)],
    "timeout": [Fault(FaultCode.TIMEOUT, "")],
    "no_reply": [Fault(FaultCode.NO_REPLY, "cut")],
    # 302 is an application's own number
    "remote": [Fault(FaultCode.REMOTE, ""), http_failure(404), Fault(FaultCode.REMOTE, "", name="302")],
}


@each_case("side", [*Side, None])
def test_a_call_is_counted_by_its_side_and_its_outcome(side: Side | None) -> None:
    calls = Calls()
    for outcome in (each for outcomes in OUTCOMES.values() for each in outcomes):
        noting(calls.count)("xenopsd", "VM.start", CALL, outcome, 0.01, side)
    seen = samples(calls)
    labels = {**VM_START, "side": "" if side is None else side.value}
    for word, outcomes in OUTCOMES.items():
        assert seen[key(CALLS, **labels, outcome=word)] == len(outcomes), word
    assert calls.ended("xenopsd", "VM.start") == calls.ended() == (13, 5)  # five of them faults
    assert calls.ended("xenopsd", "VM.stop") == (0, 0)


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


def test_refused_messages_readings_and_the_process_are_told_too() -> None:
    calls = Calls()
    for code in (FaultCode.BUSY, FaultCode.PARSE_ERROR, FaultCode.BUSY):
        calls.refuse(Fault(code, "not today"))
    seen = samples(calls, {"xcp_gateway_bus_connected": [(("toolstack",), 1)]})
    assert (seen[key(REFUSED, outcome="busy")], seen[key(REFUSED, outcome="parse_error")]) == (2, 1)
    assert seen[key("xcp_gateway_bus_connected", bus="toolstack")] == 1
    assert seen[key("process_open_fds")] > 0


def test_every_series_is_there_from_the_start_with_its_help() -> None:
    lines = render(snapshot(Calls(), NOTHING, process())).decode().splitlines()
    told = {line for line in lines if line.startswith(("# HELP xcp_gateway_", "# TYPE xcp_gateway_"))}
    wanted = {f"# HELP {name} {series.help}" for name, series in SERIES.items()}
    wanted |= {f"# TYPE {name} {series.kind}" for name, series in SERIES.items()}
    assert told == wanted
    for name, series in SERIES.items():  # prometheus.io/docs/practices/naming
        assert name.endswith("_total") == (series.kind == "counter"), name


def test_the_table_in_the_docs_is_the_one_in_the_code() -> None:
    page = Path(__file__).parents[3] / "docs/operating.md"
    written = [line for line in page.read_text().splitlines() if line.startswith("| `xcp_gateway_")]
    wanted = [
        f"| `{name}` | {series.kind} | {', '.join(f'`{label}`' for label in series.labels) or '-'} | {series.help} |"
        for name, series in SERIES.items()
    ]
    assert written == wanted
