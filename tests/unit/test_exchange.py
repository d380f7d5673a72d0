"""Bytes in, bytes out: the order of the path, batches, faults of framing and bugs."""

from __future__ import annotations

import asyncio
import json
import xmlrpc.client
from collections.abc import Awaitable, Callable, Sequence

import pytest

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.model import Answer, Call, Envelope, Fault, FaultCode, Limits, Outcome, Peer, Reply
from gateway.core.ports import Backend, Codec
from gateway.core.route import Route
from gateway.dispatch import Dispatcher
from gateway.exchange import Endpoints, Exchange
from gateway.mapping.table import EndpointKey, EndpointTable
from tests.kit.routes import route

PEER = Peer("tcp:127.0.0.1:4711")
HERE = EndpointKey("rpc", "/here")


class Scripted(Backend):
    """Answers by calling a function."""

    def __init__(self, answer: Callable[[Call], Awaitable[Outcome]]) -> None:
        self._answer = answer

    async def start(self) -> None:
        """Nothing to connect."""

    async def call(self, route: Route, call: Call) -> Outcome:
        return await self._answer(call)

    async def stop(self) -> None:
        """Nothing to close."""


async def echo(call: Call) -> Outcome:
    return Reply(call.params[0])


def exchange(
    codec: str = "jsonrpc",
    dialect: str = "plain",
    answer: Callable[[Call], Awaitable[Outcome]] = echo,
    concurrency: int = 1,
) -> Exchange:
    table = EndpointTable(HERE, codec, dialect, {"echo": route("echo")})
    dispatcher = Dispatcher(Scripted(answer), lambda *_: None)
    return Exchange(table, CODECS[codec](Limits()), DIALECTS[dialect](codec), dispatcher, concurrency=concurrency)


def request(*ids: int, method: str = "echo") -> bytes:
    calls = [{"jsonrpc": "2.0", "method": method, "params": [number], "id": number} for number in ids]
    return json.dumps(calls if len(calls) > 1 else calls[0]).encode()


def body(answer: Answer) -> bytes:
    assert answer.body is not None
    return answer.body


async def test_a_call_goes_to_its_route_and_its_answer_comes_back() -> None:
    answer = await exchange().answer(request(7), PEER)
    assert json.loads(body(answer)) == {"jsonrpc": "2.0", "result": 7, "id": 7}
    assert answer.content_type == "application/json"
    assert answer.fault is None


async def test_the_peer_travels_with_the_call() -> None:
    seen: list[Peer] = []

    async def look(call: Call) -> Outcome:
        seen.append(call.peer)
        return Reply(None)

    await exchange(answer=look).answer(request(1), PEER)
    assert seen == [PEER]


async def test_a_notification_is_called_and_not_answered() -> None:
    calls: list[Call] = []

    async def look(call: Call) -> Outcome:
        calls.append(call)
        return Reply(None)

    answer = await exchange(answer=look).answer(b'{"jsonrpc":"2.0","method":"echo","params":[1]}', PEER)
    assert answer.body is None
    assert [call.oneway for call in calls] == [True]


async def test_an_unknown_method_is_named() -> None:
    answer = await exchange().answer(request(1, method="VM.nope"), PEER)
    assert json.loads(body(answer))["error"] == {"code": -32601, "message": "unknown method 'VM.nope'"}


async def test_the_gateways_own_methods_are_answered_without_a_route() -> None:
    answer = await exchange("xmlrpc").answer(xmlrpc.client.dumps((), "system.listMethods").encode(), PEER)
    (names,), _ = xmlrpc.client.loads(body(answer))
    assert isinstance(names, list)
    assert "echo" in names


async def test_the_dialect_dresses_outcomes() -> None:
    answer = await exchange("xmlrpc", "xenapi").answer(xmlrpc.client.dumps((5,), "echo").encode(), PEER)
    assert xmlrpc.client.loads(body(answer))[0] == ({"Status": "Success", "Value": "5"},)


async def test_a_broken_message_skips_the_dialect_and_is_marked_as_a_whole() -> None:
    answer = await exchange("xmlrpc", "xenapi").answer(b"<nonsense", PEER)
    assert answer.fault is not None
    assert answer.fault.code is FaultCode.PARSE_ERROR
    with pytest.raises(xmlrpc.client.Fault, match=r"32700"):
        xmlrpc.client.loads(body(answer))


async def test_a_message_that_holds_no_call_is_told_of_and_one_that_does_is_not() -> None:
    told: list[Fault] = []
    table = EndpointTable(HERE, "jsonrpc", "plain", {"echo": route("echo")})
    dispatcher = Dispatcher(Scripted(echo), lambda *_: None)
    listening = Exchange(
        table, CODECS["jsonrpc"](Limits()), DIALECTS["plain"]("jsonrpc"), dispatcher, on_refused=told.append
    )
    await listening.answer(request(7), PEER)
    await listening.answer(request(7, method="nobody"), PEER)
    await listening.answer(b"{", PEER)
    listening.refuse(Fault(FaultCode.BUSY, "too many calls at once, try again"))
    assert [fault.code for fault in told] == [FaultCode.PARSE_ERROR, FaultCode.BUSY]


async def test_batch_entries_run_in_order_one_after_another() -> None:
    running = 0
    order: list[object] = []

    async def look(call: Call) -> Outcome:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        order.append(call.params[0])
        return Reply(call.params[0])

    answer = await exchange(answer=look).answer(request(3, 1, 2), PEER)
    assert order == [3, 1, 2]
    assert [entry["result"] for entry in json.loads(body(answer))] == [3, 1, 2]


async def test_a_concurrent_batch_keeps_to_its_cap_and_answers_in_order() -> None:
    running = most = 0

    async def look(call: Call) -> Outcome:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Reply(call.params[0])

    answer = await exchange(answer=look, concurrency=2).answer(request(*range(6)), PEER)
    assert most == 2
    assert [entry["result"] for entry in json.loads(body(answer))] == list(range(6))


class BrokenCodec(Codec):
    """A codec with a bug: what stands between the bug and the client is under test."""

    name = "broken"
    content_type = "text/plain"

    def decode(self, body: bytes) -> Envelope:
        raise KeyError("a secret that no client may see")

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes | None:
        assert isinstance(outcomes[0], Fault)
        return outcomes[0].message.encode()

    def encode_call(self, call: Call) -> bytes:
        raise AssertionError("not used")

    def decode_outcome(self, body: bytes) -> Outcome:
        raise AssertionError("not used")


async def test_a_bug_in_a_codec_is_an_internal_fault_without_its_text() -> None:
    broken = exchange()
    broken.codec = BrokenCodec()
    answer = await broken.answer(b"", PEER)
    assert answer.body == b"internal error"


def test_the_exchange_with_the_longest_path_is_found_and_the_root_takes_the_rest() -> None:
    keys = [EndpointKey("rpc", "/"), EndpointKey("rpc", "/RPC2"), EndpointKey("other", "/RPC2/deep")]
    exchanges = {key: exchange() for key in keys}
    endpoints = Endpoints(exchanges)
    assert endpoints.resolve("rpc", "/RPC2") is exchanges[keys[1]]
    assert endpoints.resolve("rpc", "/RPC2/deep") is exchanges[keys[1]]
    assert endpoints.resolve("rpc", "/elsewhere") is exchanges[keys[0]]
    assert endpoints.resolve("other", "/RPC2") is None
    assert endpoints.resolve("third", "/") is None
