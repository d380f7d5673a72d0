"""The objects of the store on D-Bus: properties, methods, introspection, object managers and signals, from the tables.

An object of class VM is at /org/xen/xcp/xapi/vm/REFERENCE and has org.xen.xcp.xapi.VM1. Its manager at
/org/xen/xcp/xapi/vm has org.xen.xcp.xapi.VMManager1 and is an ObjectManager over the class; /org/xen/xcp/xapi is one
over all.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import isawaitable
from typing import Any
from xml.sax.saxutils import quoteattr

from dbus_next import ErrorType, Message, MessageFlag, MessageType, Variant
from service import Bus, Error, element

from xenapi import schema
from xenapi.operations import Pool, call
from xenapi.schema import PATH, SERVED_OTHERWISE, Class, Field, Type
from xenapi.store import Listener, Row

PROPERTIES = "org.freedesktop.DBus.Properties"
MANAGER = "org.freedesktop.DBus.ObjectManager"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"
STANDARD = f"""<interface name="{INTROSPECTABLE}">
<method name="Introspect"><arg type="s" direction="out"/></method></interface>
<interface name="{PEER}"><method name="Ping"/>
<method name="GetMachineId"><arg type="s" direction="out"/></method></interface>
<interface name="{PROPERTIES}">
<method name="Get"><arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="out"/></method>
<method name="GetAll"><arg type="s" direction="in"/><arg type="a{{sv}}" direction="out"/></method>
<method name="Set"><arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="in"/></method>
<signal name="PropertiesChanged"><arg type="s"/><arg type="a{{sv}}"/><arg type="as"/></signal></interface>"""
MANAGES = f"""<interface name="{MANAGER}">
<method name="GetManagedObjects"><arg type="a{{oa{{sa{{sv}}}}}}" direction="out"/></method>
<signal name="InterfacesAdded"><arg type="o"/><arg type="a{{sa{{sv}}}}"/></signal>
<signal name="InterfacesRemoved"><arg type="o"/><arg type="as"/></signal></interface>"""
Answer = tuple[str, list[Any]]  # signature and body
# How a manager answers what every class may have: its method, name and type of the argument, type of the result.
LOOKUPS = {
    "get_all": ("GetAll", "", "", "as"),
    "get_by_uuid": ("GetByUuid", "uuid", "s", "s"),
    "get_by_name_label": ("GetByNameLabel", "label", "s", "as"),
}
LOOK_UP: Mapping[str, Callable[..., Any]] = {
    "get_all": lambda store, cls: [row.ref for row in store.all(cls)],
    "get_by_uuid": lambda store, cls, uuid: store.by_uuid(cls, uuid).ref,
    "get_by_name_label": lambda store, cls, label: [row.ref for row in store.named(cls, label)],
}


class Objects(Listener):
    """Answers the calls to the store's objects and their managers, and tells of changes."""

    def __init__(self, bus: Bus, pool: Pool) -> None:
        self.bus = bus
        self.pool = pool
        self.store = pool.store
        served = (cls for name, cls in self.store.classes.items() if name not in SERVED_OTHERWISE)
        self._classes = {cls.path: cls for cls in served}
        self._paths = {path(row): row for row in self.store.rows.values()}
        self._running: set[asyncio.Future[None]] = set()
        self.store.listener = self
        bus.objects = self.receive

    # Calls

    def receive(self, message: Message) -> Message | bool:
        """Answer a call to one of these objects; False for any other message."""
        if message.message_type is not MessageType.METHOD_CALL or not f"{message.path}/".startswith(f"{PATH}/"):
            return False
        try:
            answer = self._answer(message)
        except Error as error:
            return _reply(message, error._as_message(message))  # noqa: SLF001 - it has no public way
        if answer is None:
            return False
        if isawaitable(answer):
            running = asyncio.ensure_future(self._later(message, answer))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
            return True
        return _reply(message, Message.new_method_return(message, *answer))

    async def _later(self, message: Message, answer: Any) -> None:
        try:
            reply = Message.new_method_return(message, *await answer)
        except Error as error:
            reply = error._as_message(message)  # noqa: SLF001 - as above
        except Exception:  # noqa: BLE001 - a bug must not leave a caller waiting
            traceback.print_exc(file=sys.stderr)
            reply = Message.new_error(message, ErrorType.SERVICE_ERROR, "internal error")
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self.bus.send(reply)

    def _answer(self, message: Message) -> Answer | Any | None:
        member = f"{message.interface}.{message.member}"
        if message.path == PATH:
            return self._root(member)
        if message.path in self._classes:
            return self._manager(self._classes[message.path], member, message)
        if message.path not in self._paths:
            raise Error(ErrorType.UNKNOWN_OBJECT.value, "s", f"no object at {message.path}")
        return self._object(self._paths[message.path], member, message)

    def _root(self, member: str) -> Answer | None:
        """The service's own object has further interfaces, which are not from tables."""
        if member == f"{MANAGER}.GetManagedObjects":
            return "a{oa{sa{sv}}}", [{where: interfaces(row) for where, row in self._paths.items()}]
        if member == f"{INTROSPECTABLE}.Introspect":
            node = self.bus._introspect_export_path(PATH)  # noqa: SLF001 - it has no public way
            children = "".join(f"<node name={quoteattr(where.rpartition('/')[2])}/>" for where in self._classes)
            return "s", [node.tostring().replace("</node>", f"{children}</node>")]
        return None

    def _manager(self, cls: Class, member: str, message: Message) -> Answer | Any:
        if member == f"{MANAGER}.GetManagedObjects":
            return "a{oa{sa{sv}}}", [{path(row): interfaces(row) for row in self.store.all(cls.name)}]
        if member == f"{INTROSPECTABLE}.Introspect":
            children = "".join(f'<node name="{element(row.ref)}"/>' for row in self.store.all(cls.name))
            return "s", [f"<node>{STANDARD}{MANAGES}{_manager_xml(cls.name)}{children}</node>"]
        if member == f"{PROPERTIES}.GetAll" and message.body == [cls.manager]:
            return "a{sv}", [{}]
        for reader, (name, _argument, ins, outs) in LOOKUPS.items():
            if member == f"{cls.manager}.{name}" and message.signature == ins and reader in cls.readers:
                return outs, [LOOK_UP[reader](self.store, cls.name, *message.body)]
        return self._method(cls.manager, cls.statics, None, message)

    def _object(self, row: Row, member: str, message: Message) -> Answer | Any:
        if message.interface == PROPERTIES:
            return self._properties(row, member.rpartition(".")[2], message)
        if member == f"{INTROSPECTABLE}.Introspect":
            return "s", [f"<node>{STANDARD}{_object_xml(row.cls.name)}</node>"]
        return self._method(row.cls.interface, row.cls.methods, row, message)

    def _properties(self, row: Row, member: str, message: Message) -> Answer:
        expected = {"Get": "ss", "GetAll": "s", "Set": "ssv"}.get(member)
        if expected != message.signature:
            raise _unknown_method(message)
        if message.body[0] != row.cls.interface:
            raise Error(ErrorType.UNKNOWN_INTERFACE.value, "s", f"no interface {message.body[0]} here")
        if member == "GetAll":
            return "a{sv}", [properties(row)]
        name = message.body[1]
        field = row.cls.by_property.get(name)
        if field is None:
            raise Error(ErrorType.UNKNOWN_PROPERTY.value, "s", f"no property {name} of {row.cls.interface}")
        if member == "Get":
            return "v", [Variant(field.type.signature, row[field.name])]
        self._set(row, field, message.body[2])
        return "", []

    def _set(self, row: Row, field: Field, value: Variant) -> None:
        if not field.writable:
            raise Error(ErrorType.PROPERTY_READ_ONLY.value, "s", f"{field.property} is read-only")
        if value.signature != field.type.signature:
            told = f"{field.property} is of type {field.type.signature}, not {value.signature}"
            raise Error(ErrorType.INVALID_SIGNATURE.value, "s", told)
        self.store.check(field, value.value)
        self.store.put(row, {field.name: value.value})

    def _method(self, interface: str, methods: Mapping[str, schema.Message], row: Row | None, message: Message) -> Any:
        found = methods.get(message.member)
        if found is None or message.interface not in (interface, None) or message.signature != found.signature:
            if message.interface == PEER:
                return None
            raise _unknown_method(message)
        result = call(self.pool, found, row, message.body)
        if isawaitable(result):
            return _awaited(found.result, result)
        return answer(found.result, result)

    # Signals

    def added(self, row: Row) -> None:
        """Tell of a new object."""
        self._paths[path(row)] = row
        for where in (row.cls.path, PATH):
            self._emit(where, MANAGER, "InterfacesAdded", "oa{sa{sv}}", path(row), interfaces(row))

    def changed(self, row: Row, fields: list[str]) -> None:
        """Tell of changed properties."""
        values = {row.cls.fields[name].property: _variant(row, row.cls.fields[name]) for name in fields}
        self._emit(path(row), PROPERTIES, "PropertiesChanged", "sa{sv}as", row.cls.interface, values, [])

    def removed(self, row: Row) -> None:
        """Tell of an object that is no more."""
        del self._paths[path(row)]
        for where in (row.cls.path, PATH):
            self._emit(where, MANAGER, "InterfacesRemoved", "oas", path(row), [row.cls.interface])

    def _emit(self, where: str, interface: str, member: str, signature: str, *body: Any) -> None:
        self.bus.send(Message.new_signal(where, interface, member, signature, list(body)))


