"""The methods of the class `task`, as XenAPI has them, answered by the gateway itself from its tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

from msgspec.structs import replace

from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.interfaces import Dialect
from gateway.core.routing.route import Effect, Route, local_route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.events.hub import OwnObjects
from gateway.mapping.table import EndpointTable
from gateway.pipeline.tasks import Tasks
from gateway.state.task_records import RUNNING, STATUSES, Task

NULL = "OpaqueRef:NULL"
CLASS = "task"
Check: TypeAlias = Callable[[Call], Awaitable[Fault | None]]  # whether the session of a call is valid

_EPOCH = datetime.fromtimestamp(0, UTC)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC) if seconds else _EPOCH


# The fields of a record, as XenAPI has them.
FIELDS: Mapping[str, tuple[str, Callable[[Task], Value]]] = {
    "uuid": ("s", lambda task: task.uuid),
    "name_label": ("s", lambda task: task.name_label),
    "name_description": ("s", lambda task: task.name_description),
    "allowed_operations": ("as", lambda task: ["cancel", "destroy"] if task.status in RUNNING else ["destroy"]),
    "current_operations": ("a{ss}", lambda _task: {}),
    "created": ("s", lambda task: _moment(task.created)),
    "finished": ("s", lambda task: _moment(task.finished)),
    "status": ("s", lambda task: task.status),
    "resident_on": ("s", lambda _task: NULL),
    "progress": ("d", lambda task: task.progress),
    "type": ("s", lambda _task: "<none/>"),
    "result": ("s", lambda task: task.result),
    "error_info": ("as", lambda task: [*task.error_info]),
    "other_config": ("a{ss}", lambda task: dict(task.other_config)),
    "subtask_of": ("s", lambda _task: NULL),
    "subtasks": ("as", lambda _task: []),
    "backtrace": ("s", lambda _task: "()"),
}


def record(task: Task) -> Value:
    """All fields of a task."""
    return {name: read(task) for name, (_, read) in FIELDS.items()}


def _is_number(value: Value) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(value) <= 1  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _is_texts(value: Value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# The fields that clients set: what fits, what is expected, a line of help.
_SETTABLE: Mapping[str, tuple[Callable[[Value], bool], str, str]] = {
    "progress": (_is_number, "a number from 0 to 1", "Set how far it is."),
    "status": (
        lambda value: value in STATUSES,
        f"one of {', '.join(STATUSES)}",
        "Set its status; one that ends it sets the time too.",
    ),
    "result": (lambda value: isinstance(value, str), "text", "Set its result."),
    "error_info": (_is_texts, "an array of texts", "Set its error."),
    "other_config": (
        lambda value: isinstance(value, dict) and _is_texts([*value.values()]),
        "a struct of texts",
        "Replace its further entries.",
    ),
}

# The methods about one task: the parameters after the session, the type of the result, a line of help.
_OF_ONE: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    **{f"get_{name}": (("self",), kind, f"The field {name} of a task.") for name, (kind, _) in FIELDS.items()},
    "get_record": (("self",), "a{sv}", "All fields of a task."),
    **{f"set_{name}": (("self", "value"), "", text) for name, (_, _, text) in _SETTABLE.items()},
    "add_to_other_config": (("self", "key", "value"), "", "Add an entry, which must be new."),
    "remove_from_other_config": (("self", "key"), "", "Remove an entry, if it is there."),
    "cancel": (("task",), "", "Ask for its end. A D-Bus call that was sent goes on, unless its service can cancel it."),
    "destroy": (("self",), "", "Forget it. A call that still runs goes on."),
}

# The other methods.
_OF_ALL: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "get_all": ((), "as", "The references of all tasks."),
    "get_all_records": ((), "a{sv}", "The records of all tasks."),
    "get_by_uuid": (("uuid",), "s", "The task with this UUID."),
    "get_by_name_label": (("label",), "as", "The tasks with this name."),
    "create": (("label", "description"), "s", "Make a task that the client ends."),
}


def task_routes(tasks: Tasks, check: Check) -> Mapping[str, Route]:
    """The methods of the class by name; `check` comes before each answer."""

    def route(member: str, names: tuple[str, ...], kind: str, text: str) -> Route:
        async def answer(call: Call) -> Outcome:
            values = _values(call, ("session", *names))
            if isinstance(values, Fault):
                return values
            return await check(call) or await (_about_one if member in _OF_ONE else _about_all)(tasks, member, values)

        writes = Effect.IDEMPOTENT if member.startswith("set_") else Effect.WRITE
        return local_route(
            f"{CLASS}.{member}",
            answer,
            parameters=tuple(Parameter(each, parse_one("s")) for each in ("session", *names)),
            result=parse_one(kind) if kind else None,
            documentation=text,
            effect=Effect.READ if member.startswith("get_") else writes,
        )

    return {f"{CLASS}.{member}": route(member, *each) for member, each in {**_OF_ONE, **_OF_ALL}.items()}


def _values(call: Call, names: Sequence[str]) -> Sequence[Value] | Fault:
    """The parameters in their order, by position or by name."""
    received = len(call.params) + len(call.named)
    if received != len(names) or not call.named.keys() <= set(names):
        data: Value = {"expected": len(names) - 1, "received": received - 1}
        text = f"{call.method}: expected {len(names)} parameters ({', '.join(names)}), got {received}"
        return Fault(FaultCode.PARAMETER_COUNT, text, data=data)
    rest = iter(call.params)
    return [call.named[name] if name in call.named else next(rest) for name in names]


async def _about_one(tasks: Tasks, member: str, values: Sequence[Value]) -> Outcome:
    """Answer a call about one task; `values`: the session, the reference, and the rest."""
    ref = values[1]
    elsewhere = await tasks.others.answer(ref, f"{CLASS}.{member}", values)
    if elsewhere is not None:
        return elsewhere
    task = await tasks.find(ref) if isinstance(ref, str) else None
    if task is None:
        data: Value = [CLASS, ref if isinstance(ref, str) else type(ref).__name__]
        return Fault(FaultCode.APPLICATION, "no such task", name="HANDLE_INVALID", data=data)
    return task if isinstance(task, Fault) else await _answer(tasks, task, member, values[2:])


async def answer_worker(tasks: Tasks, method: str, values: Sequence[Value]) -> Outcome | None:
    """Answer a call that another worker has received, and whose session it has checked; None: there is no such task."""
    ref = values[1]
    task = await tasks.find(ref) if isinstance(ref, str) and tasks.is_own(ref) else None
    return await _answer(tasks, task, method.removeprefix(f"{CLASS}."), values[2:]) if isinstance(task, Task) else None


async def _answer(tasks: Tasks, task: Task, member: str, values: Sequence[Value]) -> Outcome:
    """Answer a call about a task that was found; `values` come after its reference."""
    action, _, field = member.partition("_")
    if action == "get":
        return Reply(record(task) if field == "record" else FIELDS[field][1](task))
    refused: Fault | None = None
    match action:
        case "set":
            fits, expected, _ = _SETTABLE[field]
            value = values[0]
            if not fits(value):
                return Fault(FaultCode.INVALID_PARAMS, f"$.params[2]: expected {expected}, got {value!r:.100}")
            refused = await tasks.change(task, field, float(value) if field == "progress" else value)  # type: ignore[arg-type]
        case "add":
            key, value = values
            if not isinstance(key, str) or not isinstance(value, str):
                return Fault(FaultCode.INVALID_PARAMS, "$.params[2]: expected a key and a value that are text")
            if key in task.other_config:
                data: Value = [CLASS, "other_config", task.ref, key]
                return Fault(FaultCode.APPLICATION, f"the key '{key}' is there", name="MAP_DUPLICATE_KEY", data=data)
            refused = await tasks.change(task, "other_config", {**task.other_config, key: value})
        case "remove":
            rest: Value = {key: value for key, value in task.other_config.items() if key != values[0]}
            refused = await tasks.change(task, "other_config", rest)
        case "cancel":
            refused = await tasks.cancel(task)
        case _:
            refused = await tasks.destroy(task)
    return refused or Reply(None)


async def _about_all(tasks: Tasks, member: str, values: Sequence[Value]) -> Outcome:
    match member:
        case "get_all":
            return Reply([task.ref for task in await tasks.every()])
        case "get_all_records":
            return Reply({task.ref: record(task) for task in await tasks.every()})
        case "get_by_name_label":
            return Reply([task.ref for task in await tasks.every() if task.name_label == values[1]])
        case "get_by_uuid":
            uuid = str(values[1])
            task = await tasks.find(f"OpaqueRef:{uuid}")
            if task is None:
                return Fault(FaultCode.APPLICATION, "no such task", name="UUID_INVALID", data=[CLASS, uuid])
        case _:
            owner, label, description = (value if isinstance(value, str) else "" for value in values)
            task = await tasks.create(label, owner, description)
    return task if isinstance(task, Fault) else Reply(task.ref)


def with_own(tasks: Tasks, method: str, outcome: Outcome) -> Outcome:
    """What a service tells of all tasks, with those of the gateway: clients know both by the same events."""
    found = outcome.value if isinstance(outcome, Reply) else None
    if method == f"{CLASS}.get_all" and isinstance(found, list):
        return Reply([*found, *(task.ref for task in _all(tasks) if task.ref not in found)])
    if method == f"{CLASS}.get_all_records" and isinstance(found, dict):
        return Reply({**found, **{task.ref: record(task) for task in _all(tasks)}})
    return outcome


def _all(tasks: Tasks) -> list[Task]:
    return [*tasks.others.known(), *tasks.own()]


class TaskObjects(OwnObjects):
    """The tasks of the gateway, of all of its workers, as objects that have events."""

    name = CLASS

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def follow(self, tell: Callable[[str, Callable[[], Value] | None], object]) -> None:
        """See OwnObjects."""
        for task in _all(self._tasks):
            tell(task.ref, partial(record, task))
        for source in (self._tasks, self._tasks.others):
            source.subscribe(lambda task, is_gone: tell(task.ref, None if is_gone else partial(record, task)))


class TaskMethods:
    """The methods of the class at one endpoint, in each spelling of their names; `tasks` None: there are none.

    `is_shared`: others answer for tasks too, so calls about those of a gateway must not reach them.
    """

    def __init__(self, tasks: Tasks | None, table: EndpointTable, check: Check) -> None:
        self._tasks = tasks
        self._passes = table.passthrough_to is not None
        self.routes: Mapping[str, Route] = {} if tasks is None else task_routes(tasks, check)
        self._spelled = table.spelling.index(self.routes)
        self._forms: dict[str, Route] = {}
        self.is_shared = bool(self.routes) and (self._passes or not self.routes.keys().isdisjoint(table.routes))

    def route(self, call: Call, *, is_mapped: bool) -> Route | None:
        """The route of a call that the gateway answers.

        It answers those about its own tasks. Of the others it answers those that no mapping and no legacy service does.
        """
        name = self._name(call)
        if name is None or self._tasks is None:
            return None
        served = is_mapped or self._passes
        return None if served and not self._tasks.knows(_about(call)) else self.routes[name]

    def form(self, route: Route, prefix: str) -> Route:
        """The route of a form that returns a task: counted under its own name, and a write like any new task."""
        name = prefix + route.method
        task = self._forms.get(name)
        if task is None or task.task_of is not route:
            task = self._forms[name] = replace(
                route,
                method=name,
                effect=Effect.WRITE,
                result=None,
                login=None,
                aliases=(),
                task_of=route,
                session_check=None,  # made before the task
            )
        return task

    async def look_up(self, entries: Iterable[Call | Fault], dialect: Dialect) -> None:
        """Read from the state file whether another gateway has begun the tasks that these calls are about."""
        for entry in entries:
            if not isinstance(entry, Fault) and self._name(entry) is not None and self._tasks is not None:
                await self._tasks.look_up(_about(dialect.unwrap_call(entry)))

    def _name(self, call: Call) -> str | None:
        return call.method if call.method in self.routes else self._spelled.get(call.method)


def _about(call: Call) -> Value:
    """The task that a call is about."""
    return call.params[1] if len(call.params) > 1 else call.named.get("self", call.named.get("task"))
