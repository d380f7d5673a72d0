"""What people report of real clients and servers, by symptom: reports/*.yaml, each with the right value and why."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.dbus.marshal import to_dbus
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.signature import parse_one
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, Outcome, Reply
from tests.kit.values import REPORTS, Case, cases, exactly, value_of, xmlrpc_answer, xmlrpc_call

ONE = Envelope((Call("m"),))


@pytest.mark.parametrize("case", cases("xmlrpc_values"))
def test_a_value_of_a_call_and_of_an_answer_is_read_as_it_was_meant(case: Case) -> None:
    codec = CODECS["xmlrpc"]()
    (entry,) = codec.decode(xmlrpc_call("m", case["value"])).entries
    outcome = codec.decode_outcome(xmlrpc_answer(case["value"]))
    if "refused" in case:
        assert isinstance(entry, Fault)
        assert entry.code is FaultCode.INVALID_PARAMS
        assert case["refused"] in entry.message
    else:
        assert exactly(entry) == exactly(Call("m", (value_of(case["is"]),)))
    if "answer" in case or "is" in case:
        assert exactly(outcome) == exactly(Reply(value_of(case.get("answer", case.get("is")))))
    else:
        assert isinstance(outcome, Fault)


@pytest.mark.parametrize("case", cases("messages"))
def test_a_message_is_understood(case: Case) -> None:
    codec = CODECS[case["codec"]]()
    charset, encoding = case.get("charset", ""), case.get("encoding", "utf-8")
    if "answer" in case:
        outcome = codec.decode_outcome(case["answer"].encode(encoding), charset)
        assert exactly(outcome) == exactly(_outcome(case["outcome"], outcome))
        return
    envelope = codec.decode(case["request"].encode(encoding), charset)
    assert len(envelope.entries) == len(case["entries"])
    for entry, expected in zip(envelope.entries, case["entries"], strict=True):
        if "fault" in expected:
            assert isinstance(entry, Fault)
            assert (entry.code, expected["words"] in entry.message) == (FaultCode[expected["fault"]], True), entry
        else:
            oneway = expected.get("oneway", False)
            assert exactly(entry) == exactly(Call(expected["method"], tuple(expected["params"]), oneway=oneway))
    answers = [entry if isinstance(entry, Fault) else Reply(value=True) for entry in envelope.entries]
    body = codec.encode(envelope, answers)
    if "response" in case:
        assert (None if body is None else body.decode()) == case["response"]


def _outcome(expected: Case, got: Outcome) -> Outcome:
    if "value" in expected:
        return Reply(expected["value"])
    data, wire = (got.data, got.wire) if isinstance(got, Fault) else (None, None)
    return Fault(FaultCode[expected["fault"]], expected["message"], expected["name"], data, wire)


@pytest.mark.parametrize("case", cases("types"))
def test_a_value_that_was_read_is_held_against_its_type(case: Case) -> None:
    convert = to_dbus(parse_one(case["type"]), coerce=case.get("coerce", "strict"))
    if "is" in case:
        assert exactly(convert(case["value"])) == exactly(case["is"])
        return
    with pytest.raises(MarshalError) as caught:
        convert(case["value"])
    assert case["refused"] in str(caught.value)


@pytest.mark.parametrize("case", cases("answers"))
def test_a_value_goes_back_by_the_rule_of_its_dialect(case: Case) -> None:
    outcome = Fault(FaultCode.INTERNAL, case["fault"]) if "fault" in case else Reply(case["value"])
    answer = CODECS["xmlrpc"]().encode(ONE, [DIALECTS[case["dialect"]]("xmlrpc").wrap_outcome(outcome, Call("m"))])
    assert answer is not None
    for part in case["holds"]:
        assert part in answer.decode()


def test_there_are_many_each_of_its_own_and_with_its_reason() -> None:
    every = [case for path in REPORTS.glob("*.yaml") for case in YAML(typ="safe", pure=True).load(path)]
    assert len({case["title"] for case in every}) == len(every) > 120
    assert all(case["why"] for case in every)
