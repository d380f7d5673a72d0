"""Paths of the operator's API for modes that mapping files are to say themselves. Writes no file."""

from __future__ import annotations

from aiohttp import web

from gateway.control.answers import Path, body, json, query
from gateway.control.moving import MethodsQuery, PatternRequest
from gateway.core.rights import Caller, Right
from gateway.promoting import Promoting


def paths(promoting: Promoting) -> list[Path]:
    """These paths."""

    async def promotion(request: web.Request, _who: Caller) -> web.Response:
        return json(promoting.plan(query(request, MethodsQuery).pattern))

    async def promoted(request: web.Request, who: Caller) -> web.Response:
        wish = await body(request, PatternRequest)
        return json(await promoting.settle(wish.pattern, str(who), wish.why))

    return [
        Path("GET", "/v1/promotion", Right.READ, promotion),
        Path("POST", "/v1/promoted", Right.CHANGE, promoted),
    ]
