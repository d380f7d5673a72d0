from __future__ import annotations

from datetime import UTC, datetime

from adapters.codecs.xmlrpc_writer import write
from adapters.dialects.xenapi import BARE, Dialect, text
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.cases import each_case, expect
from tests.kit.values import exactly

XML, JSON = Dialect("xmlrpc"), Dialect("jsonrpc")
MOMENT = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
CALL = Call("VM.start", ("OpaqueRef:session", "OpaqueRef:vm"))

# Our fault -> the list that the client is told.
ERRORS: list[tuple[Fault, list[Value]]] = [
    (
        Fault(FaultCode.APPLICATION, "no such VM", "HANDLE_INVALID", ["VM", "OpaqueRef:dead"]),
        ["HANDLE_INVALID", "VM", "OpaqueRef:dead"],
    ),
    (Fault(FaultCode.APPLICATION, "x", "TYPES", [1, True, 1.5, None, ""]), ["TYPES", "1", "true", "1.5", "", ""]),
    (Fault(FaultCode.APPLICATION, "x", "EVENTS_LOST"), ["EVENTS_LOST"]),
    (Fault(FaultCode.APPLICATION, "no name"), ["INTERNAL_ERROR", "no name"]),
    (Fault(FaultCode.UNKNOWN_METHOD, "unknown method"), ["MESSAGE_METHOD_UNKNOWN", "VM.start"]),
    (Fault(FaultCode.UNKNOWN_METHOD, "no", data=["no tasks"]), ["MESSAGE_METHOD_UNKNOWN", "VM.start", "no tasks"]),
    (
        Fault(FaultCode.PARAMETER_COUNT, "x", data={"expected": 3, "received": -1}),
        ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "-1"],
    ),
    (
        Fault(FaultCode.INVALID_PARAMS, "$.params[1].a: expected u, got -1"),
        ["INVALID_VALUE", "$.params[1].a", "expected u, got -1"],
    ),
    (Fault(FaultCode.ACCESS_DENIED, "not for you"), ["PERMISSION_DENIED", "not for you"]),
    (
        Fault(FaultCode.REMOTE, "it broke", "org.xen.xcp.Error.Failed", ["it broke", 3]),
        ["INTERNAL_ERROR", "org.xen.xcp.Error.Failed", "it broke", "3"],
    ),
    (Fault(FaultCode.TIMEOUT, "no answer within 60 s"), ["INTERNAL_ERROR", "no answer within 60 s"]),
    (Fault(FaultCode.INTERNAL, "internal error"), ["INTERNAL_ERROR", "internal error"]),
]


@each_case(("fault", "error"), ERRORS)
def test_an_error_is_a_failure_with_a_list_of_texts_over_xml_and_its_code_the_message_over_json(
    fault: Fault, error: list[Value]
) -> None:
    assert XML.wrap_outcome(fault, CALL) == Reply({"Status": "Failure", "ErrorDescription": error})
    code, *arguments = error
    assert isinstance(code, str)
    assert JSON.wrap_outcome(fault, CALL) == Fault(FaultCode.APPLICATION, code, code, arguments, wire=error)


def test_over_xml_integers_become_text_at_every_depth_and_nothing_else_does() -> None:
    value: Value = {"a": [1, -(2**63), {"b": 0}], "c": [True, 1.5, None, "2", b"3", MOMENT]}
    expected: Value = {"a": ["1", str(-(2**63)), {"b": "0"}], "c": [True, 1.5, None, "2", b"3", MOMENT]}
    assert exactly(XML.wrap_outcome(Reply(value), CALL)) == exactly(Reply({"Status": "Success", "Value": expected}))


def test_over_xml_what_it_cannot_carry_is_left_out_of_texts_and_nothing_else() -> None:
    kept = ["", "a b", "\t\n\r", "\x7f\x85\xa0", "\u00e9\u2028\U0001f600"]
    told = XML.wrap_outcome(Reply(["a\x00b\x08\x0b\x0c\x1f\ufffec\uffff", {"a\x01": "b\x01"}, *kept]), CALL)
    assert told == Reply({"Status": "Success", "Value": ["abc", {"a\x01": "b"}, *kept]})
    told = XML.wrap_outcome(Fault(FaultCode.APPLICATION, "x", "GONE", ["\x1b[2J"]), CALL)
    assert told == Reply({"Status": "Failure", "ErrorDescription": ["GONE", "[2J"]})


