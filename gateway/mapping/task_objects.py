"""`task` of a method entry and `tasks` of its file -> how the object that stands for an operation is followed."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gateway.core.dbus.marshal import same
from gateway.core.dbus.names import object_path
from gateway.core.dbus.results import DecodeResult, Item, Record, one, property_decoder, void
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.target import MethodCall, Target
from gateway.core.routing.route import Effect, Route, TaskObject
from gateway.core.rpc.model import Call
from gateway.mapping.load import Scope
from gateway.mapping.targets import PROPERTIES, Callee, IdlLibrary, TargetObject, find_site, known_member


def compile_task_object(entry: Scope, callee: Callee, root: Scope, library: IdlLibrary) -> TaskObject | None:
    """For a method that returns the path of an object that stands for the operation: how it is followed."""
    name, section = entry.at("task"), root.at("tasks")
    if name.data is None:
        return None
    if section.data is None:
        name.fail("'task' needs the section `tasks`, which describes the objects", level="schema", key=True)
        return None
    merged = Scope(section.document, section.problems, section.path, {**section.data, "object_path": "/"})
    site = find_site(merged, root.at("dbus"), library)
    outs = {out.name: out for out in callee.outs}
    if name.data not in outs or outs[name.data].type.code not in "os":
        name.fail(f"expected an output argument of type o or s; {callee.title} has {', '.join(outs) or 'none'}")
        return None
    if site is None:
        return None
    service, properties, interface = root.data["service"], site.interface.properties, site.interface
    picked = {}
    for key in ("status", "progress", "result", "error"):
        if section.has(key) and known_member(section.at(key), properties, "property", site) is not None:
            found = properties[section.data[key]]
            picked[key] = found.name, property_decoder(found.type, "plain")
    read = _object_route(service, site, PROPERTIES, "GetAll", "s", [interface.name], "a{sv}")
    read = replace(read, decode_result=one(Item(0, Record(picked))))
    cancel = None
    if section.has("cancel") and known_member(section.at("cancel"), interface.methods, "method", site) is not None:
        cancel = _object_route(service, site, interface.name, section.data["cancel"], "", [], "")
    return TaskObject(read, cancel)


def path_of_task(name: str, callee: Callee) -> DecodeResult:
    """Takes the path of the object from a method return: the output argument `name`."""
    index = next((index for index, out in enumerate(callee.outs) if out.name == name), 0)
    return one(Item(index, same))


def _object_route(
    service: str, site: TargetObject, interface: str, member: str, signature: str, body: Sequence[object], reply: str
) -> Route:
    """A call to the object whose path is the only parameter."""

    def encode(call: Call) -> MethodCall:
        try:
            path = object_path(str(call.params[0]))
        except ValueError as error:
            raise MarshalError("the object path of a task", call.params[0]) from error
        return MethodCall(site.bus_name, path, interface, member, signature, body)

    target = Target(site.bus_name, "/", interface, member, signature, reply)
    return Route(service, "task", target, (), None, encode, void, lambda fault, _call: fault, effect=Effect.READ)
