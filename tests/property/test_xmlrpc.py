"""XML-RPC: what goes out comes back equal, the standard library agrees, and no bytes can do harm."""

from __future__ import annotations

import xmlrpc.client
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.codecs.xmlrpc import FAULT_CODES, Codec
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Reply, Value
from tests.kit.cases import expect
from tests.kit.values import anything, exactly

CODEC = Codec(MessageLimits(body=10**6, elements=2000))
ONE = Envelope((Call("m"),))

FORBIDDEN = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF]))  # XML 1.0, section 2.2
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=FORBIDDEN), max_size=20)
METHODS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)
ZONES = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
LEAVES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.binary(max_size=60),
    st.datetimes(timezones=ZONES),
)


def _containers(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    return st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)


VALUES = st.recursive(LEAVES, _containers, max_leaves=15)
CALLS = st.builds(
    Call, METHODS.filter(lambda method: method != "system.multicall"), st.lists(VALUES, max_size=4).map(tuple)
)

quick = settings(max_examples=150, deadline=None)


@quick
@given(CALLS)
def test_a_call_comes_back_as_it_was_sent(call: Call) -> None:
    assert exactly(CODEC.decode(CODEC.encode_call(call))) == exactly(Envelope((call,)))


@quick
@given(st.lists(CALLS, max_size=4), st.data())
def test_a_batch_comes_back_call_by_call_and_reply_by_reply(calls: list[Call], data: st.DataObject) -> None:
    items: list[Value] = [{"methodName": call.method, "params": list(call.params)} for call in calls]
    envelope = CODEC.decode(CODEC.encode_call(Call("system.multicall", (items,))))
    assert exactly(envelope) == exactly(Envelope(tuple(calls), batch=True))
    values = [data.draw(VALUES) for _ in calls]
    answer = CODEC.decode_outcome(CODEC.encode(envelope, [Reply(value) for value in values]))
    assert exactly(answer) == exactly(Reply([[value] for value in values]))


@quick
@given(st.sampled_from(FaultCode), TEXTS, st.sampled_from(["", "1", "-32500", "99", "A_B", "a.b", "odd name"]) | TEXTS)
def test_a_fault_keeps_its_message_whatever_its_name(code: FaultCode, message: str, name: str) -> None:
    fault = expect(Fault, CODEC.decode_outcome(CODEC.encode(ONE, [Fault(code, message, name=name)])))
    assert fault.message == message
    assert fault.name in ("", name)


@quick
@given(anything())
def test_any_value_is_either_carried_exactly_or_refused_with_its_place(value: Value) -> None:
    outcome = CODEC.decode_outcome(CODEC.encode(ONE, [Reply(value)]))
    if isinstance(outcome, Reply):
        assert exactly(outcome.value) == exactly(value)
    else:
        assert outcome.code is FaultCode.UNREPRESENTABLE
        assert outcome.message.startswith("$")


# What both can say: a bare CR is not among it (the standard library writes it raw), nor are dates with zones.
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=FORBIDDEN + "\r"), max_size=20)
SHARED = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    PLAIN,
    st.binary(max_size=60),
    st.datetimes(datetime(1000, 1, 1)).map(lambda moment: moment.replace(microsecond=0)),  # noqa: DTZ001 - as its own
)


SHARED_VALUES = st.recursive(
    SHARED, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4), max_leaves=15
)


@quick
@given(st.lists(SHARED_VALUES, max_size=4))
def test_the_standard_library_reads_what_we_write(values: list[Any]) -> None:
    params, method = xmlrpc.client.loads(CODEC.encode_call(Call("a.b", tuple(values))), use_builtin_types=True)
    assert (method, exactly(params)) == ("a.b", exactly(tuple(values)))
    for value in values:
        reply, _ = xmlrpc.client.loads(CODEC.encode(ONE, [Reply(value)]), use_builtin_types=True)
        assert exactly(reply) == exactly((value,))


@quick
@given(st.lists(SHARED_VALUES, max_size=4))
def test_we_read_what_the_standard_library_writes(values: list[Any]) -> None:
    body = xmlrpc.client.dumps(tuple(values), "a.b", allow_none=True)
    assert exactly(CODEC.decode(body.encode())) == exactly(Envelope((Call("a.b", tuple(values)),)))
    for value in values:
        reply = xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True)
        assert exactly(CODEC.decode_outcome(reply.encode())) == exactly(Reply(value))


@quick
@given(st.integers(-(2**31), 2**31 - 1) | st.sampled_from([*FAULT_CODES.values()]), PLAIN | st.just("NAME: x"))
def test_the_standard_library_reads_our_faults_and_we_read_its(number: int, text: str) -> None:
    written = xmlrpc.client.dumps(xmlrpc.client.Fault(number, text), methodresponse=True)
    fault = expect(Fault, CODEC.decode_outcome(written.encode()))
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(CODEC.encode(ONE, [fault]))
    assert (caught.value.faultCode, caught.value.faultString) == (number, text)
