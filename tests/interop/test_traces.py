"""Traces of a real gateway, as a collector and a legacy service see them: OTLP in JSON, and `traceparent`."""

from __future__ import annotations

import asyncio
import json
import xmlrpc.client
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kit.buses import private_bus
from tests.kit.clients import json_call
from tests.kit.gateway import TOY_MAPPING, Folder, Process, gateway_process
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service
from tests.kit.upstreams import LegacyServer, legacy_server, ok

pytestmark = pytest.mark.bus

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Span = Mapping[str, Any]


class World(NamedTuple):
    process: Process
    collector: LegacyServer
    legacy: LegacyServer

    async def call(self, method: str, *params: str, **headers: str) -> Any:
        return await asyncio.to_thread(json_call, self.process.url, "/jsonrpc", method, params, **headers)

    async def spans(self, count: int) -> list[Span]:
        """What the collector has got, once it is so many."""
        while True:
            documents = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in self.collector.requests]
            found = [span for each in documents for span in each["resourceSpans"][0]["scopeSpans"][0]["spans"]]
            if len(found) >= count:
                return found
            await asyncio.wait_for(self.collector.seen.acquire(), TIMEOUT)

    def asked_legacy(self) -> Mapping[str, str]:
        """The headers of the last request to the legacy service."""
        head = self.legacy.requests[-1].partition(b"\r\n\r\n")[0].decode()
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.splitlines())}


@asynccontextmanager
async def world(path: Path, share: str = "0%") -> AsyncIterator[World]:
    folder = Folder(path)
    text = TOY_MAPPING.replace("defaults: {", "legacy: {upstream: old}\ndefaults: {mode: dbus, ")
    folder.mapping(text.replace("params: [text]}", "params: [text], mode: legacy}"))
    answer = ok(xmlrpc.client.dumps(("hello",), methodresponse=True).encode(), "Content-Type: text/xml")
    async with legacy_server(lambda _: ok(b"{}")) as collector, legacy_server(lambda _: answer) as legacy:
        with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
            folder.buses({"toolstack": (bus.address, "org.example.*")})
            more = f'[upstream.old]\nurl = "{legacy.url}"\n[traces]\nurl = "{collector.url}/v1/traces"\n'
            folder.config.write_text(f'{folder.config.read_text()}{more}share = "{share}"\n')
            with gateway_process(folder.config) as process:
                yield World(process, collector, legacy)


def attributes(span: Span) -> dict[str, str]:
    return {each["key"]: each["value"]["stringValue"] for each in span.get("attributes", ())}


async def test_a_call_is_one_trace_from_the_clients_header_to_the_side_that_answers(tmp_path: Path) -> None:
    sampled = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    async with world(tmp_path) as here:
        assert await here.call("label", **sampled) == "toy"
        whole, decode, side = await here.spans(3)
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
        assert await here.call("echo", "hello", **sampled) == "hello"
        *_, side = await here.spans(6)
        assert here.asked_legacy()["traceparent"] == f"00-{TRACE}-{side['spanId']}-01"
        assert (side["name"], here.asked_legacy()["tracestate"]) == ("legacy echo", "vendor=1")

        # One that the client does not record is passed on, and not recorded here either.
        await here.call("echo", "hello", traceparent=f"00-{TRACE}-{PARENT}-00")
        assert here.asked_legacy()["traceparent"].endswith("-00")
        await here.call("echo", "hello")
        assert "traceparent" not in here.asked_legacy()

        # An observed call is a trace of its own, with a link; a fault is an error.
        await asyncio.to_thread(here.process.ask, "POST", "/v1/mode", {"pattern": "echo", "mode": "shadow"})
        await here.call("echo", "hello", **sampled)
        spans = await here.spans(10)
        observed = next(span for span in spans if span["name"] == "dbus echo")
        whole = next(span for span in spans[6:] if span["name"] == "echo")
        assert observed["links"] == [{"traceId": TRACE, "spanId": whole["spanId"]}]
        assert (observed["traceId"] != TRACE, "parentSpanId" in observed) == (True, False)
        assert (await here.call("hang", **sampled))["code"]
        failed = next(span for span in await here.spans(13) if span["name"] == "hang")
        assert (failed["status"], attributes(failed)["error.type"]) == ({"code": 2, "message": "timeout"}, "timeout")

        # A program of xapi names its trace in the debug argument.
        await here.call("echo", f"VM.start R:1\n00-{'5' * 32}-{PARENT}-01")
        of_xapi = [span for span in await here.spans(17) if span["traceId"] == "5" * 32]
        assert [span["name"] for span in of_xapi] == ["echo", "decode", "legacy echo"]
        assert of_xapi[0]["parentSpanId"] == PARENT


async def test_a_share_of_the_other_calls_is_traced_and_a_collector_that_is_away_costs_no_call(tmp_path: Path) -> None:
    async with world(tmp_path, "100%") as here:
        assert await here.call("label") == "toy"
        whole, *_ = await here.spans(3)
        assert "parentSpanId" not in whole
        here.collector.answers = lambda _: None
        assert await here.call("label") == "toy"
        warning = await asyncio.to_thread(here.process.wait_for, "the collector takes no spans")
        assert warning["url"] == f"{here.collector.url}/v1/traces"
        assert await here.call("label") == "toy"
        assert (await asyncio.to_thread(here.process.ask, "GET", "/v1/status"))["ready"] is True
