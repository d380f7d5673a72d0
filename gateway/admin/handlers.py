"""Paths of the operator's API for the gateway as a whole: status, routes, reload, a call. Knows not how it is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.admin.http import ApiPath, body, json, query
from gateway.admin.monitoring import MonitoredGateway
from gateway.admin.service import AdminService
from gateway.core.admin import views as steering
from gateway.core.admin import views as told
from gateway.core.admin.access import Caller, Right
from gateway.core.admin.records import StateRefused
from gateway.core.admin.views import ModeRequest
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ends
from gateway.migration.promote import PromotionPlanner
from gateway.migration.rollout_commands import RolloutCommands, RolloutView


class CallBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/call. `listener`, `path` and `codec` narrow down the endpoint; params are JSON values."""

    method: str
    params: list[object] = []
    listener: str | None = None
    path: str | None = None
    codec: str | None = None


class Operations(MonitoredGateway, Protocol):
    """What the running gateway offers its operator; every answer is JSON-able."""

    async def status(self) -> Mapping[str, object]:
        """Readiness, listeners, buses, services, calls in flight."""

    def routes(self) -> list[Mapping[str, object]]:
        """Every mapped method at every endpoint."""

    async def reload(self) -> Mapping[str, object]:
        """Swap in new mappings: {"revision": live, "problems": [...], ...}; with problems nothing has changed."""

    async def call(self, request: CallBody) -> Mapping[str, object]:
        """Make one call; {"value": ...} or {"fault": ...}, and {"steps": [...]}; raises LookupError or ValueError."""


def running_paths(operations: Operations, steering: AdminService) -> list[ApiPath]:
    """These paths, answered by the running gateway; a reload is noted in the audit."""

    async def status(_request: web.Request, _who: Caller) -> web.Response:
        return json(await operations.status())

    async def routes(_request: web.Request, _who: Caller) -> web.Response:
        return json(operations.routes())

    async def reload(_request: web.Request, who: Caller) -> web.Response:
        answer = await operations.reload()
        if answer.get("problems"):
            return json(answer, status=409)
        await steering.note(str(who), "reload", "*", {"revision": str(answer["revision"])})
        return json(answer)

    async def call(request: web.Request, _who: Caller) -> web.Response:
        return json(await operations.call(await body(request, CallBody)))

    return [
        ApiPath("GET", "/v1/status", Right.READ, status),
        ApiPath("GET", "/v1/routes", Right.READ, routes),
        ApiPath("POST", "/v1/reload", Right.CHANGE, reload),
        ApiPath("POST", "/v1/call", Right.CHANGE, call),
    ]


# Paths of the operator's API for moving methods: who answers, why, what is known of both sides. Decides nothing.


