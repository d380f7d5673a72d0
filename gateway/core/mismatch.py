"""A call whose two outcomes differ, as a document that is kept: without its secrets, made short, JSON-able.

    {"call": {"method", "params", "named"}, "caller", "protocol", "verdict", "more",
     "control": {"side", "ms", "reply": VALUE | "fault": {"code", "name", "message", "data"}}, "candidate": the same,
     "differences": [{"path", "control", "candidate", "why"}], "ignored": [...], "noisy": [...]}

A value that is not there is left out; all others are written by `portable`.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.compare import Comparison, Difference, fault_members
from gateway.core.mask import Masking
from gateway.core.migration import Side
from gateway.core.model import Call, Outcome, Reply, Value
from gateway.core.peers import caller
from gateway.core.portable import Json, shorten, write
from gateway.core.route import Route
from gateway.core.sameness import MISSING, Found


def document(
    route: Route,
    call: Call,
    control: tuple[Side, Outcome, float],
    candidate: tuple[Side, Outcome, float],
    comparison: Comparison,
) -> Json:
    """One pair. Each side: who ran, the outcome as the client sees it, and seconds."""
    masking = Masking(route.migration.mask, call, control[1], candidate[1])
    told = masking.comparison(comparison)
    return {
        "call": _call(masking.call),
        "caller": caller(call.peer),
        "protocol": str(call.extensions.get("protocol", "")),
        "verdict": told.verdict.value,
        "control": _side(control[0], masking.outcome(control[1]), control[2]),
        "candidate": _side(candidate[0], masking.outcome(candidate[1]), candidate[2]),
        "differences": _differences(told.differences),
        "ignored": _differences(told.ignored),
        "noisy": _differences(told.noisy),
        "more": told.more,
    }


def _call(call: Call) -> Json:
    params: Value = list(call.params)
    return {"method": call.method, "params": _short(params), "named": _short(dict(call.named))}


def _side(side: Side, outcome: Outcome, seconds: float) -> Json:
    ended: Json = (
        {"reply": _short(outcome.value)} if isinstance(outcome, Reply) else {"fault": _short(fault_members(outcome))}
    )
    assert isinstance(ended, dict)
    return {"side": side.value, "ms": round(seconds * 1000, 3), **ended}


def _differences(found: Iterable[Difference]) -> list[Json]:
    return [_difference(each) for each in found]


def _difference(each: Difference) -> Json:
    said: dict[str, Found] = {"control": each.control, "candidate": each.candidate}
    values = {name: _short(found) for name, found in said.items() if found is not MISSING}
    return {"path": each.path, **values, **({"why": each.why} if each.why else {})}


def _short(value: Found) -> Json:
    return write(shorten(value))  # type: ignore[arg-type]  # MISSING is kept out by the callers
