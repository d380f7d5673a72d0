"""A mapping entry with nothing left to parse: what `mapping/compiler.py` makes and everybody else only reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import MethodCall, Parameter, Target
from gateway.core.migration.modes import UNMOVED, Migration
from gateway.core.migration.rollout_plan import DEFAULT_FOR_WRITES, RolloutPlan
from gateway.core.rpc.model import Call, Fault, Value
from gateway.core.xenstore.exposure import Domains


class Effect(Enum):
    """What running a call twice would do."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Route:
    """One legacy method and its target."""

    service: str  # its name in logs and commands: "xenopsd"
    method: str  # the name the client uses
    target: Target
    parameters: tuple[Parameter, ...]
    result: Type | None  # the legacy result, as the D-Bus type nearest to it; None is void
    bind: Callable[[Call], MethodCall]  # raises MarshalError or ParameterCountError
    shape: Callable[[Sequence[object]], Value]  # body of the method return -> result; raises MarshalError
    translate: Callable[[Fault, Call], Fault]  # a fault with a D-Bus error name -> the fault the client is told
    timeout: float = 60.0  # seconds
    effect: Effect = Effect.WRITE
    migration: Migration = UNMOVED  # who answers, and how that may change
    rollout: RolloutPlan = DEFAULT_FOR_WRITES  # how that changes by itself, once a person starts it
    documentation: str = ""
    source: str = ""  # "mappings/xenopsd.yaml:12"
    aliases: tuple[str, ...] = ()  # old spellings that lead here too
    domains: Domains | None = None  # who may call it over a xenstore; None: whoever may call at the endpoint
    task_of: Route | None = None  # of a form of a call that returns a task: the route of the call itself
    guard: Route | None = None  # called first with the same call; its fault is the answer (a session check)
    session: Callable[[Call], str | None] | None = None  # the session that a call uses
    opens: Callable[[Call], str | None] | None = None  # a login: the user that it names; its result is the session
    fingerprint: str = ""  # another one when anything in the mapping changes that this route depends on


def unmapped_route(name: str) -> Route:
    """A route for what no mapping knows: it leads nowhere on the bus."""

    def nowhere(*_: object) -> NoReturn:
        raise AssertionError("a method that is not mapped has no D-Bus side")

    return Route(name, name, Target("", "", "", "", "", ""), (), None, nowhere, nowhere, nowhere)