@each_case("method", BARE)
def test_introspection_is_answered_bare_but_its_failures_are_not(method: str) -> None:
    call = Call(method)
    assert XML.wrap_outcome(Reply(["VM.start", 1]), call) == Reply(["VM.start", 1])
    assert XML.unwrap_outcome(Reply(["VM.start", 1]), call) == Reply(["VM.start", 1])
    wrapped = XML.wrap_outcome(Fault(FaultCode.BUSY, "x"), call)
    assert wrapped == Reply({"Status": "Failure", "ErrorDescription": ["INTERNAL_ERROR", "x"]})
    assert isinstance(XML.unwrap_outcome(wrapped, call), Fault)


@each_case(
    "told",
    [
        Fault(FaultCode.APPLICATION, "HANDLE_INVALID", data=["VM", "x"]),  # what JSON-RPC 2.0 brings
        Fault(FaultCode.REMOTE, "HANDLE_INVALID", wire=["HANDLE_INVALID", "VM", "x"]),  # JSON-RPC 1.0, or xapi early
    ],
)
def test_as_a_client_the_error_is_found_in_either_version_of_json_rpc(told: Fault) -> None:
    assert JSON.unwrap_outcome(told, CALL) == Fault(
        FaultCode.APPLICATION, "HANDLE_INVALID", name="HANDLE_INVALID", data=["VM", "x"]
    )


@each_case("error", [None, [], "X", ["X", 1], [["X"]], {}])
def test_as_a_client_a_failure_without_an_error_list_is_still_a_fault(error: Value) -> None:
    told = XML.unwrap_outcome(Reply({"Status": "Failure", "ErrorDescription": error}), CALL)
    assert told == Fault(FaultCode.REMOTE, "an error that is not a list of texts", data=[error])


NO_STATUS: list[Value] = ["bare", None, [], {}, {"Status": "Success"}, {"Value": 1}, {"Status": "Failure", "Value": 1}]
NO_STATUS += [{"Status": "Success", "ErrorDescription": ["X"]}, {"Status": "Success", "Value": 1, "More": 2}]


@each_case("outcome", [*map(Reply, NO_STATUS), Fault(FaultCode.PARSE_ERROR, "x"), Fault(FaultCode.REMOTE, "x")])
def test_as_a_client_what_is_not_in_its_terms_stays_as_it_is(outcome: Outcome) -> None:
    assert XML.unwrap_outcome(outcome, CALL) == outcome
    assert JSON.unwrap_outcome(outcome, CALL) == outcome


def test_arguments_have_plain_forms() -> None:
    values: list[Value] = ["é", 2**64, False, 0.1, None, b"\xff", MOMENT, ["a", {"b": MOMENT}]]
    assert [text(value) for value in values] == [
        "é",
        "18446744073709551616",
        "false",
        "0.1",
        "",
        "/w==",
        "20260131T09:05:00Z",
        '["a",{"b":"20260131T09:05:00Z"}]',
    ]


def test_the_counts_of_event_from_are_integers_of_32_bits_and_all_others_are_text() -> None:
    batch: Value = {"events": [{"id": 7}], "valid_ref_counts": {"vm": 2}, "token": "t"}
    for name in ("event.from", "event_from"):
        told = expect(Reply, XML.wrap_outcome(Reply(batch), Call(name)))
        assert told.value == {
            "Status": "Success",
            "Value": {"events": [{"id": "7"}], "valid_ref_counts": {"vm": 2}, "token": "t"},
        }
        assert b"<name>vm</name><value><i4>2</i4></value>" in write(told.value)
        assert JSON.wrap_outcome(Reply(batch), Call(name)) == Reply(batch)
    assert XML.wrap_outcome(Reply({"valid_ref_counts": {"vm": 2}}), Call("VM.x")) == Reply(
        {"Status": "Success", "Value": {"valid_ref_counts": {"vm": "2"}}}
    )
