"""Traces of a real gateway, as a collector and a legacy service see them: OTLP in JSON, and `traceparent`."""

from __future__ import annotations

import json
import threading
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kit.buses import private_bus
from tests.kit.clients import json_call
from tests.kit.gateway import TOY_MAPPING, Folder, Process, gateway_process
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

pytestmark = pytest.mark.bus

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Span = Mapping[str, Any]


class Server:
    """An HTTP server that keeps what it gets, and answers each request with the same body."""

    def __init__(self, answer: bytes, kind: str) -> None:
        self.headers: list[Mapping[str, str]] = []
        self.bodies: list[bytes] = []
        self._more = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._more:
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.bodies.append(body)
                    outer._more.notify_all()
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(TIMEOUT)
        self._server.server_close()

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies
            for resource in json.loads(body)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def wait_for(self, count: int) -> list[Span]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.spans()) >= count, TIMEOUT), self.spans()
        return self.spans()


class World(NamedTuple):
    process: Process
    collector: Server
    legacy: Server

    def call(self, method: str, *params: str, **headers: str) -> Any:
        return json_call(self.process.url, "/jsonrpc", method, params, **headers)


@contextmanager
def world(path: Path, share: str = "0%") -> Iterator[World]:
    folder = Folder(path)
    text = TOY_MAPPING.replace("defaults: {", "legacy: {upstream: old}\ndefaults: {mode: dbus, ")
    folder.mapping(text.replace("params: [text]}", "params: [text], mode: legacy}"))
    answer = xmlrpc.client.dumps(("hello",), methodresponse=True).encode()
    with (
        private_bus() as bus, toy_service(bus.address, "org.example.toy"),
        closing(Server(b"{}", "application/json")) as collector, closing(Server(answer, "text/xml")) as legacy,
    ):  # fmt: skip
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        more = f'[upstream.old]\nurl = "{legacy.url}"\n[traces]\nurl = "{collector.url}/v1/traces"\nshare = "{share}"\n'
        folder.config.write_text(folder.config.read_text() + more)
        with gateway_process(folder.config) as process:
            yield World(process, collector, legacy)


def attributes(span: Span) -> dict[str, str]:
    return {each["key"]: each["value"]["stringValue"] for each in span.get("attributes", ())}


def test_a_call_is_one_trace_from_the_clients_header_to_the_side_that_answers(tmp_path: Path) -> None:
    sampled = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    with world(tmp_path) as here:
        assert here.call("label", **sampled) == "toy"
        whole, decode, side = here.collector.wait_for(3)
        assert {span["traceId"] for span in (whole, decode, side)} == {TRACE}
        assert [span["name"] for span in (whole, decode, side)] == ["label", "decode", "dbus label"]
        assert (whole["parentSpanId"], decode["parentSpanId"], side["parentSpanId"]) == (PARENT, *[whole["spanId"]] * 2)
        times = [int(span[f"{end}TimeUnixNano"]) for span, end in ((whole, "start"), (decode, "end"), (side, "end"))]
        assert times == sorted(times)
        assert (whole["kind"], side["kind"], whole["traceState"]) == (2, 3, "vendor=1")
        told = attributes(whole)
        known = {"rpc.system": "jsonrpc", "rpc.service": "toy", "rpc.method": "label", "xcp.side": "dbus"}
        assert known.items() <= told.items()

        # The legacy service gets the header, with the gateway as the caller.
        assert here.call("echo", "hello", **sampled) == "hello"
        *_, side = here.collector.wait_for(6)
        assert here.legacy.headers[-1]["traceparent"] == f"00-{TRACE}-{side['spanId']}-01"
        assert (side["name"], here.legacy.headers[-1]["tracestate"]) == ("legacy echo", "vendor=1")

        # One that the client does not record is passed on, and not recorded here either.
        here.call("echo", "hello", traceparent=f"00-{TRACE}-{PARENT}-00")
        assert here.legacy.headers[-1]["traceparent"].endswith("-00")
        here.call("echo", "hello")
        assert "traceparent" not in here.legacy.headers[-1]

        # An observed call is a trace of its own, with a link; a fault is an error.
        here.process.ask("POST", "/v1/mode", {"pattern": "echo", "mode": "shadow"})
        here.call("echo", "hello", **sampled)
        spans = here.collector.wait_for(10)
        observed = next(span for span in spans if span["name"] == "dbus echo")
        whole = next(span for span in spans[6:] if span["name"] == "echo")
        assert observed["links"] == [{"traceId": TRACE, "spanId": whole["spanId"]}]
        assert (observed["traceId"] != TRACE, "parentSpanId" in observed) == (True, False)
        assert here.call("hang", **sampled)["code"]
        failed = next(span for span in here.collector.wait_for(13) if span["name"] == "hang")
        assert (failed["status"], attributes(failed)["error.type"]) == ({"code": 2, "message": "timeout"}, "timeout")

        # A program of xapi names its trace in the debug argument.
        here.call("echo", f"VM.start R:1\n00-{'5' * 32}-{PARENT}-01")
        of_xapi = [span for span in here.collector.wait_for(17) if span["traceId"] == "5" * 32]
        assert [span["name"] for span in of_xapi] == ["echo", "decode", "legacy echo"]
        assert of_xapi[0]["parentSpanId"] == PARENT


def test_a_share_of_the_other_calls_is_traced_and_a_collector_that_is_away_costs_no_call(tmp_path: Path) -> None:
    with world(tmp_path, "100%") as here:
        assert here.call("label") == "toy"
        whole, *_ = here.collector.wait_for(3)
        assert "parentSpanId" not in whole
        here.collector.close()
        assert here.call("label") == "toy"
        warning = here.process.wait_for("the collector takes no spans")
        assert warning["url"] == f"{here.collector.url}/v1/traces"
        assert here.call("label") == "toy"
        assert here.process.ask("GET", "/v1/status")["ready"] is True
