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
_Answer: TypeAlias = Callable[[Tasks, Task, Sequence[Value]], Awaitable[Outcome]]

_EPOCH = datetime.fromtimestamp(0, UTC)

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


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC) if seconds else _EPOCH


def record(task: Task) -> Value:
    """All fields of a task."""
    return {name: read(task) for name, (_, read) in FIELDS.items()}


class TaskObjects(OwnObjects):
    """The tasks of the gateway, of all of its workers, as objects that have events."""

    name = CLASS

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def records(self) -> Mapping[str, Callable[[], Value]]:
        """See OwnObjects."""
        return {task.ref: partial(record, task) for task in _all(self._tasks)}

    def subscribe(self, tell: Callable[[str, Callable[[], Value] | None], object]) -> None:
        """See OwnObjects."""
        for source in (self._tasks, self._tasks.others):
            source.subscribe(lambda task, is_gone: tell(task.ref, None if is_gone else partial(record, task)))


def _all(tasks: Tasks) -> list[Task]:
    return [*tasks.others.known(), *tasks.own()]


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
            task = replace(
                route,
                method=name,
                effect=Effect.WRITE,
                result=None,
                login=None,
                aliases=(),
                task_of=route,
                session_check=None,  # made before the task
            )
            self._forms[name] = task
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


def with_own(tasks: Tasks, method: str, outcome: Outcome) -> Outcome:
    """What a service tells of all tasks, with those of the gateway: clients know both by the same events."""
    add = _WITH_OWN.get(method) if isinstance(outcome, Reply) else None
    return outcome if add is None or not isinstance(outcome, Reply) else Reply(add(tasks, outcome.value))


def _add_refs(tasks: Tasks, found: Value) -> Value:
    return [*found, *(task.ref for task in _all(tasks) if task.ref not in found)] if isinstance(found, list) else found


def _add_records(tasks: Tasks, found: Value) -> Value:
    return {**found, **{task.ref: record(task) for task in _all(tasks)}} if isinstance(found, dict) else found


_WITH_OWN: Mapping[str, Callable[[Tasks, Value], Value]] = {
    f"{CLASS}.get_all": _add_refs,
    f"{CLASS}.get_all_records": _add_records,
}


def task_routes(tasks: Tasks, check: Check) -> Mapping[str, Route]:
    """The methods of the class by name; `check` comes before each answer."""
    of_one = {
        name: _route(name, ("session", *names), partial(_about_one, tasks, name, answer), kind, text, check)
        for name, (names, answer, kind, text) in _about_tasks().items()
    }
    of_all = {
        f"{CLASS}.{name}": _route(f"{CLASS}.{name}", ("session", *names), partial(answer, tasks), kind, text, check)
        for name, (names, answer, kind, text) in _OF_ALL.items()
    }
    return {**of_one, **of_all}


def _about_tasks() -> Mapping[str, tuple[tuple[str, ...], _Answer, str, str]]:
    """The methods about one task: the parameters after the session, the answer, its type, a line of help."""
    made: dict[str, tuple[tuple[str, ...], _Answer, str, str]] = {
        f"{CLASS}.get_{name}": (("self",), partial(_get, read), kind, f"The field {name} of a task.")
        for name, (kind, read) in FIELDS.items()
    }
    made[f"{CLASS}.get_record"] = (("self",), partial(_get, record), "a{sv}", "All fields of a task.")
    made.update({f"{CLASS}.{name}": (names, answer, "", text) for name, (names, answer, text) in _CHANGES.items()})
    return made


async def answer_worker(tasks: Tasks, method: str, values: Sequence[Value]) -> Outcome | None:
    """Answer a call that another worker has received, and whose session it has checked; None: there is no such task."""
    ref = values[1]
    task = await tasks.find(ref) if isinstance(ref, str) and tasks.is_own(ref) else None
    return await _about_tasks()[method][1](tasks, task, values[2:]) if isinstance(task, Task) else None


def _route(
    name: str,
    names: Sequence[str],
    answer: Callable[[Sequence[Value]], Awaitable[Outcome]],
    kind: str,
    documentation: str,
    check: Check,
) -> Route:
    async def answer_call(call: Call) -> Outcome:
        values = _values(call, names)
        return values if isinstance(values, Fault) else await check(call) or await answer(values)

    member = name.partition(".")[2]
    writes = Effect.IDEMPOTENT if member.startswith("set_") else Effect.WRITE
    return local_route(
        name,
        answer_call,
        parameters=tuple(Parameter(each, parse_one("s")) for each in names),
        result=parse_one(kind) if kind else None,
        documentation=documentation,
        effect=Effect.READ if member.startswith("get_") else writes,
    )


def _values(call: Call, names: Sequence[str]) -> Sequence[Value] | Fault:
    """The parameters in their order, by position or by name."""
    received = len(call.params) + len(call.named)
    if received != len(names) or not call.named.keys() <= set(names):
        data: Value = {"expected": len(names) - 1, "received": received - 1}
        text = f"{call.method}: expected {len(names)} parameters ({', '.join(names)}), got {received}"
        return Fault(FaultCode.PARAMETER_COUNT, text, data=data)
    rest = iter(call.params)
    return [call.named[name] if name in call.named else next(rest) for name in names]


async def _get(read: Callable[[Task], Value], _tasks: Tasks, task: Task, _values: Sequence[Value]) -> Outcome:
    return Reply(read(task))


