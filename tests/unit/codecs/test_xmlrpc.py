"""XML-RPC messages: calls, batches, replies, faults, and what is refused."""

from __future__ import annotations

import xmlrpc.client

import pytest

from adapters.codecs.xmlrpc import FAULT_CODES, Codec
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value
from tests.kit.cases import each_case, expect
from tests.unit.codecs import corpus
from tests.unit.codecs.hostile_xmlrpc import LIMITS, call, truncations

CODEC = Codec()
ONE = Envelope((Call("m"),))

MULTICALL = CODEC.encode_call(
    Call("system.multicall", ([{"methodName": "a", "params": [1, "x"]}, {"methodName": "b", "params": []}],))
)


def test_a_hostile_body_gets_its_one_fault_and_an_answer() -> None:
    codec = Codec(LIMITS)
    for title, body, code, words in corpus.XMLRPC:
        envelope = codec.decode(body)
        fault = expect(Fault, *envelope.entries)
        assert (fault.code, words in fault.message) == (code, True), (title, fault)
        assert codec.decode_outcome(codec.encode(envelope, [fault])) == fault, title


def test_the_corpus_is_large_and_the_message_that_it_cuts_is_good() -> None:
    assert len({body for _, body, _, _ in corpus.XMLRPC}) > 400
    assert Codec(LIMITS).decode(corpus.XMLRPC_CALL).entries == (Call("m", ({"\u00e9": [-1, "&"]},)),)


def test_a_response_cut_short_at_any_byte_is_a_parse_error() -> None:
    outcomes: list[Outcome] = [Reply({"a": [1, "x"]}), Fault(FaultCode.BUSY, "full")]
    for outcome in outcomes:
        for cut in truncations(CODEC.encode(ONE, [outcome])):
            fault = expect(Fault, CODEC.decode_outcome(cut))
            assert fault.code is FaultCode.PARSE_ERROR, cut


@each_case("code", [FaultCode.APPLICATION, FaultCode.REMOTE])
@each_case("name", ["HANDLE_INVALID", "org.xen.xcp.Error.NotFound"])
@each_case("message", ["", "disk: full", ": x", "no"])
def test_a_named_fault_comes_back_with_its_name(code: FaultCode, name: str, message: str) -> None:
    fault = Fault(code, message, name=name)
    assert CODEC.decode_outcome(CODEC.encode(ONE, [fault])) == fault


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


@each_case("value", [{"faultCode": 1}, {}, ["faultString"], "x"])
def test_a_malformed_fault_is_a_parse_error(value: Value) -> None:
    body = CODEC.encode(ONE, [Reply(value)])
    body = body.replace(b"<params><param>", b"<fault>").replace(b"</param></params>", b"</fault>")
    fault = expect(Fault, CODEC.decode_outcome(body))
    assert fault.code is FaultCode.PARSE_ERROR


@each_case(
    ("value", "fault"),
    [
        ({"faultCode": "4", "faultString": "x"}, Fault(FaultCode.REMOTE, "x", name="4")),
        ({"faultCode": "-32601", "faultString": "x"}, Fault(FaultCode.UNKNOWN_METHOD, "x")),
        ({"faultCode": "Client.Bad", "faultString": "x"}, Fault(FaultCode.REMOTE, "x", name="Client.Bad")),
        ({"faultCode": None, "faultString": "x"}, Fault(FaultCode.REMOTE, "x")),
        ({"faultString": "x"}, Fault(FaultCode.REMOTE, "x")),
        ({"faultCode": 4, "faultString": 2}, Fault(FaultCode.REMOTE, "2", name="4")),
        ({"faultCode": 4, "faultString": "x", "faultDetail": [1]}, Fault(FaultCode.REMOTE, "x", name="4")),
        ({"faultCode": 10**500, "faultString": "x"}, Fault(FaultCode.REMOTE, "x", name=str(10**500))),
    ],
)
def test_a_fault_in_other_forms_keeps_its_message(value: Value, fault: Fault) -> None:
    struct = _struct(value)
    body = b"<methodResponse><fault>" + struct + b"</fault></methodResponse>"
    assert CODEC.decode_outcome(body) == fault
    answers = CODEC.encode(ONE, [Reply(["@"])]).replace(b"<value>@</value>", struct)
    assert CODEC.decode_answers(answers, multicall("a")) == [fault]


def _struct(value: Value) -> bytes:
    """With integers of any size, which this codec itself does not write."""
    assert isinstance(value, dict)
    members = [f"<member><name>{name}</name><value>{_item(item)}</value></member>" for name, item in value.items()]
    return f"<value><struct>{''.join(members)}</struct></value>".encode()


def _item(item: Value) -> str:
    if isinstance(item, int):
        return f"<i8>{item}</i8>"
    return item if isinstance(item, str) else "<nil/>" if item is None else "<array/>"


def test_of_a_member_that_a_legacy_service_writes_twice_the_last_one_counts() -> None:
    member = "<member><name>cpu</name><value><i4>{}</i4></value></member>"
    struct = f"<value><struct>{member.format(1)}{member.format(2)}</struct></value>"
    found: Value = {"cpu": 2}
    for text, value in ((struct, found), (f"<value><array><data>{struct}</data></array></value>", [found])):
        answer = f"<methodResponse><params><param>{text}</param></params></methodResponse>".encode()
        assert CODEC.decode_outcome(answer) == Reply(value)
    (fault,) = CODEC.decode(call(struct)).entries
    assert fault == Fault(FaultCode.INVALID_PARAMS, "$.params[0]: expected each member once, got 'cpu' twice")


