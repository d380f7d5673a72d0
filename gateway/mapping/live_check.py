"""`check --live`: compares the IDL that a mapping relies on with the introspection data of running services.

The services are asked through a function that the caller passes in. Where the object path of a mapping has parameters,
any object that implements the interface serves; the search is limited to MAX_OBJECTS objects.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

from msgspec import Struct, field

from gateway.core.dbus import introspection_xml
from gateway.core.dbus.introspection_xml import Interface, Node
from gateway.core.rpc.model import Fault, FaultCode
from gateway.mapping.problem import Problem, one_of
from gateway.mapping.table import Contract, Table
from gateway.mapping.targets import STANDARD

Introspect: TypeAlias = Callable[[str, str], Awaitable["str | Fault"]]  # bus name, object path -> XML

MAX_OBJECTS = 256  # of a service that are introspected
MANAGED_DEPTH = 3  # levels below an object manager, or below a subtree, that are searched
TREE_DEPTH = 12  # levels below "/" that are searched for objects that no mapping reaches
SHOWN = 3  # objects that a note names


class Compared(Struct):
    """The result of a live check. `notes`: contracts that could not be checked, and why; `unseen`: their number."""

    problems: dict[Problem, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    unseen: int = 0


async def differences(table: Table, introspect: Introspect) -> Compared:
    """The differences between the running services and the IDL, for each contract of the table.

    What a service offers beyond the IDL, and objects that the object path of a mapping cannot reach, are notes.
    """
    compared = Compared()
    services = _Services(introspect)
    unseen: Counter[str] = Counter()
    for contract in table.contracts:
        found = await services.introspect_any(contract)
        node = None if isinstance(found, Fault) else _parsed(found)
        lacks = contract.optional and node is not None and contract.interface.name not in node.interfaces
        if isinstance(found, Fault) or lacks:
            lacking = f"{contract.object_path} of {contract.bus_name} lacks {contract.interface.name}"
            why = found.message if isinstance(found, Fault) else lacking
            unseen[str(contract.problem(f"not checked: {why}"))] += 1
            continue
        compared.problems.update(dict.fromkeys(compare(contract, found)))
        compared.notes.update(dict.fromkeys([*_more(contract, node), *await services.out_of_reach(contract)]))
    compared.unseen = unseen.total()
    notes = (note if uses == 1 else f"{note} ({uses} uses)" for note, uses in unseen.items())
    compared.notes.update(dict.fromkeys(notes))
    return compared


def compare(contract: Contract, xml: str) -> list[Problem]:
    """The differences between an object's introspection XML and the contract."""
    name, idl = contract.interface.name, contract.interface
    try:
        found = introspection_xml.parse(xml).interfaces
    except introspection_xml.IdlError as error:
        messages = [f"introspection data of {contract.bus_name}: {error}"]
    else:
        lacks = f"the object of the running {contract.bus_name} does not implement {name}; it has {one_of(found)}"
        messages = [lacks] if name not in STANDARD else []  # many services do not list those
        if name in found:
            messages = [
                f"{name}.{member}: the IDL has {_describe(idl, member)}, "
                f"the running service has {_describe(found[name], member)}"
                for member in contract.members
                if not _serves(idl, found[name], member)
            ]
    return [contract.problem(message) for message in messages]


def _serves(expected: Interface, running: Interface, member: str) -> bool:
    """Whether a member of the running service can be used as the IDL says: a property may allow more than that."""
    idl, real = expected.properties.get(member), running.properties.get(member)
    if idl is not None and real is not None:
        return idl.type == real.type and real.access in (idl.access, "readwrite")
    return _describe(expected, member) == _describe(running, member)


def _more(contract: Contract, node: Node | None) -> list[str]:
    """What the running service offers beyond the IDL."""
    name = contract.interface.name
    if node is None or name not in node.interfaces:
        return []
    known, running = contract.interface, node.interfaces[name]
    more = [
        *(member for member in running.methods if member not in known.methods),
        *(member for member in running.properties if member not in known.properties),
        *(member for member in running.signals if member not in known.signals),
        *(
            f"write access to {member}"
            for member, real in running.properties.items()
            if member in known.properties and real.access == "readwrite" != known.properties[member].access
        ),
    ]
    return [f"{contract.bus_name}: {name} of the running service has more than the IDL: {one_of(more)}"] if more else []


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


def _parsed(xml: str) -> Node | None:
    try:
        return introspection_xml.parse(xml)
    except introspection_xml.IdlError:
        return None


class _Services:
    """The objects of the running services. Those that no mapping reaches are introspected once."""

    def __init__(self, introspect: Introspect) -> None:
        self._introspect = introspect
        self._trees: dict[str, list[tuple[str, Node]]] = {}  # bus name -> its objects

    async def _walk(self, bus_name: str, root: str, depth: int) -> AsyncGenerator[tuple[str, str | Fault, Node | None]]:
        """The objects from a root downwards, as far as they are listed, with their XML; at most MAX_OBJECTS."""
        waiting = deque([(root, 0)])
        for _ in range(MAX_OBJECTS):
            if not waiting:
                return
            path, level = waiting.popleft()
            xml = await self._introspect(bus_name, path)
            node = None if isinstance(xml, Fault) else _parsed(xml)
            yield path, xml, node
            if node is not None and level < depth:
                waiting.extend((child, level + 1) for child in node.below(path))

    async def introspect_any(self, contract: Contract) -> str | Fault:
        """The XML of the contract's object, or of any object that its path may name; a Fault when there is none."""
        template, fixed = contract.reach, "{" not in contract.object_path
        if fixed and not contract.below:
            return await self._introspect(contract.bus_name, contract.object_path)
        depth = MANAGED_DEPTH if contract.below or template is None else template.levels or MANAGED_DEPTH
        roots = (contract.object_path,) if fixed or template is None else template.roots
        refused: Fault | None = None
        name = contract.interface.name
        for root in roots:
            async with aclosing(self._walk(contract.bus_name, root, depth)) as objects:
                async for path, xml, node in objects:
                    if isinstance(xml, Fault):
                        refused = refused or (xml if path == root else None)
                    elif node is None or (path != root and name in node.interfaces and _reaches(contract, path)):
                        return xml  # what cannot be read is reported by `compare`
        text = f"no object of {contract.bus_name} below {' or '.join(roots)} implements {name} at the moment"
        return refused or Fault(FaultCode.NOT_FOUND, text)

    async def out_of_reach(self, contract: Contract) -> list[str]:
        """Objects with the interface that no value of the parameters makes the object path of."""
        if contract.reach is None or contract.below or "{" not in contract.object_path:
            return []
        name, bus_name = contract.interface.name, contract.bus_name
        if bus_name not in self._trees:
            tree = [(path, node) async for path, _, node in self._walk(bus_name, "/", TREE_DEPTH) if node is not None]
            self._trees[bus_name] = tree
        tree = self._trees[bus_name]
        missed = [path for path, node in tree if name in node.interfaces and not _reaches(contract, path)]
        if not missed:
            return []
        shown = ", ".join(missed[:SHOWN]) + (", ..." if len(missed) > SHOWN else "")
        template = contract.object_path
        if contract.reach.objects:
            template = " or ".join(f"{root}/..." for root in contract.reach.roots)
        text = f"{len(missed)} of the objects with {name} are not reached by {template}: {shown}"
        return [str(contract.problem(text))]


def _reaches(contract: Contract, path: str) -> bool:
    return contract.below or contract.reach is None or contract.reach.reaches(path)
