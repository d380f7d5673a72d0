"""Records of calls and of mismatches: no secret in them, nothing lost when they are read, damage named."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace

from gateway.core.comparison.compare import Comparison, compare
from gateway.core.comparison.noise import compare_with_noise
from gateway.core.comparison.redaction import RedactionRules
from gateway.core.comparison.redaction import parse as redact
from gateway.core.comparison.rules import Rules, compile_rule
from gateway.core.migration.modes import Migration, Side
from gateway.core.routing import call_record, mismatch_record
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
from gateway.core.routing.mismatch_record import Run
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Peer, Reply, Value
from tests.kit.cases import each_case
from tests.kit.mappings import route
from tests.kit.traffic import GET, SESSION, SET, line
from tests.kit.values import anything, exactly, outcomes

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
    fault = Fault(FaultCode.APPLICATION, f"no {SESSION}", "SESSION_INVALID", [SESSION])
    assert written(fault)["fault"] == {
        "code": "application", "name": "SESSION_INVALID", "message": "no (redacted)", "data": [{"$redacted": "text"}],
    }  # fmt: skip
    assert written(Reply(5), view=lambda outcome: Reply("5"))["reply"] == "5"  # as the client sees it


def test_a_secret_is_nowhere_in_its_line_and_an_answer_is_made_short() -> None:
    call = Call("VM.get_name", (f"see {SESSION}",), {"session": SESSION, "config": {"password": "hunter22", "a": 1}})
    text = json.dumps(written(Reply({"was": SESSION, "and": "hunter22"}), call))
    assert SESSION not in text
    assert "hunter22" not in text
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
        (json.dumps(line()).replace('"vm"', "[" * 300 + "]" * 300), "params: lists and structs are nested too deeply"),
    ],
)
def test_a_damaged_line_is_told_what_is_wrong_with_it(text: bytes | str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert str(refused.value) == says


def test_what_came_back_is_not_needed_to_make_a_call_again_nor_are_params_and_effect() -> None:
    document = {**line(), "reply": "x" * 1000, "when": 1, "seconds": 1, "side": "legacy"}
    assert call_of(document) == line()
    assert recorded(call_of(document)) == ReadRecord(
        "rpc", "/RPC2", "xmlrpc", "xapi", "VM.get_name", "read", ({"$redacted": "text"}, "vm"), {}
    )
    where = {key: line()[key] for key in ("listener", "path", "codec", "service", "method")}
    assert recorded(where).params == ()
    with pytest.raises(ValueError, match="expected an object"):
        recorded([1])


def test_a_read_does_no_harm_and_an_idempotent_one_when_the_mapping_says_so() -> None:
    assert is_harmless(GET)
    assert not is_harmless(SET)
    assert is_harmless(replace(SET, effect=Effect.IDEMPOTENT, migration=GET.migration))
    assert is_harmless(route(effect=Effect.READ))
    assert not is_harmless(route(effect=Effect.IDEMPOTENT))


def test_a_large_value_is_weighed_no_further_than_is_asked() -> None:
    small: list[Value] = [None, True, 5, "five", b"five", [1, [2]], {"a": {"b": 1}}, 2**80, 1.5]
    assert all(0 < weigh([value], LARGEST) < 200 for value in small)
    large: list[Value] = ["x" * 100_000, b"x" * 100_000, ["x"] * 100_000, {"x" * 100_000: 1}, 1 << 1_000_000]
    assert all(weigh([value], LARGEST) > LARGEST for value in large)


# Secrets that are given for a replay

NAMES = ("session", "self", "config")
HOLE: Any = {"$redacted": "text"}


def one(*params: Any, **named: Any) -> ReadRecord:
    return recorded(line("VM.get_name", params=list(params), named=named))


@each_case(
    ("record", "given", "params", "named", "missing"),
    [
        (one("a", {"b": [1]}, config=2.5), {}, ("a", {"b": [1]}), {"config": 2.5}, ()),
        # a parameter is given by its name however it came; positions count only what is not given by name
        (one(HOLE, "vm"), {"session": "S"}, ("S", "vm"), {}, ()),
        (one("vm", session=HOLE), {"session": "S"}, ("vm",), {"session": "S"}, ()),
        (one("vm", HOLE, session="S"), {}, ("vm", HOLE), {"session": "S"}, ("config",)),
        # what is missing is named by its place
        (
            one(HOLE, [1, HOLE], {"pass word": HOLE}, HOLE, odd=HOLE),
            {},
            (HOLE, [1, HOLE], {"pass word": HOLE}, HOLE),
            {"odd": HOLE},
            ("session", "self[1]", "config['pass word']", "params[3]", "odd"),
        ),
        (one("S", "vm", {"password": HOLE}), {"config.password": "p"}, ("S", "vm", {"password": "p"}), {}, ()),
        # a method may be given something of its own
        (
            one(HOLE, "vm"),
            {"session": "S", "VM.get_name:session": "mine", "VM.start:session": "yours"},
            ("mine", "vm"),
            {},
            (),
        ),
        # a text or a struct that held a secret is given whole
        (one("S", "see (redacted)"), {}, ("S", "see (redacted)"), {}, ("self",)),
        (one("S", "see (redacted)"), {"self": "see it"}, ("S", "see it"), {}, ()),
        (one("S", {"(redacted)": 1}), {}, ("S", {"(redacted)": 1}), {}, ("self",)),
        (one("S", {"(redacted)": 1}), {"self": '{"a": 1}'}, ("S", {"a": 1}), {}, ()),
    ],
)
def test_a_call_is_made_again_with_the_secrets_that_are_given(
    record: ReadRecord, given: dict[str, str], params: tuple[Value, ...], named: dict[str, Value], missing: object
) -> None:
    assert substitute_secrets(record, NAMES, given) == (Call("VM.get_name", params, named), missing)


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


# Mismatches


STAT = route("VM.stat", migration=Migration(redact=RedactionRules((redact("$.params[0]"), redact("$.result.secret")))))
STAT_CALL = Call("VM.stat", ("OpaqueRef:session", "vm"), peer=Peer("tcp:10.0.0.1:5"), extensions={"protocol": "xmlrpc"})


def pair(
    control: Outcome,
    candidate: Outcome,
    call: Call = STAT_CALL,
    comparison: Comparison | None = None,
    again: Outcome | None = None,
) -> Any:
    sides = Run(Side.LEGACY, control, 0.001, 1000.5), Run(Side.DBUS, candidate, 0.0025, 1000.504)
    told = mismatch_record.document(STAT, call, *sides, comparison or compare(control, candidate), again)
    return json.loads(json.dumps(told))


def test_a_pair_tells_the_request_both_outcomes_and_where_they_differ() -> None:
    assert pair(Reply({"state": "Running", "n": 1}), Reply({"state": "Halted", "n": 1, "more": None})) == {
        "call": {"method": "VM.stat", "params": [{"$redacted": "text"}, "vm"], "named": {}},
        "caller": "tcp:10.0.0.1",
        "protocol": "xmlrpc",
        "verdict": "different",
        "control": {"side": "legacy", "at": 1000.5, "ms": 1.0, "reply": {"state": "Running", "n": 1}},
        "candidate": {"side": "dbus", "at": 1000.504, "ms": 2.5, "reply": {"state": "Halted", "n": 1, "more": None}},
        "differences": [
            {"path": "$.state", "control": "Running", "candidate": "Halted"},
            {"path": "$.more", "candidate": None},
        ],
        "ignored": [],
        "noisy": [],
        "more": False,
    }


def test_no_secret_is_in_it_wherever_it_turns_up_and_whatever_is_cut() -> None:
    fault = Fault(FaultCode.APPLICATION, "no OpaqueRef:session here", "SESSION_INVALID", ["OpaqueRef:session"])
    text = json.dumps(pair(Reply({"secret": "hush-hush"}), fault))
    assert "OpaqueRef:session" not in text
    assert "hush-hush" not in text
    assert "SESSION_INVALID" in text
    secret = "S3cret-" + "x" * 600  # it is not cut in two and so missed
    assert "S3cret" not in json.dumps(pair(Reply({"secret": secret, "t": "." * 450 + secret}), Reply(1)))
    many: Any = Reply({"secret": [f"S3cret-{number}" for number in range(1000)]})  # known by a part that is cut
    assert "S3cret" not in json.dumps(pair(many, Fault(FaultCode.REMOTE, "cannot open S3cret-60")))
    control, again = Reply({"secret": "first-secret", "t": "a"}), Reply({"secret": "again-secret", "t": "again-secret"})
    text = json.dumps(pair(control, Reply(1), STAT_CALL, compare_with_noise(control, again, Reply(1)), again))
    assert "again-secret" not in text
    assert "$.t" in text


def test_a_short_part_of_a_secret_that_differs_is_taken_out_of_the_call_too() -> None:
    call = Call("VM.stat", ("OpaqueRef:session", "4711"))
    told = pair(Reply({"secret": ["4711"]}), Reply({"secret": ["4712"]}), call)
    assert told["differences"][0]["path"] == "$.secret[0]"
    assert "4711" not in json.dumps(told)


def test_what_is_ignored_and_what_is_noise_is_told_apart_with_reasons() -> None:
    rules = Rules((compile_rule({"path": "$.i", "ignore": True}), compile_rule({"path": "$.t", "tolerance": 1})))
    control, again = Reply({"i": 1, "n": 1, "t": 1}), Reply({"i": 1, "n": 2, "t": 1})
    candidate = Reply({"t": 3, "n": 1})
    told = pair(control, candidate, STAT_CALL, compare_with_noise(control, again, candidate, rules), again)
    assert told["differences"] == [{"path": "$.t", "control": 1, "candidate": 3, "why": "more than 1 apart"}]
    assert told["ignored"] == [{"path": "$.i", "control": 1}]
    assert told["noisy"] == [{"path": "$.n", "control": 1, "candidate": 2}]


def test_a_pair_is_short_however_long_the_answers_are() -> None:
    long: Any = {"texts": ["x" * 10_000] * 10_000, "n": list(range(10_000))}
    told = pair(Reply(long), Reply({**long, "n": "y" * 10_000}), Call("VM.stat", ("OpaqueRef:session", long)))
    assert len(json.dumps(told)) < 300_000
    assert told["differences"] == [
        {
            "path": "$.n",
            "control": [*range(10), {"$left_out": 41}],
            "candidate": {"$begins": "y" * 200, "$left_out": 9800},
        }
    ]
    assert told["control"]["reply"]["n"] == [*range(50), {"$left_out": 9950}]
    assert told["control"]["reply"]["texts"][0] == {"$begins": "x" * 500, "$left_out": 9500}


@given(outcomes, outcomes, anything())
def test_every_pair_is_json(control: Outcome, candidate: Outcome, value: Value) -> None:
    told = pair(control, candidate, Call("m", (value,), {"\ud800": value, "$bytes": value}))
    assert msgspec.json.decode(msgspec.json.encode(told)) == told
