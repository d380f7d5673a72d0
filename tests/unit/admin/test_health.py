"""Health, and the address for monitoring."""

from __future__ import annotations

import dataclasses
import socket as sockets

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from gateway.admin import health
from gateway.admin.http import add_paths
from gateway.admin.sockets import TcpServer, listening_at
from gateway.core.admin.status import BreakerState, BusStatus, Presence, ServiceStatus, StoreStatus
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.ops.exposition import CONTENT_TYPE
from gateway.ops.metrics import Calls
from tests.kit.admin import Toy
from tests.kit.mappings import TARGET, noting, route

UP = BusStatus("toolstack", "unix:path=/b", connected=True, since=0.0, connections=4, in_flight=2, late_replies=7)
DOWN = replace(UP, connected=False, connections=0, last_error="cannot connect: no such file")
TOY = ServiceStatus("org.xen.xcp.toy", "toolstack", Presence.OWNED, ":1.7", in_flight=2)


def to(bus_name: str, method: str, **changes: object) -> Route:
    return route(method, target=dataclasses.replace(TARGET, bus_name=bus_name), **changes)


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


def test_it_is_ready_or_what_is_missing_is_named_once() -> None:
    sleeper = ServiceStatus("org.sleeper", "toolstack", Presence.ON_DEMAND)
    assert health.reasons([UP], [TOY, sleeper]) == []
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


def test_a_store_that_is_away_is_named_and_counted_and_so_is_a_service_that_is_refused() -> None:
    there = replace(STORE, connected=True)
    assert health.reasons([UP], [TOY], [replace(there, serving=True)]) == []
    assert health.reasons([UP], [TOY], [there]) == ["the store of listener 'store' is being read"]
    assert health.reasons([UP], [TOY], [STORE]) == ["the store of listener 'store' is not connected: no such file"]
    refused = replace(TOY, breaker=BreakerState.HALF_OPEN)
    readings = health.readings(table(), [UP], [refused], {"xcp_gateway_calls_in_flight": 3.0}, {"rpc": 5}, [STORE])
    for name, *labels, value in (
        ("store_connected", "store", False),
        ("store_requests_waiting", "store", 3),
        ("late_replies_total", "toolstack", 7),
        ("service_available", "toolstack", TOY.name, True),
        ("breaker_open", "toolstack", TOY.name, True),
        ("connections_aborted_total", "rpc", 5),
        ("calls_in_flight", 3.0),
    ):
        assert readings[f"xcp_gateway_{name}"] == [(tuple(labels), value)]


# Monitoring


async def test_monitoring_tells_what_it_is_asked_and_nothing_else() -> None:
    toy = Toy()
    server = TcpServer("metrics", "tcp:[::1]:0", lambda: add_paths(web.Application(), toy))
    await server.start()

    async def get(path: str, verb: str = "GET") -> tuple[int, str, str]:
        url = server.address.replace("tcp:", "http://") + path
        async with aiohttp.ClientSession() as session, session.request(verb, url) as response:
            return response.status, response.headers["Content-Type"], await response.text()

    assert (await get("/readyz"))[::2] == (200, '{"ready":true,"reasons":[],"warnings":[]}')
    toy.ready = False
    assert (await get("/readyz"))[::2] == (503, '{"ready":false,"reasons":["no bus"],"warnings":[]}')
    assert (await get("/healthz"))[::2] == (200, '{"alive":true}')  # as long as it answers
    assert await get("/metrics") == (200, CONTENT_TYPE, "toy_total 1.0\n")
    for verb, path, status in (("GET", "/v1/status", 404), ("POST", "/v1/call", 404), ("POST", "/metrics", 405)):
        assert (await get(path, verb))[0] == status
    await server.stop()


def test_an_address_that_is_taken_is_named() -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}: Address already in use"):
            listening_at(address)
    with pytest.raises(OSError, match=r"cannot listen on tcp:127.0.0.1:99999: port 99999: expected at most 65535"):
        listening_at("tcp:127.0.0.1:99999")
