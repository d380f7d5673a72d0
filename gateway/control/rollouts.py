"""Paths of the operator's API for methods that move by themselves: what persons say to rollouts. Decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from gateway.control.answers import Path, body, json
from gateway.core import steering
from gateway.core.kept import Refused
from gateway.core.rights import Caller, Right
from gateway.rollout.orders import Orders, View

Order = Callable[[str, str, str], Awaitable[View | Refused]]  # name, who, why


class OrderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/rollouts/...; `name`: a method, "service/method" or "group:NAME"."""

    name: str
    why: str = ""


def paths(orders: Orders) -> list[Path]:
    """These paths, answered by the rollouts of the running gateway."""

    async def rollouts(_request: web.Request, _who: Caller) -> web.Response:
        views = await orders.list()
        return json(views if isinstance(views, Refused) else [_shown(view) for view in views])

    said = {"start": orders.start, "pause": orders.pause, "resume": orders.resume, "approve": orders.approve}
    return [
        Path("GET", "/v1/rollouts", Right.READ, rollouts),
        *(_path(verb, order) for verb, order in {**said, "abort": orders.abort}.items()),
    ]


def _path(verb: str, order: Order) -> Path:
    async def handle(request: web.Request, who: Caller) -> web.Response:
        asked = await body(request, OrderRequest)
        view = await order(asked.name, str(who), asked.why)
        return json(view if isinstance(view, Refused) else _shown(view))

    return Path("POST", f"/v1/rollouts/{verb}", Right.CHANGE, handle)


def _shown(view: View) -> Mapping[str, object]:
    setting = None if view.setting is None else steering.written(view.setting)
    return {**{field: getattr(view, field) for field in View.__slots__}, "setting": setting}
