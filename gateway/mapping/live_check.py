"""The IDL held against what running services answer to Introspect. Asks through a function that it is given."""

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

MOST_OBJECTS = 32  # looked at in search of one that has the interface
MANAGED_DEPTH = 3  # how far below an object manager its objects are looked for


@dataclass(slots=True)
class Compared:
    """What came of it. `notes`: what could not be looked at, and why; `unseen`: how many of all contracts those are."""

    problems: dict[Problem, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    contracts: int = 0
    unseen: int = 0


async def differences(table: Table, introspect: Introspect) -> Compared:
    """Where running services differ from the IDL."""
    compared = Compared(contracts=len(table.contracts))
    for contract in table.contracts:
        found = await _look(contract, introspect)
        if isinstance(found, str):
            compared.problems.update(dict.fromkeys(compare(contract, found)))
        else:
            compared.unseen += 1
            compared.notes[f"{contract.place}: {found.message}"] = None
    return compared


def compare(contract: Contract, xml: str) -> list[Problem]:
    """Where an object's introspection XML differs from what the mapping relies on."""
    try:
        found = introspection_xml.parse(xml).interfaces
    except introspection_xml.IdlError as error:
        return [_problem(contract, f"the introspection XML of {contract.bus_name} {error}")]
    name = contract.interface.name
    if name not in found:
        return [_problem(contract, f"the running {contract.bus_name} has no {name} here (it has: {one_of(found)})")]
    here = found[name]
    wanted = {member: _said(contract.interface, member) for member in contract.members}
    return [
        _problem(contract, f"{name}.{member}: expected {said}, the running service has {_said(here, member)}")
        for member, said in wanted.items()
        if said != _said(here, member)
    ]


def _said(interface: Interface, member: str) -> str:
    """What matters of a member to a caller."""
    if member in interface.methods:
        method = interface.methods[member]
        return f"a method '{introspection_xml.signature(method.ins)}' -> '{introspection_xml.signature(method.outs)}'"
    if member in interface.properties:
        known = interface.properties[member]
        return f"a property '{known.type}', {known.access}"
    if member in interface.signals:
        return f"a signal '{introspection_xml.signature(interface.signals[member].args)}'"
    return "nothing of this name"


def _problem(contract: Contract, message: str) -> Problem:
    return Problem(contract.file, contract.line, contract.column, contract.place, message, "live")


# Finding an object to look at


async def _look(contract: Contract, introspect: Introspect) -> str | Fault:
    """The XML of the object, or of any that the path may lead to; a Fault when there is none."""
    fixed, brace, rest = contract.object_path.partition("{")
    if not brace and not contract.below:
        return await introspect(contract.bus_name, contract.object_path)
    start = (fixed.rpartition("/")[0] or "/") if brace else fixed
    depth = MANAGED_DEPTH if contract.below else 1 + rest.count("/")
    return await _search(contract, start, depth, introspect)


async def _search(contract: Contract, start: str, depth: int, introspect: Introspect) -> str | Fault:
    waiting = deque([(start, 0)])
    for _ in range(MOST_OBJECTS):
        if not waiting:
            break
        path, level = waiting.popleft()
        xml = await introspect(contract.bus_name, path)
        if isinstance(xml, Fault):
            if path == start:
                return xml
            continue
        node = _node(xml)
        if node is None or (level and contract.interface.name in node.interfaces):
            return xml
        if level < depth:
            waiting.extend((f"{path.rstrip('/')}/{child}", level + 1) for child in node.children)
    return _none(contract, start)


def _node(xml: str) -> introspection_xml.Node | None:
    try:
        return introspection_xml.parse(xml)
    except introspection_xml.IdlError:
        return None


def _none(contract: Contract, start: str) -> Fault:
    text = f"no object of {contract.bus_name} below {start} has {contract.interface.name} now"
    return Fault(FaultCode.NOT_FOUND, text)
