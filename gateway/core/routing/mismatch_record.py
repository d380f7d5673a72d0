"""The document of a call whose two outcomes differ: without secrets, shortened, and ready for JSON.

    {"call": {"method", "params", "named"}, "caller", "protocol", "verdict", "more",
     "control": {"side": "legacy", "at", "ms", "reply": VALUE | "fault": {"code", "name", "message", "data"}},
     "candidate": {"side": "dbus", ... the same},
     "differences": [{"path", "control", "candidate", "why"}], "ignored": [...], "noisy": [...]}

`at` is the moment of the call in seconds since 1970, `ms` its duration. Absent values are left out; all others are
written by `serialization`.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.comparison.compare import Comparison, Difference, fault_members
from gateway.core.comparison.equality import MISSING, MaybeValue
from gateway.core.comparison.redaction import Redaction
from gateway.core.comparison.serialization import EVIDENCE, Json, SizeBudget, shorten, write
from gateway.core.migration.modes import Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, Outcome, Reply, Value, caller

# Lists are shortened before secrets are removed, texts after it: a part of a secret could not be recognised.
_FEWER_ITEMS = replace(EVIDENCE, text=1_000_000)
_SHORTER = SizeBudget(EVIDENCE.text, EVIDENCE.items + 1, depth=100, values=10_000)  # one item more: the note of a cut
_PART = SizeBudget(text=200, items=10, depth=5, values=100)  # of a value in which two outcomes differ


class Run(Struct, frozen=True):
    """One side's run of a call: the outcome as the client sees it; `at`: seconds since 1970."""

    side: Side
    outcome: Outcome
    seconds: float
    at: float


def document(
    route: Route,
    call: Call,
    control: Run,
    candidate: Run,
    comparison: Comparison,
    again: Outcome | None = None,
) -> Json:
    """One pair. `again`: the second outcome of the control, whose secrets are removed too."""
    ours, theirs = control.outcome, candidate.outcome
    redaction = Redaction(route.migration.redact, call, ours, theirs, *([] if again is None else [again]))
    differences, ignored, noisy = (
        tuple(map(_cut_difference, kind)) for kind in (comparison.differences, comparison.ignored, comparison.noisy)
    )
    # The comparison first: a short part of a secret that differs is a secret of its own, also in the call.
    shown = redaction.comparison(Comparison(comparison.verdict, differences, ignored, noisy, comparison.more))
    cut_call = Call(call.method, tuple(map(_cut, call.params)), {name: _cut(each) for name, each in call.named.items()})
    shown_call = redaction.call(cut_call)
    return {
        "call": {
            "method": shown_call.method,
            "params": _short(list(shown_call.params)),
            "named": _short(dict(shown_call.named)),
        },
        "caller": caller(call.peer),
        "protocol": str(call.extensions.get("protocol", "")),
        "verdict": shown.verdict.value,
        "control": _side(control, redaction),
        "candidate": _side(candidate, redaction),
        "differences": [_difference(each) for each in shown.differences],
        "ignored": [_difference(each) for each in shown.ignored],
        "noisy": [_difference(each) for each in shown.noisy],
        "more": shown.more,
    }


def _cut(value: Value) -> Value:
    return shorten(value, _FEWER_ITEMS)


def _cut_difference(each: Difference) -> Difference:
    control, candidate = (found if found is MISSING else _cut(found) for found in (each.control, each.candidate))
    return Difference(each.path, control, candidate, each.why, each.place)


def _side(run: Run, redaction: Redaction) -> Json:
    outcome = run.outcome
    if isinstance(outcome, Reply):
        shown = redaction.outcome(Reply(_cut(outcome.value)))
    else:
        shown = redaction.outcome(Fault(outcome.code, outcome.message, outcome.name, _cut(outcome.data)))
    kind, answer = ("reply", shown.value) if isinstance(shown, Reply) else ("fault", fault_members(shown))
    return {"side": run.side.value, "at": round(run.at, 3), "ms": round(run.seconds * 1000, 3), kind: _short(answer)}


def _difference(each: Difference) -> Json:
    both: dict[str, MaybeValue] = {"control": each.control, "candidate": each.candidate}
    values = {name: _short(found, _PART) for name, found in both.items() if found is not MISSING}
    return {"path": each.path, **values, **({"why": each.why} if each.why else {})}


def _short(value: Value, size: SizeBudget = _SHORTER) -> Json:
    return write(shorten(value, size))
