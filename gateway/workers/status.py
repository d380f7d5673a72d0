"""The status of all workers as that of one gateway: what is counted is added, and of states the worst one is shown."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from gateway.admin.health import ServiceRow
from gateway.core.admin.status import BreakerState, BusStatus, UpstreamStatus
from gateway.workers.coordinator import Answers, WorkerRow

_BREAKERS = tuple(each.value for each in (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN))
_ADDED = ("in_flight", "tasks", "buffered")

_T = TypeVar("_T")


def merged(number: int, own: Mapping[str, Any], others: Answers, rows: Sequence[WorkerRow]) -> Mapping[str, object]:
    """`number`: of the worker whose own status this is, the leader; it has what only the leader serves."""
    found: Sequence[Mapping[str, Any]] = [own, *others.by_worker.values()]
    why = reasons(own["reasons"], Answers({n: each["reasons"] for n, each in others.by_worker.items()}, others.notes))
    warned = [f"worker {n}: {text}" for n, each in others.by_worker.items() for text in _new(each, own, "warnings")]
    older = [
        f"worker {n} serves revision {each['revision']}, and worker {number} revision {own['revision']}"
        for n, each in others.by_worker.items()
        if each["revision"] != own["revision"]
    ]
    return {
        **own,
        "ready": not why,
        "reasons": why,
        "warnings": [*own["warnings"], *warned, *older],
        **{name: sum(each[name] for each in found) for name in _ADDED},
        "buses": _by(found, "buses", lambda bus: bus.name, _bus),
        "upstreams": _by(found, "upstreams", lambda upstream: upstream.name, _upstream),
        "services": _by(found, "services", lambda service: (service.name, service.bus), _service),
        "workers": rows,
    }


def reasons(own: Sequence[str], others: Answers) -> list[str]:
    """Why calls of some worker cannot be made; what is the same in all workers is listed once."""
    theirs = [f"worker {n}: {why}" for n, found in others.by_worker.items() for why in found if why not in own]
    return [*own, *theirs, *others.notes]


def _new(each: Mapping[str, Any], own: Mapping[str, Any], name: str) -> Iterable[str]:
    return (text for text in each[name] if text not in own[name])


def _by(
    found: Sequence[Mapping[str, Any]], name: str, key: Callable[[_T], Hashable], add: Callable[[_T, _T], _T]
) -> list[_T]:
    """The rows of all workers, one for each key."""
    rows: dict[Hashable, _T] = {}
    for each in found:
        for row in each[name]:
            known = rows.get(key(row))
            rows[key(row)] = row if known is None else add(known, row)
    return [*rows.values()]


def _bus(one: BusStatus, other: BusStatus) -> BusStatus:
    worse = one if not one.connected else other
    return replace(
        worse,
        connections=one.connections + other.connections,
        in_flight=one.in_flight + other.in_flight,
        late_replies=one.late_replies + other.late_replies,
        unanswered=one.unanswered + other.unanswered,
        signals=one.signals + other.signals,
        overflows=one.overflows + other.overflows,
        last_error=worse.last_error or one.last_error or other.last_error,
    )


def _upstream(one: UpstreamStatus, other: UpstreamStatus) -> UpstreamStatus:
    return msgspec.structs.replace(
        one,
        in_flight=one.in_flight + other.in_flight,
        waiting=one.waiting + other.waiting,
        idle=one.idle + other.idle,
        last_error=one.last_error or other.last_error,
        unreachable=one.unreachable or other.unreachable,
    )


def _service(one: ServiceRow, other: ServiceRow) -> ServiceRow:
    worse = max(one, other, key=lambda row: _BREAKERS.index(row.breaker))
    return replace(
        worse,
        in_flight=one.in_flight + other.in_flight,
        calls=one.calls + other.calls,
        faults=one.faults + other.faults,
    )
