"""A mapping entry with nothing left to parse, a class of objects, and the record of a call that has ended.

`mapping/compiler.py` makes routes from mapping files. A route's target is a D-Bus member, a D-Bus property, or a local
answer, which the gateway gives itself. All three are planned, counted, logged and access-checked in the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NoReturn, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import MethodCall, OwnConnection, Parameter, PropertyTarget, Target
from gateway.core.migration.modes import UNMOVED, Migration, Side
from gateway.core.migration.rollout_plan import DEFAULT_FOR_WRITES, RolloutPlan
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Value
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling
from gateway.core.xenstore.paths import Domains

LOCAL_SERVICE = "gateway"  # the service of all local routes in logs and metrics


class Effect(Enum):
    """What running a call twice would do."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    WRITE = "write"


class LocalTarget(Struct, frozen=True):
    """The gateway answers the call itself. `answer` may take until the route's timeout."""

    answer: Callable[[Call], Awaitable[Outcome]]

    def __str__(self) -> str:
        return "the gateway itself"


class SessionLimits(Struct, frozen=True):
    """When the sessions of a login end by themselves."""

    idle: float = 0.0  # seconds without a call; 0: never
    most: int = 0  # of one user and originator; the least recently used one ends; 0: no limit
    originator: Callable[[Call], str | None] | None = None  # the program that a login names


class TaskObject(Struct, frozen=True):
    """How a D-Bus object that stands for an operation is followed. Both routes have its path as their one parameter.

    `read` gives {status, progress, result, error}; the error is a D-Bus error name and its arguments. `notify` gets the
    progress, and the function that asks the object to end, where it can.
    """

    read: Route
    cancel: Route | None = None
    notify: Callable[[float, Callable[[], Awaitable[Outcome]] | None], object] | None = None


RouteTarget: TypeAlias = Target | PropertyTarget | LocalTarget

# Reads from a call what of the result it asks for: a function from the decoded result to the outcome, or a fault.
Select: TypeAlias = Callable[[Call], "Callable[[Value], Outcome] | Fault"]


class Route(Struct, frozen=True):
    """One legacy method and its target."""

    service: str  # its name in logs and commands: "xenopsd"
    method: str  # the name the client uses
    target: RouteTarget
    parameters: tuple[Parameter, ...]
    result: Type | None  # the legacy result, as the D-Bus type nearest to it; None is void
    encode_arguments: Callable[[Call], MethodCall]  # raises MarshalError or ParameterCountError
    decode_result: Callable[[Sequence[object]], Value]  # body of the method return -> result; raises MarshalError
    map_error: Callable[[Fault, Call], Fault]  # a fault with a D-Bus error name -> the fault that the client gets
    further: tuple[str, ...] = ()  # GetAll is called for these interfaces too; an object may lack them
    connection: OwnConnection | None = None  # set where objects belong to the bus connection that made them
    timeout: float = 60.0  # seconds
    effect: Effect = Effect.WRITE
    migration: Migration = UNMOVED  # which side answers, and how that may change
    rollout: RolloutPlan = DEFAULT_FOR_WRITES  # the steps of an automatic rollout, once a person starts it
    documentation: str = ""
    source: str = ""  # "mappings/xenopsd.yaml:12"
    aliases: tuple[str, ...] = ()  # older names of the same method
    domains: Domains | None = None  # the domains that may call it over a xenstore; None: those of the endpoint
    task_of: Route | None = None  # set on the form of a call that returns a task: the route of the call itself
    has_task_form: bool = True  # whether there is such a form, in a dialect with tasks: the call may run long
    spelling: MethodSpelling = AS_WRITTEN  # the other forms of the name, at the endpoints of its file
    select: Select | None = None  # what of the result the client asked for
    session_check: Route | None = None  # called first with the same call; its fault is the answer
    session: Callable[[Call], str | None] | None = None  # the session that a call uses
    login: Callable[[Call], str | None] | None = None  # the user that a login names; its result is the session
    follows: TaskObject | None = None  # the reply is the path of an object that stands for the operation
    session_over: str = ""  # of a session check: the D-Bus error of a session that has ended
    session_limits: SessionLimits = SessionLimits()  # of a login
    root_login: Route | None = None  # of a login: what root calls in its place over a trusted socket
    closes: Callable[[Call], str | None] | None = None  # the session that a logout closes
    waits: bool = False  # it waits for something to happen, so it takes no place of calls that work
    events: str = ""  # the gateway answers with events of the objects of the service: "From", "Next"
    fingerprint: str = ""  # changes with anything in the mapping that this route depends on
    is_direct: bool = False  # one D-Bus call answers it: no session check before it, no waiting; follows from the rest

    def __post_init__(self) -> None:
        is_direct = self.session_check is None and not self.waits and self.follows is None
        force_setattr(self, "is_direct", is_direct)

    @property
    def forms(self) -> tuple[str, ...]:
        """All other forms of the name: `VM_start` and `Async.VM.start` for `VM.start`."""
        return self.spelling.forms(self.method, tasks=self.has_task_form)

    @property
    def bus_target(self) -> Target:
        """The D-Bus target. Only for routes that have one."""
        assert isinstance(self.target, Target), f"{self.method} has no D-Bus target"
        return self.target


