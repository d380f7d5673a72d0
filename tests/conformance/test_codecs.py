"""What every codec keeps to, whatever its bytes look like (docs/architecture.md, "The codec contract")."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.codecs import CODECS
from gateway.core import interfaces
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value
from tests.kit.cases import expect, present
from tests.kit.values import OWN_WORDS, UnsupportedValueError, anything, exactly, in_call, in_reply

EVERY = pytest.mark.parametrize("name", CODECS)
FEW = settings(max_examples=100)

# What every protocol can carry and bring back as it was.
TEXTS = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn"]), max_size=12)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
VALUES: st.SearchStrategy[Value] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
METHODS = st.text("abcXYZ09_.-", min_size=1, max_size=20)
FAULTS = st.builds(Fault, st.sampled_from(FaultCode), TEXTS)
PING = Call("ping")


def answered(codec: interfaces.Codec, outcome: Outcome) -> Outcome:
    """What a client reads when this is the answer to its call."""
    body = present(codec.encode(codec.decode(codec.encode_call(PING)), (outcome,)))
    return codec.decode_outcome(body)


@EVERY
@FEW
@given(method=METHODS, params=st.lists(VALUES, max_size=4))
def test_a_call_comes_back_as_it_was(name: str, method: str, params: list[Value]) -> None:
    codec = CODECS[name]()
    try:
        expected = Call(method, tuple(in_call(name, param) for param in params))
    except UnsupportedValueError:
        with pytest.raises(ValueError, match=r"^\$\.params\["):
            codec.encode_call(Call(method, tuple(params)))
        return
    envelope = codec.decode(codec.encode_call(Call(method, tuple(params))))
    assert exactly(envelope.entries) == exactly((expected,))
    assert not envelope.batch


@EVERY
@FEW
@given(value=VALUES)
def test_a_reply_comes_back_as_it_was(name: str, value: Value) -> None:
    told = answered(CODECS[name](), Reply(value))
    try:
        assert exactly(told) == exactly(Reply(in_reply(name, value)))
    except UnsupportedValueError:
        assert isinstance(told, Fault)
        assert told.code is FaultCode.UNREPRESENTABLE


@EVERY
@FEW
@given(value=VALUES)
def test_the_answer_to_one_call_is_read_as_any_answer_is(name: str, value: Value) -> None:
    codec = CODECS[name]()
    envelope = codec.decode(codec.encode_call(PING))
    for outcome in (Reply(value), Fault(FaultCode.TIMEOUT, "late")):
        body = present(codec.encode(envelope, (outcome,)))
        assert exactly(codec.decode_answers(body, envelope)) == exactly([codec.decode_outcome(body)])


@EVERY
@pytest.mark.parametrize("code", FaultCode)
def test_every_fault_comes_back_with_its_code_and_message(name: str, code: FaultCode) -> None:
    fault = expect(Fault, answered(CODECS[name](), Fault(code, "what went wrong")))
    assert (fault.code, fault.message) == (code, OWN_WORDS.get((name, code), "what went wrong"))


@EVERY
@FEW
@given(fault=FAULTS, number=st.integers(1000, 9999))
def test_a_fault_named_by_a_number_keeps_it(name: str, fault: Fault, number: int) -> None:
    """The column has no such number, so that the other side can only say that it was an error of ours."""
    for code in (FaultCode.APPLICATION, FaultCode.REMOTE):
        told = answered(CODECS[name](), Fault(code, fault.message, name=str(number)))
        assert told == Fault(FaultCode.REMOTE, fault.message, name=str(number))


@EVERY
@FEW
@given(
    outcome=st.builds(Reply, anything())
    | st.builds(Fault, st.sampled_from(FaultCode), st.text(), st.text(), anything())
)
def test_any_outcome_is_answered_and_what_cannot_be_carried_is_said_so(name: str, outcome: Outcome) -> None:
    told = answered(CODECS[name](), outcome)
    if isinstance(told, Fault) and isinstance(outcome, Reply):
        assert told.code is FaultCode.UNREPRESENTABLE
        assert told.message.startswith("$")


@EVERY
@pytest.mark.parametrize("junk", [b"", b"\0", b"<", b"{", b"[1", b"\xff\xfe", b"<a/>", b"GET / HTTP/1.1\r\n\r\n"])
def test_junk_is_one_fault_that_can_be_answered(name: str, junk: bytes) -> None:
    codec = CODECS[name]()
    envelope = codec.decode(junk)
    fault = expect(Fault, *envelope.entries)
    assert fault.code in (FaultCode.PARSE_ERROR, FaultCode.INVALID_REQUEST)
    body = present(codec.encode(envelope, (fault,)))
    told = expect(Fault, codec.decode_outcome(body))
    assert (told.code, told.message) == (fault.code, fault.message)


@EVERY
@FEW
@given(body=st.binary(max_size=200))
def test_no_bytes_raise_in_either_direction(name: str, body: bytes) -> None:
    codec = CODECS[name]()
    envelope = codec.decode(body)
    assert len(envelope.entries) >= 1
    codec.encode(envelope, [entry if isinstance(entry, Fault) else Reply() for entry in envelope.entries])
    assert isinstance(codec.decode_outcome(body), Reply | Fault)


@EVERY
def test_a_message_that_was_never_read_can_be_answered(name: str) -> None:
    codec = CODECS[name]()
    fault = Fault(FaultCode.TOO_LARGE, "expected at most 10 bytes")
    body = present(codec.encode(Envelope((fault,)), (fault,)))
    assert codec.decode_outcome(body) == fault


@EVERY
def test_a_body_over_the_limit_is_too_large_in_either_direction(name: str) -> None:
    body = CODECS[name]().encode_call(Call("m", ("x" * 1000,)))
    codec = CODECS[name](MessageLimits(body=len(body) - 1))
    for told in (codec.decode(body).entries[0], codec.decode_outcome(body)):
        assert isinstance(told, Fault)
        assert told.code is FaultCode.TOO_LARGE


@EVERY
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", 2**70_000], ids=["nan", "inf", "half", "huge"])
def test_a_call_that_cannot_be_carried_names_the_place(name: str, value: Value) -> None:
    with pytest.raises(ValueError, match=r"\$\.params\[1\].*a.*\[0\]"):
        CODECS[name]().encode_call(Call("m", (1, {"a": [value]})))
