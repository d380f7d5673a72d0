"""org.xen.xcp.xapi.Session1: the open sessions of xapi."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as member

import sample
from dbus_next.service import method, signal
from sample import NULL_REF
from service import Error, Record, field


@dataclass
class Session:
    """One open session; times are Unix seconds."""

    user: str
    created: int = member(default_factory=lambda: int(time.time()))
    last_active: int = member(default_factory=lambda: int(time.time()))
    uuid: str = member(default_factory=lambda: str(uuid.uuid4()))
    other_config: Mapping[str, str] = member(default_factory=dict)


class Session1(Record):
    """The open sessions. Every user of the sample is the superuser."""

    Open = field("Open", "u")

    def __init__(self) -> None:
        super().__init__("xapi.Session1", Open=0)
        self.sessions: dict[str, Session] = {}
        self._passwords = {sample.USER: sample.PASSWORD}

    @method()
    def Login(self, user: "s", password: "s") -> "s":
        if self._passwords.get(user) != password:
            raise Error("AuthenticationFailed", "s", user)
        session = sample.ref(str(uuid.uuid4()))
        self.sessions[session] = Session(user)
        self.put(Open=len(self.sessions))
        return session

    @method()
    def LoginAs(self, user: "s") -> "s":
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
    def LogoutUser(self, user: "s"):
        for session in [ref for ref, each in self.sessions.items() if each.user == user]:
            self.Logout(session)

    @method()
    def Check(self, session: "s"):
        self._find(session).last_active = int(time.time())

    @method()
    def ChangePassword(self, session: "s", old_password: "s", new_password: "s"):
        user = self._find(session).user
        if self._passwords[user] != old_password:
            raise Error("AuthenticationFailed", "s", user)
        self._passwords[user] = new_password

    @method()
    def Stat(self, subject: "s") -> "ssssxbxsa{ss}sssasasbb":
        found = self._find(subject)
        times = (found.last_active, found.user in self._passwords, found.created)
        known = [found.uuid, sample.ref(sample.HOST), sample.USER_REF, found.user, *times, "", dict(found.other_config)]
        return [*known, NULL_REF, "", NULL_REF, [], [], False, False]

    @method()
    def GetByUuid(self, uuid: "s") -> "s":
        for session, found in self.sessions.items():
            if found.uuid == uuid:
                return session
        raise Error("UuidInvalid", "ss", "session", uuid)

    @method()
    def GetUsers(self) -> "as":
        return sorted({each.user for each in self.sessions.values()})

    @method()
    def SetOtherConfig(self, subject: "s", value: "a{ss}"):
        self._find(subject).other_config = value

    @method()
    def AddToOtherConfig(self, subject: "s", key: "s", value: "s"):
        found = self._find(subject)
        if key in found.other_config:
            raise Error("MapDuplicateKey", "ssss", "session", "other_config", subject, key)
        found.other_config = {**found.other_config, key: value}

    @method()
    def RemoveFromOtherConfig(self, subject: "s", key: "s"):
        found = self._find(subject)
        found.other_config = {name: each for name, each in found.other_config.items() if name != key}

    @signal()
    def Closed(self, user: str) -> "s":
        return user

    def _find(self, session: str) -> Session:
        if session not in self.sessions:
            raise Error("SessionInvalid", "s", session)
        return self.sessions[session]
