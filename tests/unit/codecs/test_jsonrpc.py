"""JSON-RPC messages of both versions beyond the golden cases: bounds, damage, ids, what JSON cannot carry."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from adapters.codecs.jsonrpc import FAULT_CODES, Codec
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value
from tests.kit.cases import each_case, expect, present
from tests.kit.values import exactly
from tests.unit.codecs import corpus
from tests.unit.codecs.hostile_jsonrpc import LIMITS

CODEC = Codec()
PING = CODEC.decode(b'{"jsonrpc":"2.0","method":"ping","id":1}')
OLD_PING = CODEC.decode(b'{"method":"ping","params":[],"id":1}')

# Every form that a message may have, whole; each is also cut at every byte.
GOOD = (
    corpus.JSONRPC_CALL,
    b'{"method":"VM.start","params":[[],{}],"id":18446744073709551616}',
    b'[{"jsonrpc":"2.0","method":"a","id":1.5},{"jsonrpc":"2.0","method":"b","params":{"c":"\\ud83d\\ude00"}}]',
)


def answer(outcome: Outcome, envelope: Envelope = PING, codec: Codec = CODEC) -> Any:
    """The response, and the proof that a strict reader takes it."""
    body = present(codec.encode(envelope, (outcome,)))
    return json.loads(body, parse_constant=pytest.fail)


@each_case(("title", "body", "code", "message"), corpus.JSONRPC)
def test_what_must_not_be_believed_gets_its_fault(title: str, body: bytes, code: FaultCode, message: str) -> None:
    codec = Codec(LIMITS)
    envelope = codec.decode(body)
    fault = expect(Fault, *envelope.entries)
    assert (fault.code, message in fault.message) == (code, True), fault
    response = answer(fault, envelope, codec)
    error = (response[0] if envelope.batch else response)["error"]
    assert (error["code"], error["message"]) == (FAULT_CODES[code], fault.message)


@each_case("body", GOOD)
def test_a_message_cut_at_any_byte_is_a_parse_error(body: bytes) -> None:
    assert all(isinstance(entry, Call) for entry in CODEC.decode(body).entries)
    for end in range(len(body)):
        fault = expect(Fault, *CODEC.decode(body[:end]).entries)
        assert fault.code is FaultCode.PARSE_ERROR, body[:end]


def test_a_hundred_thousand_brackets_are_too_large_even_where_the_limit_is_high() -> None:
    codec = Codec(MessageLimits(body=10**6, depth=10**6))
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000):
        assert [getattr(entry, "code", None) for entry in codec.decode(body).entries] == [FaultCode.TOO_LARGE]


def test_exactly_at_the_limits_is_good() -> None:
    codec = Codec(MessageLimits(depth=4, elements=6, batch=2))
    deep = b'{"jsonrpc":"2.0","method":"m","params":[[[]]]}'  # three arrays and the object; six values
    assert codec.decode(deep).entries == (Call("m", ([[]],), oneway=True),)
    assert len(codec.decode(b"[1,2]").entries) == 2
    codec, text = Codec(MessageLimits(depth=3, elements=5)), '[[[[{{{{,,,,\\"\\\\"'  # those in texts do not count
    body = f'{{"jsonrpc":"2.0","method":"m","params":["{text}]}}'.encode()
    assert codec.decode(body).entries == (Call("m", ('[[[[{{{{,,,,"\\',), oneway=True),)


def test_the_longest_integer_that_python_converts_is_carried_both_ways() -> None:
    number = int("9" * 4300)
    body = CODEC.encode_call(Call("m", (number,)))
    assert CODEC.decode(body).entries == (Call("m", (number,)),)


def nested(levels: int) -> list[Value]:
    value: list[Value] = []
    for _ in range(levels):
        value = [value]
    return value


@each_case(
    ("value", "place"),
    [
        ({"a": [None, float("-inf")]}, "$.result.a[1]: expected a finite number, got -inf"),
        ({"\udfff": 1}, r'$.result["\udfff"]: expected Unicode text'),
        ([10**5000], "$.result[0]: expected an integer of reasonable length"),
        (
            datetime(2026, 1, 31, tzinfo=timezone(timedelta(seconds=30))),
            "$.result: expected an offset of whole minutes",
        ),
        (nested(10_000), "$.result: expected fewer nested arrays"),
    ],
)
@each_case("envelope", [PING, OLD_PING])
def test_a_reply_that_json_cannot_carry_is_a_fault_that_names_the_place(
    value: Value, place: str, envelope: Envelope
) -> None:
    error = answer(Reply(value), envelope)["error"]
    assert error["code"] == FAULT_CODES[FaultCode.UNREPRESENTABLE]
    assert error["message"].startswith(place)


def test_of_a_fault_what_json_cannot_carry_is_told_visibly_or_by_its_place() -> None:
    fault = Fault(FaultCode.APPLICATION, "x", data=[1, float("nan")])
    assert answer(fault)["error"]["message"] == "$.error.data[1]: expected a finite number, got nan"
    assert answer(Fault(FaultCode.INTERNAL, "é\udfffx"))["error"]["message"] == "é\\udfffx"


@each_case(
    ("value", "written"),
    [
        (b"\x00\xff", '"AP8="'),
        (datetime(2026, 1, 31, 9, 5), '"20260131T09:05:00"'),  # noqa: DTZ001 - a moment whose zone nobody knows
        (datetime(2026, 1, 31, 9, 5, tzinfo=timezone(timedelta(hours=-2))), '"20260131T09:05:00-02:00"'),
        (datetime(2026, 1, 31, 9, 5, 0, 250000, tzinfo=UTC), '"20260131T09:05:00.250000Z"'),
        ([{"b": datetime(2026, 1, 31, tzinfo=UTC)}, "T09:05:00"], '[{"b":"20260131T00:00:00Z"},"T09:05:00"]'),
        (
            {"a": None, "b": "null", "c": [True, 1.0, 2**64]},
            '{"a":null,"b":"null","c":[true,1.0,18446744073709551616]}',
        ),
    ],
)
def test_values_are_written_as_the_legacy_service_write_them(value: Value, written: str) -> None:
    assert CODEC.encode(PING, (Reply(value),)) == f'{{"jsonrpc":"2.0","result":{written},"id":1}}'.encode()


def test_integers_beyond_a_double_become_text_where_the_listener_says_so() -> None:
    codec = Codec(long_integers="text")
    result = answer(Reply([2**53, 2**53 + 1, -(2**53) - 1, {"a": 2**64}, True]), codec=codec)["result"]
    assert exactly(result) == exactly([2**53, "9007199254740993", "-9007199254740993", {"a": str(2**64)}, True])


@each_case("wire", [["Redirect", ["addr"]], "", [], 0, False])
def test_in_1_0_a_dialect_may_answer_any_error_but_null(wire: Value) -> None:
    body = present(CODEC.encode(OLD_PING, (Fault(FaultCode.APPLICATION, "x", wire=wire),)))
    outcome = expect(Fault, CODEC.decode_outcome(body))
    assert (outcome.code, outcome.wire) == (FaultCode.REMOTE, wire)


@each_case(
    ("name", "message", "written"),
    [
        ("GONE", "no such VM", "GONE: no such VM"),
        ("GONE", "", "GONE: "),
        ("GONE", "GONE", "GONE"),
        ("", "it broke", "it broke"),
        ("", "GONE: it broke", ": GONE: it broke"),
        ("", ": x", ": : x"),
    ],
)
def test_a_name_that_is_no_number_stands_before_the_message(name: str, message: str, written: str) -> None:
    fault = Fault(FaultCode.APPLICATION, message, name=name, data=["vm"])
    for envelope in (PING, OLD_PING):
        assert answer(fault, envelope)["error"] == {"code": 1, "message": written, "data": ["vm"]}
        told = expect(Fault, CODEC.decode_outcome(present(CODEC.encode(envelope, (fault,)))))
        assert (told.code, told.message, told.data) == (fault.code, fault.message, fault.data)
        assert told.name == ("" if name == message else name)


@each_case(
    ("call", "one", "message"),
    [
        (Call("m", named={"a": "\ud800"}), False, r"\$\.params\.a: expected Unicode text"),
        (Call("\ud800"), False, r"\$\.method: expected Unicode text"),
        (Call("m", (1,), {"a": 1}), False, r"\$\.params: expected positional or named parameters"),
        (Call("m", named={"a": 1}), True, r"\$\.params: expected positional parameters only"),
    ],
)
def test_a_call_that_cannot_be_carried_is_refused_with_its_place(call: Call, one: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Codec(one=one).encode_call(call)


def test_a_client_may_write_1_0_only() -> None:
    client = Codec(one=True)
    assert client.encode_call(Call("m", (1, "x"))) == b'{"method":"m","params":[1,"x"],"id":1}'
    assert client.encode_call(Call("m", oneway=True)) == b'{"method":"m","params":[],"id":null}'


@each_case(
    ("body", "outcome"),
    [
        (b'{"jsonrpc":"2.0","result":null,"id":0}', Reply(None)),
        (
            b'{"jsonrpc":"2.0","error":{"code":7,"message":"x","data":[1]},"id":0}',
            Fault(FaultCode.REMOTE, "x", name="7", data=[1]),
        ),
        (
            b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"x","data":1},"id":0}',
            Fault(FaultCode.REMOTE, "x", data=1),
        ),
        (
            b'{"jsonrpc":"2.0","error":["HOST_IS_SLAVE","10.0.0.1"],"id":0}',  # xapi, before it knows the version
            Fault(FaultCode.REMOTE, "HOST_IS_SLAVE", wire=["HOST_IS_SLAVE", "10.0.0.1"]),
        ),
        (b'{"result":null,"error":null,"id":0}', Reply(None)),
        (b'{"error":"No_room","id":0}', Fault(FaultCode.REMOTE, "No_room", wire="No_room")),
        (b'{"error":{"x":1},"id":0}', Fault(FaultCode.REMOTE, "an error without a text", wire={"x": 1})),
        # of a member that is written twice the last one counts
        (b'{"jsonrpc":"2.0","result":{"a":1,"b":[{"c":1,"c":2}],"a":2},"id":1}', Reply({"a": 2, "b": [{"c": 2}]})),
    ],
)
def test_the_answers_of_other_servers_are_read(body: bytes, outcome: Outcome) -> None:
    assert CODEC.decode_outcome(body) == outcome


@each_case(
    "body",
    [
        *(b"", b"Internal error", b"1", b"[]", b"{}", b'{"jsonrpc":"2.0","result":1}', b'{"jsonrpc":"2.0","id":1}'),
        b'{"jsonrpc":"2.0","result":1,"error":null,"id":1}',
        *(b'{"jsonrpc":"1.1","result":1,"id":1}', b'{"result":1,"id":1}'),
        b'{"jsonrpc":"2.0","result":NaN,"id":1}',
        b'{"jsonrpc":"2.0","result":[{"a":1,"a":2},1e400],"id":1}',
    ],
)
def test_an_answer_that_is_none_is_a_parse_error(body: bytes) -> None:
    outcome = expect(Fault, CODEC.decode_outcome(body))
    assert outcome.code is FaultCode.PARSE_ERROR


# Requests of which something cannot be taken, and the id that the answer carries.
DAMAGED = (
    (rb'{"jsonrpc":"2.0","method":"m","params":{"\ud800":1},"id":"a"}', b'"a"'),
    (b'{"jsonrpc":"2.0","method":"m","params":[{"a":1,"a":2}],"id":1.50}', b"1.50"),
    (b'{"jsonrpc":"2.0","method":"m","params":[1e400],"id":null}', b"null"),
    (b'{"jsonrpc":"2.0","method":"m","params":[' + b"9" * 100_000 + b'],"id":1e3}', b"1e3"),
    (rb'{"jsonrpc":"2.0","method":"\udfff","id":18446744073709551617}', b"18446744073709551617"),
    (b'{"jsonrpc":"2.0","method":"m","method":"n","id":5}', b"5"),
    (b'{"jsonrpc":"2.0","jsonrpc":"2.0","method":"m","id":5}', b"5"),
    (b'{"jsonrpc":"2.0","method":"m","id":5,"id":6}', b"null"),
    (b'{"jsonrpc":"2.0","method":"m","id":1e400}', b"null"),
    (b'{"jsonrpc":"2.0","method":"m","params":[1e400]}', b"null"),
)


@each_case(("request_", "tag"), DAMAGED)
def test_a_request_that_cannot_be_taken_is_answered_with_its_id_alone_and_in_a_batch(
    request_: bytes, tag: bytes
) -> None:
    envelope = CODEC.decode(request_)
    fault = expect(Fault, *envelope.entries)
    assert fault.message.startswith("$.")
    answer = present(CODEC.encode(envelope, [fault]))
    assert answer.startswith(b'{"jsonrpc":"2.0","error":{')
    assert answer.endswith(b',"id":' + tag + b"}")
    good = b'{"jsonrpc":"2.0","method":"m","params":["[,"],"id":1.0}'
    batch = CODEC.decode(b" [ " + good + b" , " + request_ + b"\n," + good + b"\t] ")
    assert batch.entries == (Call("m", ("[,",)), fault, Call("m", ("[,",)))
    assert CODEC.encode(batch, [Reply(1), fault, Reply(2)]) == b",".join(
        [b'[{"jsonrpc":"2.0","result":1,"id":1.0}', answer, b'{"jsonrpc":"2.0","result":2,"id":1.0}]']
    )


def test_a_request_of_1_0_that_cannot_be_taken_is_answered_in_1_0_with_its_id() -> None:
    envelope = CODEC.decode(b'{"method":"m","params":[1e400],"id":"x"}')
    told = b'{"result":null,"error":{"code":-32600,"message":"$.params[0]: expected a number within 1.8e308"},"id":"x"}'
    assert CODEC.encode(envelope, [expect(Fault, *envelope.entries)]) == told


PLAIN = [
    b'{"jsonrpc":"2.0","method":"m","params":["a"],"id":1}',
    b'{"id": "a:b", "params": {"x": {"y": [1.0, null, true]}}, "method": "n:m", "jsonrpc": "2.0"}',
    b'{"jsonrpc":"2.0","method":"m","params":["a:b", "\\u003a"],"id":-0}',
    b'{"jsonrpc":"2.0","method":"m","method":"n","params":[],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","\\u006dethod":"n","params":[],"id":1}',
    b'{"jsonrpc":"2.0","method":"\\u003a","method":"n","params":[],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":[{"a":1,"a":2}],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":[],"id":1.0}',
    b'{"jsonrpc":"2.0","method":"m","params":[],"id":null}',
    b'{"jsonrpc":"2.0","method":"m","params":[],"id":true}',
    b'{"jsonrpc":"2.0","method":"m","params":[],"id":"\\u0041\xc3\xa9"}',
    b'{"jsonrpc":"2.0","method":"m","params":[],"id":123456789012345678901234567890}',
    b'{"jsonrpc":"2.0","method":"m","params":[1e999],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":["\xff"],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":["\\ud800"],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":null,"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":[],"id":1,"more":2}',
    b'{"jsonrpc":"1.0","method":"m","params":[],"id":1}',
    b'{"jsonrpc":"2.0","method":"m","params":' + b"[" * 100 + b"]" * 100 + b',"id":1}',
    b'{"jsonrpc":"2.0","method":"a{[:::","params":[],"id":1,"id":2}',
    b'{"jsonrpc":"2.0","method":"m","params":{},"id":1}',
    b'{"jsonrpc":"2.0","method":"m","id":1}',
]


@each_case("body", PLAIN)
def test_plain_requests_mean_what_they_mean_to_the_reader_of_all_others_alone_and_in_a_batch(body: bytes) -> None:
    read, expected = CODEC.decode(body), CODEC.decode(body + b" " * 5000)  # too long to be read as a plain one
    assert (read, repr(read)) == (expected, repr(expected))  # and of the same types
    batch, closely = b"[%b,%b]" % (PLAIN[0], body), Codec()
    closely._longest_batch = 0
    read, expected = CODEC.decode(batch), closely.decode(batch)
    assert (read, repr(read)) == (expected, repr(expected))


BATCH = CODEC.decode(
    b'[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b"},{"jsonrpc":"2.0","method":"c","id":"x"}]'
)


def test_the_answers_to_a_batch_are_read_by_their_ids_in_any_order() -> None:
    third, first = (
        b'{"jsonrpc":"2.0","result":{"a":1,"a":3},"id":"x"}',
        CODEC.encode(PING, [Fault(FaultCode.TIMEOUT, "late")]),
    )
    body = b"[%b,%b]" % (third, present(first))
    assert CODEC.decode_answers(body, BATCH) == [Fault(FaultCode.TIMEOUT, "late"), Reply(), Reply({"a": 3})]
    outcomes: list[Outcome] = [Reply({"a": [1]}), Reply(), Fault(FaultCode.BUSY, "no room")]
    assert CODEC.decode_answers(present(CODEC.encode(BATCH, outcomes)), BATCH) == outcomes
    assert CODEC.decode_answers(b"", CODEC.decode(b'{"jsonrpc":"2.0","method":"b"}')) == [Reply()]


@each_case("body", [b"", b"[", b"{}", b"[1]", b'[{"jsonrpc":"2.0","result":3,"id":2}]'])
def test_a_request_of_a_batch_without_a_response_is_a_parse_error(body: bytes) -> None:
    first, _, _ = CODEC.decode_answers(body, BATCH)
    assert expect(Fault, first).code is FaultCode.PARSE_ERROR
