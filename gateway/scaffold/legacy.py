"""A D-Bus API for legacy methods: an interface for each namespace, a member for each method.

Where no D-Bus service exists yet, the methods of a legacy service say what a new service must offer. The mapping sends
all calls to the legacy service at first (`mode: legacy`), and each method moves when the D-Bus service has it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence

from msgspec import Struct, field

from gateway.core.dbus.introspection_xml import Argument, IdlMethod, Interface, Node
from gateway.core.dbus.names import printable
from gateway.core.dbus.signature import INTEGER_RANGES, Type, parse_one
from gateway.scaffold.description import Description, LegacyEntry
from gateway.scaffold.mapping import quoted

BUILT_IN = ("system.", "rpc.")  # the gateway answers these methods itself
ANY = parse_one("v")
_ZERO = {"s": '""', "v": '""', "b": "false", "d": "0.0", **dict.fromkeys(INTEGER_RANGES, "0")}


class LegacyParameter(Struct, frozen=True):
    """A parameter. `default`: YAML, for one that clients may omit; `format`: as in the mapping, or empty."""

    name: str
    type: Type
    default: str | None = None
    documentation: str = ""
    format: str = ""


class LegacyMethod(Struct, frozen=True):
    """A method of a legacy service. `decide`: what is not known for certain."""

    name: str
    parameters: Sequence[LegacyParameter] = ()
    result: Type | None = None
    result_format: str = ""
    documentation: str = ""
    decide: Sequence[str] = field(default=())


def describe(bus_name: str, service: str, methods: Iterable[LegacyMethod]) -> Description:
    """The description of a service with these methods; methods that the gateway answers itself are left out."""
    found = Description(bus_name)
    interfaces: dict[str, Interface] = {}
    for method in methods:
        if method.name.startswith(BUILT_IN):
            continue
        namespace, _, last = method.name.rpartition(".")
        name = f"{bus_name}.{_camel(namespace or service)}1"
        interface = interfaces.setdefault(name, Interface(name))
        member = _free(_camel(last), interface.methods)
        ins: dict[str, Argument] = {}
        params = []
        optional = False  # a parameter after one with a default has one too
        for each in method.parameters:
            own = _free(printable(each.name) or "value", ins)
            ins[own] = Argument(own, each.type, printable(each.documentation))
            optional = optional or each.default is not None
            keys = [f"name: {quoted(own)}"]
            if optional:
                keys.append(f"default: {zero(each.type) if each.default is None else each.default}")
            if each.format:
                keys.append(f"format: {each.format}")
            params.append(f"{{{', '.join(keys)}}}" if len(keys) > 1 else quoted(own))
        outs = [Argument("result", method.result)] if method.result is not None else []
        interface.methods[member] = IdlMethod(member, [*ins.values()], outs, printable(method.documentation))
        of_result = (("result", f"{{format: {method.result_format}}}"),) if method.result_format else ()
        found.legacy[name, member] = LegacyEntry(method.name, tuple(params), of_result, tuple(method.decide))
    found.add(found.base, Node(interfaces, ()))
    return found


def zero(kind: Type) -> str:
    """The least value of a type, as YAML: what a parameter has that a client omits."""
    if kind.code == "(":
        return f"[{', '.join(map(zero, kind.children))}]"
    if kind.code == "a":
        return "{}" if kind.is_dict else "[]" if kind.children[0].code != "y" else '""'
    return _ZERO.get(kind.code, '""')


def array(item: Type) -> Type:
    """An array of a type."""
    return Type("a", (item,))


def dictionary(value: Type) -> Type:
    """A dictionary from text to a type."""
    return Type("a", (Type("{", (parse_one("s"), value)),))


def _free(name: str, taken: Container[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}{number}", number + 1
    return free


def _camel(name: str) -> str:
    """A member for a legacy name: `get_all_records` is GetAllRecords, `reserve-memory` ReserveMemory."""
    made = "".join(part[:1].upper() + part[1:] for part in re.findall(r"[A-Za-z0-9]+", name))
    return made if made[:1].isalpha() else f"M{made}"
