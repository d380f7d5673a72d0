from __future__ import annotations

import pytest

from adapters.codecs.jsonrpc import Codec
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply, Value
from tests.kit.cases import each_case, expect, present

CODEC = Codec()


@each_case("tag", ["7", "0", "-1.50", '"x"', "true", '["a"]', '{"b":null}'])
def test_an_id_of_any_type_is_echoed_as_it_was_written(tag: str) -> None:
    envelope = CODEC.decode(f'{{"method":"m","params":[],"id":{tag}}}'.encode())
    assert envelope.entries == (Call("m"),)
    assert CODEC.encode(envelope, (Reply(1),)) == f'{{"result":1,"error":null,"id":{tag}}}'.encode()


@each_case(
    ("body", "answer"),
    [
        (b'{"method":1,"id":"x"}', b'"$.method: expected text"},"id":"x"}'),
        (b'{"method":"m","params":3,"id":null}', b'"$.params: expected an array"},"id":null}'),
        (b'{"method":"m","params":[1e400],"id":"x"}', b'"$.params[0]: expected a number within 1.8e308"},"id":"x"}'),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_in_1_0_with_its_id(body: bytes, answer: bytes) -> None:
    envelope = CODEC.decode(body)
    fault = expect(Fault, *envelope.entries)
    assert CODEC.encode(envelope, (fault,)) == b'{"result":null,"error":{"code":-32600,"message":' + answer


@each_case("wire", [["Redirect", ["addr"]], "No_reservation", "", [], 0, False])
def test_a_dialect_may_answer_any_error_but_null(wire: Value) -> None:
    envelope = CODEC.decode(b'{"method":"m","params":[],"id":0}')
    body = present(CODEC.encode(envelope, (Fault(FaultCode.APPLICATION, "x", wire=wire),)))
    outcome = expect(Fault, CODEC.decode_outcome(body))
    assert (outcome.code, outcome.wire) == (FaultCode.REMOTE, wire)


@each_case(
    ("body", "outcome"),
    [
        (b'{"result":null,"error":null,"id":0}', Reply(None)),
        (b'{"error":"No_room","id":0}', Fault(FaultCode.REMOTE, "No_room", wire="No_room")),
        (b'{"error":{"x":1},"id":0}', Fault(FaultCode.REMOTE, "an error without a text", wire={"x": 1})),
    ],
)
def test_a_response_is_read(body: bytes, outcome: Reply | Fault) -> None:
    assert CODEC.decode_outcome(body) == outcome


def test_a_client_may_write_1_0_only() -> None:
    client = Codec(one=True)
    assert client.encode_call(Call("m", (1, "x"))) == b'{"method":"m","params":[1,"x"],"id":1}'
    assert client.encode_call(Call("m", oneway=True)) == b'{"method":"m","params":[],"id":null}'
    for call in (Call("m", (1,)), Call("m", oneway=True)):
        assert client.decode(client.encode_call(call)).entries == (call,)
    with pytest.raises(ValueError, match="expected positional parameters only"):
        client.encode_call(Call("m", named={"a": 1}))
