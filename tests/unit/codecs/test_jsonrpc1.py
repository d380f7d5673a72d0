from __future__ import annotations

import pytest

from adapters.codecs.jsonrpc import Codec, read_call, read_error, read_response
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply, Value
from tests.kit.cases import each_case, expect, present

CODEC = Codec()


def test_an_id_of_null_makes_a_notification() -> None:
    assert read_call({"method": "m", "params": [1], "id": None}) == Call("m", (1,), oneway=True)
    assert read_call({"method": "m", "params": [1], "id": 0}) == Call("m", (1,))


@each_case("tag", ["7", "-1.50", '"x"', "true", '["a"]', '{"b":null}'])
def test_an_id_of_any_type_is_echoed_as_it_was_written(tag: str) -> None:
    envelope = CODEC.decode(f'{{"method":"m","params":[],"id":{tag}}}'.encode())
    assert CODEC.encode(envelope, (Reply(1),)) == f'{{"result":1,"error":null,"id":{tag}}}'.encode()


def test_a_request_that_makes_no_sense_is_answered_with_its_id() -> None:
    envelope = CODEC.decode(b'{"method":1,"id":"x"}')
    fault = expect(Fault, *envelope.entries)
    assert CODEC.encode(envelope, (fault,)) == (
        b'{"result":null,"error":{"code":-32600,"message":"$.method: expected text"},"id":"x"}'
    )


def test_a_notification_that_makes_no_sense_is_still_answered() -> None:
    envelope = CODEC.decode(b'{"method":"m","params":3,"id":null}')
    fault = expect(Fault, *envelope.entries)
    assert CODEC.encode(envelope, (fault,)) is not None


@each_case("wire", [["Redirect", ["addr"]], "No_reservation", "", [], 0, False])
def test_a_dialect_may_answer_any_error_but_null(wire: Value) -> None:
    envelope = CODEC.decode(b'{"method":"m","params":[],"id":0}')
    body = present(CODEC.encode(envelope, (Fault(FaultCode.APPLICATION, "x", wire=wire),)))
    outcome = expect(Fault, CODEC.decode_outcome(body))
    assert (outcome.code, outcome.wire) == (FaultCode.REMOTE, wire)


def test_both_members_of_null_are_a_void_reply() -> None:
    assert read_response({"result": None, "error": None, "id": 0}) == Reply(None)


def test_a_response_needs_both_members_unless_it_is_an_error() -> None:
    assert read_response({"result": 1, "id": 0}) is None
    assert read_response({"error": "No_reservation", "id": 0}) == Fault(
        FaultCode.REMOTE, "No_reservation", wire="No_reservation"
    )


def test_an_error_without_a_text_still_has_a_message() -> None:
    assert read_error({"x": 1}) == Fault(FaultCode.REMOTE, "an error without a text", wire={"x": 1})


def test_a_client_may_write_1_0_only() -> None:
    client = Codec(one=True)
    assert client.encode_call(Call("m", (1, "x"))) == b'{"method":"m","params":[1,"x"],"id":1}'
    assert client.encode_call(Call("m", oneway=True)) == b'{"method":"m","params":[],"id":null}'
    for call in (Call("m", (1,)), Call("m", oneway=True)):
        assert client.decode(client.encode_call(call)).entries == (call,)


def test_1_0_has_no_named_parameters() -> None:
    with pytest.raises(ValueError, match="expected positional parameters only"):
        Codec(one=True).encode_call(Call("m", named={"a": 1}))
