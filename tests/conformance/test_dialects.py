"""What every dialect keeps to over every codec: unwrap(wrap(x)) == x, but for what its convention has no room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core import interfaces
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.conformance.test_codecs import METHODS, TEXTS, VALUES
from tests.kit.cases import expect, present
from tests.kit.values import UnsupportedValueError, anything, exactly, in_reply

EVERY = pytest.mark.parametrize(("name", "protocol"), [(dialect, codec) for dialect in DIALECTS for codec in CODECS])
FEW = settings(max_examples=50)

ERROR_NAMES = st.text("ABCXYZ_", min_size=1, max_size=12)
FAULTS = st.builds(Fault, st.sampled_from(FaultCode), TEXTS, ERROR_NAMES | st.just(""), st.lists(VALUES, max_size=3))
OUTCOMES: st.SearchStrategy[Outcome] = st.builds(Reply, VALUES) | FAULTS
NAMES = st.dictionaries(st.text("abc_", min_size=1, max_size=4), VALUES, max_size=3)
CALLS = st.builds(Call, METHODS, st.lists(VALUES, max_size=3).map(tuple)) | st.builds(Call, METHODS, named=NAMES)


def integers_as_text(value: Value) -> Value:
    """What is left of integers where a convention writes them as text."""
    if isinstance(value, list):
        return [integers_as_text(item) for item in value]
    if isinstance(value, dict):
        return {name: integers_as_text(item) for name, item in value.items()}
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _itself(value: Value) -> Value:
    return value


# What a client gets for a result, where that is not the result itself.
ROOM: Mapping[tuple[str, str], Callable[[Value], Value]] = {
    ("xenapi", "xmlrpc"): lambda value: "" if value is None else integers_as_text(value),
    ("xenapi", "jsonrpc"): lambda value: "" if value is None else value,
    ("xenapi", "xenstore"): lambda value: "" if value is None else value,
    ("xapi_idl", "xmlrpc"): integers_as_text,
}


def has_room(name: str, call: Call) -> bool:
    """xapi_idl takes a struct in front for the named parameters."""
    first = call.params[0] if call.params else None
    return not (name == "xapi_idl" and isinstance(first, dict))


def has_room_for_arguments(name: str, data: Value) -> bool:
    """xapi_idl has one form for several arguments and for one that is a list of several."""
    return not (name == "xapi_idl" and isinstance(data, list) and len(data) == 1 and isinstance(data[0], list))


@EVERY
@FEW
@given(call=CALLS)
def test_a_call_comes_back_as_it_was_and_stays_that_of_its_client(name: str, protocol: str, call: Call) -> None:
    dialect = make(name, protocol)
    marked = replace(call, oneway=True, extensions={"task-id": "x"})
    for done in (dialect.wrap_call(marked), dialect.unwrap_call(marked)):
        assert (done.method, done.oneway, done.extensions) == (call.method, True, {"task-id": "x"})
    if has_room(name, call):
        assert exactly(dialect.unwrap_call(dialect.wrap_call(call))) == exactly(call)


@EVERY
@FEW
@given(value=VALUES, call=CALLS)
def test_a_reply_comes_back_as_far_as_there_is_room(name: str, protocol: str, value: Value, call: Call) -> None:
    dialect = make(name, protocol)
    expected = ROOM.get((name, protocol), _itself)(value)
    told = dialect.unwrap_outcome(dialect.wrap_outcome(Reply(value), call), call)
    assert exactly(told) == exactly(Reply(expected))


@EVERY
@FEW
@given(fault=FAULTS, call=CALLS)
def test_a_fault_stays_a_fault_and_says_the_same_when_it_is_wrapped_again(
    name: str, protocol: str, fault: Fault, call: Call
) -> None:
    dialect = make(name, protocol)
    wrapped = dialect.wrap_outcome(fault, call)
    told = expect(Fault, dialect.unwrap_outcome(wrapped, call))
    if has_room_for_arguments(name, fault.data):
        assert exactly(dialect.wrap_outcome(told, call)) == exactly(wrapped)
    if fault.code is FaultCode.APPLICATION and fault.name:
        assert (told.code, told.name) == (fault.code, fault.name)


@EVERY
@FEW
@given(outcome=OUTCOMES, call=CALLS)
def test_every_outcome_can_be_told_by_the_codec_it_was_made_for(
    name: str, protocol: str, outcome: Outcome, call: Call
) -> None:
    dialect, codec = make(name, protocol), CODECS[protocol]()
    wrapped = dialect.wrap_outcome(outcome, call)
    body = present(codec.encode(codec.decode(codec.encode_call(Call("ping"))), (wrapped,)))
    told = dialect.unwrap_outcome(codec.decode_outcome(body), call)
    try:
        if isinstance(wrapped, Reply):
            in_reply(protocol, wrapped.value)
        assert isinstance(told, type(outcome)), body
    except UnsupportedValueError:
        assert isinstance(told, Fault)


@EVERY
@FEW
@given(call=st.builds(Call, st.text(), st.lists(anything(), max_size=2).map(tuple)), value=anything())
def test_it_takes_any_value_whatever(name: str, protocol: str, call: Call, value: Value) -> None:
    dialect = make(name, protocol)
    outcomes: list[Outcome] = [Reply(value)]
    outcomes += [Fault(code, "", "x", value, wire=value) for code in FaultCode]
    outcomes += [Reply({"Status": status, member: value}) for status, member in STATUS.items()]
    for outcome in outcomes:
        assert isinstance(dialect.wrap_outcome(outcome, call), Reply | Fault)
        assert isinstance(dialect.unwrap_outcome(outcome, call), Reply | Fault)
    assert isinstance(dialect.wrap_call(dialect.unwrap_call(call)), Call)


STATUS = {"Success": "Value", "Failure": "ErrorDescription"}


def make(name: str, protocol: str) -> interfaces.Dialect:
    return DIALECTS[name](protocol)
