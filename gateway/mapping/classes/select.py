"""What a method of a class returns where it is not the whole result of its D-Bus call.

`get_all` returns the keys of the records, a field that the service does not have returns its default, and lookups
return the records that the client asks for: those read the call, so they are the `select` of a route.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from msgspec.structs import replace

from gateway.core.dbus.arguments import ArgumentPlan, parameter
from gateway.core.dbus.record_query import QueryError, compile_query
from gateway.core.dbus.scalars import quoted
from gateway.core.dbus.signature import parse_one
from gateway.core.routing.route import Select
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.mapping.classes.expand import Derived
from gateway.mapping.results import CompiledResult

TEXTS = parse_one("as")
TEXT = parse_one("s")

INVALID_VALUE, UUID_INVALID = "INVALID_VALUE", "UUID_INVALID"  # errors of XenAPI


def returned(derived: Derived, plan: ArgumentPlan, result: CompiledResult) -> CompiledResult:
    """What a derived method returns, of the compiled result of its D-Bus call."""
    shape, legacy_class, name = result.shape, derived.legacy_class, derived.field
    match derived.returns:
        case "all":
            return result
        case "keys":
            return CompiledResult(lambda body: [*_records(shape(body))], TEXTS)
        case "default":  # the call returns whether the object exists
            found = legacy_class.fields[name]
            return CompiledResult(lambda _body: found.default, found.type)
        case "member":
            known = legacy_class.fields[name].known
            kind = result.type if known is None else known.type
            return CompiledResult(lambda body: _records(shape(body))[name], kind)
        case "where":
            return replace(result, select=_where(_last(plan), legacy_class.fields))
        case "by_uuid":
            return CompiledResult(shape, TEXT, _with(_last(plan), "uuid", partial(_first, legacy_class.name)))
        case "by_name_label":
            labelled = _with(_last(plan), "name_label", lambda _label, keys: Reply([*keys]))
            return CompiledResult(shape, TEXTS, labelled)


def _last(plan: ArgumentPlan) -> Callable[[Call], Value]:
    return parameter(plan, plan.names[-1])


def _where(read: Callable[[Call], Value], fields: Collection[str]) -> Select:
    def select(call: Call) -> Callable[[Value], Outcome] | Fault:
        expression = read(call)
        if not isinstance(expression, str):
            return _fault(INVALID_VALUE, expression, "expected a text")
        try:
            selects = compile_query(expression, fields)
        except QueryError as error:
            return _fault(INVALID_VALUE, expression, str(error))
        return lambda value: Reply({key: record for key, record in _records(value).items() if selects(record)})

    return select


def _with(read: Callable[[Call], Value], field: str, outcome: Callable[[Value, Iterator[str]], Outcome]) -> Select:
    """The keys of the records whose field has the value that the client asks for."""

    def select(call: Call) -> Callable[[Value], Outcome] | Fault:
        wanted = read(call)
        return lambda value: outcome(
            wanted, (key for key, record in _records(value).items() if record.get(field) == wanted)
        )

    return select


def _first(name: str, uuid: Value, keys: Iterator[str]) -> Outcome:
    found = next(keys, None)
    return _fault(UUID_INVALID, name, uuid) if found is None else Reply(found)


def _records(value: Value) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def _fault(code: str, *args: Value) -> Fault:
    return Fault(FaultCode.APPLICATION, f"{code}: {quoted(args[-1])}", name=code, data=[*args])
