"""The server of the web page, on a loopback port: sessions, security headers, errors as pages, live events.

Each action is a form with POST: it needs the right to change, the secret of the session (CSRF), and a reason for the
audit. After it the browser is sent to the page again. Without a session every path but the style is 403.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import web

from gateway.admin import api
from gateway.admin.handlers import Operations
from gateway.admin.http import check_origin
from gateway.admin.service import AdminService
from gateway.admin.sockets import TcpServer
from gateway.admin.traffic import Traffic
from gateway.admin.web.pages import Page, Pages
from gateway.admin.web.sessions import Session, WebSessions
from gateway.core.admin.access import AccessRules, Caller, Right, denial
from gateway.core.admin.records import StateRefused
from gateway.core.admin.views import ModeRequest, ModeResult, Notification
from gateway.core.logger import Logger
from gateway.core.rpc import units

COOKIE = "xcp-gateway"
MAX_FORM = 64 * 1024  # bytes
MAX_STREAMS = 16  # browsers that follow changes at a time
MAX_WAITING = 200  # changes that a slow browser has not read; past it its stream ends
TICK = 5.0  # seconds between two signs of life of a stream

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends forms with the origin "null"
    "Cache-Control": "no-store",
}
SESSION = web.RequestKey("session", Session)
STATIC = {"style.css": "text/css", "live.js": "text/javascript"}

_log = Logger("admin")
Form = Mapping[str, str]
_T = TypeVar("_T")
_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer(TcpServer):
    """Serves the page. `invite` makes the URL by which a user comes in."""

    def __init__(
        self, address: str, operations: Operations, service: AdminService, traffic: Traffic, rights: AccessRules
    ) -> None:
        self._sessions = WebSessions()
        self._rights = rights
        self._operations = operations
        self._service = service
        self._pages = Pages(operations, service, traffic)
        self._streams = 0
        super().__init__("web", address, self._application)

    def invite(self, caller: Caller) -> str:
        """A URL that lets its first visitor in as this caller."""
        return f"http://{self.address.removeprefix('tcp:')}/enter?token={self._sessions.invite(caller)}"

    def _application(self) -> web.Application:
        made = web.Application(middlewares=[self._guard], client_max_size=MAX_FORM)
        made.router.add_get("/enter", self._enter)
        made.router.add_post("/leave", self._leave)
        made.router.add_get("/static/{name}", _static)
        made.router.add_get("/events", self._events)
        made.router.add_post("/do/{action}", self._act)
        for path, page in self._pages.routes.items():
            made.router.add_get(path, partial(self._show, page))
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handle) -> web.StreamResponse:
        """Refuse other hosts and origins and requests without a session; give each answer the security headers."""
        try:
            check_origin(request, links=True)
            if not request.path.startswith("/static/") and request.path != "/enter":
                session = self._sessions.find(request.cookies.get(COOKIE, ""))
                if session is None:
                    text = "This page needs an invitation: run `xcp-gateway web` and open the address that it prints."
                    raise web.HTTPForbidden(text=text)  # noqa: TRY301
                if not self._rights.have(session.caller, Right.READ):
                    raise web.HTTPForbidden(text=denial(session.caller, Right.READ))  # noqa: TRY301
                request[SESSION] = session
            response = await handler(request)
        except web.HTTPRedirection as redirect:
            redirect.headers.update(HEADERS)
            raise
        except web.HTTPException as error:
            response = self._failed(error.text or error.reason, error.status)
        except Exception:  # noqa: BLE001 - a bug is logged here and costs one request
            _log.exception("unexpected error in a page", path=request.path)
            response = self._failed("internal error; the log has more", 500)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _failed(self, text: str, status: int) -> web.Response:
        return web.Response(text=self._pages.message(text), status=status, content_type="text/html")

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        identity = self._sessions.enter(request.query.get("token", ""))
        if identity is None:
            raise web.HTTPForbidden(text="This invitation was used, or is too old: run `xcp-gateway web` again.")
        redirect = web.HTTPSeeOther("/")
        redirect.set_cookie(COOKIE, identity, httponly=True, samesite="Strict", path="/")
        raise redirect

    async def _leave(self, request: web.Request) -> web.StreamResponse:
        await _form(request)
        self._sessions.leave(request.cookies.get(COOKIE, ""))
        raise web.HTTPSeeOther("/")

    async def _show(self, page: Callable[[web.Request], Awaitable[Page]], request: web.Request) -> web.Response:
        session: Session = request[SESSION]
        may_change = self._rights.have(session.caller, Right.CHANGE)
        text = self._pages.render(await page(request), request, session, may_change=may_change)
        return web.Response(text=text, content_type="text/html")

    async def _act(self, request: web.Request) -> web.StreamResponse:
        given, caller = await _form(request), request[SESSION].caller
        if not self._rights.have(caller, Right.CHANGE):
            raise web.HTTPForbidden(text=denial(caller, Right.CHANGE))
        action = ACTIONS.get(request.match_info["action"])
        if action is None:
            raise web.HTTPNotFound(text="unknown action")
        if not given.get("why"):
            raise web.HTTPUnprocessableEntity(text="why: the reason is missing; the audit keeps it")
        try:
            done = await action(self._operations, self._service, given, str(caller))
        except Refusal as refusal:
            return self._failed(str(refusal), 422)
        path = urlsplit(given.get("back", "/"))
        place = path.path if path.path.startswith("/") and not path.path.startswith("//") else "/"
        raise web.HTTPSeeOther(f"{place}?{path.query + '&' if path.query else ''}done={quote(done)}")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Each change as a server-sent event, until the browser leaves or is too slow."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text="too many pages follow the changes")
        waiting: asyncio.Queue[Notification] = asyncio.Queue(MAX_WAITING)
        overflow = asyncio.Event()

        def put(change: Notification) -> None:
            if waiting.full():
                overflow.set()
            else:
                waiting.put_nowait(change)

        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        unsubscribe = self._service.subscribe(put)
        self._streams += 1
        try:
            await response.prepare(request)
            while not overflow.is_set():
                await response.write(await _next_event(waiting))
        except ConnectionError:
            pass  # the browser has left
        finally:
            self._streams -= 1
            unsubscribe()
        return response


async def _next_event(waiting: asyncio.Queue[Notification]) -> bytes:
    try:
        async with asyncio.timeout(TICK):
            change = await waiting.get()
    except TimeoutError:
        return b": alive\n\n"
    document = {"kind": type(change).__name__, **msgspec.to_builtins(change)}
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


async def _form(request: web.Request) -> dict[str, str]:
    """The fields of a form of this session."""
    given = {name: value.strip() for name, value in (await request.post()).items() if isinstance(value, str)}
    session: Session = request[SESSION]
    if not session.allows(given.get("secret", "")):
        raise web.HTTPForbidden(text="this form is not one of this session: load the page again")
    return given


async def _static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    if name not in STATIC:
        raise web.HTTPNotFound
    content = files("gateway.admin.web").joinpath("static", name).read_bytes()
    return web.Response(body=content, content_type=STATIC[name])


# What the forms do: the same operations as the commands, with the fields of a form as arguments.


class Refusal(Exception):  # noqa: N818 - it is no error of the program
    """Why an action was not done, for the person who asked for it."""


def _done(result: _T | StateRefused) -> _T:
    if isinstance(result, StateRefused):
        raise Refusal(result.why)
    return result


async def _changed(changing: Awaitable[ModeResult | StateRefused]) -> str:
    result = _done(await changing)
    moved = [each for each in result.methods if each.changed]
    held = f"; applies to this gateway only: {result.held}" if result.held else ""
    if len(moved) == 1:
        (one,) = moved
        return f"{one.service}/{one.method}: {one.before} -> {one.after}{held}"
    return f"{len(moved)} methods changed: {result.mode}{held}" if moved else f"nothing has changed{held}"


async def _set_mode(_operations: Operations, service: AdminService, form: Form, who: str) -> str:
    try:
        seconds = units.seconds(form["duration"]) if form.get("duration") else None
    except ValueError as error:
        raise Refusal(f"duration: {error}") from error
    wanted = ModeRequest(
        pattern=form.get("pattern", ""),
        mode=form.get("mode", ""),
        percent=form.get("percent") or None,
        control=form.get("control", "") if form.get("mode") == "shadow" else "",
        observe="observe" in form,
        noise="noise" in form,
        seconds=seconds,
        why=form["why"],
    )
    return await _changed(service.set_mode(wanted, who))


async def _reset(_operations: Operations, service: AdminService, form: Form, who: str) -> str:
    done = _done(await service.reset_statistics(form.get("pattern", ""), who, form["why"]))
    return f"mismatches and call statistics of {len(done)} methods are deleted"


async def _reload(operations: Operations, service: AdminService, form: Form, who: str) -> str:
    answer = await operations.reload()
    problems = answer.get("problems")
    if isinstance(problems, list) and problems:
        raise Refusal("reload refused:\n" + "\n".join(map(str, problems)))
    await service.note(who, "reload", "*", {"revision": str(answer["revision"])}, form["why"])
    return f"revision {answer['revision']} is live"


async def _rollout(verb: str, _operations: Operations, service: AdminService, form: Form, who: str) -> str:
    view = _done(await getattr(service.rollouts, verb)(form.get("name", ""), who, form["why"]))
    return f"{view.name}: {view.state} at {view.step}"


# Name in the path -> what it does, and then says; each has the reason in `why`.
ACTIONS: Mapping[str, Callable[[Operations, AdminService, Form, str], Awaitable[str]]] = {
    "set-mode": _set_mode,
    "clear-mode": lambda _, service, form, who: _changed(service.clear_mode(form.get("pattern", ""), who, form["why"])),
    "rollback": lambda _, service, form, who: _changed(service.rollback_all(who, form["why"])),
    "undo-rollback": lambda _, service, form, who: _changed(service.undo_rollback(who, form["why"])),
    "reset-statistics": _reset,
    "reload": _reload,
    **{f"{verb}-rollout": partial(_rollout, verb) for verb in api.ROLLOUT_VERBS},
}
