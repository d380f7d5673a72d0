"""Recordings: no secret in a line, nothing lost when it is read, damage named, secrets given again for a replay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace

from gateway.core.migration.modes import Side
from gateway.core.routing import call_record
from gateway.core.routing.call_record import (
    LARGEST,
    ReadRecord,
    RecordedCall,
    call_of,
    is_harmless,
    parse,
    recorded,
    substitute_secrets,
    weigh,
)
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.cases import each_case
from tests.kit.mappings import route
from tests.kit.traffic import GET, SESSION, SET, line
from tests.kit.values import anything, exactly

CALL = Call("VM.get_name", (SESSION, "vm"))


WEB = Reply("web")


def written(outcome: Outcome = WEB, call: Call = CALL, **changes: Any) -> dict[str, Any]:
    recorded_call = replace(
        RecordedCall("rpc", "/RPC2", "xmlrpc", GET, call, outcome, Side.LEGACY, 0.00312345), **changes
    )
    document: dict[str, Any] = json.loads(call_record.line(recorded_call, 1000.12345))
    return document


def test_a_line_says_where_what_who_and_what_came_back() -> None:
    assert written() == {
        "when": 1000.123, "listener": "rpc", "path": "/RPC2", "codec": "xmlrpc", "service": "xapi",
        "method": "VM.get_name", "effect": "read", "params": [{"$redacted": "text"}, "vm"], "named": {},
        "side": "legacy", "seconds": 0.003123, "reply": "web",
    }  # fmt: skip


def test_a_fault_is_written_with_all_that_it_has() -> None:
    fault = Fault(FaultCode.APPLICATION, f"no {SESSION}", "SESSION_INVALID", [SESSION])
    assert written(fault)["fault"] == {
        "code": "application", "name": "SESSION_INVALID", "message": "no (redacted)", "data": [{"$redacted": "text"}],
    }  # fmt: skip


def test_a_secret_is_nowhere_in_its_line() -> None:
    call = Call("VM.get_name", (f"see {SESSION}",), {"session": SESSION, "config": {"password": "hunter22", "a": 1}})
    text = json.dumps(written(Reply({"was": SESSION, "and": "hunter22"}), call))
    assert SESSION not in text
    assert "hunter22" not in text


def test_an_outcome_is_written_as_the_client_sees_it() -> None:
    assert written(Reply(5), view=lambda outcome: Reply("5"))["reply"] == "5"


def test_what_came_back_is_made_short_and_what_was_asked_is_not() -> None:
    document = written(Reply("x" * 1000), Call("VM.get_name", (SESSION, "y" * 1000)))
    assert document["reply"] == {"$begins": "x" * 500, "$left_out": 500}
    assert document["params"][1] == "y" * 1000


@given(anything())
def test_any_call_comes_back_as_it_was(value: Value) -> None:
    call = Call("VM.get_name", (SESSION, [value]), {"config": {"a": value}})
    recorded_call = RecordedCall(
        "rpc", "/RPC2", "xmlrpc", replace(GET, migration=route().migration), call, Reply(), Side.DBUS, 0.1
    )
    text = call_record.line(recorded_call, 1.0)
    assert text.count(b"\n") == 1
    one = recorded(parse(text))
    assert exactly([*one.params, dict(one.named)]) == exactly([*call.params, dict(call.named)])


def test_first_and_last_line_are_told_from_calls() -> None:
    first = parse(call_record.header("1.0", "abc", 5.0, ["xapi/VM.get_name"], writes=False))
    assert first == {
        "recording": 1, "version": "1.0", "revision": "abc", "when": 5.0, "methods": ["xapi/VM.get_name"],
        "writes": False,
    }  # fmt: skip
    assert parse(call_record.end("10 calls", 10, 2.5, 1, 2)) == {
        "end": "10 calls", "calls": 10, "seconds": 2.5, "no_room": 1, "too_large": 2,
    }  # fmt: skip


def without(name: str) -> str:
    return json.dumps({key: value for key, value in line().items() if key != name})


@each_case(
    ("text", "says"),
    [
        (b'{"a": ', "is not JSON: Expecting value at character 7"),
        (b"\xff\xfe{}", "is not UTF-8"),
        ("[]", "expected an object"),
        ("NaN", "is not JSON: NaN"),
        ("[" * 100_000, "lists and structs are nested too deeply"),
        ('{"recording": 2}', "unknown recording format 2; expected 1"),
        (without("method"), "'method' is missing"),
        (without("listener"), "'listener' is missing"),
        (json.dumps({**line(), "method": 5}), "method: expected a text"),
        (json.dumps(line(params={})), "params: expected a list"),
        (json.dumps(line(named=[])), "named: expected a struct"),
        (json.dumps(line(params=[{"$bytes": 5}])), "params: expected text, got int"),
        (json.dumps(line(params=[{"$dateTime": "noon"}])), "params: Invalid isoformat string: 'noon'"),
        (json.dumps(line(named={"$struct": [[5, 6]]})), "expected a list of params and a struct of named"),
        (
            json.dumps(line()).replace('"vm"', "[" * 300 + "]" * 300),
            "params: lists and structs are nested too deeply",
        ),
    ],
)
def test_a_damaged_line_is_told_what_is_wrong_with_it(text: bytes | str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert str(refused.value) == says


def test_a_line_that_is_no_object_is_no_call() -> None:
    with pytest.raises(ValueError, match="expected an object"):
        recorded([1])


def test_what_came_back_is_not_needed_to_make_a_call_again() -> None:
    document = {**line(), "reply": "x" * 1000, "when": 1, "seconds": 1, "side": "legacy"}
    assert call_of(document) == line()
    assert recorded(call_of(document)) == ReadRecord(
        "rpc", "/RPC2", "xmlrpc", "xapi", "VM.get_name", "read", ({"$redacted": "text"}, "vm"), {}
    )


def test_params_and_effect_may_be_left_out() -> None:
    where = {key: line()[key] for key in ("listener", "path", "codec", "service", "method")}
    assert recorded(where).params == ()


def test_a_read_does_no_harm_and_an_idempotent_one_when_the_mapping_says_so() -> None:
    assert is_harmless(GET)
    assert not is_harmless(SET)
    assert is_harmless(replace(SET, effect=Effect.IDEMPOTENT, migration=GET.migration))
    assert is_harmless(route(effect=Effect.READ))
    assert not is_harmless(route(effect=Effect.IDEMPOTENT))


@each_case("value", [None, True, 5, "five", b"five", [1, [2]], {"a": {"b": 1}}, 2**80, 1.5])
def test_small_values_weigh_little(value: Value) -> None:
    assert 0 < weigh([value], LARGEST) < 200


def test_a_large_value_is_weighed_no_further_than_is_asked() -> None:
    assert weigh(["x" * 100_000], LARGEST) > LARGEST
    assert weigh([b"x" * 100_000], LARGEST) > LARGEST
    assert weigh([["x"] * 100_000], LARGEST) > LARGEST
    assert weigh([{"x" * 100_000: 1}], LARGEST) > LARGEST
    assert weigh([1 << 1_000_000], LARGEST) > LARGEST


# Secrets that are given for a replay

NAMES = ("session", "self", "config")
HOLE: Any = {"$redacted": "text"}


def one(*params: Any, **named: Any) -> ReadRecord:
    return recorded(line("VM.get_name", params=list(params), named=named))


def test_a_call_without_secrets_is_as_it_was() -> None:
    assert substitute_secrets(one("a", {"b": [1]}, config=2.5), NAMES, {}) == (
        Call("VM.get_name", ("a", {"b": [1]}), {"config": 2.5}),
        (),
    )


def test_a_parameter_is_given_by_its_name_however_it_came() -> None:
    assert substitute_secrets(one(HOLE, "vm"), NAMES, {"session": "S"}) == (Call("VM.get_name", ("S", "vm")), ())
    assert substitute_secrets(one("vm", session=HOLE), NAMES, {"session": "S"})[0] == Call(
        "VM.get_name", ("vm",), {"session": "S"}
    )


def test_positions_count_only_what_is_not_given_by_name() -> None:
    assert substitute_secrets(one("vm", HOLE, session="S"), NAMES, {}) == (
        Call("VM.get_name", ("vm", HOLE), {"session": "S"}), ("config",),
    )  # fmt: skip


def test_what_is_missing_is_named_by_its_place() -> None:
    _, missing = substitute_secrets(one(HOLE, [1, HOLE], {"pass word": HOLE}, HOLE, odd=HOLE), NAMES, {})
    assert missing == ("session", "self[1]", "config['pass word']", "params[3]", "odd")


def test_what_leads_into_a_parameter_names_its_parts() -> None:
    call, missing = substitute_secrets(one("S", "vm", {"password": HOLE}), NAMES, {"config.password": "p"})
    assert (call.params[2], missing) == ({"password": "p"}, ())


def test_a_method_may_be_given_something_of_its_own() -> None:
    given = {"session": "S", "VM.get_name:session": "mine", "VM.start:session": "yours"}
    assert substitute_secrets(one(HOLE, "vm"), NAMES, given)[0].params[0] == "mine"


def test_a_text_that_held_a_secret_is_given_whole() -> None:
    assert substitute_secrets(one("S", "see (redacted)"), NAMES, {}) == (
        Call("VM.get_name", ("S", "see (redacted)")),
        ("self",),
    )
    assert substitute_secrets(one("S", "see (redacted)"), NAMES, {"self": "see it"})[0].params[1] == "see it"


def test_a_struct_whose_names_held_a_secret_is_given_whole() -> None:
    struct = {"(redacted)": 1}
    assert substitute_secrets(one("S", struct), NAMES, {})[1] == ("self",)
    assert substitute_secrets(one("S", struct), NAMES, {"self": '{"a": 1}'})[0].params[1] == {"a": 1}


@each_case(
    ("kind", "text", "value"),
    [
        ("text", "1234", "1234"),
        ("integer", "1234", 1234),
        ("boolean", "true", True),
        ("struct", '{"a": {"$bytes": "aGk="}}', {"a": b"hi"}),
        ("bytes", '{"$bytes": "aGk="}', b"hi"),
        ("integer", "many", "many"),
        ("bytes", '{"$bytes": 5}', '{"$bytes": 5}'),
    ],
)
def test_what_is_given_has_the_type_of_what_was_masked(kind: str, text: str, value: Value) -> None:
    assert substitute_secrets(one({"$redacted": kind}), NAMES, {"session": text})[0].params == (value,)
