"""The real process among its neighbours: root and other users, systemd, clients that stay on the line, overload."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import tempfile
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from datetime import datetime
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Unpack

import pytest

from adapters.dbus.connection import OPEN_TIMEOUT
from tests.kit.buses import EXTERNAL, PrivateBus, private_bus
from tests.kit.clients import tcp_post, unix_post
from tests.kit.gateway import TOY_IDL, TOY_MAPPING, Folder, Process, Surroundings, gateway_process, passed
from tests.kit.programs import TIMEOUT, resident_bytes, until
from tests.kit.toy_service import ask_toy, toy_service

USER = pwd.getpwnam("nobody")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
ANYBODY = EXTERNAL + '<policy context="default"><allow user="*"/></policy>'


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus(auth=ANYBODY) as bus, toy_service(bus.address, "org.example.toy"):
        yield bus


@pytest.fixture
def folder(tmp_path: Path, bus: PrivateBus) -> Folder:
    folder = Folder(tmp_path)
    folder.buses({"toolstack": (bus.address, "org.example.*")})
    return folder


def change(folder: Folder, old: str, new: str) -> None:
    text = folder.config.read_text()
    assert old in text
    folder.config.write_text(text.replace(old, new))


def proxy(process: Process) -> xmlrpc.client.ServerProxy:
    return xmlrpc.client.ServerProxy(f"{process.url}/RPC2")


def refused(config: Path, **around: Unpack[Surroundings]) -> str:
    """What the command says that cannot start."""
    process = Process(config, **around)
    try:
        assert process.wait() == 2
    finally:
        process.end()
    return "\n".join(line["event"] for line in process.lines)


# Another user


@pytest.fixture
def open_folder(bus: PrivateBus) -> Iterator[Folder]:
    """A folder of the user's own, and a bus within its reach."""
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, USER.pw_uid, USER.pw_gid)
        Path(bus.address.partition("path=")[2].partition(",")[0]).parent.chmod(0o755)
        folder = Folder(Path(place))
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        folder.config.write_text(f'user = "{USER.pw_name}"\n{folder.config.read_text()}')
        yield folder


def low_port() -> int:
    """A free port that only root can bind."""
    for number in range(1023, 600, -1):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)):
                return number
    raise AssertionError("no port is free")


@AS_ROOT
def test_sockets_are_bound_as_root_and_all_else_is_done_as_the_user(open_folder: Folder) -> None:
    number = low_port()
    change(open_folder, "tcp:127.0.0.1:0", f"tcp:127.0.0.1:{number}")
    change(open_folder, f"{open_folder.path}/control", f"{open_folder.path}/deep/er/control")
    with gateway_process(open_folder.config) as process:
        assert process.port == number
        state = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        assert state["Uid"].split() == [str(USER.pw_uid)] * 4
        assert state["Gid"].split() == [str(USER.pw_gid)] * 4
        assert sorted(map(int, state["Groups"].split())) == sorted(os.getgrouplist(USER.pw_name, USER.pw_gid))
        assert int(state["CapEff"], 16) == int(state["CapPrm"], 16) == 0
        for name in ("rpc", "deep", "deep/er", "deep/er/control"):
            assert (open_folder.path / name).stat().st_uid == USER.pw_uid
        with proxy(process) as client:
            assert client.echo("through the bus, as the user") == "through the bus, as the user"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not (open_folder.path / "rpc").exists()
    assert not (open_folder.path / "deep/er/control").exists()


@AS_ROOT
def test_a_socket_the_user_could_not_remove_is_refused_and_nothing_is_left_of_it(open_folder: Folder) -> None:
    os.chown(open_folder.path, 0, 0)
    open_folder.path.chmod(0o755)
    says = refused(open_folder.config)
    assert says.startswith("user = 'nobody': cannot change to it: the user cannot remove ")
    assert says.endswith("/control at stop: its directory belongs to another user")
    assert not (open_folder.path / "rpc").exists()
    assert not (open_folder.path / "control").exists()


# Sockets of systemd


