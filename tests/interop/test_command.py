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
from tests.kit.command import command, succeed
from tests.kit.gateway import TOY_MAPPING, Folder, Process, gateway_process
from tests.kit.programs import ROOT, TIMEOUT
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


def proxy(process: Process) -> xmlrpc.client.ServerProxy:
    return xmlrpc.client.ServerProxy(f"{process.url}/RPC2")


def run(config: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
    return subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, check=False)


def test_each_call_is_one_line_of_the_log_without_its_values(shared: Process) -> None:
    with proxy(shared) as client:
        client.echo("a secret")
    shared.wait_until(lambda lines: ("echo", "ok") in [(each.get("method"), each.get("outcome")) for each in lines])
    assert "secret" not in str(shared.lines)


def test_a_second_signal_ends_at_once(running: Process) -> None:
    def hold() -> None:
        with proxy(running) as client, pytest.raises((ConnectionError, http.client.HTTPException)):
            client.hold()

    holding = threading.Thread(target=hold)
    holding.start()
    with proxy(running) as client:
        assert client.held() == 1
    running.signal(signal.SIGTERM)
    running.wait_for("stopping")
    running.signal(signal.SIGTERM)
    assert running.wait() == -signal.SIGTERM
    holding.join(TIMEOUT)


def test_a_reload_answers_which_revision_is_live_or_prints_every_problem(running: Process, folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("  echo:", "  mirror:"))
    running.signal(signal.SIGHUP)
    running.wait_for("reloaded")
    with proxy(running) as client:
        assert client.mirror("a") == "a"
        with pytest.raises(xmlrpc.client.Fault, match="unknown method 'echo'"):
            client.echo("a")
    folder.mapping(TOY_MAPPING)
    live = succeed("reload", socket=folder.control)
    assert re.fullmatch(r"revision \w+ is live \(before: \w+\)\n  added: echo\n  removed: mirror\n", live), live
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko").replace("member: Label", "member: Lebel"))
    refused = command("reload", socket=folder.control)
    assert (refused.exit_code, refused.stderr.count("toy.yaml:")) == (1, 2)
    assert "stays live" in refused.stderr


def test_call_goes_through_the_gateway_and_explains_each_step_or_fails_in_words(shared: Process) -> None:
    assert succeed("call", "echo", "hello", socket=shared.control) == '"hello"\n'
    explained = succeed("call", "echo", "hello", "--protocol", "jsonrpc", "--explain", socket=shared.control)
    shown = iter(explained.splitlines())
    for step in (
        'the client sends (jsonrpc)', '"method":"echo"', "decoded", "route", "toy.yaml:", "method call",
        "org.example.toy /org/example/toy org.example.Toy1 Echo s 'hello'", "method return", "outcome",
        "the client gets", '"hello"',
    ):  # fmt: skip
        assert any(step in line for line in shown), f"{step} is missing or out of order in {explained}"
    done = command("call", "echo", "5", socket=shared.control)
    assert done.exit_code == 1
    assert "$.params[0]: expected s, got 5" in done.stderr
    assert not command("call", "echo", "5", "--explain", socket=shared.control).stdout.endswith("\n\n")


def test_status_shows_who_is_behind_each_service(shared: Process) -> None:
    shown = succeed("status", socket=shared.control)
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("org.example.toy "))
    assert (row[1], row[2][:3], row[3]) == ("toolstack", ":1.", "closed")


def test_status_says_why_the_gateway_is_not_ready(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        with gateway_process(folder.config):
            done = command("status", socket=folder.control)
    assert done.exit_code == 1
    assert "not ready: org.example.toy is absent on bus 'toolstack'" in done.stdout


def test_routes_shows_method_target_and_source(shared: Process) -> None:
    shown = succeed("routes", socket=shared.control)
    row = next(line for line in shown.splitlines() if line.startswith("echo ") and "xmlrpc/plain" in line)
    assert "org.example.toy /org/example/toy org.example.Toy1.Echo" in row
    assert re.search(r"toy\.yaml:\d+$", row.rstrip())


def test_check_live_holds_the_idl_against_the_running_service(shared_folder: Folder) -> None:
    done = command("check", "--config", shared_folder.config, "--live")
    assert done.exit_code == 5, done.stderr  # the toy service introspects as nothing
    assert "org.example.Toy1" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_the_same_files_as_check_with_the_same_words(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    checked = command("check", "--config", folder.config)
    ran = run(folder.config)
    assert checked.exit_code == ran.returncode == 4
    assert checked.stderr == ran.stderr
    assert "toy.yaml:9" in ran.stderr


def test_run_with_a_bad_config_names_file_and_place(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[bus.b]\naddress = "unix:path=/x"\nservices = []\n')
    done = run(tmp_path / "gateway.toml")
    assert done.returncode == 2
    assert "gateway.toml:3:12: bus.b.services: must not be empty" in done.stderr
    assert "Traceback" not in done.stderr
