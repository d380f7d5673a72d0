"""Resolves the target of a method entry in the IDL: bus name, object path, interface, and the member that is called.

`bus_name`, `object_path`, `interface` and `idl` come from the entry or from `dbus`. Exactly one of `member`,
`property`, `set_property`, `all_properties` and `managed_objects` selects the D-Bus method: the member itself, Get, Set
and GetAll of org.freedesktop.DBus.Properties, or GetManagedObjects of org.freedesktop.DBus.ObjectManager. With `events`
the gateway answers in place of the service, from what it knows of the objects of the file's classes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.dbus import introspection_xml, names
from gateway.core.dbus.introspection_xml import Argument, IdlMethod, IdlProperty, IdlSignal, Interface, OddMember
from gateway.core.dbus.object_paths import placeholders
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import PropertyTarget, Target
from gateway.mapping import load
from gateway.mapping.load import Scope
from gateway.mapping.problem import Problem, unknown

T = TypeVar("T", IdlMethod, IdlProperty, IdlSignal)

NOTHING: Mapping[Path, bytes] = MappingProxyType({})
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
NOWHERE = "{}"  # the object path of an entry that has none, until a parameter is found to be it


def _arguments(text: str) -> list[Argument]:
    """The arguments of a text, each as its name and its type."""
    return [Argument(name, parse_one(kind)) for name, kind in (each.split() for each in text.split(", ") if each)]


def _method(name: str, ins: str = "", outs: str = "", documentation: str = "") -> IdlMethod:
    return IdlMethod(name, _arguments(ins), _arguments(outs), documentation)


def _signal(name: str, args: str) -> IdlSignal:
    return IdlSignal(name, _arguments(args))


def _interface(name: str, *members: IdlMethod | IdlSignal) -> Interface:
    methods = {each.name: each for each in members if isinstance(each, IdlMethod)}
    signals = {each.name: each for each in members if isinstance(each, IdlSignal)}
    return Interface(name, methods, signals=signals)


# The interfaces of the D-Bus specification ("Standard Interfaces") need no IDL file.
STANDARD: Mapping[str, Interface] = {
    each.name: each
    for each in (
        _interface("org.freedesktop.DBus.Peer", _method("Ping"), _method("GetMachineId", "", "machine_uuid s")),
        _interface("org.freedesktop.DBus.Introspectable", _method("Introspect", "", "xml_data s")),
        _interface(
            PROPERTIES,
            _method("Get", "interface_name s, property_name s", "value v"),
            _method("Set", "interface_name s, property_name s, value v"),
            _method("GetAll", "interface_name s", "props a{sv}"),
            _signal("PropertiesChanged", "interface_name s, changed_properties a{sv}, invalidated_properties as"),
        ),
        _interface(
            OBJECT_MANAGER,
            _method("GetManagedObjects", "", "objpath_interfaces_and_properties a{oa{sa{sv}}}"),
            _signal("InterfacesAdded", "object_path o, interfaces_and_properties a{sa{sv}}"),
            _signal("InterfacesRemoved", "object_path o, interfaces as"),
        ),
    )
}

# What `events` of a method entry calls: the gateway's own side of the event methods of XenAPI.
EVENTS = _interface(
    "org.xen.xcp.gateway.Events1",
    _method(
        "From",
        "classes as, token s, timeout d",
        "batch a{sv}",
        "Wait until something wanted has changed since a token; return the changes and the token of now.",
    ),
    _method("Inject", "class s, ref s", "token s", "Have an object count as changed; return the token of just before."),
    _method("GetCurrentId", "", "id x", "The number of the last change."),
    _method("Register", "classes as", "", "Subscribe the session to further classes."),
    _method("Unregister", "classes as", "", "End the subscription of the session to these classes."),
    _method(
        "Next",
        "",
        "events aa{sv}",
        "Wait until something has changed that the session is subscribed to; return the changes.",
    ),
)


class IdlLibrary(Struct):
    """The IDL files, each read once. A problem in a file is reported once, with its place in that file."""

    problems: dict[Problem, None]
    roots: Collection[Path] = ()  # directories whose files a message may quote
    instead: Mapping[Path, bytes] = NOTHING  # used instead of the content of these files
    contents: dict[Path, bytes] = field(default_factory=dict)
    _nodes: dict[Path, introspection_xml.Node | None] = field(default_factory=dict)

    def read(self, path: Path, scope: Scope) -> introspection_xml.Node | None:
        """The node of an IDL file; None, with the problem reported, when the file cannot be used."""
        if path not in self.contents:
            try:
                self.contents[path] = self.instead[path] if path in self.instead else load.read_regular(path)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                scope.fail(f"cannot read IDL file '{path}': {reason}")
                return None
            try:
                self._nodes[path] = introspection_xml.parse(self.contents[path])
            except introspection_xml.IdlError as error:
                found = Problem(str(path), error.line, error.column, "", str(error), "idl")
                if load.is_outside(path, self.roots):
                    found = Problem(str(path), 1, 1, "", "not introspection XML", "idl")
                self.problems[found] = None
                self._nodes[path] = None
        return self._nodes[path]


class Callee(Struct, frozen=True):
    """A D-Bus method to call. `ins`: the arguments that the mapping supplies; `outs`: those of the result."""

    target: Target
    interface: Interface
    ins: tuple[Argument, ...] = ()
    outs: tuple[Argument, ...] = ()
    accessed: IdlProperty | None = None  # the property that is read or written
    record: bool = False  # the output argument is all properties of the interface
    objects: bool = False  # the output argument is the records of all objects that have the interface
    key: IdlProperty | Literal["element", "path"] = "element"  # of the records
    key_class: str = ""  # the legacy class of the keys, where it is not the first class of the object
    duplicates: Literal["error", "path"] = "path"  # how to handle records without a unique key
    members: tuple[str, ...] = ()  # that the running service must have
    documentation: str = ""
    further: tuple[Interface, ...] = ()  # of the same object, whose properties are part of a record
    events: str = ""  # the method of EVENTS that the gateway answers

    @property
    def shared(self) -> frozenset[str]:
        """The properties that several of the interfaces of a record have."""
        times = Counter(name for interface in (self.interface, *self.further) for name in interface.properties)
        return frozenset(name for name, count in times.items() if count > 1)

    @property
    def properties(self) -> Mapping[str, IdlProperty]:
        """The properties of a record. One that several interfaces have is named with its interface."""
        return {
            f"{interface.name}.{name}" if name in self.shared else name: known
            for interface in (self.interface, *self.further)
            for name, known in interface.properties.items()
        }

    @property
    def title(self) -> str:
        """The member in messages: `org.xen.xcp.xenopsd.VM1.Stat`."""
        whole = self.record or self.objects
        return self.interface.name if whole else f"{self.interface.name}.{self.members[0]}"


class TargetObject(Struct, frozen=True):
    """An object and one of its interfaces; all names are valid."""

    bus_name: str
    object_path: str
    interface: Interface
    idl: str = ""  # the file, as the mapping names it


def find(entry: Scope, common: Scope, library: IdlLibrary, site: TargetObject | None = None) -> Callee | None:
    """The callee of a method or session entry; `common` is `dbus`. None, with the problems reported, on failure.

    `site`: its object and interface, where they are known. Where the entry has no object path of its own, a parameter
    that is an object path and no argument is that path.
    """
    site = site or find_site(entry, common, library)
    kind = next((kind for kind in KINDS if entry.has(kind)), "")
    callee = KINDS[kind](entry.at(kind), site) if site is not None and kind else None
    callee = callee and _with_further(entry, common, callee, library)
    if callee is None:
        return None
    descriptors = [argument for argument in (*callee.ins, *callee.outs) if argument.type.has_file_descriptor]
    if callee.record or callee.objects:
        properties = callee.properties.items()
        descriptors += [Argument(name, known.type) for name, known in properties if known.type.has_file_descriptor]
    for argument in descriptors:
        text = f"'{argument.name}' ({argument.type}) of {callee.title} contains a file descriptor"
        entry.at(kind).fail(f"{text}, which legacy protocols cannot transport")
    if descriptors:
        return None
    path, arguments = callee.target.object_path, {argument.name for argument in callee.ins}
    free = [name for name in _object_parameters(entry) if name not in arguments]
    if not entry.has("object_path") and len(free) == 1 and free[0] not in placeholders(path):
        return replace(callee, target=dataclasses.replace(callee.target, object_path="{" + free[0] + "}"))
    if path == NOWHERE:
        _missing(entry, "object_path")
        return None
    return callee


def _with_further(entry: Scope, common: Scope, callee: Callee, library: IdlLibrary) -> Callee | None:
    """`with_interfaces`: the record has the properties of further interfaces of the object."""
    listed = entry.at("with_interfaces")
    if listed.data is None:
        return callee
    if not callee.record and not callee.objects:
        listed.fail("'with_interfaces' requires all_properties or managed_objects", level="schema", key=True)
        return None
    found = [callee.interface]
    for item in listed.items():
        data = item.data if isinstance(item.data, Mapping) else {"interface": item.data}
        site = find_site(replace(item, data={**entry.data, "object_path": "/", **data}), common, library)
        if site is not None and site.interface.name in (interface.name for interface in found):
            item.fail(f"duplicate interface '{site.interface.name}'")
        elif site is not None:
            found.append(site.interface)
    return replace(callee, further=tuple(found[1:]))


def _object_parameters(entry: Scope) -> list[str]:
    """The parameters that are object paths and name no argument."""
    params = [item for item in entry.at("params").data or () if isinstance(item, Mapping)]
    return [str(item["name"]) for item in params if "object" in item and not {"to", "drop", "fields"} & item.keys()]


def _missing(entry: Scope, key: str) -> None:
    entry.fail(f"'{key}' is missing: add it here or to `dbus`", level="schema", key=True)


def find_site(entry: Scope, common: Scope, library: IdlLibrary) -> TargetObject | None:
    """The object and interface of an entry; None, with the problems reported, when it has one."""

    def read(key: str, check: Callable[[str], str]) -> str | None:
        scope = entry if entry.has(key) else common
        if scope.has(key):
            return scope.at(key).attempt(check, scope.data[key], level="schema")
        if key == "object_path" and _object_parameters(entry):
            return NOWHERE
        _missing(entry, key)
        return None

    bus_name = read("bus_name", names.bus_name)
    if entry.has("events"):
        return TargetObject(bus_name, "/", EVENTS) if bus_name else None
    object_path = read("object_path", _template)
    interface = read("interface", names.interface)
    if interface is not None and interface in STANDARD and not entry.has("idl"):
        return TargetObject(bus_name, object_path, STANDARD[interface]) if bus_name and object_path else None
    file = read("idl", str)
    if not (bus_name and object_path and interface and file):
        return None
    scope = entry if entry.has("idl") else common
    node = library.read(entry.document.path.parent / file, scope.at("idl"))
    if node is None:
        return None
    found = {**node.inner, **node.interfaces}
    scope = entry if entry.has("interface") else common
    if interface not in found:
        scope.at("interface").fail(unknown("interface", interface, found, owner=file))
    elif interface in node.odd:
        scope.at("interface").fail(_odd(f"interface '{interface}'", node.odd[interface], file))
    else:
        return TargetObject(bus_name, object_path, found[interface], file)
    return None


def _odd(what: str, odd: OddMember, file: str) -> str:
    return f"{what} cannot be used: {odd.message} ({file}:{odd.line}:{odd.column})"


def _template(text: str) -> str:
    filled = "/" + text if text.startswith("{") else text  # a parameter that is an object path
    for name in placeholders(text):
        filled = filled.replace("{" + name + "}", "_")
    try:
        names.object_path(filled)
    except ValueError:
        raise ValueError(f"expected an object path such as /org/example/vm/{{vm}}, got {text!a}") from None
    return text


# The six kinds of callee


def _member(scope: Scope, site: TargetObject) -> Callee | None:
    method = known_member(scope, site.interface.methods, "method", site)
    return None if method is None else _called(site, method)


def _called(site: TargetObject, method: IdlMethod, events: str = "") -> Callee:
    ins, outs = introspection_xml.signature(method.ins), introspection_xml.signature(method.outs)
    return Callee(
        Target(site.bus_name, site.object_path, site.interface.name, method.name, ins, outs, no_reply=method.no_reply),
        site.interface,
        tuple(method.ins),
        () if method.no_reply else tuple(method.outs),
        members=(method.name,),
        documentation=method.documentation,
        events=events,
    )


def _events(scope: Scope, site: TargetObject) -> Callee:
    method = EVENTS.methods[scope.data.title().replace("_", "")]  # get_current_id: GetCurrentId
    return _called(site, method, method.name)


def _property(scope: Scope, site: TargetObject) -> Callee | None:
    known = _accessible(scope, site, "read")
    if known is None:
        return None
    callee = _accessed(site, known, "Get", "ss", "v")
    return replace(callee, outs=(Argument(known.name, known.type),))


def _set_property(scope: Scope, site: TargetObject) -> Callee | None:
    known = _accessible(scope, site, "write")
    if known is None:
        return None
    callee = _accessed(site, known, "Set", "ssv", "")
    return replace(callee, ins=(Argument("value", known.type, known.documentation),))


def _accessed(site: TargetObject, known: IdlProperty, member: str, signature: str, reply: str) -> Callee:
    target = (site.bus_name, site.object_path, PROPERTIES, member, signature, reply)
    return Callee(
        PropertyTarget(*target, site.interface.name, known.name),
        site.interface,
        accessed=known,
        members=(known.name,),
        documentation=known.documentation,
    )


def all_properties(site: TargetObject) -> Callee:
    """The callee that reads all properties of an interface."""
    return _records(site, PROPERTIES, "GetAll", "s", "properties a{sv}", record=True)


def managed_objects(site: TargetObject) -> Callee:
    """The callee that reads the properties of all objects below an object manager."""
    return _records(site, OBJECT_MANAGER, "GetManagedObjects", "", "objects a{oa{sa{sv}}}", record=False)


def _records(site: TargetObject, interface: str, member: str, signature: str, out: str, *, record: bool) -> Callee:
    (found,) = _arguments(out)
    return Callee(
        Target(site.bus_name, site.object_path, interface, member, signature, str(found.type)),
        site.interface,
        outs=(found,),
        record=record,
        objects=not record,
        members=readable(site.interface),
        documentation=site.interface.documentation,
    )


def _managed_objects(scope: Scope, site: TargetObject) -> Callee | None:
    options = scope.data if isinstance(scope.data, Mapping) else {}
    listed = replace(managed_objects(site), duplicates=options.get("on_duplicate", "path"))
    if options.get("key", "element") in ("element", "path"):
        if "class" in options:
            scope.at("class").fail("'class' requires a property as key", level="schema", key=True)
        return replace(listed, key=options.get("key", "element"))
    key = _accessible(scope.at("key"), site, "read")
    if key is None:
        return None
    if key.type.code not in "sogynqiuxt":
        scope.at("key").fail(f"expected a property with text or whole numbers as key; {key.name} is {key.type}")
        return None
    if "class" in options and key.type.code != "s":
        scope.at("class").fail(f"'class' requires a text property as key; {key.name} is {key.type}", key=True)
    return replace(listed, key=key, key_class=options.get("class", ""))


KINDS: Mapping[str, Callable[[Scope, TargetObject], Callee | None]] = {
    "member": _member,
    "property": _property,
    "set_property": _set_property,
    "all_properties": lambda _scope, site: all_properties(site),
    "managed_objects": _managed_objects,
    "events": _events,
}


def readable(interface: Interface) -> tuple[str, ...]:
    """The properties of an interface that can be read."""
    return tuple(name for name, known in interface.properties.items() if known.access != "write")


def _accessible(scope: Scope, site: TargetObject, access: str) -> IdlProperty | None:
    known = known_member(scope, site.interface.properties, "property", site)
    if known is None or access in known.access:
        return known
    words = {"read": "readable", "write": "writable"}
    scope.fail(f"property {site.interface.name}.{known.name} is not {words[access]}; its access is '{known.access}'")
    return None


def known_member(scope: Scope, known: Mapping[str, T], what: str, site: TargetObject) -> T | None:
    """The member that `scope` names; None, with the problem reported, when the interface does not have it."""
    interface = site.interface
    odd = interface.odd.get(f"{what} {scope.data}")
    if odd is not None:
        scope.fail(_odd(f"{what} '{scope.data}' of {interface.name}", odd, site.idl))
        return None
    if scope.data not in known:
        scope.fail(unknown(what, scope.data, known, owner=interface.name))
    found = known.get(scope.data)
    if found is not None and (interface.deprecated or found.deprecated):
        scope.note(f"{interface.name}.{scope.data} is deprecated: a later version of the service may not have it")
    return found
