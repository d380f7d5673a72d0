"""Several processes serve as one gateway: one mode, one mapping, one admin socket, whichever of them dies or hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fcntl import LOCK_EX, flock
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.client import RefusedError, stream
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.clients import UnixConnection
from tests.kit.gateway import TOY_MAPPING, Folder, Process, passed
from tests.kit.programs import TIMEOUT, until
from tests.kit.toy_service import ask_toy, toy_service
from tests.kit.workers import Team, kill, running_team, with_workers

pytestmark = pytest.mark.bus

OFF = {"pattern": "echo", "mode": "off"}


UPSTREAM = '[upstream.old]\nurl = "http+unix:///nowhere"\n'
MAPPING = TOY_MAPPING.replace("service: toy", "service: toy\nlegacy: {upstream: old}").replace(
    "effect: read}", "effect: read, mode: dbus}"
)


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        yield bus


def made(path: Path, bus: PrivateBus) -> Folder:
    folder = Folder(path)
    folder.buses({"toolstack": (bus.address, "org.example.*")})
    with_workers(folder)
    folder.config.write_text(folder.config.read_text() + UPSTREAM)
    folder.mapping(MAPPING)
    return folder


@pytest.fixture
def folder(tmp_path: Path, bus: PrivateBus) -> Folder:
    """The folder of a gateway that a test starts itself."""
    return made(tmp_path, bus)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bus: PrivateBus) -> Iterator[tuple[Folder, Team]]:
    folder = made(tmp_path_factory.mktemp("team"), bus)
    with running_team(folder) as team:
        yield folder, team


@pytest.fixture
def files(served: tuple[Folder, Team]) -> Folder:
    """The folder of the gateway that tests share."""
    return served[0]


@pytest.fixture
def team(served: tuple[Folder, Team]) -> Team:
    """A gateway that tests share: what they kill comes back, and what they set they take back."""
    folder, team = served
    folder.mapping(MAPPING)
    team.until(lambda rows: all(row["state"] == "serving" for row in rows) and any(row["leads"] for row in rows))
    team.ask("POST", "/v1/reload")
    for mode in team.ask("GET", "/v1/modes"):
        team.ask("POST", "/v1/mode/clear", {"pattern": mode["pattern"]})
    return team


def until_held(bus: PrivateBus, count: int) -> None:
    """Wait until the toy service holds so many calls."""
    until(lambda: ask_toy(bus.address, "Held") >= count)


def release(bus: PrivateBus) -> int:
    """Let the toy service answer what it holds; how many calls those were."""
    return ask_toy(bus.address, "Release")


def is_gone(pid: int) -> bool:
    """Whether a process has ended; its parent may not have noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


# One gateway


def test_both_serve_and_what_they_count_is_added(team: Team) -> None:
    def counted() -> tuple[float, float, float]:
        series = team.series("xcp_gateway_calls_total"), team.series("xcp_gateway_call_seconds_count")
        return *series, team.ask("GET", "/v1/status")["services"][0]["calls"]

    with team.connected_to(1) as one, team.connected_to(2) as other:
        before = counted()
        for connection in (one, other, other):
            assert connection.call("echo", "hi") == "hi"
        assert counted() == tuple(number + 3 for number in before)
    assert team.series("xcp_gateway_workers") == 2
    status = team.ask("GET", "/v1/status")
    assert [row["state"] for row in status["workers"]] == ["serving", "serving"]
    assert status["ready"]


def test_a_mode_holds_in_both_when_the_command_returns(team: Team) -> None:
    with team.connected_to(1) as one, team.connected_to(2) as other:
        for _ in range(10):
            changed = team.ask("POST", "/v1/mode", OFF)
            assert changed["notes"] == []
            assert "off" in one.call("echo", "hi")
            assert "off" in other.call("echo", "hi")
            team.ask("POST", "/v1/mode/clear", {"pattern": "echo"})
            assert (one.call("echo", "hi"), other.call("echo", "hi")) == ("hi", "hi")


