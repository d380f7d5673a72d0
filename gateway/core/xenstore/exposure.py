"""The place in a xenstore where the methods of an endpoint are reached: path, style, and domains that may call."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from gateway.core.rpc.model import Value
from gateway.core.xenstore.paths import Template

DOM0 = 0  # may always call: it can read and write every node
HOUR = 3600.0  # seconds


class Domains(Struct, frozen=True):
    """The domains that may call, besides domain 0."""

    numbers: frozenset[int] = frozenset()
    named: frozenset[str] = frozenset()  # parameters of the path whose value is the domid
    everyone: bool = False

    def allow(self, caller: int, parameters: Mapping[str, Value]) -> bool:
        """Whether this domain may call. `parameters` include those of the path."""
        if caller == DOM0 or self.everyone or caller in self.numbers:
            return True
        return any(parameters.get(name) == str(caller) for name in self.named)


DOM0_ALONE = Domains()


class StateWords(Struct, frozen=True):
    """The words in a state node: for a request that is committed, taken, done, or failed.

    An empty word: nothing is written at that moment.
    """

    node: str = "state"
    commit: str = ""
    in_progress: str = ""
    done: str = ""
    failed: str = ""
    truncated: str = ""  # done, but a value was cut to `limit` bytes
    limit: int = 0


class Exposure(Struct, frozen=True):
    """One `expose` entry of a mapping that names a style. The meaning of some fields depends on the style."""

    style: str
    path: Template
    domains: Domains = DOM0_ALONE
    response_ttl: float | None = HOUR  # seconds after which a response that is still there is removed; None: never
    method: str = ""  # called for every word; empty: the word is the method
    parameters: tuple[str, ...] = ()  # nodes beside the word that are parameters
    states: StateWords | None = None
    answers: tuple[tuple[str, StateWords], ...] = ()  # by method
