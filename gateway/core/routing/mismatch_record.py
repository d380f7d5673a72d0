"""A call whose two outcomes differ, as a document that is kept: without its secrets, made short, JSON-able.

    {"call": {"method", "params", "named"}, "caller", "protocol", "verdict", "more",
     "control": {"side", "ms", "reply": VALUE | "fault": {"code", "name", "message", "data"}}, "candidate": the same,
     "differences": [{"path", "control", "candidate", "why"}], "ignored": [...], "noisy": [...]}

A value that is not there is left out; all others are written by `portable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.core.comparison.compare import Comparison, Difference, fault_members
from gateway.core.comparison.equality import MISSING, Found
from gateway.core.comparison.redaction import Redaction
from gateway.core.comparison.serialization import EVIDENCE, Json, SizeBudget, shorten, write
from gateway.core.migration.modes import Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, Outcome, Reply, Value, caller

_FEWER = replace(EVIDENCE, text=1_000_000)
_SHORTER = SizeBudget(
    EVIDENCE.text, EVIDENCE.items + 1, depth=100, values=10_000
)  # what was cut says so in one item more
_PART = SizeBudget(text=200, items=10, depth=5, values=100)  # of a value in which two outcomes differ


def document(
    route: Route,
    call: Call,
    control: tuple[Side, Outcome, float],
    candidate: tuple[Side, Outcome, float],
    comparison: Comparison,
    again: Outcome | None = None,
) -> Json:
    """One pair. Each side: who ran, the outcome as the client sees it, and seconds. `again`: the control once more."""
    ours, theirs = control[1], candidate[1]
    redaction = Redaction(route.migration.redact, call, ours, theirs, *([] if again is None else [again]))
    told = redaction.comparison(_cut_comparison(comparison))
    return {
        "call": _call(redaction.call(_cut_call(call))),
        "caller": caller(call.peer),
        "protocol": str(call.extensions.get("protocol", "")),
        "verdict": told.verdict.value,
        "control": _side(control[0], redaction.outcome(_cut_outcome(ours)), control[2]),
        "candidate": _side(candidate[0], redaction.outcome(_cut_outcome(theirs)), candidate[2]),
        "differences": _differences(told.differences),
        "ignored": _differences(told.ignored),
        "noisy": _differences(told.noisy),
        "more": told.more,
    }


# Before secrets are taken out: long lists are cut, but no text, since half a secret would not be found.


def _cut(value: Value) -> Value:
    return shorten(value, _FEWER)


def _cut_call(call: Call) -> Call:
    named = {name: _cut(value) for name, value in call.named.items()}
    return Call(call.method, tuple(map(_cut, call.params)), named)


def _cut_outcome(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Reply):
        return Reply(_cut(outcome.value))
    return Fault(outcome.code, outcome.message, outcome.name, _cut(outcome.data))


def _cut_comparison(comparison: Comparison) -> Comparison:
    kinds = (comparison.differences, comparison.ignored, comparison.noisy)
    differences, ignored, noisy = (tuple(map(_cut_difference, kind)) for kind in kinds)
    return Comparison(comparison.verdict, differences, ignored, noisy, comparison.more)


def _cut_difference(each: Difference) -> Difference:
    control, candidate = (found if found is MISSING else _cut(found) for found in (each.control, each.candidate))
    return Difference(each.path, control, candidate, each.why, each.place)


# After it: long texts are


def _call(call: Call) -> Json:
    params: Value = list(call.params)
    return {"method": call.method, "params": _short(params), "named": _short(dict(call.named))}


def _side(side: Side, outcome: Outcome, seconds: float) -> Json:
    ended: dict[str, Json] = (
        {"reply": _short(outcome.value)} if isinstance(outcome, Reply) else {"fault": _short(fault_members(outcome))}
    )
    return {"side": side.value, "ms": round(seconds * 1000, 3), **ended}


def _differences(found: Iterable[Difference]) -> list[Json]:
    return [_difference(each) for each in found]


def _difference(each: Difference) -> Json:
    said: dict[str, Found] = {"control": each.control, "candidate": each.candidate}
    values = {name: _short(found, _PART) for name, found in said.items() if found is not MISSING}
    return {"path": each.path, **values, **({"why": each.why} if each.why else {})}


def _short(value: Value, room: SizeBudget = _SHORTER) -> Json:
    return write(shorten(value, room))