def test_a_recording_has_the_calls_of_both(team: Team) -> None:
    lines: list[dict[str, Any]] = []
    wanted = {"patterns": ["echo"], "calls": 200}

    def record() -> None:
        stream(team.control, "POST", "/v1/record", wanted, lambda line: lines.append(json.loads(line)))

    def recorded() -> set[str]:
        return {line["params"][0] for line in [*lines] if "params" in line}

    leader, follower = team.leader()["number"], team.follower()["number"]
    with team.connected_to(leader) as one, team.connected_to(follower) as other:
        reader = threading.Thread(target=record)
        reader.start()
        end = time.monotonic() + TIMEOUT
        while reader.is_alive() and time.monotonic() < end:  # the follower begins last: once it is heard, both record
            one.call("echo", "of one") if recorded() else other.call("echo", "of the other")
        reader.join()
    assert "recording" in lines[0]
    assert (lines[-1]["end"], lines[-1]["calls"], len(lines)) == ("200 calls", 200, 202)
    assert recorded() == {"of one", "of the other"}


def test_a_rollback_of_everything_needs_no_state_file_in_any_of_them(team: Team, files: Folder) -> None:
    def rollbacks() -> int:
        return sum(row["what"] == "rollback" for row in team.ask("GET", "/v1/audit"))

    with team.connected_to(1) as one, team.connected_to(2) as other:
        with closing(sqlite3.connect(files.path / "state.db", isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            assert "is locked" in team.ask("POST", "/v1/rollback", {})["held"]
            assert "'old'" in one.call("echo", "hi")  # the legacy service, which is not there
            assert "'old'" in other.call("echo", "hi")
        team.until(lambda _: rollbacks() > 0)
        assert "'old'" in one.call("echo", "hi")
        assert "'old'" in other.call("echo", "hi")
        team.until(lambda _: team.series("xcp_gateway_state_trouble") == 0)
        assert rollbacks() == 1, "each of them held it, and one has written it"


# Mapping files


def test_a_reload_is_served_by_both_or_by_none(team: Team, files: Folder) -> None:
    with team.connected_to(1) as one, team.connected_to(2) as other:
        files.mapping(MAPPING.replace("  echo:", "  mirror:"))
        assert team.ask("POST", "/v1/reload")["added"] == ["mirror"]
        assert (one.call("mirror", "hi"), other.call("mirror", "hi")) == ("hi", "hi")
        files.mapping("no mapping")
        refused = team.ask("POST", "/v1/reload")
        assert refused["problems"]
        assert (one.call("mirror", "hi"), other.call("mirror", "hi")) == ("hi", "hi")
        assert team.series("xcp_gateway_mapping_refused") == 1
        files.mapping(MAPPING.replace("  echo:", "  answer:"))
        team.process.signal(signal.SIGHUP)
        until(lambda: (one.call("answer", "hi"), other.call("answer", "hi")) == ("hi", "hi"))


def test_a_worker_that_starts_again_serves_what_the_others_serve(team: Team, files: Folder) -> None:
    """Whatever has happened to the files since they were loaded."""
    files.mapping(MAPPING.replace("  echo:", "  mirror:"))
    team.ask("POST", "/v1/reload")
    team.ask("POST", "/v1/mode", {"pattern": "held", "mode": "off"})
    files.mapping(MAPPING.replace("  echo:", "  other:"))
    follower = team.follower()
    kill(follower["pid"])
    team.restarted(follower)
    with team.connected_to(follower["number"]) as fresh:
        assert fresh.call("mirror", "hi") == "hi"
        assert "unknown method" in fresh.call("other", "hi")
        assert "off" in fresh.call("held")
    assert team.ask("GET", "/v1/status")["warnings"] == []


# Workers that die


def test_a_worker_that_is_killed_costs_its_own_calls_only(team: Team, bus: PrivateBus) -> None:
    follower = team.follower()
    leader = team.leader()["number"]
    with team.connected_to(follower["number"]) as lost, team.connected_to(leader) as stays:
        for _ in range(5):
            lost.call("echo", "hi")
        counters = ("xcp_gateway_calls_total", "xcp_gateway_call_seconds_count", "xcp_gateway_worker_restarts_total")
        before = [team.series(name) for name in counters]
        stays.send("hold")
        lost.send("hold")
        until_held(bus, 2)
        kill(follower["pid"])
        with pytest.raises((HTTPException, OSError)):
            lost.answer()
        assert release(bus) == 2
        assert stays.answer() == "released"
        for _ in range(20):  # the kernel gives no connection to the one that has ended
            with closing(team.connect()) as another:
                assert another.worker != follower["number"] or another.call("echo", "hi") == "hi"
        assert team.restarted(follower)["pid"] != follower["pid"]
        assert all(team.series(name) > was for name, was in zip(counters, before, strict=True)), "none falls"
    assert release(bus) == 0  # nothing was sent again


def test_when_the_leader_is_killed_another_one_serves_operators_and_no_write_is_repeated(
    team: Team, files: Folder, bus: PrivateBus
) -> None:
    team.ask("POST", "/v1/mode", OFF)
    leader, follower = team.leader(), team.follower()
    with team.connected_to(leader["number"]) as lost, team.connected_to(follower["number"]) as stays:
        lost.send("hold")
        until_held(bus, 1)
        kill(leader["pid"])
        assert team.leader()["number"] == follower["number"]  # the first question already
        with pytest.raises((HTTPException, OSError)):
            lost.answer()
        assert "off" in stays.call("echo", "hi")
    assert team.ask("POST", "/v1/mode/clear", {"pattern": "echo"})["methods"][0]["after"] == "dbus"
    team.restarted(leader)
    assert team.leader()["number"] == follower["number"]
    assert release(bus) == 1
    assert files.control.is_socket()


def test_one_that_hangs_is_named_and_replaced_before_a_mode_counts_as_set(team: Team) -> None:
    follower = team.follower()
    os.kill(follower["pid"], signal.SIGSTOP)
    changed = team.ask("POST", "/v1/mode", OFF)
    assert changed["notes"] == [f"worker {follower['number']} did not answer in 5 s; it is being replaced"]
    assert is_gone(follower["pid"])
    team.restarted(follower)
    with team.connected_to(follower["number"]) as fresh:
        assert "off" in fresh.call("echo", "hi")


def test_one_that_hangs_is_replaced_though_nobody_asks_it(team: Team) -> None:
    leader = team.leader()
    os.kill(leader["pid"], signal.SIGSTOP)
    team.process.wait_for(f"worker {leader['number']} has not reported for")
    assert team.leader()["number"] != leader["number"]
    team.restarted(leader)


def test_one_that_is_told_to_stop_finishes_its_calls_and_is_started_again(team: Team, bus: PrivateBus) -> None:
    follower = team.follower()
    with team.connected_to(follower["number"]) as connection:
        connection.send("hold")
        until_held(bus, 1)
        os.kill(follower["pid"], signal.SIGTERM)
        team.until(lambda rows: any(row["state"] == "stopping" for row in rows))
        release(bus)
        assert connection.answer() == "released"
    team.restarted(follower)


@contextmanager
def hung_state_file(folder: Folder) -> Iterator[None]:
    """While the block runs, the state file answers nobody, as on a disk that hangs."""
    opened = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    flock(opened, LOCK_EX)  # who makes the file anew waits for this
    for file in folder.path.glob("state.db*"):
        file.unlink()
    try:
        yield
    finally:
        os.close(opened)


def test_a_state_file_that_hangs_costs_no_worker(own: Team, folder: Folder) -> None:
    """Each puts what it is told in force without the file, and in less time than the supervisor waits."""
    pids = {row["pid"] for row in own.rows()}
    with own.connected_to(1) as one, own.connected_to(2) as other, hung_state_file(folder):
        rolled = until(lambda: own.ask("POST", "/v1/rollback", {}), lambda rolled: "has not answered" in rolled["held"])
        assert rolled["notes"] == []
        assert "'old'" in one.call("echo", "hi")
        assert "'old'" in other.call("echo", "hi")
        with pytest.raises(RefusedError, match="has not answered"):
            own.ask(
                "POST", "/v1/statistics/reset", {"pattern": "echo"}
            )  # every worker is asked to write its counts down
        assert {row["pid"] for row in own.rows()} == pids
    own.until(lambda _: own.series("xcp_gateway_state_trouble") == 0)
    assert {row["pid"] for row in own.rows()} == pids


# Start and stop


def test_mapping_files_that_are_refused_end_the_start_with_their_problems_once(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecco"))
    process = Process(folder.config)
    try:
        assert process.wait() == 4
    finally:
        process.end()
    assert sum("Ecco" in line["event"] for line in process.lines) == 1
    assert not folder.control.exists()
    assert not (folder.path / "rpc").exists()


@pytest.fixture
def own(folder: Folder) -> Iterator[Team]:
    """A gateway that the test ends."""
    with running_team(folder) as team:
        yield team


def test_a_stop_finishes_the_calls_of_all(own: Team, folder: Folder, bus: PrivateBus) -> None:
    team = own
    pids = [row["pid"] for row in team.rows()]
    with team.connected_to(1) as one, team.connected_to(2) as other:
        one.send("hold")
        other.send("hold")
        until_held(bus, 2)
        team.process.signal(signal.SIGTERM)
        team.process.wait_until(lambda lines: sum(line["event"] == "stopping" for line in lines) == 2)
        release(bus)
        assert (one.answer(), other.answer()) == ("released", "released")
    assert team.process.wait() == 0
    assert team.process.lines[-1]["event"] == "stopped, nothing in flight"
    assert all(map(is_gone, pids))
    assert not folder.control.exists()
    assert not (folder.path / "rpc").exists()


def test_workers_end_when_their_supervisor_was_killed(own: Team) -> None:
    pids = [row["pid"] for row in own.rows()]
    own.process.signal(signal.SIGKILL)
    own.process.wait()
    until(lambda: all(map(is_gone, pids)))


def test_systemd_is_told_by_the_supervisor_and_its_socket_is_shared(folder: Folder, tmp_path: Path) -> None:
    folder.config.write_text(folder.config.read_text().replace(f"unix:{tmp_path}/rpc", "systemd:rpc"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, passed(tmp_path / "passed", "rpc") as around:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        with running_team(folder, environment=environment, **around) as team:
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=2 workers; the leader: revision")
            assert is_told(manager, b"WATCHDOG=1")
            workers: set[int] = set()

            def ask() -> set[int]:
                name = f"over-unix-{len(team.process.lines)}"
                with closing(UnixConnection(tmp_path / "passed")) as connection:
                    body = json.dumps({"jsonrpc": "2.0", "method": "label", "id": 1})
                    connection.request("POST", "/jsonrpc", body, {"X-Request-Id": name})
                    assert json.loads(connection.getresponse().read())["result"] == "toy"
                workers.add(team.line(name)["worker"])
                return workers

            until(ask, {1, 2}.__eq__)
            team.process.signal(signal.SIGHUP)
            assert is_told(manager, b"RELOADING=1")
            assert is_told(manager, b"READY=1")
            team.process.signal(signal.SIGTERM)
            assert is_told(manager, b"STOPPING=1")
            assert team.process.wait() == 0
    assert (tmp_path / "passed").is_socket()


def is_told(manager: socket.socket, start: bytes) -> bool:
    """Wait for a notification that begins so."""
    while not manager.recv(4096).startswith(start):
        pass
    return True
