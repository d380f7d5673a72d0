"""Remembers whose session is whose, as logins go by: old protocols tell the user once, and the session ever after."""

from __future__ import annotations

from collections import OrderedDict

from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Outcome, Reply

MOST = 100_000  # sessions; those that were used longest ago are forgotten first


class Sessions:
    """The users of sessions that were opened through this process."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._users: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def learn(self, route: Route, call: Call, outcome: Outcome) -> None:
        """A call has ended; when it was a login that worked, its result is the session of the user it named."""
        if route.login is None or not isinstance(outcome, Reply) or not isinstance(outcome.value, str):
            return
        user = route.login(call)
        if user:
            self._users[outcome.value] = user
            self._users.move_to_end(outcome.value)
            if len(self._users) > self._most:
                self._users.popitem(last=False)

    def user(self, route: Route, call: Call) -> str:
        """Whose session a call uses; empty when that is not known."""
        if not self._users or route.session is None:
            return (route.login(call) or "") if route.login is not None else ""
        session = route.session(call)
        user = self._users.get(session, "") if session is not None else ""
        if user and session is not None:
            self._users.move_to_end(session)
        return user