def path(row: Row) -> str:
    """The path of an object."""
    return f"{row.cls.path}/{element(row.ref)}"


def properties(row: Row) -> dict[str, Variant]:
    """All properties of an object."""
    return {each.property: _variant(row, each) for each in row.cls.fields.values()}


def interfaces(row: Row) -> dict[str, dict[str, Variant]]:
    """What an object manager says of an object."""
    return {row.cls.interface: properties(row)}


def _variant(row: Row, field: Field) -> Variant:
    return Variant(field.type.signature, row[field.name])


def _reply(call: Message, reply: Message) -> Message | bool:
    return True if call.flags & MessageFlag.NO_REPLY_EXPECTED else reply


def _unknown_method(message: Message) -> Error:
    told = f'{message.interface}.{message.member} with signature "{message.signature}" could not be found'
    return Error(ErrorType.UNKNOWN_METHOD.value, "s", told)


async def _awaited(kind: Type, result: Any) -> Answer:
    return answer(kind, await result)


def answer(kind: Type, result: Any) -> Answer:
    """The body of a reply: references for objects, dictionaries of properties for records."""
    return (kind.signature, [_plain(kind, result)]) if kind.signature else ("", [])


def _plain(kind: Type, value: Any) -> Any:
    if isinstance(value, Row):
        return properties(value) if kind.kind == "record" else value.ref
    if kind.kind == "record":
        fields = schema.classes()[kind.name].fields
        return {fields[name].property: Variant(fields[name].type.signature, each) for name, each in value.items()}
    if kind.kind == "map":
        return {_plain(kind.key, key): _plain(kind.item, each) for key, each in value.items()}
    if kind.kind == "set":
        return [_plain(kind.item, each) for each in value]
    return schema.NULL_REF if value is None else value