async def _set(
    field: str, fits: Callable[[Value], bool], expected: str, tasks: Tasks, task: Task, values: Sequence[Value]
) -> Outcome:
    value = values[0]
    if not fits(value):
        return Fault(FaultCode.INVALID_PARAMS, f"$.params[2]: expected {expected}, got {value!r:.100}")
    kept = float(value) if field == "progress" else value  # type: ignore[arg-type]
    return await tasks.change(task, field, kept) or Reply(None)


async def _cancel(tasks: Tasks, task: Task, _values: Sequence[Value]) -> Outcome:
    return await tasks.cancel(task) or Reply(None)


async def _destroy(tasks: Tasks, task: Task, _values: Sequence[Value]) -> Outcome:
    return await tasks.destroy(task) or Reply(None)


async def _add_to_other_config(tasks: Tasks, task: Task, values: Sequence[Value]) -> Outcome:
    key, value = values
    if not isinstance(key, str) or not isinstance(value, str):
        return Fault(FaultCode.INVALID_PARAMS, "$.params[2]: expected a key and a value that are text")
    if key in task.other_config:
        data: Value = [CLASS, "other_config", task.ref, key]
        return Fault(FaultCode.APPLICATION, f"the key '{key}' is there", name="MAP_DUPLICATE_KEY", data=data)
    return await tasks.change(task, "other_config", {**task.other_config, key: value}) or Reply(None)


async def _remove_from_other_config(tasks: Tasks, task: Task, values: Sequence[Value]) -> Outcome:
    rest: Value = {key: value for key, value in task.other_config.items() if key != values[0]}
    return await tasks.change(task, "other_config", rest) or Reply(None)


def _is_number(value: Value) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(value) <= 1  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _is_texts(value: Value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_text_map(value: Value) -> bool:
    return isinstance(value, dict) and _is_texts([*value.values()])


# What changes a task: the parameters after the session, the answer, a line of help.
_CHANGES: Mapping[str, tuple[tuple[str, ...], _Answer, str]] = {
    "set_progress": (
        ("self", "value"),
        partial(_set, "progress", _is_number, "a number from 0 to 1"),
        "Set how far it is.",
    ),
    "set_status": (
        ("self", "value"),
        partial(_set, "status", lambda value: value in STATUSES, f"one of {', '.join(STATUSES)}"),
        "Set its status; one that ends it sets the time too.",
    ),
    "set_result": (
        ("self", "value"),
        partial(_set, "result", lambda value: isinstance(value, str), "text"),
        "Set its result.",
    ),
    "set_error_info": (
        ("self", "value"),
        partial(_set, "error_info", _is_texts, "an array of texts"),
        "Set its error.",
    ),
    "set_other_config": (
        ("self", "value"),
        partial(_set, "other_config", _is_text_map, "a struct of texts"),
        "Replace its further entries.",
    ),
    "add_to_other_config": (("self", "key", "value"), _add_to_other_config, "Add an entry, which must be new."),
    "remove_from_other_config": (("self", "key"), _remove_from_other_config, "Remove an entry, if it is there."),
    "cancel": (
        ("task",),
        _cancel,
        "Ask for its end. A D-Bus call that was sent goes on, unless its service can cancel it.",
    ),
    "destroy": (("self",), _destroy, "Forget it. A call that still runs goes on."),
}


async def _about_one(tasks: Tasks, method: str, answer: _Answer, values: Sequence[Value]) -> Outcome:
    ref = values[1]
    elsewhere = await tasks.others.answer(ref, method, values)
    if elsewhere is not None:
        return elsewhere
    task = await tasks.find(ref) if isinstance(ref, str) else None
    if task is None:
        data: Value = [CLASS, ref if isinstance(ref, str) else type(ref).__name__]
        return Fault(FaultCode.APPLICATION, "no such task", name="HANDLE_INVALID", data=data)
    if isinstance(task, Fault):
        return task
    return await answer(tasks, task, values[2:])


async def _get_all(tasks: Tasks, _values: Sequence[Value]) -> Outcome:
    return Reply([task.ref for task in await tasks.every()])


async def _get_all_records(tasks: Tasks, _values: Sequence[Value]) -> Outcome:
    return Reply({task.ref: record(task) for task in await tasks.every()})


async def _get_by_uuid(tasks: Tasks, values: Sequence[Value]) -> Outcome:
    uuid = str(values[1])
    task = await tasks.find(f"OpaqueRef:{uuid}")
    if task is None:
        return Fault(FaultCode.APPLICATION, "no such task", name="UUID_INVALID", data=[CLASS, uuid])
    return task if isinstance(task, Fault) else Reply(task.ref)


async def _get_by_name_label(tasks: Tasks, values: Sequence[Value]) -> Outcome:
    return Reply([task.ref for task in await tasks.every() if task.name_label == values[1]])


async def _create(tasks: Tasks, values: Sequence[Value]) -> Outcome:
    owner, label, description = (value if isinstance(value, str) else "" for value in values)
    task = await tasks.create(label, owner, description)
    return task if isinstance(task, Fault) else Reply(task.ref)


# The methods that are not about one task: the parameters after the session, the answer, its type, a line of help.
_OF_ALL: Mapping[str, tuple[tuple[str, ...], Callable[[Tasks, Sequence[Value]], Awaitable[Outcome]], str, str]] = {
    "get_all": ((), _get_all, "as", "The references of all tasks."),
    "get_all_records": ((), _get_all_records, "a{sv}", "The records of all tasks."),
    "get_by_uuid": (("uuid",), _get_by_uuid, "s", "The task with this UUID."),
    "get_by_name_label": (("label",), _get_by_name_label, "as", "The tasks with this name."),
    "create": (("label", "description"), _create, "s", "Make a task that the client ends."),
}
