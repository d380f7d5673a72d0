from __future__ import annotations

from adapters.dialects.xapi_idl import Dialect
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.cases import each_case, expect

XML, JSON = Dialect("xmlrpc"), Dialect("jsonrpc")
CALL = Call("VM.start")

# Our fault -> the error variant that the client is told.
ERRORS: list[tuple[Fault, Value]] = [
    (Fault(FaultCode.APPLICATION, "x", "No_reservation", []), "No_reservation"),
    (Fault(FaultCode.APPLICATION, "x", "Redirect", [["addr"]]), ["Redirect", ["addr"]]),
    (Fault(FaultCode.APPLICATION, "x", "Does_not_exist", ["VM"]), ["Does_not_exist", "VM"]),
    (
        Fault(FaultCode.APPLICATION, "x", "Backend_error", ["SR_BACKEND_FAILURE_46", ["a", "b"]]),
        ["Backend_error", ["SR_BACKEND_FAILURE_46", ["a", "b"]]],
    ),
    (Fault(FaultCode.REMOTE, "it broke", "org.x.Failed", ["it broke"]), ["Internal_error", "org.x.Failed: it broke"]),
    (Fault(FaultCode.APPLICATION, "no name"), ["Internal_error", "no name"]),
]


@each_case(("fault", "error"), ERRORS)
def test_an_error_is_a_tag_or_a_tag_with_its_payload(fault: Fault, error: Value) -> None:
    assert XML.wrap_outcome(fault, CALL) == Reply({"Status": "Failure", "ErrorDescription": error})
    told = expect(Fault, JSON.wrap_outcome(fault, CALL))
    assert (told.code, told.wire) == (FaultCode.APPLICATION, error)
    for dialect in (XML, JSON):  # and as a client
        told = expect(Fault, dialect.unwrap_outcome(dialect.wrap_outcome(fault, CALL), CALL))
        assert told.name == told.message == (error[0] if isinstance(error, list) else error)


@each_case(
    ("sent", "meant"),
    [
        (Call("m", ({"debug_info": "d", "id": "x"},)), Call("m", (), {"debug_info": "d", "id": "x"})),
        (Call("m", ({"name": "eth0"}, "dbg", "DHCP4")), Call("m", ("dbg", "DHCP4"), {"name": "eth0"})),
        (Call("m", ("dbg", {"a": 1})), Call("m", ("dbg", {"a": 1}))),
        (Call("m", ({},)), Call("m")),
        (Call("m"), Call("m")),
        (Call("m", ({"a": 1},), {"b": 2}, oneway=True), Call("m", (), {"a": 1, "b": 2}, oneway=True)),
    ],
)
def test_a_struct_in_front_holds_the_named_parameters(sent: Call, meant: Call) -> None:
    assert XML.unwrap_call(sent) == JSON.unwrap_call(sent) == meant


@each_case("error", [None, [], ["X"], ["X", 1, 2], [1, 2], {}, 7])
def test_as_a_client_a_failure_without_a_variant_is_still_a_fault(error: Value) -> None:
    told = XML.unwrap_outcome(Reply({"Status": "Failure", "ErrorDescription": error}), CALL)
    assert told == Fault(FaultCode.REMOTE, "an error that is neither a tag nor [tag, payload]", data=[error])


@each_case("outcome", [Reply(["bare"]), Fault(FaultCode.PARSE_ERROR, "x"), Fault(FaultCode.REMOTE, "x")])
def test_as_a_client_what_is_not_in_its_terms_stays_as_it_is(outcome: Outcome) -> None:
    assert XML.unwrap_outcome(outcome, CALL) == outcome
    assert JSON.unwrap_outcome(outcome, CALL) == outcome


def test_as_a_client_json_rpc_2_0_brings_the_tag_as_message() -> None:
    told = JSON.unwrap_outcome(Fault(FaultCode.APPLICATION, "Does_not_exist", data=["VM"]), CALL)
    assert told == Fault(FaultCode.APPLICATION, "Does_not_exist", name="Does_not_exist", data=["VM"])
