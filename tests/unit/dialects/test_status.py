from __future__ import annotations

from datetime import UTC, datetime

from adapters.dialects.status import carriable, failure, integers_as_text, read, success
from gateway.core.rpc.model import Fault, FaultCode, Reply, Value
from tests.kit.cases import each_case
from tests.kit.values import exactly

MOMENT = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)


def fault(error: Value) -> Fault:
    return Fault(FaultCode.REMOTE, "x", data=error)


def test_integers_become_text_at_every_depth_and_nothing_else_does() -> None:
    value: Value = {"a": [1, -(2**63), {"b": 0}], "c": [True, 1.5, None, "2", b"3", MOMENT]}
    expected: Value = {"a": ["1", str(-(2**63)), {"b": "0"}], "c": [True, 1.5, None, "2", b"3", MOMENT]}
    assert exactly(integers_as_text(value)) == exactly(expected)


def test_what_xml_cannot_carry_is_left_out_of_texts_and_nothing_else() -> None:
    assert carriable("a\x00b\x08\x0b\x0c\x1f\ufffec\uffff") == "abc"
    for kept in ("", "a b", "\t\n\r", "\x7f\x85\xa0", "\u00e9\u2028\U0001f600"):
        assert carriable(kept) == kept
    assert success([{"a\x01": "b\x01"}], carriable) == Reply({"Status": "Success", "Value": [{"a\x01": "b"}]})
    assert failure(["GONE", "\x1b[2J"], carriable) == Reply({"Status": "Failure", "ErrorDescription": ["GONE", "[2J"]})


def test_success_and_failure_are_read_again() -> None:
    assert success(["a", 7]) == Reply({"Status": "Success", "Value": ["a", "7"]})
    assert failure(["GONE", 7]) == Reply({"Status": "Failure", "ErrorDescription": ["GONE", "7"]})
    assert read(success(["a"]), fault) == Reply(["a"])
    assert read(success(None), fault) == Reply(None)
    assert read(failure(["GONE"]), fault) == fault(["GONE"])


@each_case(
    "value",
    [
        *(None, "Success", [], {}, {"Status": "Success"}, {"Value": 1}),
        {"Status": "Success", "ErrorDescription": ["X"]},
        {"Status": "Failure", "Value": 1},
        {"Status": "Maybe", "Value": 1},
        {"Status": "Success", "Value": 1, "More": 2},
    ],
)
def test_what_is_no_such_struct_is_left_alone(value: Value) -> None:
    reply = Reply(value)
    assert read(reply, fault) is reply
