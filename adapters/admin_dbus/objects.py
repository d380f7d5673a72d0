"""The objects of org.xen.xcp.gateway: paths, interfaces, members, introspection XML.

mappings/idl/org.xen.xcp.gateway.xml is the contract; a test holds these tables against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import quoteattr

from dbus_fast import Variant
from msgspec import Struct

from gateway.core.admin.access import Right
from gateway.core.admin.records import MethodId
from gateway.core.admin.views import MethodRow, ModeChange
from gateway.core.dbus.names import escape_path_element

BUS_NAME = "org.xen.xcp.gateway"
ROOT = "/org/xen/xcp/gateway"
CONTROL, METHOD = f"{BUS_NAME}.Control1", f"{BUS_NAME}.Method1"
SERVICE = "org.xen.xcp.Service1"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
MANAGER = "org.freedesktop.DBus.ObjectManager"
PEER = "org.freedesktop.DBus.Peer"  # the library answers it at every path

Arguments = tuple[tuple[str, str], ...]  # name, type


class Member(Struct, frozen=True):
    """A method or a signal (without `ins`). `right`: the right that a caller needs; None: no right."""

    ins: Arguments = ()
    outs: Arguments = ()
    right: Right | None = None

    @property
    def signature(self) -> str:
        """The signature of a method call."""
        return "".join(type_ for _, type_ in self.ins)

    @property
    def reply(self) -> str:
        """The signature of a method return or a signal."""
        return "".join(type_ for _, type_ in self.outs)


_PATTERN, _WHY = ("pattern", "s"), ("why", "s")
_MOVED = ("moved", "a(sssss)")

METHODS: Mapping[str, Mapping[str, Member]] = {
    CONTROL: {
        "SetMode": Member((_PATTERN, ("mode", "s"), ("options", "a{sv}"), _WHY), (_MOVED,), Right.CHANGE),
        "ClearMode": Member((_PATTERN, _WHY), (_MOVED,), Right.CHANGE),
        "RollbackAll": Member((_WHY,), (_MOVED, ("held", "s")), Right.CHANGE),
        "Explain": Member((("method", "s"), ("params", "av"), ("key", "s")), (("explanations", "aa{sv}"),), Right.READ),
    },
    SERVICE: {"GetDiagnostics": Member((), (("text", "s"),), Right.READ)},
    MANAGER: {"GetManagedObjects": Member((), (("objects", "a{oa{sa{sv}}}"),), Right.READ)},
    PROPERTIES: {
        "Get": Member((("interface", "s"), ("property", "s")), (("value", "v"),), Right.READ),
        "GetAll": Member((("interface", "s"),), (("properties", "a{sv}"),), Right.READ),
        "Set": Member((("interface", "s"), ("property", "s"), ("value", "v")), (), Right.READ),
    },
    INTROSPECTABLE: {"Introspect": Member((), (("xml", "s"),))},
    PEER: {"Ping": Member(), "GetMachineId": Member((), (("machine_id", "s"),))},
}

SIGNALS: Mapping[str, Mapping[str, Member]] = {
    CONTROL: {
        "ModeChanged": Member(
            outs=(("service", "s"), ("method", "s"), ("before", "s"), ("after", "s"), ("set_by", "s"))
        ),
        "RolledBack": Member(outs=(("subject", "s"), ("who", "s"), ("why", "s"))),
    },
    MANAGER: {
        "InterfacesAdded": Member(outs=(("object", "o"), ("interfaces", "a{sa{sv}}"))),
        "InterfacesRemoved": Member(outs=(("object", "o"), ("interfaces", "as"))),
    },
    PROPERTIES: {"PropertiesChanged": Member(outs=(("interface", "s"), ("changed", "a{sv}"), ("invalidated", "as")))},
}


class ObjectProperty(Struct, frozen=True):
    """A property of a method's object. `path`: where a MethodRow has it. `emits`: the value of EmitsChangedSignal."""

    type: str
    path: str
    emits: str = "false"

    def of(self, row: MethodRow | ModeChange) -> Variant:
        """Its value; without one it is empty or 0."""
        name, _, inner = self.path.partition(".")
        value: Any = getattr(row, name)
        if inner:
            value = value[inner] if isinstance(value, dict) else getattr(value, inner)
        return Variant(self.type, value or "" if self.type == "s" else _VALUES[self.type](value or 0))


_VALUES: Mapping[str, Callable[[Any], object]] = {"d": float, "t": int, "b": bool}

