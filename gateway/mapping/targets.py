"""Resolves the target of a method entry in the IDL: bus name, object path, interface, and the member that is called.

`bus_name`, `object_path`, `interface` and `idl` come from the entry or from `dbus`. Exactly one of `member`,
`property`, `set_property`, `all_properties` and `managed_objects` selects the D-Bus method: the member itself, Get, Set
and GetAll of org.freedesktop.DBus.Properties, or GetManagedObjects of org.freedesktop.DBus.ObjectManager.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from gateway.core.dbus import names
from gateway.core.dbus.arguments import placeholders
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import PropertyTarget, Target
from gateway.mapping import introspection_xml, load
from gateway.mapping.introspection_xml import Argument, IdlProperty, Interface
from gateway.mapping.load import Scope
from gateway.mapping.problem import Problem, unknown

T = TypeVar("T")

NOTHING: Mapping[Path, bytes] = MappingProxyType({})
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"


class IdlLibrary:
    """The IDL files, each read once. A problem in a file is reported once, with its place in that file."""

    def __init__(
        self, problems: dict[Problem, None], roots: Collection[Path] = (), instead: Mapping[Path, bytes] = NOTHING
    ) -> None:
        self._problems = problems
        self._roots = roots
        self._instead = instead
        self._nodes: dict[Path, introspection_xml.Node | None] = {}
        self.contents: dict[Path, bytes] = {}

    def read(self, path: Path, scope: Scope) -> introspection_xml.Node | None:
        """The node of an IDL file; None, with the problem reported, when the file cannot be used."""
        if path not in self.contents:
            try:
                self.contents[path] = self._instead[path] if path in self._instead else load.read_regular(path)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                scope.fail(f"cannot read IDL file '{path}': {reason}")
                return None
            self._nodes[path] = self._parse(path)
        return self._nodes[path]

    def _parse(self, path: Path) -> introspection_xml.Node | None:
        try:
            return introspection_xml.parse(self.contents[path])
        except introspection_xml.IdlError as error:
            found = Problem(str(path), error.line, error.column, "", str(error), "idl")
            if load.is_outside(path, self._roots):
                found = Problem(str(path), 1, 1, "", "not introspection XML", "idl")
            self._problems[found] = None
            return None


@dataclass(frozen=True, slots=True)
class Callee:
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

    @property
    def title(self) -> str:
        """The member in messages: `org.xen.xcp.xenopsd.VM1.Stat`."""
        whole = self.record or self.objects
        return self.interface.name if whole else f"{self.interface.name}.{self.members[0]}"


@dataclass(frozen=True, slots=True)
class TargetObject:
    """An object and one of its interfaces; all names are valid."""

    bus_name: str
    object_path: str
    interface: Interface


def find(entry: Scope, common: Scope, library: IdlLibrary) -> Callee | None:
    """The callee of a method or session entry; `common` is `dbus`. None, with the problems reported, on failure."""
    site = find_site(entry, common, library)
    if site is None:
        return None
    for kind, build in _KINDS.items():
        if entry.has(kind):
            callee = build(entry.at(kind), site)
            return callee if callee is None or _is_supported(entry.at(kind), callee) else None
    return None


def find_site(entry: Scope, common: Scope, library: IdlLibrary) -> TargetObject | None:
    """The object and interface of an entry; None, with the problems reported, when it has one."""
    bus_name = _name(entry, common, "bus_name", names.bus_name)
    object_path = _name(entry, common, "object_path", _template)
    interface = _name(entry, common, "interface", names.interface)
    file = _name(entry, common, "idl", str)
    if not (bus_name and object_path and interface and file):
        return None
    scope = entry if entry.has("idl") else common
    node = library.read(entry.document.path.parent / file, scope.at("idl"))
    if node is None:
        return None
    if interface not in node.interfaces:
        scope = entry if entry.has("interface") else common
        scope.at("interface").fail(unknown("interface", interface, node.interfaces, owner=file))
        return None
    return TargetObject(bus_name, object_path, node.interfaces[interface])


def _name(entry: Scope, common: Scope, key: str, check: Callable[[str], str]) -> str | None:
    scope = entry if entry.has(key) else common
    if not scope.has(key):
        entry.fail(f"'{key}' is missing: add it here or to `dbus`", level="schema", key=True)
        return None
    return scope.at(key).attempt(check, scope.at(key).data, level="schema")


def _template(text: str) -> str:
    filled = text
    for name in placeholders(text):
        filled = filled.replace("{" + name + "}", "_")
    try:
        names.object_path(filled)
    except ValueError:
        raise ValueError(f"expected an object path such as /org/example/vm/{{vm}}, got {text!a}") from None
    return text


def _is_supported(scope: Scope, callee: Callee) -> bool:
    """Legacy protocols cannot transport file descriptors."""
    everything = [*callee.ins, *callee.outs]
    if callee.record or callee.objects:
        everything = [Argument(name, known.type) for name, known in callee.interface.properties.items()]
    descriptors = [argument for argument in everything if argument.type.has_file_descriptor]
    for argument in descriptors:
        text = f"'{argument.name}' ({argument.type}) of {callee.title} contains a file descriptor"
        scope.fail(f"{text}, which legacy protocols cannot transport")
    return not descriptors


# The five kinds of callee


def _member(scope: Scope, site: TargetObject) -> Callee | None:
    method = known_member(scope, site.interface.methods, "method", site)
    if method is None:
        return None
    target = _target(
        site,
        site.interface.name,
        method.name,
        introspection_xml.signature(method.ins),
        introspection_xml.signature(method.outs),
    )
    return Callee(
        target,
        site.interface,
        tuple(method.ins),
        tuple(method.outs),
        members=(method.name,),
        documentation=method.documentation,
    )


def _property(scope: Scope, site: TargetObject) -> Callee | None:
    known = _accessible(scope, site, "read")
    if known is None:
        return None
    return Callee(
        _property_target(site, known.name, "Get", "ss", "v"),
        site.interface,
        outs=(Argument(known.name, known.type),),
        accessed=known,
        members=(known.name,),
        documentation=known.documentation,
    )


def _set_property(scope: Scope, site: TargetObject) -> Callee | None:
    known = _accessible(scope, site, "write")
    if known is None:
        return None
    return Callee(
        _property_target(site, known.name, "Set", "ssv", ""),
        site.interface,
        ins=(Argument("value", known.type, known.documentation),),
        accessed=known,
        members=(known.name,),
        documentation=known.documentation,
    )


def _all_properties(_scope: Scope, site: TargetObject) -> Callee | None:
    return all_properties(site)


def all_properties(site: TargetObject) -> Callee:
    """The callee that reads all properties of an interface."""
    return Callee(
        _target(site, PROPERTIES, "GetAll", "s", "a{sv}"),
        site.interface,
        outs=(Argument("properties", parse_one("a{sv}")),),
        record=True,
        members=_readable(site.interface),
        documentation=site.interface.documentation,
    )


def _managed_objects(scope: Scope, site: TargetObject) -> Callee | None:
    options = scope.data if isinstance(scope.data, Mapping) else {}
    listed = replace(managed_objects(site), duplicates=options.get("on_duplicate", "path"))
    if options.get("key", "element") in _PATH_KEYS:
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


_PATH_KEYS = ("element", "path")


def managed_objects(site: TargetObject) -> Callee:
    """The callee that reads the properties of all objects below an object manager."""
    return Callee(
        _target(site, OBJECT_MANAGER, "GetManagedObjects", "", "a{oa{sa{sv}}}"),
        site.interface,
        outs=(Argument("objects", parse_one("a{oa{sa{sv}}}")),),
        objects=True,
        members=_readable(site.interface),
        documentation=site.interface.documentation,
    )


_KINDS: Mapping[str, Callable[[Scope, TargetObject], Callee | None]] = {
    "member": _member,
    "property": _property,
    "set_property": _set_property,
    "all_properties": _all_properties,
    "managed_objects": _managed_objects,
}


def _target(site: TargetObject, interface: str, member: str, signature: str, reply_signature: str) -> Target:
    return Target(site.bus_name, site.object_path, interface, member, signature, reply_signature)


def _property_target(
    site: TargetObject, name: str, member: str, signature: str, reply_signature: str
) -> PropertyTarget:
    target = (site.bus_name, site.object_path, PROPERTIES, member, signature, reply_signature)
    return PropertyTarget(*target, site.interface.name, name)


def _readable(interface: Interface) -> tuple[str, ...]:
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
    if scope.data not in known:
        scope.fail(unknown(what, scope.data, known, owner=site.interface.name))
    return known.get(scope.data)
