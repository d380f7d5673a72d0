"""The status of several workers as one, and what a config with workers may say."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from adapters.http import addresses
from adapters.http.addresses import InheritedSockets
from gateway import config, wiring
from gateway.admin.api import WorkerStatus
from gateway.admin.health import ServiceRow
from gateway.config import ConfigError
from gateway.core.admin.status import BusStatus, UpstreamStatus
from gateway.ops import process
from gateway.ops.metrics import Snapshot, merged
from gateway.workers.link import Answers
from gateway.workers.supervisor import SharedSockets
from gateway.workers.worker import merged_status
from tests.kit.gateway import Folder

ROW: WorkerStatus = {"number": 1, "pid": 71, "state": "serving", "leads": True, "restarts": 0}


def told(*, connected: bool = True, breaker: str = "closed", **changes: Any) -> dict[str, Any]:
    """What one worker says of itself."""
    bus = BusStatus("one", "unix:path=/x", connected, None, 4, 2, 1, "" if connected else "gone", 0, 7, 0)
    service = ServiceRow("org.x", "one", "owned", ":1.1", breaker, 0.0, 2, 10, 1)
    own = {"reasons": [], "warnings": [], "revision": "r1", "in_flight": 2, "tasks": 9, "buffered": 5, "stores": ["s"]}
    return {
        **own,
        "buses": [bus],
        "upstreams": [UpstreamStatus("old", "u", 1, 0, 3, "")],
        "services": [service],
        **changes,
    }


def test_what_is_counted_is_added_and_of_states_the_worst_is_shown() -> None:
    other = told(connected=False, breaker="open", reasons=["bus 'one' is not connected: gone"])
    found: Any = merged_status(1, told(), Answers({2: other}), [ROW])
    assert (found["in_flight"], found["tasks"], found["buffered"]) == (4, 18, 10)
    (bus,), (upstream,), (service,) = found["buses"], found["upstreams"], found["services"]
    assert (bus.connected, bus.last_error, bus.connections, bus.in_flight, bus.signals) == (False, "gone", 8, 4, 14)
    assert (upstream.in_flight, upstream.idle) == (2, 6)
    assert (service.breaker, service.calls, service.faults) == ("open", 20, 2)
    assert (found["ready"], found["reasons"]) == (False, ["worker 2: bus 'one' is not connected: gone"])
    assert found["workers"] == [ROW]
    assert found["stores"] == ["s"]


def test_what_only_one_says_names_it_and_what_all_say_is_said_once() -> None:
    own, other = told(warnings=["both"], reasons=["all"]), told(warnings=["both", "its own"], reasons=["all"])
    late = "worker 3 did not answer in 5 s"
    found: Any = merged_status(1, own, Answers({2: {**other, "revision": "r2"}}, (late,)), [])
    assert found["reasons"] == ["all", late]
    older = "worker 2 serves revision r2, and worker 1 revision r1"
    assert found["warnings"] == ["both", "worker 2: its own", older]


def test_samples_are_added_or_the_worst_by_their_series() -> None:
    def taken(calls: float, connected: float, breaker: float) -> Snapshot:
        return Snapshot(
            {
                "xcp_gateway_calls_total": {("s", "m", "dbus", "ok"): calls},
                "xcp_gateway_bus_connected": {("one",): connected},
                "xcp_gateway_breaker_open": {("one", "org.x"): breaker},
            },
            {("s", "m", "dbus"): ([1, 2], 0.5)},
            {"process_start_time_seconds": ("gauge", "", calls), "process_open_fds": ("gauge", "", 10.0)},
        )

    both = merged([taken(3, 1, 0), taken(4, 0, 1)])
    assert [next(iter(values.values())) for values in both.samples.values()] == [7, 0, 1]
    assert both.seconds == {("s", "m", "dbus"): ([2, 4], 1.0)}
    assert [value for _, _, value in both.process.values()] == [3, 20.0]


# The config


def written(folder: Folder, workers: object, *, more: str = "") -> config.Config:
    folder.buses({"one": ("unix:path=/nowhere", "org.example.*")})
    folder.config.write_text(f"workers = {workers}\n{folder.config.read_text()}{more}")
    return wiring.load_config(folder.config)


STATE = '[state]\nfile = "state.db"\n'


def test_the_number_of_workers_is_checked_and_auto_is_the_cores_that_this_process_may_use(tmp_path: Path) -> None:
    for wrong in ("0", "65", '"many"', "true", "1.5"):
        with pytest.raises(ConfigError, match=r'workers: expected a whole number from 1 to 64, or "auto", got '):
            written(Folder(tmp_path), wrong, more=STATE)
    with pytest.raises(ConfigError, match="workers: 2 workers need a state file"):
        written(Folder(tmp_path), 2)
    assert written(Folder(tmp_path), '"auto"', more=STATE).workers == process.cores() <= len(os.sched_getaffinity(0))
    settings = written(Folder(tmp_path), 64, more=STATE)
    (doubt,) = (text for place, text in config.doubts(settings) if place == ("workers",))
    assert doubt.startswith("64 workers on ")


def test_sessions_with_a_bus_connection_of_their_own_need_one_worker(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (folder.mappings / "toy.xml").write_text(IDL)
    folder.mapping(MAPPING)
    _, (problem,) = wiring.compile_mappings(written(folder, 2, more=STATE))
    assert (problem.line, problem.place) == (9, "methods.echo")
    assert problem.message.startswith(f"a bus connection for each session needs workers = 1 in {folder.config}")
    folder.config.write_text(folder.config.read_text().replace("workers = 2", "workers = 1"))
    assert wiring.compile_mappings(wiring.load_config(folder.config))[1] == []


IDL = """\
<node><interface name="org.example.Toy1">
  <method name="Echo"><arg name="text" type="s" direction="in"/></method>
  <method name="Check"><arg name="session" type="s" direction="in"/></method>
