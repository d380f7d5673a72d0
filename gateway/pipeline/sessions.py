"""Remembers the sessions that logins have opened: their users, when they were last used, and which are over.

A session is over when it was idle too long, or when its user has opened too many. The gateway then refuses it and
closes it at its service. What it knows of a session is in the state file, so that a restart keeps the time: under a
digest, since whoever has the session itself may use it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from time import time

import msgspec

from gateway.core.admin.records import StateRefused
from gateway.core.logger import Logger
from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.state.store import StateStore

CAPACITY = 100_000  # sessions; the least recently used one is forgotten first
EXACT = 30.0  # seconds: a session that is used is written down so often
SAVE = 2.0  # seconds between two looks at what is over, and has to be written down
LATE = 2 * SAVE  # seconds until every worker knows that a session was used
PAGE = 50  # sessions that are closed at one look

_log = Logger()


class OpenSession(msgspec.Struct):
    """What is known of a session; moments are Unix seconds. `idle`: seconds; 0: it does not end by itself."""

    user: str
    originator: str = ""
    last_active: float = 0.0
    idle: float = 0.0
    saved: float = 0.0  # the `last_active` that was written down


class SessionNews(msgspec.Struct, frozen=True):
    """What one worker tells the others of its sessions, by digest.

    `opened`: None where a session was closed; `used`: when; `over`: a session that a limit has ended.
    """

    opened: dict[str, OpenSession | None] = {}
    used: dict[str, float] = {}
    over: str = ""


class Sessions:
    """The sessions that were opened through this process, or before its start."""

    def __init__(self, *, state: StateStore | None = None, now: Callable[[], float] = time) -> None:
        self._state = state
        self._now = now
        self._open: OrderedDict[str, OpenSession] = OrderedDict()  # by digest, the least recently used first
        self._of: dict[tuple[str, str], OrderedDict[str, None]] = {}  # user and originator -> digests
        self._over: OrderedDict[str, None] = OrderedDict()  # digests
        self._changed: set[str] = set()  # digests to be written down
        self._closing: list[tuple[Route, str]] = []  # the logout and the session, to be closed at the service
        self._texts: dict[str, tuple[Route, str]] = {}  # the same of each open session, by digest
        self._saving: asyncio.Task[None] | None = None
        self._tell: Callable[[SessionNews], object] | None = None  # other workers
        self._used: dict[str, float] = {}  # digests that were used since the others were told -> when

    def connect(self, tell: Callable[[SessionNews], object]) -> None:
        """Tell other workers of every session from now on."""
        self._tell = tell

    def learn_news(self, news: SessionNews) -> None:
        """Another worker tells of its sessions."""
        for key, opened in news.opened.items():
            if opened is None:
                self._remove(key)
            else:
                self._over.pop(key, None)
                self._add(key, opened)
        for key, when in news.used.items():
            found = self._open.get(key)
            if found is not None and when > found.last_active:
                self._touch(key, found, when)
        if news.over:
            self._end(news.over, is_news=True)

    async def read(self) -> None:
        """Read the sessions that were written down by other workers, or before the start."""
        documents = await self._state.sessions() if self._state is not None else {}
        if not isinstance(documents, StateRefused):
            known = {key: msgspec.json.decode(document, type=OpenSession) for key, document in documents.items()}
            for key, found in sorted(known.items(), key=lambda item: item[1].last_active):
                if key not in self._open:
                    self._add(key, found)

    async def start(self, call: Callable[[Route, Call], Awaitable[Outcome]]) -> None:
        """Read what the state file has; `call` closes sessions at their service."""
        await self.read()
        self._saving = asyncio.get_running_loop().create_task(self._look_for_ever(call))

    async def stop(self) -> None:
        """Write down what has changed."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait([self._saving])
        await self.save()

    def learn(self, finished: CallFinished, logout: Route | None = None) -> None:
        """Remember the session that a login has returned, or forget the one that a logout has closed.

        `logout` closes a session of this login at its service.
        """
        route, outcome = finished.route, finished.outcome
        if route.closes is not None and isinstance(outcome, Reply):
            self._forget(_digest(route.closes(finished.call) or ""))
        if route.login is None or not isinstance(outcome, Reply) or not isinstance(outcome.value, str):
            return
        user = route.login(finished.call)
        if not user:
            return
        limits = route.session_limits
        originator = (limits.originator(finished.call) or "") if limits.originator is not None else ""
        key = _digest(outcome.value)
        self._add(key, OpenSession(user, originator, self._now(), limits.idle))
        self._share(SessionNews({key: self._open[key]}))
        self._changed.add(key)
        self._over.pop(key, None)  # a service that gives a reference again
        if logout is not None:
            self._texts[key] = logout, outcome.value
        same = self._of[user, originator]
        while limits.most and len(same) > limits.most:
            self._end(next(iter(same)))
        if len(self._open) > CAPACITY:
            self._forget(next(iter(self._open)))

    def user(self, route: Route, call: Call) -> str:
        """The user of the session that a call uses, or that a login names; empty when it is not known."""
        if not self._open or route.session is None:
            return (route.login(call) or "") if route.login is not None else ""
        session = route.session(call)
        key = _digest(session) if session is not None else ""
        found = self._open.get(key)
        if found is None:
            return ""
        if self._is_idle(found):
            self._end(key)
            return ""
        self._touch(key, found, self._now())
        if self._tell is not None:
            self._used[key] = found.last_active
        if found.last_active - found.saved > EXACT:
            self._changed.add(key)
        return found.user

    def _touch(self, key: str, found: OpenSession, when: float) -> None:
        found.last_active = when
        self._open.move_to_end(key)
        self._of[found.user, found.originator].move_to_end(key)

    def is_over(self, route: Route, call: Call) -> bool:
        """Whether the session that a call uses has ended by a limit."""
        if not self._over or route.session is None:
            return False
        session = route.session(call)
        return session is not None and _digest(session) in self._over

    # What is over

    def _is_idle(self, found: OpenSession) -> bool:
        """Whether a session was not used for its time; other workers tell of its use at most LATE seconds later."""
        late = LATE if self._tell is not None else 0.0
        return bool(found.idle) and self._now() - found.last_active > found.idle + late

    def _share(self, news: SessionNews) -> None:
        if self._tell is not None:
            self._tell(news)

    def _end(self, key: str, *, is_news: bool = False) -> None:
        closing = self._texts.get(key)
        if closing is not None:
            self._closing.append(closing)
        self._remove(key)
        if not is_news:
            self._share(SessionNews(over=key))
        self._over[key] = None
        if len(self._over) > CAPACITY:
            self._over.popitem(last=False)

    def _add(self, key: str, session: OpenSession) -> None:
        self._remove(key)
        self._open[key] = session
        self._of.setdefault((session.user, session.originator), OrderedDict())[key] = None

    def _forget(self, key: str) -> None:
        if key in self._open:
            self._share(SessionNews({key: None}))
        self._remove(key)

    def _remove(self, key: str) -> None:
        found = self._open.pop(key, None)
        if found is not None:
            self._changed.add(key)
            same = self._of[found.user, found.originator]
            del same[key]
            if not same:
                del self._of[found.user, found.originator]
        self._texts.pop(key, None)

    async def _look_for_ever(self, call: Callable[[Route, Call], Awaitable[Outcome]]) -> None:
        while True:
            await asyncio.sleep(SAVE)
            try:
                await self.look(call)
            except Exception:  # noqa: BLE001 - a bug costs this look and not the sessions
                _log.exception("a bug while looking after sessions")

    async def look(self, call: Callable[[Route, Call], Awaitable[Outcome]]) -> None:
        """End the sessions that were idle too long, close at their service those that are over, and write it down."""
        if self._used:
            used, self._used = self._used, {}
            self._share(SessionNews(used=used))
        for key in [key for key, each in self._open.items() if self._is_idle(each)]:
            self._end(key)
        closing, self._closing = self._closing[:PAGE], self._closing[PAGE:]
        for logout, session in closing:
            await call(logout, Call(logout.method, (session,)))
        await self.save()

    async def save(self) -> None:
        """Write down what has changed."""
        changed, self._changed = self._changed, set()
        if not changed or self._state is None:
            return
        for key in changed & self._open.keys():
            self._open[key].saved = self._open[key].last_active
        rows = {key: msgspec.json.encode(self._open[key]).decode() if key in self._open else None for key in changed}
        await self._state.keep_sessions(rows)


def session_over(route: Route, call: Call) -> Fault:
    """The fault that the session check would return for a session that it does not know."""
    check, session = route.session_check, route.session(call) if route.session is not None else None
    assert check is not None, "the session of a method that has a session check"
    fault = Fault(FaultCode.REMOTE, "the session has ended", name=check.session_over, data=[session or ""])
    return check.map_error(fault, call)


def _digest(session: str) -> str:
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