def test_a_socket_of_systemd_is_served_and_stays_when_the_gateway_goes(folder: Folder, tmp_path: Path) -> None:
    change(folder, f"unix:{tmp_path}/rpc", "systemd:rpc")
    path = tmp_path / "by-systemd"
    with passed(path, "rpc") as around, gateway_process(folder.config, **around) as process:
        assert process.wait_for("ready")["listening"][1] == f"unix:{path}"
        answer = unix_post(path, "/jsonrpc", b'{"jsonrpc": "2.0", "method": "echo", "params": ["hi"], "id": 1}')
        assert json.loads(answer)["result"] == "hi"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert path.is_socket()


def test_a_socket_of_systemd_that_has_no_listener_or_another_name_is_refused(folder: Folder, tmp_path: Path) -> None:
    with passed(tmp_path / "by-systemd", "web") as around:
        says = "systemd passed sockets that no listener of the config binds: systemd:web"
        assert refused(folder.config, **around) == says
        change(folder, f"unix:{tmp_path}/rpc", "systemd:rpc")
        says = "cannot listen on systemd:rpc: systemd passed no socket named 'rpc'; left to take: 'web'"
        assert refused(folder.config, **around) == says


def test_a_port_that_is_taken_is_named_in_words(folder: Folder, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        change(folder, "tcp:127.0.0.1:0", address)
        cure = "another program listens there; end it, or change `bind`"
        assert refused(folder.config) == f"cannot listen on {address}: Address already in use: {cure}"
    assert not (tmp_path / "control").exists()


# What systemd is told


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(TIMEOUT)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def until_alive_and(self, state: str) -> None:
        """Wait for a sign of life that says so of the bus."""
        while "WATCHDOG" not in (told := self.next()) or not told["STATUS"].endswith(f"toolstack {state}"):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(getattr(request, "param", "{folder}/notify").format(folder=tmp_path, pid=os.getpid()))
    yield manager
    manager.close()


@pytest.mark.parametrize("manager", ["{folder}/notify", "@gateway-test-{pid}"], ids=["path", "abstract"], indirect=True)
def test_systemd_is_told_of_ready_reload_and_stop(manager: Manager, folder: Folder) -> None:
    with gateway_process(folder.config, environment={"NOTIFY_SOCKET": manager.address}) as process:
        ready = manager.next()
        assert ready["READY"] == "1"
        assert ready["STATUS"].endswith("0 calls in flight, buses: toolstack connected")
        folder.mapping("no mapping")
        process.signal(signal.SIGHUP)
        begun = manager.next()
        assert begun["RELOADING"] == "1"
        assert 0 <= time.monotonic() * 1e6 - int(begun["MONOTONIC_USEC"]) < TIMEOUT * 1e6
        assert manager.next()["READY"] == "1"
        process.signal(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        assert process.wait() == 0


def test_without_a_bus_or_with_one_that_hangs_systemd_is_told_so_and_the_signs_of_life_go_on(
    manager: Manager, folder: Folder, bus: PrivateBus
) -> None:
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    with gateway_process(folder.config, environment=variables):
        manager.until_alive_and("connected")
        bus.kill()
        manager.until_alive_and("down")
        bus.start()
        manager.until_alive_and("connected")
        os.kill(bus.pid, signal.SIGSTOP)  # the gateway leaves it for a new connection
        manager.until_alive_and("down")
        os.kill(bus.pid, signal.SIGCONT)
        manager.until_alive_and("connected")


# Stop


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


@pytest.fixture
def running(folder: Folder) -> Iterator[Process]:
    """Whoever waits for its grace to pass waits longer than a test may."""
    folder.config.write_text(f'grace = "10m"\n{folder.config.read_text()}')
    with gateway_process(folder.config) as process:
        yield process


def test_neither_clients_that_only_keep_their_connection_nor_a_bus_that_is_down_delay_the_end(
    running: Process, bus: PrivateBus
) -> None:
    with socket.create_connection(("127.0.0.1", running.port), TIMEOUT) as silent, proxy(running) as client:
        assert client.echo("a") == "a"
        bus.kill()
        with pytest.raises(xmlrpc.client.Fault, match="the call was not sent"):
            client.echo("a")
        running.signal(signal.SIGTERM)
        assert silent.recv(1) == b""
        assert running.wait() == 0
    assert running.lines[-1]["event"] == "stopped, nothing in flight"


def batch(process: Process) -> object:
    calls = [{"jsonrpc": "2.0", "method": name, "id": name} for name in ("hold", "label")]
    try:
        return [answer["result"] for answer in json.loads(tcp_post(process.port, "/jsonrpc", json.dumps(calls)))]
    except OSError as error:
        return type(error)


def test_a_batch_half_way_is_finished(running: Process, bus: PrivateBus) -> None:
    client, answers = in_thread(lambda: batch(running))
    with proxy(running) as other:
        assert other.held() == 1
    running.signal(signal.SIGTERM)
    running.wait_for("stopping")
    assert ask_toy(bus.address, "Release") == 1
    client.join(TIMEOUT)
    assert answers == [["released", "toy"]]
    assert running.wait() == 0
    assert running.lines[-1]["event"] == "stopped, nothing in flight"


def test_a_batch_past_the_grace_is_cut_off_and_its_rest_is_not_begun(folder: Folder) -> None:
    folder.config.write_text(f'grace = "100ms"\n{folder.config.read_text()}')
    with gateway_process(folder.config) as process:
        client, answers = in_thread(lambda: batch(process))
        with proxy(process) as other:
            assert other.held() == 1
        process.signal(signal.SIGTERM)
        client.join(TIMEOUT)
        assert process.wait() == 0
        assert isinstance(answers[0], type)
        assert process.lines[-1]["event"] == "stopped after 0.1 s, 1 calls cut off"
        assert "label" not in [line.get("method") for line in process.lines]


def test_a_reload_in_progress_does_not_delay_the_end(running: Process, folder: Folder) -> None:
    many = "".join(f"  echo{number}: {{member: Echo, params: [text]}}\n" for number in range(4_000))
    folder.mapping(TOY_MAPPING + many)  # takes seconds to read
    threads = Path(f"/proc/{running.pid}/task")
    before = len(list(threads.iterdir()))
    running.signal(signal.SIGHUP)
    until(lambda: len(list(threads.iterdir())) > before)  # files are read in a thread of its own
    running.signal(signal.SIGTERM)
    running.wait_for("stopped, nothing in flight")
    assert running.wait() == 0
    assert {line["event"] for line in running.lines}.isdisjoint({"reloaded", "reload refused, the old mapping stays"})


def test_a_bus_that_hangs_does_not_delay_the_end(folder: Folder, bus: PrivateBus) -> None:
    os.kill(bus.pid, signal.SIGSTOP)
    with gateway_process(folder.config) as process:
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    first, last = (datetime.fromisoformat(process.wait_for(event)["timestamp"]) for event in ("stopping", "stopped"))
    assert (last - first).total_seconds() < 0.9 * OPEN_TIMEOUT


# Overload

BODY = 200 * 1024  # bytes
CONNECTIONS = 48
REQUESTS = 60  # on each
GROWTH = 32 * 1024**2  # bytes that memory may grow by between the first hundred requests and the last


def hammer(process: Process, ended: list[str], count: int) -> None:
    """Send large calls one after another; `ended` gets how each came out."""
    body = json.dumps({"jsonrpc": "2.0", "method": "swallow", "params": ["x" * BODY], "id": 1})
    client = HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT)
    for _ in range(count):
        try:
            client.request("POST", "/jsonrpc", body)
            ended.append(outcome(client.getresponse()))
        except ConnectionError:  # refused while the body was still on its way
            ended.append("closed")
            client.close()
    client.close()


def outcome(answer: HTTPResponse) -> str:
    content = json.loads(answer.read())
    if answer.status != 200:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    return str(content.get("result") or content["error"]["message"])


# Within the limits of a message: a long URI, and thousands of names or attributes that stand for it.
NAMES = b"".join(b"<a:%x/>" % at for at in range(20_000))
ATTRIBUTES = b"".join(b'<value a:%x=""/>' % at for at in range(0x1000, 0x1000 + 12_000))
BOMBS = (
    b'<methodCall xmlns:a="' + b"u" * 100_000 + b'">' + NAMES + b"</methodCall>",
    b'<methodCall xmlns:a="' + b"u" * 60_000 + b'">' + NAMES + b"</methodCall>",
    b'<methodCall xmlns:a="' + b"u" * 60_000 + b'">' + ATTRIBUTES + b"</methodCall>",
)
BOMB_GROWTH = 64 * 1024**2  # bytes that all of them together may take


def bombard(process: Process, ended: list[bytes], enough: threading.Event) -> None:
    """Send them one after another, each again and again; each is answered."""
    client = HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT)
    while not enough.is_set():
        for bomb in BOMBS:
            client.request("POST", "/RPC2", bomb)
            ended.append(client.getresponse().read())
    client.close()


