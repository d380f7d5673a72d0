"""`xcp-gateway` as an operator uses it: a real process, its signals, its log, its commands and their exit status."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.buses import private_bus
from tests.kit.cases import present
from tests.kit.gateway import TOY_MAPPING, Folder, Process, gateway_process
from tests.kit.programs import ROOT
from tests.kit.toy_service import toy_service


@contextmanager
def folder_with_bus(path: Path) -> Iterator[Folder]:
    folder = Folder(path)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        yield folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with folder_with_bus(tmp_path) as folder:
        yield folder


@pytest.fixture
def running(folder: Folder) -> Iterator[Process]:
    with gateway_process(folder.config) as process:
        yield process


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """For tests that change no file."""
    with folder_with_bus(tmp_path_factory.mktemp("shared")) as folder:
        yield folder


@pytest.fixture(scope="module")
def shared(shared_folder: Folder) -> Iterator[Process]:
    """For tests that only ask."""
    with gateway_process(shared_folder.config) as process:
        yield process


def url(process: Process) -> str:
    address = process.wait_for("ready")["listening"][0]
    return f"http://{address.removeprefix('tcp:')}/RPC2"


def command(*words: object, folder: Folder | None = None) -> subprocess.CompletedProcess[str]:
    socket = ["--socket", str(folder.control)] if folder is not None else []
    line = [sys.executable, "-m", "gateway", *map(str, words), *socket]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def test_each_call_is_one_line_of_the_log_without_its_values(running: Process) -> None:
    with xmlrpc.client.ServerProxy(url(running)) as proxy:
        proxy.echo("a secret")
    line = running.wait_for("call")
    assert (line["method"], line["outcome"]) == ("echo", "ok")
    assert "secret" not in str(running.lines)


def test_sigterm_with_nothing_in_flight_ends_with_status_0_and_says_so(running: Process) -> None:
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert running.lines[-1]["event"] == "stopped, nothing in flight"


def test_a_call_in_flight_at_sigterm_is_still_answered(running: Process, folder: Folder) -> None:
    answers: list[object] = []

    def hold() -> None:
        with xmlrpc.client.ServerProxy(url(running)) as proxy:
            answers.append(proxy.hold())

    client = threading.Thread(target=hold)
    client.start()
    with xmlrpc.client.ServerProxy(url(running)) as proxy:
        assert proxy.held() == 1
        running.signal(signal.SIGTERM)
        running.wait_for("stopping")
    bus = present(re.search(r'address = "(.*?)"', folder.config.read_text()))
    to = ["--dest=org.example.toy", "/org/example/toy", "org.example.Toy1.Release"]
    subprocess.run(["dbus-send", f"--bus={bus[1]}", "--print-reply", *to], check=True, stdout=subprocess.DEVNULL)
    client.join(60)
    assert answers == ["released"]
    assert running.wait() == 0


def test_a_second_signal_ends_at_once(running: Process) -> None:
    def hold() -> None:
        with (
            xmlrpc.client.ServerProxy(url(running)) as proxy,
            pytest.raises((ConnectionError, http.client.HTTPException)),
        ):
            proxy.hold()

    client = threading.Thread(target=hold)
    client.start()
    with xmlrpc.client.ServerProxy(url(running)) as proxy:
        assert proxy.held() == 1
    running.signal(signal.SIGTERM)
    running.wait_for("stopping")
    running.signal(signal.SIGTERM)
    assert running.wait() == -signal.SIGTERM
    client.join(60)


def test_sighup_reads_the_mappings_again(running: Process, folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("  echo:", "  mirror:"))
    running.signal(signal.SIGHUP)
    running.wait_for("reloaded")
    with xmlrpc.client.ServerProxy(url(running)) as proxy:
        assert proxy.mirror("a") == "a"
        with pytest.raises(xmlrpc.client.Fault, match="unknown method 'echo'"):
            proxy.echo("a")


def test_reload_answers_which_revision_is_live(running: Process, folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("  echo:", "  mirror:"))
    done = command("reload", folder=folder)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"revision \w+ is live \(before: \w+\)\n  added: mirror\n  removed: echo\n", done.stdout), (
        done.stdout
    )


def test_a_refused_reload_prints_every_problem_and_fails(running: Process, folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko").replace("member: Label", "member: Lebel"))
    done = command("reload", folder=folder)
    assert done.returncode == 1
    assert done.stderr.count("toy.yaml:") == 2
    assert "stays live" in done.stderr


def test_call_goes_through_the_gateway(shared: Process, shared_folder: Folder) -> None:
    done = command("call", "echo", "hello", folder=shared_folder)
    assert (done.returncode, done.stdout) == (0, '"hello"\n'), done.stderr


def test_call_explains_each_step_over_any_protocol(shared: Process, shared_folder: Folder) -> None:
    done = command("call", "echo", "hello", "--protocol", "jsonrpc", "--explain", folder=shared_folder)
    assert done.returncode == 0, done.stderr
    shown = iter(done.stdout.splitlines())
    for step in (
        'the client sends (jsonrpc)', '"method":"echo"', "decoded", "route", "toy.yaml:", "method call",
        "org.example.toy /org/example/toy org.example.Toy1 Echo s 'hello'", "method return", "outcome",
        "the client gets", '"hello"',
    ):  # fmt: skip
        assert any(step in line for line in shown), f"{step} is missing or out of order in {done.stdout}"


def test_a_fault_makes_call_fail_in_words(shared: Process, shared_folder: Folder) -> None:
    done = command("call", "echo", "5", folder=shared_folder)
    assert done.returncode == 1
    assert "$.params[0]: expected s, got 5" in done.stderr


def test_status_shows_who_is_behind_each_service(shared: Process, shared_folder: Folder) -> None:
    done = command("status", folder=shared_folder)
    assert done.returncode == 0
    (row,) = (line.split() for line in done.stdout.splitlines() if line.startswith("org.example.toy "))
    assert row[1] == "toolstack"
    assert row[2].startswith(":1.")
    assert row[3] == "closed"


def test_status_says_why_the_gateway_is_not_ready(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        with gateway_process(folder.config):
            done = command("status", folder=folder)
    assert done.returncode == 1
    assert "not ready: org.example.toy is absent on bus 'toolstack'" in done.stdout


def test_routes_shows_method_target_and_source(shared: Process, shared_folder: Folder) -> None:
    done = command("routes", folder=shared_folder)
    row = next(line for line in done.stdout.splitlines() if line.startswith("echo ") and "xmlrpc/plain" in line)
    assert "org.example.toy /org/example/toy org.example.Toy1.Echo" in row
    assert re.search(r"toy\.yaml:\d+$", row.rstrip())


def test_check_live_holds_the_idl_against_the_running_service(shared_folder: Folder) -> None:
    done = command("check", "--config", shared_folder.config, "--live")
    assert done.returncode == 5, done.stderr  # the toy service introspects as nothing
    assert "org.example.Toy1" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_the_same_files_as_check_with_the_same_words(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    checked = command("check", "--config", folder.config)
    ran = command("run", "--config", folder.config)
    assert checked.returncode == ran.returncode == 4
    assert checked.stderr == ran.stderr
    assert "toy.yaml:9" in ran.stderr


def test_run_with_a_bad_config_names_file_and_place(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[bus.b]\naddress = "unix:path=/x"\nservices = []\n')
    done = command("run", "--config", tmp_path / "gateway.toml")
    assert done.returncode == 2
    assert "gateway.toml:3:12: bus.b.services: must not be empty" in done.stderr
    assert "Traceback" not in done.stderr
