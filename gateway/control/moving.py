"""Paths of the operator's API for moving methods: who answers, why, what is known of both sides. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.control.answers import Path, body, json, query
from gateway.core import steering as told
from gateway.core.override import Override
from gateway.core.rights import Caller, Right
from gateway.core.steering import Wish
from gateway.steering import Steering
from gateway.toggles import ends

MOST = 10_000  # lines of an audit, or pairs, in one answer


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every body and query is."""


class MethodsQuery(_Strict, frozen=True):
    """GET /v1/methods and /v1/promotion."""

    pattern: str = "*"


class ModeRequest(_Strict, frozen=True):
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


def paths(steering: Steering) -> list[Path]:
    """These paths, answered by what steers the running gateway."""

    async def methods(request: web.Request, _who: Caller) -> web.Response:
        return json(await steering.methods(query(request, MethodsQuery).pattern))

    async def modes(_request: web.Request, _who: Caller) -> web.Response:
        return json([_override(each) for each in steering.overrides()])

    async def mode(request: web.Request, who: Caller) -> web.Response:
        wish = await body(request, ModeRequest)
        return json(await steering.set_mode(Wish(**msgspec.structs.asdict(wish)), str(who)))

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
        Path("GET", "/v1/methods", Right.READ, methods),
        Path("GET", "/v1/modes", Right.READ, modes),
        Path("POST", "/v1/mode", Right.CHANGE, mode),
        Path("POST", "/v1/mode/clear", Right.CHANGE, clear_mode),
        Path("POST", "/v1/rollback", Right.CHANGE, rollback),
        Path("POST", "/v1/explain", Right.READ, explain),
        Path("GET", "/v1/audit", Right.READ, audit),
        Path("GET", "/v1/diff", Right.READ, diff),
        Path("POST", "/v1/evidence/clear", Right.CHANGE, clear_evidence),
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
