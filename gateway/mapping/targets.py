"""What a method entry calls: its interface in the IDL and the member of it, with names checked. Knows no parameter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from gateway.core.dbus import names
from gateway.core.dbus.arguments import placeholders
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import PropertyTarget, Target
from gateway.mapping import introspection_xml, load
from gateway.mapping.introspection_xml import Argument, IdlProperty, Interface
from gateway.mapping.load import Scope
from gateway.mapping.problem import Problem, did_you_mean, one_of

T = TypeVar("T")

NOTHING: Mapping[Path, bytes] = MappingProxyType({})
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"


class IdlLibrary:
    """The IDL files, each read once. Every problem of a file is noted once, where the file itself stands."""

    def __init__(
        self, problems: dict[Problem, None], roots: Collection[Path] = (), instead: Mapping[Path, bytes] = NOTHING
    ) -> None:
        self._problems = problems
        self._roots = roots
        self._instead = instead
        self._nodes: dict[Path, introspection_xml.Node | None] = {}
        self.contents: dict[Path, bytes] = {}

    def read(self, path: Path, scope: Scope) -> introspection_xml.Node | None:
        """A file's interfaces; None when it cannot be used, which is noted."""
        if path not in self.contents:
            try:
                self.contents[path] = self._instead[path] if path in self._instead else load.read_regular(path)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                scope.fail(f"'{path}' cannot be read: {reason}")
                return None
            self._nodes[path] = self._parse(path)
        return self._nodes[path]

    def _parse(self, path: Path) -> introspection_xml.Node | None:
        try:
            return introspection_xml.parse(self.contents[path])
        except introspection_xml.IdlError as error:
            wrong = Problem(str(path), error.line, error.column, "", str(error), "idl")
            if load.outside(path, self._roots):
                wrong = Problem(str(path), 1, 1, "", "is no introspection XML", "idl")
            self._problems[wrong] = None
            return None


@dataclass(frozen=True, slots=True)
class Callee:
    """What is called. `ins`: arguments that the mapping has to give; `outs`: those that the result is made of."""

    target: Target
    interface: Interface
    ins: tuple[Argument, ...] = ()
    outs: tuple[Argument, ...] = ()
    accessed: IdlProperty | None = None  # the one that is read or written
    record: bool = False  # the out-argument is all properties of the interface
    objects: bool = False  # the out-argument is the records of all objects that have the interface
    key: IdlProperty | Literal["element", "path"] = "element"  # of the records
    key_class: str = ""  # the legacy class that the keys are references of, where it is not the object's first
    duplicates: Literal["error", "path"] = "path"  # what becomes of records without a key of their own
    members: tuple[str, ...] = ()  # what the running service must have
    documentation: str = ""

    @property
    def title(self) -> str:
        """The member in messages: `org.xen.xcp.xenopsd.VM1.Stat`."""
        whole = self.record or self.objects
        return self.interface.name if whole else f"{self.interface.name}.{self.members[0]}"


@dataclass(frozen=True, slots=True)
class TargetObject:
    """Where a method lives, all names of good grammar."""

    bus_name: str
    object_path: str
    interface: Interface


def find(entry: Scope, common: Scope, library: IdlLibrary) -> Callee | None:
    """What this method (or session) entry calls, `common` saying what it leaves out; None with problems noted."""
    site = find_site(entry, common, library)
    if site is None:
        return None
    for kind, build in _KINDS.items():
        if entry.says(kind):
            callee = build(entry.at(kind), site)
            return callee if callee is None or _can_be_carried(entry.at(kind), callee) else None
    return None


def find_site(entry: Scope, common: Scope, library: IdlLibrary) -> TargetObject | None:
    """Where an entry lives; None with problems noted."""
    bus_name = _name(entry, common, "bus_name", names.bus_name)
    object_path = _name(entry, common, "object_path", _template)
    interface = _name(entry, common, "interface", names.interface)
    file = _name(entry, common, "idl", str)
    if not (bus_name and object_path and interface and file):
        return None
    scope = entry if entry.says("idl") else common
    node = library.read(entry.document.path.parent / file, scope.at("idl"))
    if node is None:
        return None
    if interface not in node.interfaces:
        scope = entry if entry.says("interface") else common
        hint = did_you_mean(interface, node.interfaces) or f" (it has: {one_of(node.interfaces)})"
        scope.at("interface").fail(f"'{interface}' is no interface of {file}{hint}")
        return None
    return TargetObject(bus_name, object_path, node.interfaces[interface])


def _name(entry: Scope, common: Scope, key: str, check: Callable[[str], str]) -> str | None:
    scope = entry if entry.says(key) else common
    if not scope.says(key):
        entry.fail(f"'{key}' is missing, here and under 'dbus'", level="schema", key=True)
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


def _can_be_carried(scope: Scope, callee: Callee) -> bool:
    everything = [*callee.ins, *callee.outs]
    if callee.record or callee.objects:
        everything = [Argument(name, known.type) for name, known in callee.interface.properties.items()]
    descriptors = [argument for argument in everything if argument.type.has_file_descriptor]
    for argument in descriptors:
        scope.fail(f"'{argument}' of {callee.title} holds a file descriptor (h), which no legacy protocol carries")
    return not descriptors


# What can be called


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
    """All properties of an object's interface."""
    return Callee(
        _target(site, PROPERTIES, "GetAll", "s", "a{sv}"),
        site.interface,
        outs=(Argument("properties", parse_one("a{sv}")),),
        record=True,
        members=_readable(site.interface),
        documentation=site.interface.documentation,
    )


def _managed_objects(scope: Scope, site: TargetObject) -> Callee | None:
    said = scope.data if isinstance(scope.data, Mapping) else {}
    listed = replace(managed_objects(site), duplicates=said.get("on_duplicate", "path"))
    if said.get("key", "element") in _PATH_KEYS:
        if "class" in said:
            scope.at("class").fail("'class' goes with a property as key", level="schema", key=True)
        return replace(listed, key=said.get("key", "element"))
    key = _accessible(scope.at("key"), site, "read")
    if key is None:
        return None
    if not _is_key(key.type):
        scope.at("key").fail(f"'{key.name} {key.type}' cannot be a key: text or a whole number is needed")
        return None
    if "class" in said and key.type.code != "s":
        scope.at("class").fail(f"'class' needs a text as key, and {key.name} is {key.type}", key=True)
    return replace(listed, key=key, key_class=said.get("class", ""))


_PATH_KEYS = ("element", "path")


def managed_objects(site: TargetObject) -> Callee:
    """The properties of every object that has the interface, below one that manages them."""
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


def _is_key(kind: Type) -> bool:
    return kind.code in "sogynqiuxt"


def _readable(interface: Interface) -> tuple[str, ...]:
    return tuple(name for name, known in interface.properties.items() if known.access != "write")


def _accessible(scope: Scope, site: TargetObject, access: str) -> IdlProperty | None:
    known = known_member(scope, site.interface.properties, "property", site)
    if known is None or access in known.access:
        return known
    words = {"read": "be read", "write": "be written"}
    scope.fail(f"{site.interface.name}.{known.name} cannot {words[access]}, its access is '{known.access}'")
    return None


def known_member(scope: Scope, known: Mapping[str, T], what: str, site: TargetObject) -> T | None:
    """What has this name in the interface; None with the problem noted."""
    if scope.data not in known:
        hint = did_you_mean(scope.data, known) or f" (it has: {one_of(known)})"
        scope.fail(f"'{scope.data}' is no {what} of {site.interface.name}{hint}")
    return known.get(scope.data)
