"""XML-RPC messages: calls, batches, replies, faults, and what is refused."""

from __future__ import annotations

import pytest

from adapters.codecs.xmlrpc import Codec
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value
from tests.kit.cases import each_case, expect
from tests.unit.codecs import corpus
from tests.unit.codecs.hostile_xmlrpc import LIMITS, call

CODEC = Codec()
ONE = Envelope((Call("m"),))


def response(inside: str) -> bytes:
    return f"<methodResponse>{inside}</methodResponse>".encode()


def result(value: str) -> bytes:
    return response(f"<params><param><value>{value}</value></param></params>")


def multicall(*methods: str) -> Envelope:
    return CODEC.decode(CODEC.encode_call(Call("system.multicall", ([{"methodName": each} for each in methods],))))


def test_a_hostile_body_gets_its_one_fault_and_an_answer() -> None:
    codec = Codec(LIMITS)
    for title, body, code, words in corpus.XMLRPC:
        envelope = codec.decode(body)
        fault = expect(Fault, *envelope.entries)
        assert (fault.code, words in fault.message) == (code, True), (title, fault)
        assert codec.decode_outcome(codec.encode(envelope, [fault])) == fault, title
    assert codec.decode(corpus.XMLRPC_CALL).entries == (Call("m", ({"\u00e9": [-1, "&"]},)),)


def test_arguments_stand_in_for_a_message_whatever_they_are() -> None:
    endless: list[Value] = []
    endless.append(endless)
    fault = Fault(FaultCode.REMOTE, "", name="a.b", data=["x", 1, None, 10**5000, endless])
    read = CODEC.decode_outcome(CODEC.encode(ONE, [fault]))
    assert read == Fault(FaultCode.REMOTE, "x, 1, None, (int), [[...]]", name="a.b")


@each_case("name", ["0", "7", "-32604", "2147483647", "-2147483648"])
def test_a_number_as_name_is_the_fault_code(name: str) -> None:
    fault = Fault(FaultCode.REMOTE, "a: b", name=name)
    body = CODEC.encode(ONE, [fault])
    assert f"<int>{name}</int>".encode() in body
    assert CODEC.decode_outcome(body) == fault


@each_case("name", ["1", "2147483648", "007", "+7", "5_0", "\u0667", "-0", "9" * 5000])
def test_a_name_that_is_no_fault_code_is_not_made_one_and_the_message_stays_whole(name: str) -> None:
    body = CODEC.encode(ONE, [Fault(FaultCode.APPLICATION, "disk: full", name=name)])
    assert CODEC.decode_outcome(body) == Fault(FaultCode.APPLICATION, "disk: full")


def test_the_values_of_a_batch_may_nest_as_deep_as_the_limit_counted_from_the_message() -> None:
    body = CODEC.encode_call(Call("system.multicall", ([{"methodName": "a", "params": [[1]]}],)))
    assert Codec(MessageLimits(depth=4)).decode(body).entries == (Call("a", ([1],)),)
    (fault,) = Codec(MessageLimits(depth=3)).decode(body).entries
    assert fault == Fault(FaultCode.TOO_LARGE, "$.params[0][0].params[0]: nested deeper than is allowed")