def encode_arguments(route: Route, call: Call) -> MethodCall | Fault:
    """Encode a call as a D-Bus method call; returns a fault that names the parameter where it cannot be encoded."""
    try:
        return route.encode_arguments(call)
    except MarshalError as error:
        return Fault(FaultCode.INVALID_PARAMS, str(error))
    except ParameterCountError as error:
        counts: dict[str, Value] = {"expected": error.expected, "received": error.received}
        missing: dict[str, Value] = {"missing": error.missing} if error.missing else {}
        return Fault(FaultCode.PARAMETER_COUNT, str(error), data={**counts, **missing})


def local_route(
    method: str,
    answer: Callable[[Call], Awaitable[Outcome]],
    *,
    service: str = LOCAL_SERVICE,
    parameters: tuple[Parameter, ...] = (),
    result: Type | None = None,
    documentation: str = "",
    migration: Migration = UNMOVED,
    effect: Effect = Effect.READ,
) -> Route:
    """A route that has no D-Bus side. With an upstream in `migration` a legacy service may answer in its place."""

    def unused(*_: object) -> NoReturn:
        raise AssertionError(f"{method} has no D-Bus side")

    return Route(
        service,
        method,
        LocalTarget(answer),
        parameters,
        result,
        unused,
        unused,
        unused,
        effect=effect,
        migration=migration,
        documentation=documentation,
        source="built in",
    )


# The properties of an object as D-Bus has them: each value is a variant.
Properties: TypeAlias = Mapping[str, Any]


class ObjectClass(Struct, frozen=True, eq=False):
    """One class. Its objects are at `before` + one path element + `after`, and have the interface.

    `record` is the same converter as that of `get_record`; it raises MarshalError. `key` gives the reference.
    """

    service: str  # of the mapping file
    name: str  # "VM"
    bus_name: str
    manager: str  # the path of the ObjectManager
    before: str
    after: str
    interface: str
    key: Callable[[str, Properties], str | None]
    record: Callable[[Properties], Value]
    routes: tuple[Route, ...]  # `get_record` and the like: where one is off, the class has no events
    fingerprint: str = ""  # changes with anything in the mapping that the records depend on

    def has(self, path: str) -> bool:
        """Whether an object with the interface at this path is of the class."""
        if not path.startswith(self.before) or not path.endswith(self.after):
            return False
        element = path[len(self.before) : len(path) - len(self.after)]
        return bool(element) and "/" not in element

    def reference(self, path: str, properties: Properties) -> str:
        """The reference of an object; its path where it has none."""
        return self.key(path, properties) or path


class CallFinished(msgspec.Struct, frozen=True):
    """A call that has ended: what the log, the metrics, the call statistics and recordings are made of.

    `view` gives an outcome as the client of this call reads it in its own protocol; None where `outcome` is that
    already, because a legacy service's bytes were passed through. `started`: by perf_counter; 0 if no side was called.
    `received`, `sent`: bytes from and to the client of a request that was streamed.
    """

    route: Route
    call: Call
    outcome: Outcome
    side: Side | None  # the side that answered; None: the gateway itself, or the call was refused
    seconds: float
    view: Callable[[Outcome], Outcome] | None = None
    started: float = 0.0
    received: int = 0
    sent: int = 0


CallListener: TypeAlias = Callable[[CallFinished], object]
