"""Ready or not and why; which services there are; what a scrape reads."""

from __future__ import annotations

from dataclasses import replace

from adapters.dbus.backend import Presence
from gateway.admin import health
from gateway.core.admin.status import BreakerState
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.ops.metrics import CALLS, REFUSED, SECONDS, SERIES, Calls
from gateway.wiring import BusStatus, ServiceStatus, StoreStatus
from tests.kit.mappings import TARGET, noting, route

# Read where methods move (gateway/migration/manager.py).
MOVING = {
    "xcp_gateway_comparisons_total",
    "xcp_gateway_not_compared_total",
    "xcp_gateway_state_trouble",
    "xcp_gateway_rollouts_breached",
    "xcp_gateway_mapping_refused",  # the gateway itself reads it: tests/unit/test_server.py
}

UP = BusStatus("toolstack", "unix:path=/b", connected=True, since=0.0, connections=4, in_flight=2, late_replies=7)
DOWN = replace(UP, connected=False, connections=0, last_error="cannot connect: no such file")
TOY = ServiceStatus("org.xen.xcp.toy", "toolstack", Presence.OWNED, ":1.7", in_flight=2)


def to(bus_name: str, method: str, **changes: object) -> Route:
    return route(method, target=replace(TARGET, bus_name=bus_name), **changes)


def table(*routes: Route) -> Table:
    key = EndpointKey("rpc", "/")
    return Table({key: EndpointTable(key, "xmlrpc", "plain", {each.method: each for each in routes})}, "r1")


def test_services_are_those_that_a_call_may_lead_to() -> None:
    guarded = to("org.b", "VM.start", session_check=to("org.session", "check"))
    off = to("org.off", "VM.stop")
    names = health.bus_names(table(to("org.c", "SR.scan"), guarded, off), lambda each: each is not off)
    assert {name: [each.method for each in routes] for name, routes in names.items()} == {
        "org.b": ["VM.start"], "org.c": ["SR.scan"], "org.session": [],
    }  # fmt: skip


def test_a_row_adds_up_the_methods_of_its_service() -> None:
    calls = Calls()
    note = noting(calls.count)
    for method, outcome in (("VM.start", Reply()), ("VM.stop", Fault(FaultCode.BUSY, "")), ("VM.stop", Reply())):
        note("toy", method, Call(method), outcome, 0.1, None)
    mapped = table(to(TOY.name, "VM.start"), to(TOY.name, "VM.stop"), to("org.other", "SR.scan"))
    refused = replace(TOY, breaker=BreakerState.OPEN, probe_in=1.26)
    (row,) = health.rows(mapped, [refused], calls, lambda _: True)
    assert row == health.ServiceRow(
        TOY.name, "toolstack", "owned", ":1.7", "open", probe_in=1.3, in_flight=2, calls=3, faults=1
    )


def test_ready_is_when_every_bus_is_connected_and_every_service_there_or_startable() -> None:
    sleeper = ServiceStatus("org.sleeper", "toolstack", Presence.ON_DEMAND)
    assert health.reasons([UP], [TOY, sleeper]) == []


def test_what_is_missing_is_named_once() -> None:
    absent = ServiceStatus("org.absent", "toolstack", Presence.ABSENT)
    nowhere = ServiceStatus("org.nowhere", "", Presence.UNKNOWN)
    assert health.reasons([UP], [TOY, absent, nowhere]) == [
        "org.absent is absent on bus 'toolstack'",
        "org.nowhere is on no bus of the config",
    ]
    unknown = ServiceStatus("org.absent", "toolstack", Presence.UNKNOWN)
    assert health.reasons([DOWN], [unknown]) == ["bus 'toolstack' is not connected: cannot connect: no such file"]
    assert health.reasons([UP], [unknown]) == ["org.absent is unknown on bus 'toolstack'"]  # the bus is mute


STORE = StoreStatus(
    "store", "/run/x", connected=False, serving=False, last_error="no such file", reconnects=0, watches=2, waiting=3
)


def test_a_store_that_is_away_is_named_and_counted() -> None:
    there = replace(STORE, connected=True)
    assert health.reasons([UP], [TOY], [replace(there, serving=True)]) == []
    assert health.reasons([UP], [TOY], [there]) == ["the store of listener 'store' is being read"]
    assert health.reasons([UP], [TOY], [STORE]) == ["the store of listener 'store' is not connected: no such file"]
    readings = health.readings(table(), [UP], [], {}, {}, [STORE])
    assert readings["xcp_gateway_store_connected"] == [(("store",), False)]
    assert readings["xcp_gateway_store_requests_waiting"] == [(("store",), 3)]


def test_a_scrape_reads_every_series_that_is_not_counted() -> None:
    names = ("calls_in_flight", "tunnels_open", "buffered_bytes", "log_lines_lost_total")
    values = dict.fromkeys((f"xcp_gateway_{name}" for name in names), 3.0)
    refused = replace(TOY, breaker=BreakerState.HALF_OPEN)
    readings = health.readings(table(), [UP], [refused], values, {"rpc": 5})
    assert readings.keys() == SERIES.keys() - {CALLS, REFUSED, SECONDS} - MOVING
    assert readings["xcp_gateway_late_replies_total"] == [(("toolstack",), 7)]
    assert readings["xcp_gateway_service_available"] == [(("toolstack", TOY.name), True)]
    assert readings["xcp_gateway_breaker_open"] == [(("toolstack", TOY.name), True)]
    assert readings["xcp_gateway_connections_aborted_total"] == [(("rpc",), 5)]
    assert readings["xcp_gateway_calls_in_flight"] == [((), 3.0)]
