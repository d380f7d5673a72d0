"""The objects of org.xen.xcp.gateway: paths, interfaces, members, introspection XML.

mappings/idl/org.xen.xcp.gateway.xml is the contract; a test holds these tables against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from xml.sax.saxutils import quoteattr

from dbus_fast import Variant
from msgspec import Struct

from gateway.core.admin.access import Right
from gateway.core.admin.records import MethodId
from gateway.core.admin.views import MethodRow, ModeChange, SettingView
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
    """A property of a method's object. `emits`: the value of EmitsChangedSignal."""

    type: str
    of: Callable[[MethodRow], object]
    emits: str = "false"


def _percent(setting: SettingView) -> float:
    return float(setting["percent"])


def _side(name: str) -> dict[str, ObjectProperty]:
    """The properties of one side."""

    def of(field: str) -> Callable[[MethodRow], object]:
        return lambda row: getattr(getattr(row, name.lower()), field) or 0

    return {
        f"{name}Answered": ObjectProperty("t", of("answered")),
        f"{name}Calls": ObjectProperty("t", of("calls")),
        f"{name}Errors": ObjectProperty("t", of("errors")),
        f"{name}P50": ObjectProperty("d", lambda row: float(getattr(row, name.lower()).p50 or 0)),
        f"{name}P99": ObjectProperty("d", lambda row: float(getattr(row, name.lower()).p99 or 0)),
    }


METHOD_PROPERTIES: Mapping[str, ObjectProperty] = {
    "Service": ObjectProperty("s", lambda row: row.service, "const"),
    "Name": ObjectProperty("s", lambda row: row.method, "const"),
    "Group": ObjectProperty("s", lambda row: row.group),
    "Effect": ObjectProperty("s", lambda row: row.effect),
    "Upstream": ObjectProperty("s", lambda row: row.upstream or ""),
    "Key": ObjectProperty("s", lambda row: row.key or ""),
    "Mode": ObjectProperty("s", lambda row: row.setting["mode"], "true"),
    "Percent": ObjectProperty("d", lambda row: _percent(row.setting), "true"),
    "Control": ObjectProperty("s", lambda row: row.setting["control"], "true"),
    "Observe": ObjectProperty("b", lambda row: row.setting["observe"], "true"),
    "Noise": ObjectProperty("b", lambda row: row.setting["noise"], "true"),
    "SetBy": ObjectProperty("s", lambda row: row.set_by, "true"),
    "Source": ObjectProperty("s", lambda row: row.source, "true"),
    "Until": ObjectProperty("t", lambda row: int(row.until or 0), "true"),
    "Rollout": ObjectProperty("s", lambda row: row.rollout),
    "Comparisons": ObjectProperty("t", lambda row: row.comparisons),
    "Equal": ObjectProperty("t", lambda row: row.equal),
    "Ignored": ObjectProperty("t", lambda row: row.ignored),
    "Different": ObjectProperty("t", lambda row: row.different),
    "ErrorDifferent": ObjectProperty("t", lambda row: row.error_different),
    "Dropped": ObjectProperty("t", lambda row: row.dropped),
    "ComparedShare": ObjectProperty("d", lambda row: float(row.compared_share or 0)),
    "EqualShare": ObjectProperty("d", lambda row: float(row.equal_share or 0)),
    **_side("Legacy"),
    **_side("Dbus"),
    "Verdict": ObjectProperty("s", lambda row: row.verdict),
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
    return {name: Variant(each.type, each.of(row)) for name, each in METHOD_PROPERTIES.items()}


def of_change(news: ModeChange) -> dict[str, Variant]:
    """Return the properties that a mode change affects."""
    values = {
        "Mode": news.setting["mode"],
        "Percent": _percent(news.setting),
        "Control": news.setting["control"],
        "Observe": news.setting["observe"],
        "Noise": news.setting["noise"],
        "SetBy": news.set_by,
        "Source": news.source,
        "Until": int(news.until or 0),
    }
    return {name: Variant(METHOD_PROPERTIES[name].type, value) for name, value in values.items()}


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
    inside = [_interface(name) for name in (*interfaces_at(path, methods), INTROSPECTABLE, PEER)]
    inside += [f"  <node name={quoteattr(child)}/>\n" for child in _children(path, (ROOT, *methods))]
    return f"{_HEAD}<node>\n{''.join(inside)}</node>\n"


def _children(path: str, paths: Iterable[str]) -> list[str]:
    above = path if path.endswith("/") else f"{path}/"
    below = (each.removeprefix(above).partition("/")[0] for each in paths if each.startswith(above))
    return list(dict.fromkeys(below))


def _interface(name: str) -> str:
    lines = [f'  <interface name="{name}">']
    for method, member in METHODS.get(name, {}).items():
        lines += _member(
            "method", method, (*_args(member.ins, ' direction="in"'), *_args(member.outs, ' direction="out"'))
        )
    for signal, member in SIGNALS.get(name, {}).items():
        lines += _member("signal", signal, _args(member.outs, ""))
    if name == METHOD:
        lines += [
            line for each, known in METHOD_PROPERTIES.items() for line in _property(each, known.type, known.emits)
        ]
    if name == SERVICE:
        lines += [line for each, type_ in SERVICE_PROPERTIES.items() for line in _property(each, type_, "const")]
    return "\n".join((*lines, "  </interface>\n"))


def _member(kind: str, name: str, args: Iterable[str]) -> list[str]:
    return [f'    <{kind} name="{name}">', *args, f"    </{kind}>"]


def _args(arguments: Arguments, direction: str) -> list[str]:
    return [f'      <arg name="{name}" type="{type_}"{direction}/>' for name, type_ in arguments]


def _property(name: str, type_: str, emits: str) -> list[str]:
    annotation = f'      <annotation name="{_EMITS}" value="{emits}"/>'
    return [f'    <property name="{name}" type="{type_}" access="read">', annotation, "    </property>"]