@each_case(
    ("wrong", "message"),
    [
        (Call(""), "method: expected text without control characters, got ''"),
        (Call("a\n"), "method: expected text without control characters, got 'a\\n'"),
        (Call("a\ud800"), "method: expected characters that XML can carry, got U+D800"),
        (Call("a", named={"x": 1}), "$.named: expected positional parameters only; XML-RPC has no named ones"),
        (Call("a", (1, {"b": [2**63]})), "$.params[1].b[0]: expected an integer of 64 bits, got one of 65"),
    ],
)
def test_a_call_that_cannot_be_carried_names_the_place(wrong: Call, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        CODEC.encode_call(wrong)
    assert str(caught.value) == message


def test_a_response_cut_short_at_any_byte_is_a_parse_error() -> None:
    outcomes: list[Outcome] = [Reply({"a": [1, "x"]}), Fault(FaultCode.BUSY, "full")]
    for outcome in outcomes:
        for _, body, code, _ in corpus.truncations(CODEC.encode(ONE, [outcome])):
            assert expect(Fault, CODEC.decode_outcome(body)).code is code, body


@each_case(
    ("members", "fault"),
    [
        ("faultCode <int>4</int> faultString x", Fault(FaultCode.REMOTE, "x", name="4")),
        ("faultCode 4 faultString x", Fault(FaultCode.REMOTE, "x", name="4")),
        ("faultCode -32601 faultString x", Fault(FaultCode.UNKNOWN_METHOD, "x")),
        ("faultCode Client.Bad faultString x", Fault(FaultCode.REMOTE, "x", name="Client.Bad")),
        ("faultCode <nil/> faultString <int>2</int>", Fault(FaultCode.REMOTE, "2")),
        ("faultString x faultDetail <array/>", Fault(FaultCode.REMOTE, "x")),
        (f"faultCode <i8>{10**500}</i8> faultString x", Fault(FaultCode.REMOTE, "x", name=str(10**500))),
        ("faultCode <int>1</int>", None),
        ("faultMessage x", None),
    ],
)
def test_a_fault_in_other_forms_keeps_its_message_alone_and_in_a_multicall(members: str, fault: Fault | None) -> None:
    words = iter(members.split())
    inside = "".join(f"<member><name>{name}</name><value>{next(words)}</value></member>" for name in words)
    body = response(f"<fault><value><struct>{inside}</struct></value></fault>")
    item = result(f"<array><data><value><struct>{inside}</struct></value></data></array>")
    for told in (CODEC.decode_outcome(body), *CODEC.decode_answers(item, multicall("a"))):
        assert told == fault if fault else expect(Fault, told).code is FaultCode.PARSE_ERROR


@each_case(
    ("body", "message"),
    [
        (call("<value/>"), "expected <methodResponse>, got <methodCall>"),
        (response(""), "expected <params> in <methodResponse>, got nothing"),
        (response("<params/>"), "expected <param> in <params>, got nothing"),
        (
            result("<array><data><value/><value><int/></value></data></array>"),
            "$[1]: expected an integer in digits, got ''",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_parse_error(body: bytes, message: str) -> None:
    assert CODEC.decode_outcome(body) == Fault(FaultCode.PARSE_ERROR, message)


def test_of_a_member_that_a_legacy_service_writes_twice_the_last_one_counts_but_not_in_a_call() -> None:
    member = "<member><name>cpu</name><value><i4>{}</i4></value></member>"
    struct = f"<struct>{member.format(1)}{member.format(2)}</struct>"
    for text in (struct, f"{struct}<!-- not plain -->"):
        assert CODEC.decode_outcome(result(text)) == Reply({"cpu": 2})
        array = f"<array><data><value>{text}</value></data></array>"
        assert CODEC.decode_outcome(result(array)) == Reply([{"cpu": 2}])
    (fault,) = CODEC.decode(call(f"<value>{struct}</value>")).entries
    assert fault == Fault(FaultCode.INVALID_PARAMS, "$.params[0]: expected each member once, got 'cpu' twice")


def test_a_charset_of_the_content_type_counts_in_both_directions() -> None:
    text = call("<value>\u20ac</value>", "").decode().encode("cp1252")
    assert CODEC.decode(text, "windows-1252").entries == (Call("m", ("\u20ac",)),)
    answer = result("\u20ac").decode().encode("cp1252")
    assert CODEC.decode_outcome(answer, "windows-1252") == Reply("\u20ac")
    assert CODEC.decode_answers(answer, ONE, "windows-1252") == [Reply("\u20ac")]


@each_case("depth", [1000, 20_000])
def test_a_depth_over_the_limit_or_that_python_itself_cannot_read_is_a_fault(depth: int) -> None:
    nested = "<value><array><data>" * depth + "</data></array></value>" * depth
    codec = Codec(MessageLimits(body=10**7, depth=10**6, elements=10**6))
    assert codec.decode(call(nested)).entries == (Fault(FaultCode.TOO_LARGE, "nested deeper than can be read"),)
    deep, limited = CODEC.encode(ONE, [Reply([[[1]]])]), Codec(MessageLimits(depth=2))
    assert limited.decode_outcome(deep) == Fault(FaultCode.TOO_LARGE, "$[0][0]: nested deeper than is allowed")


def test_the_answer_to_a_multicall_is_read_item_by_item_and_a_refusal_of_the_whole_answers_none() -> None:
    outcomes: list[Outcome] = [
        Reply([1, 2]),
        Fault(FaultCode.TIMEOUT, "late"),
        Reply({"faultCode": 1, "faultString": "no fault"}),
    ]
    envelope = multicall("a", "b", "c")
    assert CODEC.decode_answers(CODEC.encode(envelope, outcomes), envelope) == outcomes
    refused = CODEC.encode(ONE, [Fault(FaultCode.UNKNOWN_METHOD, "no multicall here")])
    assert CODEC.decode_answers(refused, envelope) == [Fault(FaultCode.PARSE_ERROR, "no multicall here")] * 3


@each_case("answer", [5, [], [[1], [2], [3]], [[1, 2], [3]]])
def test_an_answer_to_a_multicall_that_does_not_fit_it_is_a_parse_error(answer: Value) -> None:
    outcomes = CODEC.decode_answers(CODEC.encode(ONE, [Reply(answer)]), multicall("a", "b"))
    assert len(outcomes) == 2
    assert expect(Fault, outcomes[0]).code is FaultCode.PARSE_ERROR
