"""Looks at a running service: introspection data, object managers, and the values of properties.

The walk starts at `/`, at the object path that the bus name makes and at paths that the caller knows, and goes to the
children of each object, to the objects that an object manager lists, and to the object paths in properties. It reads
only: Introspect, GetManagedObjects, GetAll, and with `follow` methods whose names say that they read (`GetDevices`),
which have no arguments and return object paths. Everything is bounded: objects, levels, seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

from msgspec import Struct

from gateway import wiring
from gateway.check import connected
from gateway.core.dbus import introspection_xml, names
from gateway.core.dbus.introspection_xml import IdlError, Interface, Node
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import MethodCall, Target
from gateway.core.routing.route import LOCAL_SERVICE, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply
from gateway.mapping.targets import OBJECT_MANAGER, PROPERTIES, STANDARD
from gateway.scaffold import SourceError
from gateway.scaffold.description import Description
from gateway.scaffold.guesses import reads

MAX_OBJECTS = 1000
MAX_DEPTH = 16  # elements of an object path
MAX_SAMPLES = 50  # objects of an interface whose properties are read
TIMEOUT = 10.0  # seconds for one call
MAX_TIMEOUTS = 5  # calls without an answer, after which the walk ends
BUS = "scaffold"  # the name of the bus in messages

Progress = Callable[[int, int], object]  # objects seen, interfaces seen


class Where(Struct, frozen=True):
    """The service to look at. `objects`: paths to look at that the service may not list."""

    address: str
    bus_name: str
    objects: Sequence[str] = ()
    follow: bool = False
    max_objects: int = MAX_OBJECTS


async def look(where: Where, progress: Progress = lambda _objects, _interfaces: None) -> Description:
    """Look at a service; raises SourceError when the bus or the service does not answer."""
    backend = wiring.Backend({BUS: wiring.BusSettings(BUS, where.address, (where.bus_name,), connections=1)})
    await backend.start()
    try:
        await connected(backend)
        for bus in backend.status():
            if not bus.connected:
                raise SourceError(bus.last_error or f"the bus at {where.address} cannot be reached")
        return await _Walk(backend, where).walk(progress)
    finally:
        await backend.stop()


class _Walk:
    def __init__(self, backend: wiring.Backend, where: Where) -> None:
        self._backend = backend
        self._where = where
        self._found = Description(where.bus_name)
        self._starts = [*where.objects, self._found.base, "/"]
        self._waiting = deque(self._starts)
        self._samples: Counter[str] = Counter()  # by interface: objects that were read
        self._unfollowed: dict[str, None] = {}
        self._timeouts = 0

    async def walk(self, progress: Progress) -> Description:
        seen: set[str] = set()
        answered = False
        while self._waiting:
            path = self._waiting.popleft()
            if path in seen or path.count("/") > MAX_DEPTH:
                continue
            if self._timeouts >= MAX_TIMEOUTS:
                self._note(f"stopped after {self._timeouts} calls without an answer")
                break
            if len(seen) >= self._where.max_objects:
                self._note(f"stopped after {self._where.max_objects} objects: --max-objects takes more")
                break
            seen.add(path)
            answered = await self._look_at(path) or answered
            progress(len(seen), len(self._found.interfaces))
        if not answered or not self._found.interfaces:
            answer = await self._call("/", "org.freedesktop.DBus.Peer", "Ping", ("", ""))
            if isinstance(answer, Fault) and answer.code not in (FaultCode.UNKNOWN_METHOD, FaultCode.NOT_FOUND):
                raise SourceError(f"{self._where.bus_name}: {answer.message}")
            starts = " or ".join(dict.fromkeys(self._starts))
            none = f"{self._where.bus_name} has no interface of its own at {starts}"
            raise SourceError(f"{none}: name an object that has one with --object")
        if self._unfollowed:
            listed = [*self._unfollowed]
            text = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
            self._note(
                f"objects that only a method returns were not looked at: --follow calls {text}, which read by name"
            )
        return self._found

    def _note(self, text: str) -> None:
        self._found.notes[text] = None

    def _queue(self, paths: Iterable[str]) -> None:
        """Look at these objects later; a service that lists without end does not fill the memory."""
        for path in paths:
            if len(self._waiting) < 2 * self._where.max_objects and names.is_object_path(path):
                self._waiting.append(path)

    async def _look_at(self, path: str) -> bool:
        """Look at one object; returns whether the service answered."""
        xml = await self._call(path, "org.freedesktop.DBus.Introspectable", "Introspect", ("", "s"))
        node = Node({}, ())
        if not isinstance(xml, Fault):
            try:
                node = introspection_xml.parse(str(xml[0]))
            except IdlError as error:
                self._note(f"{path}: introspection data, line {error.line}: {error}")
        elif path not in self._starts:
            self._note(f"{path} could not be introspected: {xml.message}")
        self._queue(node.below(path))
        self._found.add(path, node)
        if OBJECT_MANAGER in node.interfaces:
            await self._read_manager(path)
        for name, interface in node.interfaces.items():
            if name not in STANDARD and self._samples[name] < MAX_SAMPLES:
                self._samples[name] += 1
                body = await self._call(path, PROPERTIES, "GetAll", ("s", "a{sv}"), [name])
                if not isinstance(body, Fault) and isinstance(body[0], dict):
                    self._add_values(path, name, body[0])
                await self._follow(path, interface)
        return not isinstance(xml, Fault)

    async def _read_manager(self, path: str) -> None:
        """Read an object manager: it lists objects that introspection need not list, with their properties."""
        body = await self._call(path, OBJECT_MANAGER, "GetManagedObjects", ("", "a{oa{sa{sv}}}"))
        if isinstance(body, Fault) or not isinstance(body[0], dict):
            return
        listed = self._found.managers.setdefault(path, set())
        for each, interfaces in list(body[0].items())[: self._where.max_objects]:
            self._queue([each])
            for name, values in interfaces.items():
                listed.add(name)
                self._add_values(each, name, values)

    def _add_values(self, path: str, interface: str, values: Mapping[str, object]) -> None:
        found = {
            name: (str(signature), _plain(each))
            for name, each in values.items()
            if (signature := getattr(each, "signature", ""))
        }
        self._found.add_values(path, interface, found)
        for signature, value in found.values():
            self._queue(_object_paths(parse_one(signature), value))

    async def _follow(self, path: str, interface: Interface) -> None:
        """Call the methods that read by their names, need nothing, and return object paths."""
        for method in interface.methods.values():
            if method.ins or not reads(method.name) or not any("o" in str(each.type) for each in method.outs):
                continue
            if not self._where.follow:
                self._unfollowed[f"{interface.name}.{method.name}"] = None
                continue
            body = await self._call(path, interface.name, method.name, ("", introspection_xml.signature(method.outs)))
            if not isinstance(body, Fault):
                for argument, value in zip(method.outs, body, strict=False):
                    self._queue(_object_paths(argument.type, _plain(value)))

    async def _call(
        self, path: str, interface: str, member: str, signatures: tuple[str, str], body: Sequence[object] = ()
    ) -> Sequence[object] | Fault:
        """The body of the reply, which must have the second signature; or the fault."""
        bus_name, (signature, reply_signature) = self._where.bus_name, signatures
        method_call = MethodCall(bus_name, path, interface, member, signature, body)
        route = Route(
            LOCAL_SERVICE,
            member,
            Target(bus_name, path, interface, member, signature, reply_signature),
            (),
            None,
            lambda _call: method_call,
            list,  # type: ignore[arg-type] # D-Bus values, which no client sees
            lambda fault, _call: fault,
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                outcome = await self._backend.call(route, Call(member))
        except TimeoutError:
            self._timeouts += 1
            outcome = Fault(FaultCode.TIMEOUT, f"no answer within {TIMEOUT:.0f} s")
            self._note(f"{path} {interface}.{member}: {outcome.message}")
        return cast("list[object]", outcome.value) if isinstance(outcome, Reply) else outcome


def _plain(value: object) -> object:
    """The value inside variants."""
    while hasattr(value, "signature") and hasattr(value, "value"):
        value = value.value
    return value


def _object_paths(kind: Type, value: object) -> Iterator[str]:
    """The object paths in a value of this type; those inside variants are left out."""
    if kind.code == "o" and isinstance(value, str) and names.is_object_path(value):
        yield value
    elif kind.is_dict and isinstance(value, dict):
        for pair in value.items():
            yield from _object_paths(Type("(", kind.children[0].children), pair)
    elif kind.code == "a" and isinstance(value, list):
        for each in value:
            yield from _object_paths(kind.children[0], each)
    elif kind.code == "(" and isinstance(value, list | tuple):
        for child, each in zip(kind.children, value, strict=False):
            yield from _object_paths(child, each)
