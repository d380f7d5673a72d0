"""Remembers the user of each session: a login names the user, and later calls name only the session."""

from __future__ import annotations

from collections import OrderedDict

from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import Call, Reply

CAPACITY = 100_000  # sessions; the least recently used one is forgotten first


class Sessions:
    """The users of the sessions that were opened through this process."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._users: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def learn(self, finished: CallFinished) -> None:
        """Remember the session that a login has returned, if `finished` is one."""
        route, outcome = finished.route, finished.outcome
        if route.login is None or not isinstance(outcome, Reply) or not isinstance(outcome.value, str):
            return
        user = route.login(finished.call)
        if user:
            self._users[outcome.value] = user
            self._users.move_to_end(outcome.value)
            if len(self._users) > self._capacity:
                self._users.popitem(last=False)

    def user(self, route: Route, call: Call) -> str:
        """The user of the session that a call uses, or that a login names; empty when it is not known."""
        if not self._users or route.session is None:
            return (route.login(call) or "") if route.login is not None else ""
        session = route.session(call)
        user = self._users.get(session, "") if session is not None else ""
        if user and session is not None:
            self._users.move_to_end(session)
        return user