MOST = 10_000  # lines of an audit, or pairs, in one answer


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every body and query is."""


class MethodsQuery(_Strict, frozen=True):
    """GET /v1/methods and /v1/promotion."""

    pattern: str = "*"


class ModeBody(_Strict, frozen=True):
    """Body of POST /v1/mode."""

    pattern: str
    mode: str
    percent: str | float | None = None
    control: str = ""
    observe: bool = False
    noise: bool = False
    seconds: float | None = None
    why: str = ""


class PatternRequest(_Strict, frozen=True):
    """Body of POST /v1/mode/clear, /v1/promoted and /v1/evidence/clear."""

    pattern: str
    why: str = ""


class WhyRequest(_Strict, frozen=True):
    """Body of POST /v1/rollback."""

    why: str = ""


class ExplainRequest(_Strict, frozen=True):
    """Body of POST /v1/explain; params are JSON values, as the mapping sees them."""

    method: str
    params: list[object] = []
    named: dict[str, object] = {}
    key: str | None = None


class AuditQuery(_Strict, frozen=True):
    """GET /v1/audit. `since`: seconds since 1970."""

    limit: int = 100
    since: float = 0.0
    subject: str | None = None


class DiffQuery(_Strict, frozen=True):
    """GET /v1/diff."""

    method: str | None = None
    limit: int = 50


def migration_paths(steering: AdminService) -> list[ApiPath]:
    """These paths, answered by what steers the running gateway."""

    async def methods(request: web.Request, _who: Caller) -> web.Response:
        return json(await steering.methods(query(request, MethodsQuery).pattern))

    async def modes(_request: web.Request, _who: Caller) -> web.Response:
        return json([_override(each) for each in steering.overrides()])

    async def mode(request: web.Request, who: Caller) -> web.Response:
        wish = await body(request, ModeBody)
        return json(await steering.set_mode(ModeRequest(**msgspec.structs.asdict(wish)), str(who)))

    async def clear_mode(request: web.Request, who: Caller) -> web.Response:
        wish = await body(request, PatternRequest)
        return json(await steering.clear_mode(wish.pattern, str(who), wish.why))

    async def rollback(request: web.Request, who: Caller) -> web.Response:
        return json(await steering.rollback_all(str(who), (await body(request, WhyRequest)).why))

    async def explain(request: web.Request, _who: Caller) -> web.Response:
        asked = await body(request, ExplainRequest)
        params, named = asked.params, asked.named  # JSON values are legacy values
        return json(steering.explain(asked.method, params, named, asked.key))  # type: ignore[arg-type]

    async def audit(request: web.Request, _who: Caller) -> web.Response:
        asked = query(request, AuditQuery)
        return json(await steering.audit(_bounded(asked.limit), asked.since, asked.subject))

    async def diff(request: web.Request, _who: Caller) -> web.Response:
        asked = query(request, DiffQuery)
        return json(await steering.diff(asked.method, _bounded(asked.limit)))

    async def clear_evidence(request: web.Request, who: Caller) -> web.Response:
        wish = await body(request, PatternRequest)
        return json(await steering.clear_evidence(wish.pattern, str(who), wish.why))

    return [
        ApiPath("GET", "/v1/methods", Right.READ, methods),
        ApiPath("GET", "/v1/modes", Right.READ, modes),
        ApiPath("POST", "/v1/mode", Right.CHANGE, mode),
        ApiPath("POST", "/v1/mode/clear", Right.CHANGE, clear_mode),
        ApiPath("POST", "/v1/rollback", Right.CHANGE, rollback),
        ApiPath("POST", "/v1/explain", Right.READ, explain),
        ApiPath("GET", "/v1/audit", Right.READ, audit),
        ApiPath("GET", "/v1/diff", Right.READ, diff),
        ApiPath("POST", "/v1/evidence/clear", Right.CHANGE, clear_evidence),
    ]


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MOST:
        raise ValueError(f"limit: expected 1 to {MOST}, got {limit}")
    return limit


def _override(override: Override) -> Mapping[str, object]:
    return {
        "pattern": override.pattern,
        "mode": str(override.setting),
        "setting": told.written(override.setting),
        "who": override.who,
        "when": override.when,
        "why": override.why,
        "until": ends(override),
        "by": override.by,
    }


# Paths of the operator's API for modes that mapping files are to say themselves. Writes no file.


def promotion_paths(promoting: PromotionPlanner) -> list[ApiPath]:
    """These paths."""

    async def promotion(request: web.Request, _who: Caller) -> web.Response:
        return json(promoting.plan(query(request, MethodsQuery).pattern))

    async def promoted(request: web.Request, who: Caller) -> web.Response:
        wish = await body(request, PatternRequest)
        return json(await promoting.settle(wish.pattern, str(who), wish.why))

    return [
        ApiPath("GET", "/v1/promotion", Right.READ, promotion),
        ApiPath("POST", "/v1/promoted", Right.CHANGE, promoted),
    ]


# Paths of the operator's API for methods that move by themselves: what persons say to rollouts. Decides nothing.


RolloutVerb = Callable[[str, str, str], Awaitable[RolloutView | StateRefused]]  # name, who, why


class RolloutCommandBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/rollouts/...; `name`: a method, "service/method" or "group:NAME"."""

    name: str
    why: str = ""


def rollout_paths(orders: RolloutCommands) -> list[ApiPath]:
    """These paths, answered by the rollouts of the running gateway."""

    async def rollouts(_request: web.Request, _who: Caller) -> web.Response:
        views = await orders.list()
        return json(views if isinstance(views, StateRefused) else [_shown(view) for view in views])

    said = {"start": orders.start, "pause": orders.pause, "resume": orders.resume, "approve": orders.approve}
    return [
        ApiPath("GET", "/v1/rollouts", Right.READ, rollouts),
        *(_path(verb, order) for verb, order in {**said, "abort": orders.abort}.items()),
    ]


def _path(verb: str, order: RolloutVerb) -> ApiPath:
    async def handle(request: web.Request, who: Caller) -> web.Response:
        asked = await body(request, RolloutCommandBody)
        view = await order(asked.name, str(who), asked.why)
        return json(view if isinstance(view, StateRefused) else _shown(view))

    return ApiPath("POST", f"/v1/rollouts/{verb}", Right.CHANGE, handle)


def _shown(view: RolloutView) -> Mapping[str, object]:
    setting = None if view.setting is None else steering.written(view.setting)
    return {**{field: getattr(view, field) for field in RolloutView.__slots__}, "setting": setting}