</interface></node>
"""
MAPPING = """\
mapping: 1
service: toy
dbus: {bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}
expose:
  - {listener: rpc, path: /RPC2, codec: xmlrpc, dialect: plain}
session: {parameter: session, interface: org.example.Toy1, member: Check}
connection: {of: session}
methods:
  echo: {member: Echo, params: [session, text]}
"""


# Sockets


async def test_each_process_has_a_socket_of_its_own_for_a_port_and_one_of_a_file_for_all(tmp_path: Path) -> None:
    tcp = await addresses.bind_shared("tcp:127.0.0.1:0", 0o660, InheritedSockets({}), 3)
    unix = await addresses.bind_shared(f"unix:{tmp_path}/rpc", 0o660, InheritedSockets({}), 3)
    try:
        assert len(tcp) == 3
        assert len({each.addresses for each in tcp}) == 1
        assert len(unix) == 1
        tcp[0].sockets[0].listen()
        port = tcp[0].addresses[0].rpartition(":")[2]
        with pytest.raises(OSError, match="another program listens there"):
            await addresses.bind_shared(f"tcp:127.0.0.1:{port}", 0o660, InheritedSockets({}), 3)
    finally:
        for each in (*tcp, *unix):
            each.close()


async def test_the_kernel_gives_no_connection_to_a_worker_that_has_ended(tmp_path: Path) -> None:
    """Nor does the port go to another program; the next worker listens on the same sockets."""
    settings = written(Folder(tmp_path), 2, more=STATE)
    shared = SharedSockets(settings)
    await shared.bind()
    try:
        port = int(shared.addresses[0].rpartition(":")[2])
        first, second = (socket.socket(fileno=os.dup(shared.of(slot)["rpc/0"][0])) for slot in (0, 1))
        with first, second:
            first.listen()
            second.listen()
            shared.withdraw(0)
            assert taken_of(port, second) == CONNECTIONS
            first.listen()
            assert 0 < taken_of(port, second) < CONNECTIONS
    finally:
        shared.close()
    assert not Path(settings.admin.socket).exists()


CONNECTIONS = 64


def taken_of(port: int, listening: socket.socket) -> int:
    """How many of so many connections arrive at a socket."""
    listening.setblocking(False)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        taken = 0
        while True:
            try:
                stack.enter_context(listening.accept()[0])
            except BlockingIOError:
                return taken
            taken += 1
