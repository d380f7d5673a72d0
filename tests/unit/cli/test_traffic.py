"""Commands about what clients call, against an API that serves a real state and records a toy endpoint."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli import client, traffic
from gateway.core.admin.records import ClientKey, ClientRecord, CountsBatch, MethodId
from gateway.pipeline.recorder import MAX_RECORDINGS, RecordingLimits
from tests.kit.admin import Served
from tests.kit.cases import each_case
from tests.kit.traffic import SESSION

NAME = MethodId("xapi", "VM.get_name")
HEADER = b'{"recording":1,"methods":[],"writes":false}'


def counted(api: Served, clients: Mapping[ClientKey, ClientRecord]) -> None:
    assert api.do(api.api.state.flush(CountsBatch(clients=clients))) is None


def test_clients_are_shown_and_whether_anybody_needs_a_protocol(api: Served) -> None:
    now = time.time()
    unmapped = ClientKey(MethodId("<unmapped>", "<unmapped>"), "jsonrpc", "domid 5", domid=5)
    clients = {
        ClientKey(NAME, "xmlrpc", "tcp:10.0.0.1", "xe\x1b[2J", "alice"): ClientRecord(12345, now - 90, now - 30),
        ClientKey(NAME, "xmlrpc", "uid 0", "xe"): ClientRecord(1, now - 7200, now - 7200),
        unmapped: ClientRecord(2, now - 60, now - 60),
    }
    counted(api, clients)
    shown = api.run("clients").stdout
    head, first, *_ = shown.splitlines()
    assert head.split() == ["METHOD", "PROTOCOL", "PEER", "AGENT", "USER", "CALLS", "FIRST", "LAST"]
    assert first.split()[:6] == ["xapi/VM.get_name", "xmlrpc", "tcp:10.0.0.1", r"xe\x1b[2J", "alice", "12,345"]
    for told in (
        "jsonrpc: 1 caller, 1 method, last ",
        "xmlrpc: 2 callers, 1 method, last ",
        "\n<unmapped> ",
        "domid 5",
    ):
        assert told in shown
    rows = json.loads(api.run("clients", "VM.*", "--since", "1h", "--service", "xapi", "--json").stdout)
    assert [(row["user"], row["count"]) for row in rows] == [("alice", 12345)]
    assert api.run("clients", "VM.nope", "--since", "1h").stdout == "no calls of VM.nope within 1h\n"
    for words in (["--service", "xenopsd"], [""]):
        assert json.loads(api.run("clients", *words, "--json").stdout) == []


def test_a_column_that_has_no_value_or_no_room_is_left_out(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(api, {ClientKey(NAME, "xmlrpc", "uid 0"): ClientRecord(1, 1.0, 2.0)})
    assert api.run("clients").stdout.split()[:6] == ["METHOD", "PROTOCOL", "PEER", "CALLS", "FIRST", "LAST"]
    unmapped = ClientKey(MethodId("<unmapped>", "<unmapped>"), "http", "uid 0")
    counted(api, {unmapped: ClientRecord(1, 1.0, 1.0, received=1234)})  # only such calls are counted by bytes
    _, row, of_unmapped, *_ = api.run("clients").stdout.splitlines()
    assert (row.split()[4:6], of_unmapped.split()[4:6]) == (["1", "-"], ["1", "1,234"])
    monkeypatch.setattr(traffic, "out", Console(width=80, force_terminal=True))
    assert " FIRST " not in api.run("clients").stdout.splitlines()[0]


def calling(api: Served, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Clients call once the recording has begun."""
    stream = client.stream

    def begun(socket: Path, verb: str, path: str, body: object, on_line: client.OnLine) -> None:
        def line(text: bytes) -> None:
            on_line(text)
            if b'"recording"' in text:
                for name in names:
                    api.do(api.api.sides.call("VM.get_name", SESSION, name))

        stream(socket, verb, path, body, line)

    monkeypatch.setattr(client, "stream", begun)


