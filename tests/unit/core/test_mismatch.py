from __future__ import annotations

import json

from gateway.core.compare import compare
from gateway.core.mask import Masks, parse
from gateway.core.migration import Migration, Side
from gateway.core.mismatch import document
from gateway.core.model import Call, Fault, FaultCode, Outcome, Peer, Reply
from tests.kit.routes import route

STAT = route("VM.stat", migration=Migration(mask=Masks((parse("$.params[0]"), parse("$.result.secret")))))
CALL = Call("VM.stat", ("OpaqueRef:session", "vm"), peer=Peer("tcp:10.0.0.1:5"), extensions={"protocol": "xmlrpc"})


def written(control: Outcome, candidate: Outcome) -> object:
    sides = (Side.LEGACY, control, 0.001), (Side.DBUS, candidate, 0.0025)
    pair = document(STAT, CALL, *sides, compare(control, candidate))
    return json.loads(json.dumps(pair))


def test_a_pair_tells_the_request_both_outcomes_and_where_they_differ() -> None:
    assert written(Reply({"state": "Running", "n": 1}), Reply({"state": "Halted", "n": 1, "more": None})) == {
        "call": {"method": "VM.stat", "params": [{"$masked": "text"}, "vm"], "named": {}},
        "caller": "tcp:10.0.0.1",
        "protocol": "xmlrpc",
        "verdict": "different",
        "control": {"side": "legacy", "ms": 1.0, "reply": {"state": "Running", "n": 1}},
        "candidate": {"side": "dbus", "ms": 2.5, "reply": {"state": "Halted", "n": 1, "more": None}},
        "differences": [
            {"path": "$.state", "control": "Running", "candidate": "Halted"},
            {"path": "$.more", "candidate": None},
        ],
        "ignored": [],
        "noisy": [],
        "more": False,
    }


def test_no_secret_is_in_it_wherever_it_turns_up() -> None:
    fault = Fault(FaultCode.APPLICATION, "no OpaqueRef:session here", "SESSION_INVALID", ["OpaqueRef:session"])
    text = json.dumps(written(Reply({"secret": "hush-hush"}), fault))
    assert "OpaqueRef:session" not in text
    assert "hush-hush" not in text
    assert "SESSION_INVALID" in text


def test_long_values_are_cut_and_say_so() -> None:
    text = json.dumps(written(Reply("x" * 100_000), Reply(5)))
    assert len(text) < 5_000
    assert "$left_out" in text
