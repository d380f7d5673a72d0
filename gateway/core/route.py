"""A mapping entry with nothing left to parse: what `mapping/compile.py` makes and everybody else only reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NoReturn, TypeAlias

from gateway.core.exposure import Domains
from gateway.core.frozen import value
from gateway.core.migration import UNMOVED, Migration
from gateway.core.model import Call, Fault, Value
from gateway.core.rollout import DEFAULT_FOR_WRITES, RolloutPlan
from gateway.core.signature import Type

Coerce: TypeAlias = Literal["strict", "legacy"]  # legacy: numbers and booleans may also arrive as text
Variants: TypeAlias = Literal["plain", "typed"]  # typed: {"signature": "u", "value": 5}, nothing inferred


class Effect(Enum):
    """What running a call twice would do."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Target:
    """The D-Bus side, in the order of `busctl call`; `object_path` may hold {parameter}."""

    bus_name: str
    object_path: str
    interface: str
    member: str
    signature: str
    reply_signature: str

    def __str__(self) -> str:
        return f"{self.bus_name} {self.object_path} {self.interface}.{self.member}"


@value
class MethodCall:
    """A D-Bus method call whose every name and value has been checked against the specification."""

    bus_name: str
    object_path: str
    interface: str
    member: str
    signature: str
    body: Sequence[object] = ()


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to hear of one service: a signal, or changes of properties. Names are checked as those of a MethodCall."""

    bus_name: str
    object_path: str  # never "/" together with `below`: that would be the whole bus
    interface: str
    member: str = ""  # a signal; empty: the properties
    signature: str = ""  # of the signal; one that says something else is not passed on
    properties: Mapping[str, str] = field(
        default_factory=dict
    )  # name -> signature; a value of another is "invalidated"
    below: bool = False  # objects below the path too


@dataclass(frozen=True, slots=True)
class Parameter:
    """One positional parameter of the legacy method, for help texts and signatures."""

    name: str
    type: Type | None  # the D-Bus type it becomes; None for a parameter that is dropped, or is taken apart
    required: bool = True
    documentation: str = ""


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


def unmapped(name: str) -> Route:
    """A route for what no mapping knows: it leads nowhere on the bus."""

    def nowhere(*_: object) -> NoReturn:
        raise AssertionError("a method that is not mapped has no D-Bus side")

    return Route(name, name, Target("", "", "", "", "", ""), (), None, nowhere, nowhere, nowhere)
