"""What a method of a class returns where it is not the whole result of its D-Bus call.

`get_all` returns the keys of the records, a field that the service does not have returns its default, and lookups
return the records that the client asks for: those read the call, so they are the `select` of a route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from gateway.core.dbus.arguments import ArgumentPlan, parameter
from gateway.core.dbus.record_query import QueryError, compile_query
from gateway.core.dbus.results import DecodeResult
from gateway.core.dbus.scalars import quoted
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.routing.route import Select
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.mapping.classes.expand import Derived
from gateway.mapping.results import CompiledResult

TEXTS = parse_one("as")
TEXT = parse_one("s")

INVALID_VALUE, UUID_INVALID = "INVALID_VALUE", "UUID_INVALID"  # errors of XenAPI


class Returned(Struct, frozen=True):
    """The parts of a route that a class replaces; None for those of the compiled result."""

    shape: DecodeResult | None = None
    type: Type | None = None
    select: Select | None = None


NOT_DERIVED = Returned()


def returned(derived: Derived, plan: ArgumentPlan, result: CompiledResult) -> Returned:
    """What a derived method returns instead of its compiled result."""
    return _KINDS[derived.returns](derived, plan, result) if derived.returns != "all" else NOT_DERIVED


def _keys(_derived: Derived, _plan: ArgumentPlan, result: CompiledResult) -> Returned:
    shape = result.shape
    return Returned(lambda body: [*_records(shape(body))], TEXTS)


def _default(derived: Derived, _plan: ArgumentPlan, _result: CompiledResult) -> Returned:
    """The call returns whether the object exists."""
    found = derived.legacy_class.fields[derived.field]
    value = found.default
    return Returned(lambda _body: value, found.type)


def _member(derived: Derived, _plan: ArgumentPlan, result: CompiledResult) -> Returned:
    shape, name = result.shape, derived.field
    known = derived.legacy_class.fields[name].known
    return Returned(lambda body: _records(shape(body))[name], None if known is None else known.type)


def _where(derived: Derived, plan: ArgumentPlan, _result: CompiledResult) -> Returned:
    read, fields = parameter(plan, plan.names[-1]), derived.legacy_class.fields

    def select(call: Call) -> Callable[[Value], Outcome] | Fault:
        expression = read(call)
        if not isinstance(expression, str):
            return _fault(INVALID_VALUE, expression, "expected a text")
        try:
            selects = compile_query(expression, fields)
        except QueryError as error:
            return _fault(INVALID_VALUE, expression, str(error))
        return lambda value: Reply({key: record for key, record in _records(value).items() if selects(record)})

    return Returned(select=select)


def _by_uuid(derived: Derived, plan: ArgumentPlan, _result: CompiledResult) -> Returned:
    read, name = parameter(plan, plan.names[-1]), derived.legacy_class.name

    def select(call: Call) -> Callable[[Value], Outcome] | Fault:
        uuid = read(call)

        def first(value: Value) -> Outcome:
            keys = (key for key, record in _records(value).items() if record.get("uuid") == uuid)
            found = next(keys, None)
            return _fault(UUID_INVALID, name, uuid) if found is None else Reply(found)

        return first

    return Returned(type=TEXT, select=select)


def _by_name_label(_derived: Derived, plan: ArgumentPlan, _result: CompiledResult) -> Returned:
    read = parameter(plan, plan.names[-1])

    def select(call: Call) -> Callable[[Value], Outcome] | Fault:
        label = read(call)
        return lambda value: Reply(
            [key for key, record in _records(value).items() if record.get("name_label") == label]
        )

    return Returned(type=TEXTS, select=select)


_KINDS: Mapping[str, Callable[[Derived, ArgumentPlan, CompiledResult], Returned]] = {
    "keys": _keys,
    "default": _default,
    "member": _member,
    "where": _where,
    "by_uuid": _by_uuid,
    "by_name_label": _by_name_label,
}


def _records(value: Value) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def _fault(code: str, *args: Value) -> Fault:
    return Fault(FaultCode.APPLICATION, f"{code}: {quoted(args[-1])}", name=code, data=[*args])
