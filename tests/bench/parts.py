"""Where the time of one call goes, without sockets and bus: `python -m tests.bench.parts`.

Each part is run alone, over and over, in slices of a fraction of a millisecond; the fastest slice counts, by the CPU
clock of the thread. So other work on the machine changes little. In a full process the parts cost more, because they
share the caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType
from rich.console import Console
from rich.table import Table

from adapters.dbus.backend import reply
from adapters.dbus.messages import marshalled
from adapters.http.request import KnownHeads
from adapters.http.request_parser import RequestParser
from adapters.http.response import ResponseWriter
from gateway import config, wiring
from gateway.assembly import Assembly
from gateway.core.dbus.target import MethodCall
from gateway.core.routing.route import Route, encode_arguments
from gateway.core.rpc.model import Answer, Call, Outcome, Peer, Reply, RequestMetadata
from gateway.ops import log
from gateway.pipeline.dispatcher import PlannedCall
from tests.bench.goals import GATEWAY, JSON, LEGACY, XML, write_config
from tests.bench.load import UUID

SLICE = 100e-6  # seconds: short enough that now and then nothing else disturbs the caches meanwhile
SLICES = 500
PEER = Peer("tcp:127.0.0.1:5000")
METADATA = RequestMetadata("POST", "/jsonrpc", ((b"Host", b"bench"), (b"User-Agent", b"bench/1.0")))


def microseconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    rough = min(timeit.repeat(work, number=1, repeat=SLICES, timer=time.thread_time))
    calls = max(1, int(SLICE / rough))
    return min(timeit.repeat(work, number=calls, repeat=SLICES, timer=time.thread_time)) / calls * 1e6


def ended(work: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
    """Run a coroutine that waits for nothing."""

    def run() -> Any:
        try:
            work().send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it waited")

    return run


async def _at_once(_route: Route, _call: Call) -> Outcome:
    """A backend that answers at once."""
    return Reply(UUID)


async def parts(folder: Path) -> Table:
    settings = config.load(write_config(folder, "unix:path=/nonexistent", {LEGACY: 1, GATEWAY: 1}))
    table, problems = wiring.compile_mappings(settings)
    assert not problems
    made = Assembly(settings, table)
    made.backend.call = _at_once  # type: ignore[method-assign, assignment] # no bus here
    endpoints = {key.path: endpoint for key, endpoint in made.endpoints.exchanges.items()}
    json, xml, dispatcher = endpoints["/jsonrpc"], endpoints["/RPC2"], made.dispatcher
    envelope, xml_envelope = json.codec.decode(JSON.body), xml.codec.decode(XML.body)
    (planned,) = json._plan_entries(envelope, PEER, METADATA)
    assert isinstance(planned, PlannedCall)
    finished = ended(lambda: dispatcher.run(planned))()
    call = encode_arguments(planned.route, planned.call)
    assert isinstance(call, MethodCall)
    received = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=[UUID])
    heads = KnownHeads(lambda _: json)
    (listener,) = made.transports.values()
    assert isinstance(listener, wiring.HttpServer)
    parser = RequestParser(listener.limits, needs_host=True)
    parser.unread = JSON.raw
    parser.parse()
    request = parser.ready.pop(0)
    request.endpoint = json
    heads.add(request)

    def parsed() -> None:
        parser.unread = JSON.raw
        parser.parse()
        parser.ready.clear()

    writer, answer = ResponseWriter({}), Answer(b'"%b"' % UUID.encode(), "application/json")
    rows: list[tuple[str, Callable[[], object]]] = [
        ("HTTP: a head that is parsed and checked", parsed),
        ("HTTP: a head that is known", lambda: heads.find(JSON.raw)),
        ("HTTP: the response", lambda: writer.write_plain(answer)),
        ("JSON-RPC: decode", lambda: json.codec.decode(JSON.body)),
        ("JSON-RPC: encode", lambda: json.codec.encode(envelope, (finished.outcome,))),
        ("XML-RPC: decode", lambda: xml.codec.decode(XML.body)),
        ("XML-RPC: encode", lambda: xml.codec.encode(xml_envelope, (finished.outcome,))),
        ("look the route up, plan", lambda: json._plan_entries(envelope, PEER, METADATA)),
        ("D-Bus: check the arguments", lambda: encode_arguments(planned.route, planned.call)),
        ("D-Bus: marshal", lambda: marshalled(call, 1, 0)),
        ("D-Bus: the result", lambda: reply(planned.route, received)),
        ("dispatch, with its deadline, without the next three", ended(lambda: dispatcher.run(planned))),
        *((f"after the call: {name}", lambda listener=listener: listener(finished))
          for name, listener in zip(("statistics", "metrics", "log line"), dispatcher._listeners, strict=True)),
        ("all of an RPC endpoint, JSON-RPC", ended(lambda: json.answer(JSON.body, PEER, METADATA))),
        ("all of an RPC endpoint, XML-RPC", ended(lambda: xml.answer(XML.body, PEER, METADATA))),
    ]  # fmt: skip
    found = {name: microseconds(work) for name, work in rows}
    found[rows[11][0]] -= sum(cost for name, cost in found.items() if name.startswith("after"))
    shown = Table("part", "us", title="one call of a text")
    for name, cost in found.items():
        shown.add_row(name, f"{cost:.1f}")
    return shown


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stderr(io.StringIO()):
            log.configure("json", "info")
            result = asyncio.run(parts(Path(name)))
        Console(file=sys.stdout).print(result)