# Introspection


@cache
def _object_xml(name: str) -> str:
    cls = schema.classes()[name]
    held = []
    for each in cls.fields.values():
        access = "readwrite" if each.writable else "read"
        held.append(f'<property name="{each.property}" type="{each.type.signature}" access="{access}"/>')
    return f'<interface name="{cls.interface}">{"".join((*_methods(cls.methods), *held))}</interface>'


@cache
def _manager_xml(cls_name: str) -> str:
    cls = schema.classes()[cls_name]
    found = [
        f'<method name="{member}">{f"""<arg name="{name}" type="{ins}" direction="in"/>""" if ins else ""}'
        f'<arg type="{outs}" direction="out"/></method>'
        for reader, (member, name, ins, outs) in LOOKUPS.items()
        if reader in cls.readers
    ]
    return f'<interface name="{cls.manager}">{"".join((*_methods(cls.statics), *found))}</interface>'


def _methods(methods: Mapping[str, schema.Message]) -> Iterator[str]:
    for member, each in methods.items():
        ins = "".join(f'<arg name="{name}" type="{kind.signature}" direction="in"/>' for name, kind in each.parameters)
        out = each.result.signature
        yield f'<method name="{member}">{ins}{f"""<arg type="{out}" direction="out"/>""" if out else ""}</method>'