def test_namespaces_cost_neither_memory_nor_anybody_elses_answer(folder: Folder) -> None:
    with gateway_process(folder.config) as process, proxy(process) as other:
        assert other.echo("before") == "before"
        before = resident_bytes(process.pid, "VmHWM")
        ended: list[bytes] = []
        enough = threading.Event()
        attack = threading.Thread(target=bombard, args=(process, ended, enough))
        attack.start()
        answers = 0
        while attack.is_alive() and (answers < 20 or len(ended) < 5 * len(BOMBS)):
            assert other.echo("meanwhile") == "meanwhile"
            answers += 1
        enough.set()
        attack.join()
        assert answers >= 20  # else the attack ended of itself: one was not answered
        assert all(b"<fault>" in answer for answer in ended)
        assert resident_bytes(process.pid, "VmHWM") - before < BOMB_GROWTH


def test_memory_is_flat_under_overload_and_who_is_too_many_is_told_so(folder: Folder) -> None:
    # Large requests, small answers: dbus-next dies of a full socket when it has much to answer.
    taking = '<method name="Label"><arg name="text" type="s" direction="in"/>'
    (folder.mappings / "toy.xml").write_text(TOY_IDL.replace('<method name="Label">', taking))
    folder.mapping(TOY_MAPPING.replace("label: {member: Label}", "swallow: {member: Label, params: [text]}"))
    folder.config.write_text(f'{folder.config.read_text()}[limits]\nmax_calls = 12\nmax_buffered = "4MiB"\n')
    with gateway_process(folder.config) as process:
        hammer(process, [], 100)
        before = resident_bytes(process.pid)
        ended: list[str] = []  # a list: threads that count in a Counter lose counts
        clients = [threading.Thread(target=hammer, args=(process, ended, REQUESTS)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert len(ended) == CONNECTIONS * REQUESTS
        assert set(ended) <= {"toy", "closed", "too many calls at once, try again"}
        assert {"toy", "too many calls at once, try again"} <= set(ended)
        assert resident_bytes(process.pid) - before < GROWTH
        with proxy(process) as after:
            assert after.echo("still here") == "still here"


def test_a_listener_that_others_can_reach_is_warned_of_and_serves_web_pages_that_it_lists(folder: Folder) -> None:
    change(folder, "[listener.rpc]", '[listener.rpc]\nsocket_mode = "0666"')
    change(folder, '"tcp:127.0.0.1:0"', '"tcp:0.0.0.0:0", "tcp:[::1]:0"')
    change(folder, "[listener.rpc]", '[listener.rpc]\norigins = ["https://admin.example"]')
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "system.listMethods"})
    with gateway_process(folder.config) as process:
        for origin, told in (("https://evil.example", b"are not served here"), ("https://admin.example", b'"result"')):
            assert told in tcp_post(process.port, "/jsonrpc", call, {"Origin": origin, "Content-Type": "text/plain"})
    warned = {line["at"]: line for line in process.lines if "can reach this listener" in line["event"]}
    unix, tcp = sorted(warned.values(), key=lambda line: str(line["event"]))
    assert (tcp["level"], tcp["at"].rpartition(":")[0]) == ("warning", "tcp:0.0.0.0")
    assert unix["event"] == "every user of this host can reach this listener; every client that connects may call"
    assert unix["at"] == f"unix:{folder.path}/rpc"
