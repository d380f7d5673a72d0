"""`errors` tables -> the function that translates D-Bus errors. Knows no parameter but by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from gateway.core import names, shaping
from gateway.core.binding import Plan, parameter
from gateway.core.model import Call, Fault, Value
from gateway.core.shaping import ErrorEntry, Part
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.scope import Scope

WORDS = ("name", "message")  # what a template may hold besides parameters and numbers


def check_errors(table: Scope, parameters: Collection[str]) -> None:
    """Note error names of bad grammar, and templates that name none of these parameters."""
    for name in table.data or ():
        entry = table.at(name)
        if name != "*":
            entry.attempt(names.error_name, name, level="schema")
        for index, text in enumerate(entry.data.get("args", ())):
            _check_template(entry.at("args", index), text, parameters)
        _check_template(entry.at("message"), entry.data.get("message"), parameters)


def _check_template(scope: Scope, text: object, parameters: Collection[str]) -> None:
    for name in shaping.template_names(text) if isinstance(text, str) else ():
        if not name.isdecimal() and name not in WORDS and name not in parameters:
            hint = did_you_mean(name, parameters) or f" (there are: {one_of(parameters)})"
            scope.fail(f"{{{name}}} is no parameter{hint}")


def compile_errors(tables: list[Scope], plan: Plan) -> Callable[[Fault, Call], Fault]:
    """A translation by several tables, the first one first; "*" of any comes after all names."""
    parameters = {name: parameter(plan, name) for name in plan.names}
    entries: dict[str, ErrorEntry] = {}
    for table in reversed(tables):
        entries.update({name: _entry(data, parameters) for name, data in (table.data or {}).items()})
    return shaping.translator(entries)


def _entry(data: Mapping[str, Value], parameters: Mapping[str, Callable[[Call], Value]]) -> ErrorEntry:
    args = data.get("args", [])
    assert isinstance(args, list)
    message = data.get("message")
    return ErrorEntry(
        str(data["code"]),
        tuple(_part(argument, parameters) for argument in args),
        None if message is None else _part(message, parameters),
    )


def _part(data: Value, parameters: Mapping[str, Callable[[Call], Value]]) -> Part:
    if isinstance(data, str):
        return shaping.template(data, parameters)
    return shaping.constant(data)
