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
from tests.kit.gateway import RPC, TOOLSTACK, Process, configured, ship
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
        line += ["--socket", str(self.folder / "control")]
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            try:
                assert process.stderr is not None
                assert process.stderr.readline().startswith("recording ")
                yield process
                assert process.wait(TIMEOUT) == 0
            finally:
                process.kill()

    def record_reads(self) -> None:
        """Five reads; a write between them is left out."""
        with self.recording("--calls", "5", "--duration", "60s"):
            self.call("VM.get_name_label", self.session, VM)
            self.call("VM.set_name_label", self.session, VM, "web")
            self.call("VM.get_record", self.session, VM)
            self.json("VM.get_power_state", self.session, VM)
            self.call("VM.get_name_label", self.session, VM)
            self.json("VM.get_all", self.session)

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


def test_reads_are_recorded_without_their_session_and_agree_when_they_are_replayed(front: Front) -> None:
    front.record_reads()
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
    # A replay is no evidence, and its calls are no client's.
    rows = json.loads(succeed("mode", "VM.get_*", "--json", socket=front.folder / "control"))
    assert {row["comparisons"] for row in rows} == {0}
    clients = json.loads(succeed("clients", "VM.get_*", "--json", socket=front.folder / "control"))
    assert {(row["protocol"], row["peer"], row["user"]) for row in clients} == {
        ("xmlrpc", "tcp:127.0.0.1", "root"), ("jsonrpc", "tcp:127.0.0.1", "root"),
    }  # fmt: skip


def test_a_wrong_field_of_the_old_service_is_found_and_shown(front: Front) -> None:
    front.record_reads()
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


def test_a_gateway_that_stops_ends_its_recordings_at_once(front: Front) -> None:
    """The last test of this file: it ends the gateway."""
    with front.recording() as recording:
        front.process.signal(signal.SIGTERM)
        assert front.process.wait() == 0
        assert recording.stderr is not None
        assert "the gateway has stopped" in recording.stderr.read()