METHOD_PROPERTIES: Mapping[str, ObjectProperty] = {
    "Service": ObjectProperty("s", "service", "const"),
    "Name": ObjectProperty("s", "method", "const"),
    "Group": ObjectProperty("s", "group"),
    "Effect": ObjectProperty("s", "effect"),
    "Upstream": ObjectProperty("s", "upstream"),
    "Key": ObjectProperty("s", "key"),
    "Mode": ObjectProperty("s", "setting.mode", "true"),
    "Percent": ObjectProperty("d", "setting.percent", "true"),
    "Control": ObjectProperty("s", "setting.control", "true"),
    "Observe": ObjectProperty("b", "setting.observe", "true"),
    "Noise": ObjectProperty("b", "setting.noise", "true"),
    "SetBy": ObjectProperty("s", "set_by", "true"),
    "Source": ObjectProperty("s", "source", "true"),
    "Until": ObjectProperty("t", "until", "true"),
    "Rollout": ObjectProperty("s", "rollout"),
    "Comparisons": ObjectProperty("t", "comparisons"),
    "Equal": ObjectProperty("t", "equal"),
    "Ignored": ObjectProperty("t", "ignored"),
    "Different": ObjectProperty("t", "different"),
    "ErrorDifferent": ObjectProperty("t", "error_different"),
    "Dropped": ObjectProperty("t", "dropped"),
    "ComparedShare": ObjectProperty("d", "compared_share"),
    "EqualShare": ObjectProperty("d", "equal_share"),
    **{
        f"{side}{name}": ObjectProperty(type_, f"{side.lower()}.{name.lower()}")
        for side in ("Legacy", "Dbus")
        for name, type_ in {"Answered": "t", "Calls": "t", "Errors": "t", "P50": "d", "P99": "d"}.items()
    },
    "Verdict": ObjectProperty("s", "verdict"),
}

SERVICE_PROPERTIES: Mapping[str, str] = {
    "Name": "s", "Vendor": "s", "Version": "s", "Features": "as", "InstanceId": "s", "Since": "t"
}  # fmt: skip


@lru_cache(maxsize=2**14)
def path_of(method: MethodId) -> str:
    """Return the object path of a method."""
    return f"{ROOT}/method/{escape_path_element(f'{method.service}/{method.method}')}"


def of_row(row: MethodRow) -> dict[str, Variant]:
    """Return all properties of a method's object."""
    return {name: each.of(row) for name, each in METHOD_PROPERTIES.items()}


def of_change(news: ModeChange) -> dict[str, Variant]:
    """Return the properties that a mode change affects."""
    return {name: each.of(news) for name, each in METHOD_PROPERTIES.items() if each.emits == "true"}


# Introspection (D-Bus specification, "Introspection Data Format")

_HEAD = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


def interfaces_at(path: str, methods: Collection[str]) -> tuple[str, ...]:
    """Return the interfaces of an object; empty if there is no object at the path. `methods`: the paths of methods."""
    if path == ROOT:
        return (CONTROL, SERVICE, MANAGER, PROPERTIES)
    return (METHOD, PROPERTIES) if path in methods else ()


@lru_cache(maxsize=2)
def paths_of(methods: tuple[MethodId, ...]) -> Mapping[str, MethodId]:
    """Return the methods by their object paths."""
    return {path_of(method): method for method in methods}


def exists(path: str, methods: Collection[str]) -> bool:
    """Return whether there is an object at the path or below it."""
    return bool(interfaces_at(path, methods)) or path in _ABOVE or (path == f"{ROOT}/method" and bool(methods))


_ABOVE = frozenset({"/", *(ROOT[:at] for at, letter in enumerate(ROOT) if letter == "/" and at)})


def introspection(path: str, methods: Collection[str]) -> str:
    """Return the introspection XML of an object, or of a path that leads to one."""
    lines = [line for name in (*interfaces_at(path, methods), INTROSPECTABLE, PEER) for line in _interface(name)]
    above = path if path.endswith("/") else f"{path}/"
    below = [each.removeprefix(above).partition("/")[0] for each in (ROOT, *methods) if each.startswith(above)]
    lines += [f"  <node name={quoteattr(child)}/>" for child in dict.fromkeys(below)]
    return "\n".join((f"{_HEAD}<node>", *lines, "</node>\n"))


def _interface(name: str) -> Iterator[str]:
    yield f'  <interface name="{name}">'
    for kind, members in (("method", METHODS), ("signal", SIGNALS)):
        for member, known in members.get(name, {}).items():
            yield f'    <{kind} name="{member}">'
            directions = ("in", known.ins), ("out", known.outs)
            for direction, arguments in directions:
                which = f' direction="{direction}"' if kind == "method" else ""
                for argument, type_ in arguments:
                    yield f'      <arg name="{argument}" type="{type_}"{which}/>'
            yield f"    </{kind}>"
    properties: dict[str, tuple[str, str]] = {}
    if name == METHOD:
        properties = {each: (known.type, known.emits) for each, known in METHOD_PROPERTIES.items()}
    if name == SERVICE:
        properties = {each: (type_, "const") for each, type_ in SERVICE_PROPERTIES.items()}
    for each, (type_, emits) in properties.items():
        yield f'    <property name="{each}" type="{type_}" access="read">'
        yield f'      <annotation name="{_EMITS}" value="{emits}"/>'
        yield "    </property>"
    yield "  </interface>"
