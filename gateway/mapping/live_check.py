"""`check --live`: compares the IDL that a mapping relies on with the introspection data of running services.

The services are asked through a function that the caller passes in. Where the object path of a mapping has parameters,
any object that implements the interface serves; the search is limited to MAX_OBJECTS objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.core.rpc.model import Fault, FaultCode
from gateway.mapping import introspection_xml
from gateway.mapping.introspection_xml import Interface
from gateway.mapping.problem import Problem, one_of
from gateway.mapping.table import Contract, Table

Introspect: TypeAlias = Callable[[str, str], Awaitable["str | Fault"]]  # bus name, object path -> XML

MAX_OBJECTS = 32  # that are introspected to find one with the interface
MANAGED_DEPTH = 3  # levels below an object manager that are searched


@dataclass(slots=True)
class Compared:
    """The result of a live check. `notes`: contracts that could not be checked, and why; `unseen`: their number."""

    problems: dict[Problem, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    contracts: int = 0
    unseen: int = 0


async def differences(table: Table, introspect: Introspect) -> Compared:
    """The differences between the running services and the IDL, for each contract of the table."""
    compared = Compared(contracts=len(table.contracts))
    for contract in table.contracts:
        found = await _introspect_any(contract, introspect)
        if isinstance(found, str):
            compared.problems.update(dict.fromkeys(compare(contract, found)))
        else:
            compared.unseen += 1
            compared.notes[f"{contract.place}: {found.message}"] = None
    return compared


def compare(contract: Contract, xml: str) -> list[Problem]:
    """The differences between an object's introspection XML and the contract."""
    try:
        found = introspection_xml.parse(xml).interfaces
    except introspection_xml.IdlError as error:
        return [_problem(contract, f"introspection data of {contract.bus_name}: {error}")]
    name = contract.interface.name
    if name not in found:
        text = f"the object of the running {contract.bus_name} does not implement {name}; it has {one_of(found)}"
        return [_problem(contract, text)]
    pairs = {
        member: (_describe(contract.interface, member), _describe(found[name], member)) for member in contract.members
    }
    return [
        _problem(contract, f"{name}.{member}: the IDL has {in_idl}, the running service has {running}")
        for member, (in_idl, running) in pairs.items()
        if in_idl != running
    ]


def _describe(interface: Interface, member: str) -> str:
    """The kind and the types of a member."""
    if member in interface.methods:
        method = interface.methods[member]
        return f"a method '{introspection_xml.signature(method.ins)}' -> '{introspection_xml.signature(method.outs)}'"
    if member in interface.properties:
        known = interface.properties[member]
        return f"a property '{known.type}', {known.access}"
    if member in interface.signals:
        return f"a signal '{introspection_xml.signature(interface.signals[member].args)}'"
    return "no such member"


def _problem(contract: Contract, message: str) -> Problem:
    return Problem(contract.file, contract.line, contract.column, contract.place, message, "live")


async def _introspect_any(contract: Contract, introspect: Introspect) -> str | Fault:
    """The XML of the contract's object, or of any object that its path may name; a Fault when there is none."""
    fixed, brace, rest = contract.object_path.partition("{")
    if not brace and not contract.below:
        return await introspect(contract.bus_name, contract.object_path)
    start = (fixed.rpartition("/")[0] or "/") if brace else fixed
    depth = MANAGED_DEPTH if contract.below else 1 + rest.count("/")
    waiting = deque([(start, 0)])
    for _ in range(MAX_OBJECTS):
        if not waiting:
            break
        path, level = waiting.popleft()
        xml = await introspect(contract.bus_name, path)
        if isinstance(xml, Fault):
            if path == start:
                return xml
            continue
        try:
            node = introspection_xml.parse(xml)
        except introspection_xml.IdlError:
            return xml  # reported by `compare`
        if level and contract.interface.name in node.interfaces:
            return xml
        if level < depth:
            waiting.extend((f"{path.rstrip('/')}/{child}", level + 1) for child in node.children)
    text = f"no object of {contract.bus_name} below {start} implements {contract.interface.name} at the moment"
    return Fault(FaultCode.NOT_FOUND, f"not checked: {text}")