def test_a_charset_of_the_content_type_counts_in_both_directions() -> None:
    assert CODEC.decode(call("<value>\u00e9</value>", "").decode().encode("cp1252"), "windows-1252").entries == (
        Call("m", ("\u00e9",)),
    )
    answer = "<methodResponse><params><param><value>\u20ac</value></param></params></methodResponse>"
    assert CODEC.decode_outcome(answer.encode("cp1252"), "windows-1252") == Reply("\u20ac")
    assert CODEC.decode_answers(answer.encode("cp1252"), ONE, "windows-1252") == [Reply("\u20ac")]


@each_case(
    ("item", "entry"),
    [
        ({"methodName": "a"}, Call("a")),
        ({"methodName": "a", "params": [1], "id": 5}, Call("a", (1,))),
        ({"params": [1]}, None),
    ],
)
def test_an_item_of_a_multicall_needs_no_more_than_its_method(item: dict[str, Value], entry: Call | None) -> None:
    (read,) = CODEC.decode(CODEC.encode_call(Call("system.multicall", ([item],)))).entries
    assert read == entry if entry else isinstance(read, Fault)


@each_case(
    ("body", "message"),
    [
        (call("<value/>"), "expected <methodResponse>, got <methodCall>"),
        (b"<methodResponse/>", "expected <params> in <methodResponse>, got nothing"),
        (b"<methodResponse><params/></methodResponse>", "expected <param> in <params>, got nothing"),
        (
            CODEC.encode(ONE, [Reply(["", 1])]).replace(b"<int>1<", b"<int><"),
            "$[1]: expected an integer in digits, got ''",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_parse_error(body: bytes, message: str) -> None:
    assert CODEC.decode_outcome(body) == Fault(FaultCode.PARSE_ERROR, message)


def test_an_answer_over_a_limit_is_told_from_junk() -> None:
    deep = CODEC.encode(ONE, [Reply([[[1]]])])
    assert CODEC.decode_outcome(deep) == Reply([[[1]]])
    assert Codec(MessageLimits(depth=2)).decode_outcome(deep) == Fault(
        FaultCode.TOO_LARGE, "$[0][0]: nested deeper than is allowed"
    )
    assert Codec(MessageLimits(body=20)).decode_outcome(deep) == Fault(
        FaultCode.TOO_LARGE, f"expected at most 20 bytes, got {len(deep)}"
    )


@each_case("depth", [1000, 20_000])
def test_a_depth_that_python_itself_cannot_read_is_a_fault_whatever_the_limits_say(depth: int) -> None:
    nested = "<value><array><data>" * depth + "</data></array></value>" * depth
    codec = Codec(MessageLimits(body=10**7, depth=10**6, elements=10**6))
    assert codec.decode(call(nested)).entries == (Fault(FaultCode.TOO_LARGE, "nested deeper than can be read"),)


def test_a_system_multicall_is_a_batch() -> None:
    envelope = CODEC.decode(MULTICALL)
    assert envelope == Envelope((Call("a", (1, "x")), Call("b")), batch=True)
    outcomes: list[Outcome] = [Reply([1]), Fault(FaultCode.BUSY, "full")]
    answer = CODEC.decode_outcome(CODEC.encode(envelope, outcomes))
    assert answer == Reply([[[1]], {"faultCode": FAULT_CODES[FaultCode.BUSY], "faultString": "full"}])


def test_the_values_of_a_batch_may_nest_as_deep_as_the_limit_counted_from_the_message() -> None:
    body = CODEC.encode_call(Call("system.multicall", ([{"methodName": "a", "params": [[1]]}],)))
    assert Codec(MessageLimits(depth=4)).decode(body).entries == (Call("a", ([1],)),)
    (fault,) = Codec(MessageLimits(depth=3)).decode(body).entries
    assert fault == Fault(FaultCode.TOO_LARGE, "$.params[0][0].params[0]: nested deeper than is allowed")


def test_a_call_may_have_any_name_that_can_be_written() -> None:
    for method in ("a", " a b ", "<&>", "\u00e9.\U0001f600", "system.isAlive:x"):
        assert CODEC.decode(CODEC.encode_call(Call(method))).entries == (Call(method),)


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


def multicall(*methods: str) -> Envelope:
    calls = [{"methodName": method, "params": []} for method in methods]
    return Codec().decode(xmlrpc.client.dumps((calls,), "system.multicall").encode())


def test_the_answer_to_a_multicall_is_read_item_by_item() -> None:
    outcomes: list[Outcome] = [
        Reply([1, 2]),
        Fault(FaultCode.TIMEOUT, "late"),
        Reply({"faultCode": 1, "faultString": "no fault"}),
    ]
    envelope = multicall("a", "b", "c")
    assert Codec().decode_answers(Codec().encode(envelope, outcomes), envelope) == outcomes


@each_case("answer", [5, [], [[1], [2], [3]], [[1, 2], [3]]])
def test_an_answer_to_a_multicall_that_does_not_fit_it_is_a_parse_error(answer: object) -> None:
    body = xmlrpc.client.dumps((answer,), methodresponse=True).encode()  # type: ignore[arg-type]
    outcomes = Codec().decode_answers(body, multicall("a", "b"))
    assert len(outcomes) == 2
    assert isinstance(outcomes[0], Fault)
    assert outcomes[0].code is FaultCode.PARSE_ERROR


def test_a_multicall_that_was_refused_whole_answered_none_of_its_calls() -> None:
    fault = Fault(FaultCode.UNKNOWN_METHOD, "no system.multicall here")
    body = Codec().encode(Envelope((fault,)), [fault])
    told = Fault(FaultCode.PARSE_ERROR, "no system.multicall here")
    assert Codec().decode_answers(body, multicall("a", "b")) == [told, told]
