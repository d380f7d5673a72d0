"""The admin API: JSON over HTTP. The table of `handlers_by_name` has one entry for each name in `api.OPERATIONS`.

An entry gets the request as the type that its operation names, and calls the running gateway or its admin service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import msgspec
from aiohttp import web
from msgspec.structs import asdict

from gateway.admin import api
from gateway.admin.http import (
    Handler,
    MonitoredGateway,
    add_paths,
    check_origin,
    check_range,
    check_right,
    json,
    plain_errors,
)
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic, callers, traffic_handlers
from gateway.core.admin.access import AccessRules, Caller, Right
from gateway.core.admin.records import AuditEntry, MismatchRecord, StateRefused
from gateway.core.admin.views import setting_view
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ends

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


def handlers_by_name(operations: Operations, service: AdminService, clients: Traffic) -> Mapping[str, Handler]:
    """The handler of each operation that needs a right, by its name in `api.OPERATIONS`."""
    rollouts, promoting = service.rollouts, service.promoting

    async def reload(_request: web.Request, _wanted: None, caller: Caller) -> object:
        answer = await operations.reload()
        if answer.get("problems"):
            return json(answer, status=409)
        await service.note(str(caller), "reload", "*", {"revision": str(answer["revision"])})
        return answer

    async def audit(_: web.Request, wanted: api.AuditQuery, _caller: Caller) -> Sequence[AuditEntry] | StateRefused:
        check_range("limit", wanted.limit, 1, MAX_ROWS)
        return await service.audit(wanted.limit, wanted.since, wanted.subject)

    async def diff(_: web.Request, wanted: api.DiffQuery, _caller: Caller) -> Sequence[MismatchRecord] | StateRefused:
        check_range("limit", wanted.limit, 1, MAX_ROWS)
        return await service.diff(wanted.method, wanted.limit)

    async def openapi(*_: object) -> web.Response:
        return web.Response(body=await asyncio.to_thread(_described), content_type="application/json")

    def reasoned(change: Callable[[str, str, str], Awaitable[object]], subject: str) -> Handler:
        """A change of one subject, which has this name in the body."""
        return lambda _, wanted, caller: change(getattr(wanted, subject), str(caller), wanted.why)

    # JSON values are legacy values, and so the parameters of a call that is explained.
    return {
        "openapi": openapi,
        "status": lambda *_: operations.status(),
        "routes": lambda *_: operations.routes(),
        "mappings": lambda *_: operations.mappings(),
        "reload": reload,
        "call": lambda _, wanted, _caller: operations.call(wanted),
        "web": lambda _, _wanted, caller: {"url": operations.invite(caller)},
        "methods": lambda _, wanted, _caller: service.methods(wanted.pattern),
        "modes": lambda *_: [*map(_override, service.overrides())],
        "set_mode": lambda _, wanted, caller: service.set_mode(wanted, str(caller)),
        "clear_mode": reasoned(service.clear_mode, "pattern"),
        "rollback": lambda _, wanted, caller: service.rollback_all(str(caller), wanted.why),
        "undo_rollback": lambda _, wanted, caller: service.undo_rollback(str(caller), wanted.why),
        "explain": lambda _, call, _caller: service.explain(call.method, call.params, call.named, call.key),
        "promotion": lambda _, wanted, _caller: promoting.plan(wanted.pattern),
        "promoted": reasoned(promoting.settle, "pattern"),
        "audit": audit,
        "diff": diff,
        "reset_statistics": reasoned(service.reset_statistics, "pattern"),
        "rollouts": lambda *_: rollouts.list(),
        **{f"{verb}_rollout": reasoned(getattr(rollouts, verb), "name") for verb in api.ROLLOUT_VERBS},
        "clients": lambda _, wanted, _caller: callers(clients, wanted),
        **traffic_handlers(clients),
    }


def _override(override: Override) -> api.OverrideRow:
    row: Any = {"pattern": override.pattern, "mode": str(override.setting), **asdict(override)}
    row |= {"setting": setting_view(override.setting), "until": ends(override)}
    return row  # type: ignore[no-any-return]


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
            made.router.add_route(each.verb, each.path, _checked(each, served[each.name], rights, each.right))
    return made


def _checked(
    operation: api.ApiOperation, handler: Handler, rights: AccessRules, right: Right
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for callers that have the right, and not for web pages: a socket may be forwarded to a TCP port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        check_origin(request)
        caller = check_right(request, rights, right)
        wanted: Any = None
        if operation.body is not None:
            wanted = msgspec.json.decode(await request.read() or b"{}", type=operation.body)
        elif operation.query is not None:
            wanted = msgspec.convert(dict(request.query), operation.query, strict=False)
        answer = handler(request, wanted, caller)
        if isinstance(answer, Awaitable):
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else json(answer)

    return handle
