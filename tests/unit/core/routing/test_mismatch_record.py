from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given

from gateway.core.comparison.compare import Comparison, compare
from gateway.core.comparison.noise import compare_with_noise
from gateway.core.comparison.redaction import RedactionRules, parse
from gateway.core.comparison.rules import Rules, compile_rule
from gateway.core.migration.modes import Migration, Side
from gateway.core.routing.mismatch_record import Run, document
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Peer, Reply, Value
from tests.kit.mappings import route
from tests.kit.values import anything, outcomes

STAT = route("VM.stat", migration=Migration(redact=RedactionRules((parse("$.params[0]"), parse("$.result.secret")))))
CALL = Call("VM.stat", ("OpaqueRef:session", "vm"), peer=Peer("tcp:10.0.0.1:5"), extensions={"protocol": "xmlrpc"})


def pair_of(control: Outcome, candidate: Outcome, comparison: Comparison, again: Outcome | None = None) -> Any:
    sides = Run(Side.LEGACY, control, 0.001, 1000.5), Run(Side.DBUS, candidate, 0.0025, 1000.504)
    return document(STAT, CALL, *sides, comparison, again)


def written(control: Outcome, candidate: Outcome, call: Call = CALL) -> Any:
    sides = Run(Side.LEGACY, control, 0.001, 1000.5), Run(Side.DBUS, candidate, 0.0025, 1000.504)
    return json.loads(json.dumps(document(STAT, call, *sides, compare(control, candidate))))


def test_a_pair_tells_the_request_both_outcomes_and_where_they_differ() -> None:
    assert written(Reply({"state": "Running", "n": 1}), Reply({"state": "Halted", "n": 1, "more": None})) == {
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
    text = json.dumps(written(Reply({"secret": "hush-hush"}), fault))
    assert "OpaqueRef:session" not in text
    assert "hush-hush" not in text
    assert "SESSION_INVALID" in text
    secret = "S3cret-" + "x" * 600  # it is not cut in two and so missed
    assert "S3cret" not in json.dumps(written(Reply({"secret": secret, "t": "." * 450 + secret}), Reply(1)))
    many: Any = Reply({"secret": [f"S3cret-{number}" for number in range(1000)]})  # known by a part that is cut
    assert "S3cret" not in json.dumps(written(many, Fault(FaultCode.REMOTE, "cannot open S3cret-60")))
    control, again = Reply({"secret": "first-secret", "t": "a"}), Reply({"secret": "again-secret", "t": "again-secret"})
    text = json.dumps(pair_of(control, Reply(1), compare_with_noise(control, again, Reply(1)), again))
    assert "again-secret" not in text
    assert "$.t" in text


def test_a_short_part_of_a_secret_that_differs_is_taken_out_of_the_call_too() -> None:
    call = Call("VM.stat", ("OpaqueRef:session", "4711"))
    told = written(Reply({"secret": ["4711"]}), Reply({"secret": ["4712"]}), call)
    assert told["differences"][0]["path"] == "$.secret[0]"
    assert "4711" not in json.dumps(told)


def test_what_is_ignored_and_what_is_noise_is_told_apart_with_reasons() -> None:
    rules = Rules((compile_rule({"path": "$.i", "ignore": True}), compile_rule({"path": "$.t", "tolerance": 1})))
    control, again = Reply({"i": 1, "n": 1, "t": 1}), Reply({"i": 1, "n": 2, "t": 1})
    candidate = Reply({"t": 3, "n": 1})
    pair = pair_of(control, candidate, compare_with_noise(control, again, candidate, rules), again)
    assert pair["differences"] == [{"path": "$.t", "control": 1, "candidate": 3, "why": "more than 1 apart"}]
    assert pair["ignored"] == [{"path": "$.i", "control": 1}]
    assert pair["noisy"] == [{"path": "$.n", "control": 1, "candidate": 2}]


def test_a_pair_is_short_however_long_the_answers_are() -> None:
    long: Any = {"texts": ["x" * 10_000] * 10_000, "n": list(range(10_000))}
    pair = written(Reply(long), Reply({**long, "n": "y" * 10_000}), Call("VM.stat", ("OpaqueRef:session", long)))
    assert len(json.dumps(pair)) < 300_000
    assert pair["differences"] == [
        {
            "path": "$.n",
            "control": [*range(10), {"$left_out": 41}],
            "candidate": {"$begins": "y" * 200, "$left_out": 9800},
        }
    ]
    assert pair["control"]["reply"]["n"] == [*range(50), {"$left_out": 9950}]
    assert pair["control"]["reply"]["texts"][0] == {"$begins": "x" * 500, "$left_out": 9500}


@given(outcomes, outcomes, anything())
def test_every_pair_is_json(control: Outcome, candidate: Outcome, value: Value) -> None:
    pair = written(control, candidate, Call("m", (value,), {"\ud800": value, "$bytes": value}))
    assert msgspec.json.decode(msgspec.json.encode(pair)) == pair
