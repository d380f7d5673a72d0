"""org.xen.xcp.xapi.Session1: the open sessions of xapi."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from dataclasses import field as member

import sample
from dbus_next.service import method, signal
from service import Error, Record, field


@dataclass
class Session:
    """One open session; times are Unix seconds."""

    user: str
    created: int = member(default_factory=lambda: int(time.time()))
    last_active: int = member(default_factory=lambda: int(time.time()))


class Session1(Record):
    """The open sessions."""

    Open = field("Open", "u")

    def __init__(self) -> None:
        super().__init__("xapi.Session1", Open=0)
        self.sessions: dict[str, Session] = {}

    @method()
    def Login(self, user: "s", password: "s") -> "s":
        if (user, password) != (sample.USER, sample.PASSWORD):
            raise Error("AuthenticationFailed", "s", user)
        session = sample.ref(str(uuid.uuid4()))
        self.sessions[session] = Session(user)
        self.put(Open=len(self.sessions))
        return session

    @method()
    def Logout(self, session: "s"):
        user = self._find(session).user
        del self.sessions[session]
        self.put(Open=len(self.sessions))
        self.Closed(user)

    @method()
    def Check(self, session: "s"):
        self._find(session).last_active = int(time.time())

    @method()
    def Stat(self, subject: "s") -> "sbxx":
        found = self._find(subject)
        return [found.user, found.user == sample.USER, found.created, found.last_active]

    @signal()
    def Closed(self, user: str) -> "s":
        return user

    def _find(self, session: str) -> Session:
        if session not in self.sessions:
            raise Error("SessionInvalid", "s", session)
        return self.sessions[session]
