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
from pathlib import Path

import pytest

from tests.kit.buses import private_bus
from tests.kit.clients import tcp_post
from tests.kit.command import command, succeed
from tests.kit.gateway import TOY_MAPPING, Folder, Process, gateway_process
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toy_service import toy_service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("commands"))
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        yield folder


@pytest.fixture(scope="module")
def running(folder: Folder) -> Iterator[Process]:
    """The tests leave it as it was."""
    with gateway_process(folder.config) as process:
        yield process


def proxy(process: Process) -> xmlrpc.client.ServerProxy:
    return xmlrpc.client.ServerProxy(f"{process.url}/RPC2")


def test_a_call_is_read_in_its_charset_and_is_one_line_of_the_log_without_its_values(running: Process) -> None:
    call = xmlrpc.client.dumps(("a secret: é",), "echo").encode("latin-1")
    answer = tcp_post(running.url, "/RPC2", call, {"Content-Type": "text/xml; charset=iso-8859-1"})
    assert xmlrpc.client.loads(answer)[0] == ("a secret: é",)
    running.wait_until(lambda lines: ("echo", "ok") in [(each.get("method"), each.get("outcome")) for each in lines])
    assert "secret" not in str(running.lines)


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
    folder.mapping(TOY_MAPPING)
    assert (refused.exit_code, refused.stderr.count("toy.yaml:")) == (1, 2)
    assert "stays live" in refused.stderr


def test_call_goes_through_the_gateway_and_explains_each_step_or_fails_in_words(running: Process) -> None:
    assert succeed("call", "echo", "hello", socket=running.control) == '"hello"\n'
    explained = succeed("call", "echo", "hello", "--protocol", "jsonrpc", "--explain", socket=running.control)
    shown = iter(explained.splitlines())
    for step in (
        'the client sends (jsonrpc)', '"method":"echo"', "decoded", "route", "toy.yaml:", "method call",
        "org.example.toy /org/example/toy org.example.Toy1 Echo s 'hello'", "method return", "outcome",
        "the client gets", '"hello"',
    ):  # fmt: skip
        assert any(step in line for line in shown), f"{step} is missing or out of order in {explained}"
    done = command("call", "echo", "5", "--explain", socket=running.control)
    assert (done.exit_code, done.stdout.endswith("\n\n")) == (1, False)
    assert "$.params[0]: expected s, got 5" in done.stderr


def test_status_shows_who_is_behind_each_service_and_routes_the_target_and_source_of_each_method(
    running: Process,
) -> None:
    shown = succeed("status", socket=running.control)
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("org.example.toy "))
    assert (row[1], row[2][:3], row[3]) == ("toolstack", ":1.", "closed")
    shown = succeed("routes", socket=running.control)
    line = next(line for line in shown.splitlines() if line.startswith("echo ") and "xmlrpc/plain" in line)
    assert "org.example.toy /org/example/toy org.example.Toy1.Echo" in line
    assert re.search(r"toy\.yaml:\d+$", line.rstrip())


def test_check_live_holds_the_idl_against_the_running_service(folder: Folder) -> None:
    done = command("check", "--config", folder.config, "--live")
    assert done.exit_code == 5, done.stderr  # the toy service introspects as nothing
    assert "org.example.Toy1" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_the_same_files_as_check_with_the_same_words(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    checked = command("check", "--config", folder.config)
    line = [sys.executable, "-m", "gateway", "run", "--config", str(folder.config)]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, check=False)
    folder.mapping(TOY_MAPPING)
    assert checked.exit_code == ran.returncode == 4
    assert checked.stderr == ran.stderr
    assert "toy.yaml:9" in ran.stderr


def test_a_second_signal_ends_at_once(folder: Folder, tmp_path: Path) -> None:
    own = Folder(tmp_path)
    own.config.write_text(folder.config.read_text().replace(str(folder.path), str(tmp_path)))
    with gateway_process(own.config) as process:

        def hold() -> None:
            with proxy(process) as client, pytest.raises((ConnectionError, http.client.HTTPException)):
                client.hold()

        holding = threading.Thread(target=hold)
        holding.start()
        with proxy(process) as client:
            assert client.held() == 1
        process.signal(signal.SIGTERM)
        process.wait_for("stopping")
        process.signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        holding.join(TIMEOUT)