def test_a_recording_is_a_file_for_its_owner_alone(
    api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calling(api, monkeypatch, "a", "b")
    file = tmp_path / "calls.jsonl"
    ended = api.run("record", "VM.get_*", "--out", str(file), "--calls", "2", "--duration", "5s")
    assert ended.exit_code == 0, ended.output
    first, *calls, last = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert (first["revision"], first["methods"]) == ("r1", ["xapi/VM.get_name", "xapi/VM.get_new"])
    redacted = {"$redacted": "text"}
    assert [(call["params"], call["reply"]) for call in calls] == [([redacted, "a"], "a"), ([redacted, "b"], "b")]
    assert (last["end"], stat.S_IMODE(file.stat().st_mode)) == ("2 calls", 0o600)
    assert ended.stderr == (
        "recording reads of 2 methods; stop with Ctrl-C\n"
        f"2 calls, {file.stat().st_size} bytes in {file}: 2 calls\n"
    )  # fmt: skip


def test_what_was_not_recorded_is_said_to_a_person_and_to_a_program(
    api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calling(api, monkeypatch, "x" * 100_000, "a")
    ended = api.run("record", "--out", "-", "--calls", "1", "--writes")
    assert [json.loads(line).get("reply") for line in ended.stdout.splitlines()] == [None, "a", None]
    assert ended.stderr.startswith("recording calls of 3 methods")
    assert "  not recorded: 1 call larger than 64 KiB\n" in ended.stderr
    file = tmp_path / "calls"
    ended = api.run("record", "--out", str(file), "--calls", "1", "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == {
        "file": str(file), "calls": 1, "bytes": file.stat().st_size, "end": "1 call", "no_room": 0, "too_large": 1
    }  # fmt: skip
    ended = api.run("record", "--out", "-", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["status"]) == (2, 2)


def streaming(monkeypatch: pytest.MonkeyPatch, *, interrupted: bool) -> None:
    """The gateway streams its first line, and then nothing; or a person presses Ctrl-C."""

    def stream(_socket: Path, _verb: str, _path: str, _body: object, on_line: client.OnLine) -> None:
        on_line(HEADER)
        if interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(client, "stream", stream)


def test_ctrl_c_ends_a_recording_and_keeps_it(api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streaming(monkeypatch, interrupted=True)
    file = tmp_path / "calls"
    ended = api.run("record", "--out", str(file))
    assert (ended.exit_code, ended.stderr.splitlines()[-1].partition(": ")[2]) == (0, "stopped")
    assert file.read_bytes() == HEADER + b"\n"
    file.write_bytes(b"kept")
    ended = api.run("record", "--out", str(file))
    refusal = f"{file} exists: --force replaces it, --out names another file\n"
    assert (ended.exit_code, ended.stderr, file.read_bytes()) == (1, refusal, b"kept")
    assert api.run("record", "--out", str(file), "--force").exit_code == 0
    assert file.read_bytes() != b"kept"


def test_a_gateway_that_ends_without_a_last_line_is_told(
    api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming(monkeypatch, interrupted=False)
    ended = api.run("record", "--out", str(tmp_path / "calls"))
    why = "the gateway has closed the connection"
    assert (ended.exit_code, ended.stderr.splitlines()[-1].partition(": ")[2]) == (1, why)
    ended = api.run("record", "--out", str(tmp_path / "calls"), "--force", "--json")
    document = json.loads(ended.stdout)
    assert (ended.exit_code, ended.stderr, document["error"], document["status"]) == (1, "", why, 1)


@each_case(
    ("words", "says"),
    [
        ("VM.get_nam --out {}/x", "no mapped method is named 'VM.get_nam' (did you mean 'VM.get_name'?)"),
        ("--out {}/nowhere/x", "{}/nowhere/x: No such file or directory"),
        ("--out {}/x --duration long", "expected a duration such as 500ms, 30s, 10m or 1h, got 'long'"),
        ("--out {}/x --size big", "expected a size such as 512B, 300KiB or 32MiB, got 'big'"),
        ("--out /dev/full", "/dev/full: No space left on device"),
    ],
)
def test_a_recording_that_cannot_be_is_told_why_and_leaves_no_file(
    api: Served, tmp_path: Path, words: str, says: str
) -> None:
    ended = api.run("record", *words.format(tmp_path).split())
    assert (ended.exit_code, ended.stderr.splitlines()[-1]) == (2, says.format(tmp_path))
    assert not (tmp_path / "x").exists()


def test_a_recording_that_the_gateway_cannot_begin_now_ends_with_status_1(api: Served, tmp_path: Path) -> None:
    for _ in range(MAX_RECORDINGS):
        api.api.sides.recorder.begin(frozenset({NAME}), RecordingLimits())
    ended = api.run("record", "--out", str(tmp_path / "x"))
    assert (ended.exit_code, ended.stderr.partition(",")[0]) == (1, f"{MAX_RECORDINGS} recordings are running")
