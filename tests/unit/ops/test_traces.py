"""What waits for a collector is bounded, and what none takes is counted; interop/test_traces.py has the rest."""

from __future__ import annotations

import json
from time import perf_counter

import pytest

from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import Call, Outcome, Peer, Reply, RequestMetadata
from gateway.core.rpc.trace_context import KEY
from gateway.ops import traces
from gateway.ops.traces import Tracer
from tests.kit.mappings import route
from tests.kit.upstreams import Last, legacy_server, ok

NOWHERE = "http://127.0.0.1:1/v1/traces"


def finished(tracer: Tracer, outcome: Outcome, side: Side | None, agent: str = "") -> None:
    call = Call("VM.start", ("secret",), peer=Peer("tcp:10.0.0.1:5"))
    context = tracer.begin(call, RequestMetadata(), perf_counter())
    extensions = {"protocol": "xmlrpc", "agent": agent, KEY: context}
    done = Call(call.method, call.params, peer=call.peer, extensions=extensions)
    tracer.finished(CallFinished(route("VM.start"), done, outcome, side, 0.001, started=perf_counter() - 0.001))


async def test_a_flood_of_traces_holds_a_bounded_number_of_spans_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "MOST_WAITING", 30)
    tracer = Tracer(NOWHERE, 1.0, "1")
    for _ in range(20):
        finished(tracer, Reply(), Side.DBUS)  # three spans
    assert tracer.lost == 30
    await tracer.start()
    await tracer.stop()
    assert tracer.lost == 60


def test_no_value_of_a_call_is_in_a_span_and_a_refused_call_asks_no_side() -> None:
    assert Tracer(NOWHERE, 0.0, "1").begin(Call("x"), RequestMetadata(), 0.0) is None  # without a share
    tracer = Tracer(NOWHERE, 1.0, "1")
    finished(tracer, Reply("secret"), None, agent="a" * 8000)
    document = tracer._document(list(tracer._waiting))
    assert b"secret" not in document
    assert len(document) < 4000  # whatever the client calls itself
    spans = json.loads(document)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans] == ["VM.start", "decode"]
    told = {each["key"]: each["value"]["stringValue"] for each in spans[0]["attributes"]}
    assert told["client.address"] == "tcp:10.0.0.1"


async def test_neither_a_url_without_a_host_nor_a_redirect_takes_spans() -> None:
    """After 302 a client asks for another page, without the spans."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with legacy_server(lambda request: Last(moved if request.startswith(b"POST") else ok(b""))) as collector:
        for url in ("http://no..name/v1/traces", f"{collector.url}/v1/traces"):
            tracer = Tracer(url, 1.0, "1")
            finished(tracer, Reply(), Side.DBUS)
            await tracer.start()
            await tracer.stop()
            assert tracer.lost == 3
        assert len(collector.requests) == 1
