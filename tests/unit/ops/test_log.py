"""One line a call: what stands in it, and what does not."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from select import PIPE_BUF
from typing import Literal

import pytest

from gateway.core.logger import Logger
from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import Call, Fault, FaultCode, Origin, Outcome, Peer, Reply, RequestMetadata
from gateway.ops import log
from tests.kit.cases import present
from tests.kit.mappings import route

LOG = Logger("test")
CALL = Call("VM.start", ("a secret",), peer=Peer("tcp:127.0.0.1:4711"))


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """Standard error, read by the test; afterwards logging is as before."""
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in ("gateway", "adapters")]
    handlers, levels = root.handlers, [each.level for each in ours]
    yield capsys
    root.handlers = handlers
    for each, level in zip(ours, levels, strict=True):
        each.setLevel(level)


def log_call(outcome: Outcome, seconds: float, method: str = "VM.start", call: Call = CALL) -> None:
    listener = present(log.call_log())
    listener(CallFinished(route(method), call, outcome, Side.DBUS, seconds))


async def written(lines: pytest.CaptureFixture[str]) -> str:
    """What stands on standard error once the lines that waited for others are out."""
    moment = asyncio.Event()
    asyncio.get_running_loop().call_later(log.FLUSH_INTERVAL, moment.set)  # after the timer that was set before it
    await moment.wait()
    return lines.readouterr().err


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize("ending", ["\x85", "\u2028", "\u2029"])
async def test_several_processes_write_whole_lines_whatever_a_client_sends(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Pipe())
    call = Call("VM.start", extensions={"agent": f"{ending}{'a' * 90}"})
    try:
        log.configure("json", "info", worker=2)
        for _ in range(100):
            log_call(Reply(None), 0.1, call=call)
        LOG.info("the last line")
    finally:
        log.configure("json", "info")  # one process again
    assert len(pieces) > 1
    assert all(json.loads(line)["worker"] == 2 for piece in pieces for line in piece.split("\n")[:-1])
    assert all(piece.endswith("\n") and len(piece.encode()) <= PIPE_BUF for piece in pieces)


async def test_a_call_is_one_line_of_json_without_its_values(lines: pytest.CaptureFixture[str]) -> None:
    log.configure("json", "info")
    log_call(Reply("another secret"), 0.0125)
    text = await written(lines)
    line = json.loads(text)
    assert text.count("\n") == 1
    assert "secret" not in text
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "call", "level": "info", "service": "toy", "method": "VM.start", "side": "dbus", "outcome": "ok",
        "ms": 12.5, "peer": "tcp:127.0.0.1:4711",
    }  # fmt: skip


async def test_a_line_has_the_caller_and_where_the_call_came_in(lines: pytest.CaptureFixture[str]) -> None:
    log.configure("json", "info")
    known = {"listener": "rpc", "path": "/RPC2", "protocol": "xmlrpc", "user": "alice", "request_id": "r-7"}
    extensions = {**known, "dialect": "xenapi", "agent": "a" * 500}
    call = Call("VM.start", peer=Peer("unix:/run/x", uid=7, domid=3), extensions=extensions)
    log_call(Reply(), 0.001, call=call)
    line = json.loads(await written(lines))
    assert {**known, "uid": 7, "domid": 3, "agent": "a" * log.LONGEST}.items() <= line.items()
    log.configure("console", "info")
    log_call(Reply(), 0.001, call=call)
    shown = (await written(lines)).split()
    assert {"service=toy", "path=/RPC2", "request_id=r-7", "user=alice"} <= set(shown)


async def test_calls_that_came_the_same_way_differ_in_what_is_their_own(lines: pytest.CaptureFixture[str]) -> None:
    log.configure("json", "info")
    listener = present(log.call_log())
    came = {"listener": "rpc", "path": "/", "protocol": "jsonrpc", "agent": '","ms":0.0,"\\', "user": "alice"}
    origins: list[Mapping[str, object]] = [Origin(came, is_shared=True), Origin(came, is_shared=True), came]
    one, two, stat = Peer("tcp:10.0.0.1:5"), Peer("tcp:10.0.0.2:5"), route("VM.stat")
    sides: list[Side | None] = [Side.DBUS, Side.LEGACY, None]
    calls = [
        (each, Call("VM.stat", peer=peer, extensions=origin), outcome, side)
        for origin in origins
        for each in (stat, route("VM.start"))
        for peer in (one, two, one)
        for side in sides
        for outcome in (Reply(1), Fault(FaultCode.BUSY, ""), Reply(2))
    ]
    for at, (each, call, outcome, side) in enumerate(calls):
        listener(CallFinished(each, call, outcome, side, at / 1000))
    found = [json.loads(line) for line in (await written(lines)).splitlines()]
    assert all(datetime.fromisoformat(line.pop("timestamp")).tzinfo for line in found)
    same = {"event": "call", "level": "info", "service": "toy", **came}
    for at, (line, (each, call, outcome, side)) in enumerate(zip(found, calls, strict=True)):
        own = {"method": each.method, "ms": float(at), "peer": call.peer.address, "side": side.value if side else ""}
        assert line == {**same, **own, "outcome": "ok" if isinstance(outcome, Reply) else "busy"}


def test_the_id_of_a_request_is_the_clients_own_or_the_trace_it_belongs_to() -> None:
    trace = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert RequestMetadata(headers=(trace,)).request_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert RequestMetadata(headers=(trace, (b"X-Request-Id", b"r-1"))).request_id == "r-1"
    assert RequestMetadata().request_id == ""


async def test_a_fault_is_named_by_its_code_and_its_name_if_it_is_one_and_never_by_its_text(
    lines: pytest.CaptureFixture[str],
) -> None:
    log.configure("json", "info")
    for name in ("org.xen.xcp.Error.NotFound", "a secret text", ""):
        log_call(Fault(FaultCode.REMOTE, "a secret text", name=name), 1.0)
    text = await written(lines)
    told = [(line["outcome"], line.get("error")) for line in map(json.loads, text.splitlines())]
    assert told == [("remote", "org.xen.xcp.Error.NotFound"), ("remote", None), ("remote", None)]
    assert "secret" not in text
    log.configure("console", "info")
    log_call(Fault(FaultCode.REMOTE, "", name="HANDLE_INVALID"), 1.0)
    Logger("x").info("judged", p50=0.003162717672227078, seconds=12345.678, calls=7)
    shown = lines.readouterr().err
    assert "calls=7 p50=0.003163 seconds=12346" in shown
    assert "method=VM.start" in shown
    assert "error=HANDLE_INVALID" in shown


def test_what_adapters_and_libraries_log_are_lines_like_all_others(lines: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # one handler, however often
        log.configure("json", "debug")
    logging.getLogger("adapters.backends.x").info("bus '%s' is connected", "one")
    logging.getLogger("library").info("chatter")  # a library is heard when it warns
    logging.getLogger("library").critical("it failed", exc_info=OSError("gone"))
    told, failed = map(json.loads, lines.readouterr().err.splitlines())
    assert told.pop("timestamp").endswith("Z")
    assert told == {"event": "bus 'one' is connected", "level": "info", "logger": "adapters.backends.x"}
    assert (failed["level"], failed["event"]) == ("critical", "it failed")
    assert "OSError: gone" in failed["exception"]


@pytest.mark.usefixtures("lines")
async def test_a_log_that_cannot_be_written_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr(sys, "stderr", gone)
    log.configure("json", "info")
    log_call(Reply(), 0.5)
    LOG.warning("this is written at once, with the line of the call before it")
    assert log.lines_lost() == 2
    with pytest.raises(ValueError, match="closed file"):
        gone.write("the stream was closed")


async def test_lines_of_calls_wait_for_each_other_and_never_stand_behind_what_came_later(
    lines: pytest.CaptureFixture[str],
) -> None:
    log.configure("json", "warning")
    assert log.call_log() is None, "below its level"
    log.configure("json", "info")
    for method in ("first", "second"):
        log_call(Reply(), 0.5, method)
    assert lines.readouterr().err == ""
    LOG.warning("third")
    events = [json.loads(line) for line in lines.readouterr().err.splitlines()]
    assert [event.get("method", event["event"]) for event in events] == ["first", "second", "third"]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_bug_is_one_event_with_its_fields_and_its_traceback(
    form: Literal["console", "json"], lines: pytest.CaptureFixture[str]
) -> None:
    log.configure(form, "warning", worker=3)
    try:
        raise OSError("gone")  # noqa: TRY301
    except OSError:
        LOG.exception("a bug", method="VM.start", why="no \x1b[31mroom\n")
    finally:
        log.configure(form, "warning")
    LOG.info("below the level")
    text = lines.readouterr().err
    assert "OSError: gone" in text
    if form == "json":
        line = json.loads(text)
        assert line.pop("exception").startswith("Traceback")
        assert line.pop("timestamp").endswith("Z")
        told = {"method": "VM.start", "why": "no \x1b[31mroom\n", "event": "a bug", "level": "error", "worker": 3}
        assert line == told
    else:  # what others wrote moves no cursor
        assert text.splitlines()[0].split(None, 1)[1] == (
            r"[error   ] a bug                          method=VM.start why='no \x1b[31mroom\n' worker=3"
        )
        assert "below the level" not in text
