"""Where in a xenstore the methods of an endpoint are reached, in which style, and by which domains; knows no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.rpc.model import Value
from gateway.core.xenstore.paths import Template

DOM0 = 0  # may always call: nothing in the store is hidden from it or safe from it
HOUR = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Domains:
    """Which domains may call, besides domain 0."""

    numbers: frozenset[int] = frozenset()
    named: frozenset[str] = frozenset()  # parameters of the path: the domain that it names so
    everyone: bool = False

    def allow(self, asks: int, parameters: Mapping[str, Value]) -> bool:
        """Whether this domain may; the path's parameters are among `parameters`."""
        if asks == DOM0 or self.everyone or asks in self.numbers:
            return True
        return any(parameters.get(name) == str(asks) for name in self.named)


DOM0_ALONE = Domains()


@dataclass(frozen=True, slots=True)
class StateWords:
    """What a state node says: while a request is not taken, when it is, and when it is done, well or not.

    Empty: nothing is written there at this moment.
    """

    node: str = "state"
    commit: str = ""
    in_progress: str = ""
    done: str = ""
    failed: str = ""
    truncated: str = ""  # done, but a value was cut to `limit` bytes
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """One `expose` entry of a mapping that names a style. Which fields say something depends on the style."""

    style: str
    path: Template
    domains: Domains = DOM0_ALONE
    response_ttl: float | None = HOUR  # seconds after which an answer that nobody took is removed; None: never
    method: str = ""  # called whatever the word is
    parameters: tuple[str, ...] = ()  # nodes beside the word that are read too
    states: StateWords | None = None
    answers: tuple[tuple[str, StateWords], ...] = ()  # by method
