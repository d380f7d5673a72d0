"""The web page over HTTP: who comes in, what each page shows, which forms do something, and what is escaped."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.admin.web.server import COOKIE, WebServer
from gateway.admin.web.sessions import INVITATION, MOST, SESSION, WebSessions
from gateway.core.admin.access import AccessRules, Caller, Principals
from gateway.core.admin.records import ClientKey, ClientRecord, CountsBatch, Json, MethodId, MismatchRecord
from gateway.state.store import StateStore
from tests.kit.admin import Api
from tests.kit.cases import present
from tests.kit.programs import TIMEOUT

ROOT, READER, STRANGER = Caller(0, name="root"), Caller(7001, name="reader"), Caller(7002, name="stranger")
STATE = MethodId("xenopsd", "VM.get_state")
EVIL = "<script>alert(1)</script>"
DOCUMENT: Any = {
    "call": {"method": "VM.get_state", "params": ["vm-1"], "named": {}}, "caller": EVIL, "protocol": "xmlrpc",
    "verdict": "different", "more": False, "ignored": [], "noisy": [],
    "control": {"side": "legacy", "ms": 1.0, "reply": "Halted"},
    "candidate": {"side": "dbus", "ms": 2.0, "reply": "Running"},
    "differences": [{"path": "$.power", "control": "Halted", "candidate": EVIL}],
}  # fmt: skip
PAGES = ("/", "/methods", "/method/xenopsd/VM.get_state", "/rollouts", "/callers", "/audit")


class Browser:
    """A client with a cookie jar; `text` of the last page, its forms by action."""

    def __init__(self, api: Api, server: WebServer, session: aiohttp.ClientSession) -> None:
        self.api = api
        self._server = server
        self.http = session
        self.url = f"http://{server.address.removeprefix('tcp:')}"
        self.text = ""

    async def enter(self, caller: Caller) -> int:
        return await self.get(self._server.invite(caller).removeprefix(self.url))

    async def get(self, path: str, **more: Any) -> int:
        async with self.http.get(self.url + path, **more) as response:
            self.text, self.headers = await response.text(), response.headers
            return response.status

    async def post(self, path: str, headers: dict[str, str] | None = None, /, **fields: str) -> int:
        async with self.http.post(self.url + path, data=fields, headers=headers) as response:
            self.text = await response.text()
            return response.status

    @property
    def secret(self) -> str:
        return present(re.search(r'name="secret" value="([^"]+)"', self.text))[1]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with StateStore(None) as state:
        api = Api(tmp_path / "control", state)
        rights = AccessRules(os.geteuid(), read=Principals(frozenset({READER.uid})))
        server = WebServer("tcp:127.0.0.1:0", api.toy, api.admin_service, api.traffic, rights)
        await server.start()
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address
        try:
            async with aiohttp.ClientSession(cookie_jar=jar) as session:
                yield Browser(api, server, session)
        finally:
            await server.stop()


# Who comes in


async def test_without_an_invitation_no_page_is_shown(browser: Browser) -> None:
    for path in (*PAGES, "/events", "/nope"):
        assert await browser.get(path) == 403
        assert "xcp-gateway web" in browser.text
    assert await browser.post("/do/rollback", why="x") == 403
    assert await browser.get("/static/style.css") == 200
    assert await browser.get("/static/..%2fserver.py") == 404


async def test_an_invitation_works_once_and_leaving_ends_the_session(browser: Browser) -> None:
    path = browser._server.invite(ROOT).removeprefix(browser.url)
    assert await browser.get(path) == 200
    assert "Overview" in browser.text
    secret = browser.secret
    assert await browser.get(path) == 403
    assert await browser.post("/leave", secret="guessed") == 403
    assert await browser.get("/audit") == 200
    assert await browser.post("/leave", secret=secret) == 403  # it was sent to the overview, without a session
    assert await browser.get("/audit") == 403


async def test_a_session_has_the_rights_of_who_asked_for_it(browser: Browser) -> None:
    assert await browser.enter(READER) == 200
    assert "reader (may read)" in browser.text
    assert "/do/rollback" not in browser.text
    assert await browser.post("/do/rollback", secret=browser.secret, why="x") == 403
    assert "reader (uid 7001) may not change anything here" in browser.text
    await browser.enter(STRANGER)
    assert "stranger (uid 7002) may not read here" in browser.text


def test_invitations_and_sessions_end_by_themselves_and_are_bounded() -> None:
    now = [100.0]
    sessions = WebSessions(lambda: now[0])
    early, late = sessions.invite(ROOT), sessions.invite(ROOT)
    identity = sessions.enter(early)
    assert identity is not None
    assert sessions.enter(early) is None
    now[0] += INVITATION + 1
    assert sessions.enter(late) is None
    now[0] += SESSION - INVITATION - 10
    assert sessions.find(identity) is not None  # and its time begins anew
    now[0] += SESSION + 1
    assert sessions.find(identity) is None
    tokens = [sessions.invite(ROOT) for _ in range(MOST + 1)]
    assert sessions.enter(tokens[0]) is None
    assert sessions.enter(tokens[-1]) is not None


# Against other sites


async def test_other_hosts_and_other_sites_are_refused(browser: Browser) -> None:
    await browser.enter(ROOT)
    secret = browser.secret
    for host in ("evil.example", "127.evil.example", "[evil", "evil.example:8081"):
        assert await browser.get("/", headers={"Host": host}) == 403
        assert f"unknown host &#x27;{host}&#x27;: expected" in browser.text.replace("&#39;", "&#x27;")
    assert await browser.get("/", headers={"Sec-Fetch-Site": "cross-site"}) == 200  # a link leads here
    assert await browser.post("/do/rollback", {"Origin": "https://evil.example"}, secret=secret, why="x") == 403
    assert await browser.post("/do/rollback", {"Sec-Fetch-Site": "cross-site"}, secret=secret, why="x") == 403
    assert await browser.post("/do/rollback", secret="guessed", why="x") == 403
    assert await browser.post("/do/rollback", why="x") == 403
    assert await browser.get("/audit") == 200
    assert "rollback" not in browser.text.partition("<tbody>")[2]


async def test_each_answer_has_the_headers_that_keep_scripts_and_frames_out(browser: Browser) -> None:
    await browser.enter(ROOT)
    for path in (*PAGES, "/nope"):
        await browser.get(path)
        policy = browser.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy
        assert "frame-ancestors 'none'" in policy
        assert browser.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script>|\son\w+=|\sstyle=", browser.text), "the policy would not allow it"
    cookie = next(iter(browser.http.cookie_jar))
    assert (cookie.key, cookie["httponly"], cookie["samesite"]) == (COOKIE, True, "Strict")


# What is shown


async def test_the_pages_show_what_the_commands_show_and_escape_it(browser: Browser) -> None:
    api = browser.api
    clients = {ClientKey(STATE, "xmlrpc", "tcp:10.0.0.1", EVIL, "alice"): ClientRecord(5, 100.0, 300.0)}
    pairs = [MismatchRecord(1.0, STATE, DOCUMENT)]
    assert await api.state.flush(CountsBatch(clients=clients, pairs=pairs)) is None
    await browser.enter(ROOT)
    for path in PAGES:
        assert await browser.get(path) == 200, path
        assert EVIL not in browser.text
        assert "<h1>" in browser.text
    await browser.get("/method/xenopsd/VM.get_state")
    assert "&lt;script&gt;" in browser.text
    assert "$.power" in browser.text
    await browser.get("/callers")
    assert "xmlrpc: 1 caller<" in browser.text
    await browser.get("/methods?pattern=VM.st*&sort=calls")
    assert "xenopsd/VM.start" in browser.text
    assert "xenopsd/VM.get_state" not in browser.text
    await browser.get("/methods?pattern=VM.nope")
    assert "no mapped method" in browser.text
    assert await browser.get("/method/xenopsd/VM.nope") == 404
    api.toy.ready = False
    await browser.get("/")
    assert "not ready: no bus" in browser.text


# What is done


async def test_a_mode_is_set_cleared_and_rolled_back_with_a_reason_by_the_user(browser: Browser) -> None:
    api = browser.api
    await browser.enter(ROOT)
    form = {"secret": browser.secret, "back": "/method/xenopsd/VM.get_state", "pattern": "xenopsd/VM.get_state"}
    assert await browser.post("/do/set-mode", **form, mode="canary", percent="10", why="") == 422
    assert "the reason is missing" in browser.text
    assert await browser.post("/do/set-mode", **form, mode="canary", percent="10", duration="2h", why="try") == 200
    assert 'role="status">xenopsd/VM.get_state: legacy -&gt; canary 10%' in browser.text
    (override,) = api.admin_service.overrides()
    assert (override.who, override.why, str(override.setting)) == ("root", "try", "canary 10%")
    assert await browser.post("/do/set-mode", **form, mode="canary", percent="many", why="x") == 422
    assert await browser.post("/do/set-mode", **form, mode="shadow", duration="soon", why="x") == 422
    assert await browser.post("/do/rollback", **form, why="slow") == 200
    assert await browser.post("/do/undo-rollback", **form, why="false alarm") == 200
    assert "2 methods changed: before the rollback" in browser.text
    assert str(api.admin_service.overrides()[0].setting) == "canary 10%"
    assert await browser.post("/do/clear-mode", **form, why="done") == 200
    assert await browser.post("/do/reset-statistics", **form, why="fixed") == 200
    assert await browser.post("/do/nope", **form, why="x") == 404
    numbers: dict[str, Json] = {"cleared": ["a/b", "a/c"], "legacy_p50": 0.003162717672227078, "until": None}
    await api.admin_service.note("root", "promote", "x", numbers)
    assert await browser.get("/audit?subject=x") == 200
    assert "<td>cleared a/b a/c, legacy_p50 0.003163</tr>" in browser.text
    await browser.get("/audit?subject=xenopsd/VM.get_state")
    assert browser.text.count("<tr><td>") == 3
    assert api.admin_service.overrides() == ()


async def test_a_rollout_is_driven_from_its_page_and_a_refused_reload_is_told(browser: Browser) -> None:
    api = browser.api
    await browser.enter(ROOT)
    form = {"secret": browser.secret, "back": "/rollouts", "name": "xenopsd/VM.get_state"}
    assert await browser.post("/do/start-rollout", **form, why="shadow was equal") == 200
    assert 'aria-current="step"' in browser.text
    assert await browser.post("/do/pause-rollout", **form, why="backup") == 200
    assert ">paused</small>" in browser.text
    assert re.findall(r'formaction="/do/([a-z]+)-rollout"', browser.text) == [
        "resume",
        "abort",
    ]  # what has a meaning now
    assert await browser.post("/do/abort-rollout", **form, why="wrong week") == 200
    assert await browser.post("/do/resume-rollout", **form, why="x") == 422
    api.toy.problems = ["a.yaml:1:1: no"]
    assert await browser.post("/do/reload", **form, why="new") == 422
    assert "a.yaml:1:1: no" in browser.text
    api.toy.problems = []
    assert await browser.post("/do/reload", **form, why="new") == 200


async def test_after_an_action_the_browser_goes_to_no_other_site(browser: Browser) -> None:
    await browser.enter(ROOT)
    for back in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        form = {"secret": browser.secret, "back": back, "pattern": "VM.start", "why": "x"}
        async with browser.http.post(browser.url + "/do/reset-statistics", data=form, allow_redirects=False) as done:
            assert (done.status, done.headers["Location"].startswith("/?done=")) == (303, True), back


async def test_changes_arrive_as_events(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.web.server.TICK", 0.05)  # by then it is seen that the browser has left
    await browser.enter(ROOT)
    secret = browser.secret
    async with browser.http.get(browser.url + "/events") as events:
        assert events.content_type == "text/event-stream"
        done = await browser.post("/do/set-mode", secret=secret, pattern="VM.get_state", mode="dbus", why="go")
        assert done == 200
        async with asyncio.timeout(TIMEOUT):
            while not (line := await events.content.readline()).startswith(b"data: "):
                assert line
    change = json.loads(line.removeprefix(b"data: "))
    assert (change["kind"], change["method"], change["after"]) == ("ModeChange", "VM.get_state", "dbus")
