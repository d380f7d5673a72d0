"""Who a browser acts for. A loopback port does not show the user at its other end, as the admin socket does.

A user asks for an invitation on the admin socket, where the kernel says who it is. Its token is in the URL, works once
and for a minute, and becomes a session in a cookie. Each form of the session carries its own secret against CSRF.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable

from msgspec import Struct, field

from gateway.core.admin.access import Caller

INVITATION = 60.0  # seconds
SESSION = 8 * 3600.0  # seconds since the last request
MOST = 100  # invitations, and sessions; the oldest ends


class Session(Struct):
    """One browser. `secret` is in each form; `until`: seconds of the steady clock."""

    caller: Caller
    until: float
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def allows(self, given: str) -> bool:
        """Whether a form is one of this session."""
        return hmac.compare_digest(self.secret.encode(), given.encode())


class WebSessions:
    """The invitations and sessions of a process; a restart ends them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._invited: dict[str, Session] = {}
        self._sessions: dict[str, Session] = {}

    def invite(self, caller: Caller) -> str:
        """Return a token for this caller."""
        return _put(self._invited, Session(caller, self._now() + INVITATION))

    def enter(self, token: str) -> str | None:
        """Return the id of a new session for a token, which is used up; None if it is unknown or too old."""
        invited = self._invited.pop(token, None)
        if invited is None or invited.until < self._now():
            return None
        return _put(self._sessions, Session(invited.caller, self._now() + SESSION))

    def find(self, identity: str) -> Session | None:
        """The session of an id; its time begins anew."""
        found = self._sessions.get(identity)
        if found is None or found.until < self._now():
            self._sessions.pop(identity, None)
            return None
        found.until = self._now() + SESSION
        return found

    def leave(self, identity: str) -> None:
        """End a session."""
        self._sessions.pop(identity, None)


def _put(table: dict[str, Session], session: Session) -> str:
    while len(table) >= MOST:
        del table[next(iter(table))]
    name = secrets.token_urlsafe(32)
    table[name] = session
    return name
