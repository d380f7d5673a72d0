"""The admin API: JSON over HTTP. Handlers for the gateway, modes and rollouts; one for each name in `api.OPERATIONS`.

A handler decodes the request, calls the running gateway or its admin service, and encodes the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.admin import api
from gateway.admin.http import Handler, body, check_origin, check_range, check_right, json, plain_errors, query
from gateway.admin.monitoring import MonitoredGateway, add_paths
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic, traffic_handlers
from gateway.core.admin.access import AccessRules, Caller, Right
from gateway.core.admin.records import StateRefused
from gateway.core.admin.views import ModeRequest, setting_view
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ends
from gateway.migration.promote import PromotionPlanner
from gateway.migration.rollout_commands import RolloutCommands, RolloutView

MAX_ROWS = 10_000  # audit entries or mismatches in one answer


class Operations(MonitoredGateway, Protocol):
    """The operations of the running gateway; every answer can be encoded as JSON."""

    async def status(self) -> Mapping[str, object]:
        """Return readiness, listeners, buses, services and calls in flight."""

    def routes(self) -> list[Mapping[str, object]]:
        """Return every mapped method at every endpoint."""

    def mappings(self) -> Mapping[str, object]:
        """Return the content of the live mapping and IDL files: {"revision", "mappings": {path: bytes}, "idl"}."""

    async def reload(self) -> Mapping[str, object]:
        """Load config and mapping files: {"revision": live, "problems": [...], ...}; problems: nothing has changed."""

    async def totals(self) -> tuple[int, int]:
        """Return the number of finished calls since start, and of those with a fault."""

    def invite(self, caller: Caller) -> str:
        """Return a URL of the web page that lets its first visitor in as this caller; raises LookupError."""

    async def call(self, request: api.CallBody) -> Mapping[str, object]:
        """Make one call: {"value": ...} or {"fault": ...}, and {"steps": [...]}; raises LookupError or ValueError."""


def gateway_handlers(operations: Operations, service: AdminService) -> dict[str, Handler]:
    """Handlers for the gateway as a whole. A reload is noted in the audit."""

    async def status(_request: web.Request, _caller: Caller) -> web.Response:
        return json(await operations.status())

    async def routes(_request: web.Request, _caller: Caller) -> web.Response:
        return json(operations.routes())

    async def mappings(_request: web.Request, _caller: Caller) -> web.Response:
        return json(operations.mappings())

    async def reload(_request: web.Request, caller: Caller) -> web.Response:
        answer = await operations.reload()
        if answer.get("problems"):
            return json(answer, status=409)
        await service.note(str(caller), "reload", "*", {"revision": str(answer["revision"])})
        return json(answer)

    async def call(request: web.Request, _caller: Caller) -> web.Response:
        return json(await operations.call(await body(request, api.CallBody)))

    async def page(_request: web.Request, caller: Caller) -> web.Response:
        return json({"url": operations.invite(caller)})

    return {
        "status": status,
        "routes": routes,
        "mappings": mappings,
        "reload": reload,
        "call": call,
        "web": page,
    }


def migration_handlers(service: AdminService) -> dict[str, Handler]:
    """Handlers for modes, the audit, mismatches and call statistics."""

    async def methods(request: web.Request, _caller: Caller) -> web.Response:
        return json(await service.methods(query(request, api.MethodsQuery).pattern))

    async def modes(_request: web.Request, _caller: Caller) -> web.Response:
        return json([_override(each) for each in service.overrides()])

    async def set_mode(request: web.Request, caller: Caller) -> web.Response:
        return json(await service.set_mode(await body(request, ModeRequest), str(caller)))

    async def clear_mode(request: web.Request, caller: Caller) -> web.Response:
        wanted = await body(request, api.PatternBody)
        return json(await service.clear_mode(wanted.pattern, str(caller), wanted.why))

    async def explain(request: web.Request, _caller: Caller) -> web.Response:
        call = await body(request, api.ExplainBody)
        return json(service.explain(call.method, call.params, call.named, call.key))  # JSON values are legacy values

    async def audit(request: web.Request, _caller: Caller) -> web.Response:
        wanted = query(request, api.AuditQuery)
        check_range("limit", wanted.limit, 1, MAX_ROWS)
        return json(await service.audit(wanted.limit, wanted.since, wanted.subject))

    async def diff(request: web.Request, _caller: Caller) -> web.Response:
        wanted = query(request, api.DiffQuery)
        check_range("limit", wanted.limit, 1, MAX_ROWS)
        return json(await service.diff(wanted.method, wanted.limit))

    async def reset_statistics(request: web.Request, caller: Caller) -> web.Response:
        wanted = await body(request, api.PatternBody)
        return json(await service.reset_statistics(wanted.pattern, str(caller), wanted.why))

    return {
        "methods": methods,
        "modes": modes,
        "set_mode": set_mode,
        "clear_mode": clear_mode,
        "explain": explain,
        "audit": audit,
        "diff": diff,
        "reset_statistics": reset_statistics,
    }


def rollback_handlers(service: AdminService) -> dict[str, Handler]:
    """Handlers for a rollback of everything."""

    async def rollback(request: web.Request, caller: Caller) -> web.Response:
        return json(await service.rollback_all(str(caller), (await body(request, api.ReasonBody)).why))

    async def undo_rollback(request: web.Request, caller: Caller) -> web.Response:
        return json(await service.undo_rollback(str(caller), (await body(request, api.ReasonBody)).why))

    return {"rollback": rollback, "undo_rollback": undo_rollback}


def _override(override: Override) -> api.OverrideRow:
    return {
        "pattern": override.pattern,
        "mode": str(override.setting),
        "setting": setting_view(override.setting),
        "who": override.who,
        "when": override.when,
        "why": override.why,
        "until": ends(override),
        "by": override.by,
        "guarded": override.guarded,
    }


def promotion_handlers(planner: PromotionPlanner) -> dict[str, Handler]:
    """Handlers for modes that are to be written into mapping files. The command writes the files, not the gateway."""

    async def promotion(request: web.Request, _caller: Caller) -> web.Response:
        return json(planner.plan(query(request, api.MethodsQuery).pattern))

    async def promoted(request: web.Request, caller: Caller) -> web.Response:
        wanted = await body(request, api.PatternBody)
        return json(await planner.settle(wanted.pattern, str(caller), wanted.why))

    return {"promotion": promotion, "promoted": promoted}


def rollout_handlers(commands: RolloutCommands) -> dict[str, Handler]:
    """Handlers for rollouts."""

    async def rollouts(_request: web.Request, _caller: Caller) -> web.Response:
        views = await commands.list()
        return json(views if isinstance(views, StateRefused) else [_rollout(view) for view in views])

    def handler(command: Callable[[str, str, str], Awaitable[RolloutView | StateRefused]]) -> Handler:
        async def handle(request: web.Request, caller: Caller) -> web.Response:
            wanted = await body(request, api.RolloutBody)
            view = await command(wanted.name, str(caller), wanted.why)
            return json(view if isinstance(view, StateRefused) else _rollout(view))

        return handle

    verbs = ("start", "pause", "resume", "approve", "abort")
    return {"rollouts": rollouts, **{f"{verb}_rollout": handler(getattr(commands, verb)) for verb in verbs}}


def _rollout(view: RolloutView) -> Mapping[str, object]:
    setting = None if view.setting is None else setting_view(view.setting)
    return {**{field: getattr(view, field) for field in RolloutView.__struct_fields__}, "setting": setting}


def handlers_by_name(operations: Operations, service: AdminService, clients: Traffic) -> dict[str, Handler]:
    """The handler of each operation that needs a right, by its name in `api.OPERATIONS`."""

    async def openapi(_request: web.Request, _caller: Caller) -> web.Response:
        described = await asyncio.to_thread(_described)
        return web.Response(body=described, content_type="application/json")

    return {
        **gateway_handlers(operations, service),
        **migration_handlers(service),
        **rollback_handlers(service),
        **promotion_handlers(service.promoting),
        **rollout_handlers(service.rollouts),
        **traffic_handlers(clients),
        "openapi": openapi,
    }


@cache
def _described() -> bytes:
    """The OpenAPI document, which takes a while to make."""
    return msgspec.json.encode(api.document())


def application(
    operations: Operations, service: AdminService, clients: Traffic, rights: AccessRules
) -> web.Application:
    """The admin API. Each request is checked against the lists of the config."""
    served = handlers_by_name(operations, service, clients)
    made = web.Application(middlewares=[plain_errors])
    add_paths(made, operations)
    for each in api.OPERATIONS:
        if each.right is not None:
            made.router.add_route(each.verb, each.path, _checked(served[each.name], each.right, rights))
    return made


def _checked(
    handler: Handler, right: Right, rights: AccessRules
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for callers that have the right, and not for web pages: a socket may be forwarded to a TCP port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        check_origin(request)
        return await handler(request, check_right(request, rights, right))

    return handle
