"""Recording and replaying with real processes: the toolstack, an old xapi beside it, a gateway, and the commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.kit.command import command, succeed
from tests.kit.gateway import RPC, TOOLSTACK, Process, configured, gateway_process, ship
from tests.kit.programs import ROOT, TIMEOUT, json_lines
from tests.kit.toolstack import Twin, twin
from tests.kit.upstreams import dialled

pytestmark = pytest.mark.bus

VM = "OpaqueRef:11111111-aaaa-4aaa-8aaa-000000000001"

CONFIG = RPC + TOOLSTACK + '[upstream.xapi]\nurl = "{xapi}"\ndialect = "xenapi"\n'


class Front:
    """A gateway before an old xapi, and a client of it. JSON-RPC is asked call by call, XML-RPC as it comes."""

    def __init__(self, folder: Path, process: Process, old: Twin) -> None:
        self.folder = folder
        self.process = process
        self.old = old
        self.file = folder / "calls.jsonl"
        self.port = process.port
        self.session = self.call("session.login_with_password", "root", "xenroot")

    def call(self, method: str, *params: Any) -> Any:
        """Over XML-RPC."""
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{self.port}/RPC2") as server:
            answer: Any = getattr(server, method)(*params)
        assert answer["Status"] == "Success", answer
        return answer["Value"]

    def json(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        head = f"POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with dialled(self.port) as (connection, reader):
            connection.sendall(head + body)
            return json.loads(reader.answer().body)["result"]

    def replay(self, *words: str) -> Result:
        """With a session that both sides know."""
        given = ("--value", f"session={self.session}", "--rate", "1000")
        return command("replay", self.file, *given, *words, socket=self.folder / "control")

    @contextmanager
    def recording(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """While the block runs; it must end the recording."""
        line = [sys.executable, "-m", "gateway", "record", "--force", "--out", str(self.file), *words]
        process = subprocess.Popen(
            [*line, "--socket", str(self.folder / "control")], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith("recording ")
            yield process
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait(TIMEOUT)
            process.stderr.close()

    def lines(self) -> list[dict[str, Any]]:
        return json_lines(self.file)


@pytest.fixture(scope="module")
def front(toolstack_bus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("replay")
    ship(folder, "xapi", defaults="mode: legacy")
    with (
        twin("xapi", toolstack_bus, folder, tcp=True) as old,
        configured(folder, CONFIG, bus=toolstack_bus, xapi=old.url) as process,
    ):
        yield Front(folder, process, old)


def made(front: Front) -> None:
    """Five reads and a write."""
    front.call("VM.get_name_label", front.session, VM)
    front.call("VM.set_name_label", front.session, VM, "web")
    front.call("VM.get_record", front.session, VM)
    front.json("VM.get_power_state", front.session, VM)
    front.call("VM.get_name_label", front.session, VM)
    front.json("VM.get_all", front.session)


def recorded(front: Front) -> None:
    with front.recording("--calls", "5", "--duration", "60s"):
        made(front)


def test_reads_are_recorded_without_their_session_and_agree_when_they_are_replayed(front: Front) -> None:
    recorded(front)
    _, *calls, last = front.lines()
    assert [(call["codec"], call["method"], call["side"]) for call in calls] == [
        ("xmlrpc", "VM.get_name_label", "legacy"),
        ("xmlrpc", "VM.get_record", "legacy"),
        ("jsonrpc", "VM.get_power_state", "legacy"),
        ("xmlrpc", "VM.get_name_label", "legacy"),
        ("jsonrpc", "VM.get_all", "legacy"),
    ]
    assert (calls[0]["params"], calls[0]["reply"]) == ([{"$redacted": "text"}, VM], "web")
    assert (calls[2]["reply"], last["end"]) == ("Halted", "5 calls")
    assert front.session not in front.file.read_text()
    replayed = front.replay()
    assert replayed.exit_code == 0, replayed.stdout + replayed.stderr
    assert replayed.stdout.splitlines()[-1] == "5 of 5 calls compared, nothing differs"


def test_without_a_session_nothing_is_sent_and_its_place_is_named(front: Front) -> None:
    recorded(front)
    replayed = command("replay", front.file, socket=front.folder / "control")
    assert replayed.exit_code == 1
    assert "give redacted values with: --value session=VALUE" in replayed.stdout
    assert replayed.stdout.splitlines()[-1] == "0 of 5 calls compared, no result"


def test_a_wrong_field_of_the_old_service_is_found_and_shown(front: Front) -> None:
    recorded(front)
    front.old.switch(**{"VM.get_record": {"wrong": {"name_label": "not this"}}})
    try:
        replayed = front.replay()
        told = [json.loads(line) for line in front.replay("--json-lines").stdout.splitlines()]
    finally:
        front.old.switch()
    assert replayed.exit_code == 1
    assert "$.name_label" in replayed.stdout
    assert '- "not this"' in replayed.stdout
    assert '+ "web"' in replayed.stdout
    assert replayed.stdout.splitlines()[-1] == "5 of 5 calls compared, 1 differs"
    differing = [each for each in told[:-1] if each["verdict"] == "different"]
    assert [(each["line"], each["method"]) for each in differing] == [(3, "VM.get_record")]
    assert front.session not in replayed.stdout


def test_what_the_old_service_contradicts_itself_in_is_noise(front: Front) -> None:
    recorded(front)
    front.old.switch(**{"VM.get_record": {"noisy": ["name_label"]}})
    try:
        plain, noise = front.replay(), front.replay("--noise")
    finally:
        front.old.switch()
    assert (plain.exit_code, noise.exit_code) == (1, 0)


def test_a_write_runs_on_both_sides_when_a_person_says_so_and_the_log_names_who(front: Front) -> None:
    with front.recording("VM.set_name_label", "--writes", "--calls", "1"):
        front.call("VM.set_name_label", front.session, VM, "web")
    skipped = front.replay()
    assert "its effect is" in skipped.stdout
    assert skipped.stdout.splitlines()[-1] == "0 of 1 call compared, no result"
    written = front.replay("--writes")
    assert written.exit_code == 0, written.stdout + written.stderr
    assert "RUN TWICE, once on each side: xapi/VM.set_name_label (1)" in written.stderr
    assert front.process.wait_for("a call that changes something")["method"] == "VM.set_name_label"


def test_a_replay_is_no_evidence_and_its_calls_are_no_clients(front: Front) -> None:
    recorded(front)
    front.replay()
    rows = json.loads(succeed("mode", "VM.get_*", "--json", socket=front.folder / "control"))
    assert {row["comparisons"] for row in rows} == {0}
    clients = json.loads(succeed("clients", "VM.get_*", "--json", socket=front.folder / "control"))
    assert {(row["protocol"], row["peer"]) for row in clients} == {
        ("xmlrpc", "tcp:127.0.0.1"), ("jsonrpc", "tcp:127.0.0.1"),
    }  # fmt: skip
    assert {row["user"] for row in clients} == {"root"}


def test_ctrl_c_ends_a_recording_that_can_be_replayed(front: Front) -> None:
    with front.recording() as process:
        front.call("VM.get_name_label", front.session, VM)
        while front.file.read_text().count("\n") < 2:
            pass
        process.send_signal(signal.SIGINT)
    replayed = front.replay()
    assert (replayed.exit_code, "has no end line" in replayed.stderr) == (0, True)


def test_a_damaged_line_is_named_with_its_number(front: Front) -> None:
    recorded(front)
    lines = front.file.read_text().splitlines()
    front.file.write_text("\n".join([lines[0], lines[1], lines[2][:40], *lines[3:]]))
    replayed = front.replay()
    assert replayed.exit_code == 1
    assert f"{front.file}:3: is not JSON" in replayed.stderr
    assert replayed.stdout.splitlines()[-1] == "4 of 4 calls compared, nothing differs, 1 damaged line left out"


def test_a_gateway_that_stops_ends_its_recordings_at_once(front: Front, tmp_path: Path) -> None:
    config = (front.folder / "gateway.toml").read_text().replace(f"{front.folder}/control", f"{tmp_path}/control")
    (front.folder / "second.toml").write_text(config)
    file = tmp_path / "calls"
    with gateway_process(front.folder / "second.toml") as second:
        line = [sys.executable, "-m", "gateway", "record", "--out", str(file), "--socket", f"{tmp_path}/control"]
        recording = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert recording.stderr is not None
        try:
            assert recording.stderr.readline().startswith("recording ")
            second.signal(signal.SIGTERM)
            assert second.wait() == 0
            assert recording.wait(TIMEOUT) == 0
            assert "the gateway has stopped" in recording.stderr.read()
        finally:
            recording.kill()
            recording.wait(TIMEOUT)
            recording.stderr.close()
