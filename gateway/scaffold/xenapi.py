"""`scaffold xenapi`: IDL and mapping of a XenAPI datamodel.

Every class becomes an interface with a property for each field and a method for each message, and a manager with the
messages that have no object. The mapping file binds them again; what the naming rules do not give back is listed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import quoteattr

from msgspec import Struct

from gateway.mapping.classes.fields import legacy_name, member_name
from gateway.scaffold.datamodel import DatamodelClass, DatamodelField, DatamodelMessage, DatamodelType

DOC = "org.gtk.GDBus.DocString"
PATH = "org.xen.xcp.ObjectPath"
TYPE = "org.xen.xcp.Type"
# A session is opened and checked before a method, and events come from signals: neither is a class of objects here.
SERVED_OTHERWISE = frozenset({"session", "event"})
READING = (
    "assert_",
    "compute_",
    "query_",
    "list_",
    "has_",
    "retrieve_",
    "precheck",
    "probe",
    "ha_compute_",
    "ha_failover_",
)
MOST_TAGS = 8  # an enum with more is named only
NO_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
# Parameters that a client may leave out. The JSON of xapi does not say so.
OPTIONAL: Mapping[str, Mapping[str, str]] = {
    "Bond.create": {"mode": "balance-slb", "properties": "{}"},
    "GPU_group.create": {"name_label": '""', "name_description": '""', "other_config": "{}"},
    "Repository.introduce": {"gpgkey_path": '""'},
    "SDN_controller.introduce": {"protocol": "ssl", "address": '""', "port": "0"},
    "SR.create_new_blob": {"public": "false"},
    "USB_group.create": {"name_label": '""', "name_description": '""', "other_config": "{}"},
    "VDI.clone": {"driver_params": "{}"},
    "VDI.copy": {"base_vdi": '"OpaqueRef:NULL"', "into_vdi": '"OpaqueRef:NULL"'},
    "VDI.snapshot": {"driver_params": "{}"},
    "VGPU.create": {"device": '"0"', "other_config": "{}", "type": '"OpaqueRef:NULL"'},
    "VIF.configure_ipv4": {"address": '""', "gateway": '""'},
    "VIF.configure_ipv6": {"address": '""', "gateway": '""'},
    "VM.assert_can_migrate": {"vgpu_map": "{}"},
    "VM.create_new_blob": {"public": "false"},
    "VM.migrate_send": {"vgpu_map": "{}"},
    "VM.snapshot": {"ignore_vdis": "[]"},
    "VUSB.create": {"other_config": "{}"},
    "blob.create": {"public": "false"},
    "host.apply_edition": {"force": "false"},
    "host.create_new_blob": {"public": "false"},
    "host.disable_external_auth": {"config": "{}"},
    "host.emergency_ha_disable": {"soft": "false"},
    "host.evacuate": {"network": '"OpaqueRef:NULL"', "evacuate_batch_size": "0"},
    "host.install_server_certificate": {"certificate_chain": '""'},
    "network.create_new_blob": {"public": "false"},
    "pool.create_new_blob": {"public": "false"},
    "pool.disable_external_auth": {"config": "{}"},
    "pool.sync_updates": {"force": "false", "token": '""', "token_id": '""'},
    "tunnel.create": {"protocol": "gre"},
}


class Scaffold(Struct, frozen=True):
    """What is written: the introspection XML and the mapping file."""

    idl: str
    mapping: str


class Names(Struct, frozen=True):
    """Where the service is: `bus_name` is also the prefix of the interfaces, `idl` the name of the IDL file."""

    bus_name: str
    object_path: str
    idl: str

    def interface(self, cls: DatamodelClass) -> str:
        """The interface of the objects of a class."""
        return f"{self.bus_name}.{cls.name[:1].upper()}{cls.name[1:]}1"

    def manager(self, cls: DatamodelClass) -> str:
        """The interface of the manager of a class."""
        return f"{self.interface(cls)[:-1]}Manager1"

    def path(self, cls: DatamodelClass) -> str:
        """The object path of the manager; the objects are below it."""
        return f"{self.object_path}/{cls.name.lower()}"


def make(classes: Sequence[DatamodelClass], names: Names) -> Scaffold:
    """Make both files."""
    known = {each.name: each for each in classes if each.name not in SERVED_OTHERWISE}
    return Scaffold("\n".join(_idl(known, names)) + "\n", "\n".join(_mapping(known, names)) + "\n")


def is_bound(cls: DatamodelClass) -> bool:
    """Tell whether the mapping has the class: a removed class, and a record that travels by value, have no readers."""
    return cls.name not in SERVED_OTHERWISE and bool(cls.readers or not cls.fields)


# IDL


def _idl(classes: Mapping[str, DatamodelClass], names: Names) -> Iterator[str]:
    yield "<!-- The classes of XenAPI, written by `xcp-gateway scaffold xenapi`. -->"
    yield f"<node name={quoteattr(names.object_path)}>"
    for cls in classes.values():
        yield f"  <interface name={quoteattr(names.interface(cls))}>"
        yield _note(4, DOC, f"An object of the class {cls.name}.")
        yield _note(4, PATH, f"{names.path(cls)}/{{{_self(cls)}}}")
        for message in cls.messages:
            if not message.static:
                yield from _method(message, classes)
        for field in cls.fields:
            yield from _property(field, cls.enums)
        yield "  </interface>"
        yield from _manager(cls, names, classes)
    yield "</node>"


def _manager(cls: DatamodelClass, names: Names, classes: Mapping[str, DatamodelClass]) -> Iterator[str]:
    yield f"  <interface name={quoteattr(names.manager(cls))}>"
    yield _note(4, DOC, f"The objects of the class {cls.name}, and its messages that have no object.")
    yield _note(4, PATH, names.path(cls))
    text, texts = DatamodelType("string"), DatamodelType("set", items=(DatamodelType("ref", cls.name),))
    lookups = {
        "get_all": DatamodelMessage("get_all", (), texts, static=True),
        "get_by_uuid": DatamodelMessage("get_by_uuid", (("uuid", text),), DatamodelType("ref", cls.name), static=True),
        "get_by_name_label": DatamodelMessage("get_by_name_label", (("label", text),), texts, static=True),
    }
    for message in (*cls.messages, *(found for name, found in lookups.items() if name in cls.readers)):
        if message.static:
            yield from _method(message, classes)
    yield "  </interface>"


def _method(message: DatamodelMessage, classes: Mapping[str, DatamodelClass]) -> Iterator[str]:
    yield f"    <method name={quoteattr(member_name(message.name))}>"
    yield _note(6, DOC, f"Message {message.name}.")
    for name, kind in message.parameters:
        yield from _argument(name, kind, "in", classes)
    if message.result.kind != "void":
        yield from _argument("result", message.result, "out", classes)
    yield "    </method>"


def _argument(name: str, kind: DatamodelType, direction: str, classes: Mapping[str, DatamodelClass]) -> Iterator[str]:
    yield f'      <arg name={quoteattr(name)} type={quoteattr(kind.signature)} direction="{direction}">'
    yield _note(8, DOC, f"{kind}")
    yield from _type(8, kind, classes)
    yield "      </arg>"


def _property(field: DatamodelField, enums: Mapping[str, Sequence[str]]) -> Iterator[str]:
    access = "readwrite" if field.writable else "read"
    name, kind = quoteattr(member_name(field.name)), quoteattr(field.type.signature)
    yield f'    <property name={name} type={kind} access="{access}">'
    tags = enums.get(field.type.innermost.name, ()) if field.type.innermost.kind == "enum" else ()
    shown = f": {', '.join(tags)}" if 0 < len(tags) <= MOST_TAGS else ""
    yield _note(6, DOC, f"Field {field.name}, {field.type}{shown}")
    yield from _type(6, field.type, {})
    yield "    </property>"


def _type(indent: int, kind: DatamodelType, classes: Mapping[str, DatamodelClass]) -> Iterator[str]:
    """The annotation that the mapping of classes reads."""
    inner = kind.innermost
    if inner.kind == "datetime":
        yield _note(indent, TYPE, "datetime")
    elif inner.kind == "record" and inner.name in classes and is_bound(classes[inner.name]):
        yield _note(indent, TYPE, f"{inner.name} record")


def _note(indent: int, name: str, value: str) -> str:
    return f'{" " * indent}<annotation name="{name}" value={quoteattr(value)}/>'


# Mapping


def _mapping(classes: Mapping[str, DatamodelClass], names: Names) -> Iterator[str]:
    yield "mapping: 1"
    yield "service: xapi"
    yield "summary: The XenAPI of a pool, written by `xcp-gateway scaffold xenapi`. Complete it by hand."
    yield ""
    yield f"dbus: {{bus_name: {names.bus_name}, object_path: {names.object_path}, idl: {names.idl}}}"
    yield ""
    yield "# Add `session`, the check of sessions, and name the listeners of your config."
    yield "expose:"
    yield "  - {listener: rpc, path: /, codec: xmlrpc, dialect: xenapi}"
    yield "  - {listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: xenapi}"
    yield ""
    yield "defaults: {coerce: legacy}"
    yield f'errors: {{{NO_OBJECT}: {{code: HANDLE_INVALID, args: ["{{class}}", "{{self}}"]}}}}'
    yield "methods: {}"
    removed = [name for cls in classes.values() for name in _removed(cls)]
    if removed:
        yield ""
        yield "removed:"
        yield from (f"  - {name}" for name in removed)
    yield ""
    yield "classes:"
    for cls in classes.values():
        if is_bound(cls):
            yield from _stanza(cls, names, classes)


def _stanza(cls: DatamodelClass, names: Names, classes: Mapping[str, DatamodelClass]) -> Iterator[str]:
    own, path = _self(cls), names.path(cls)
    yield f"  {cls.name}:"
    yield f"    object_path: {path}/{{{own}}}"
    yield f"    interface: {names.interface(cls)}"
    yield f"    manager: {{object_path: {path}, interface: {names.manager(cls)}}}"
    fields = [field.name for field in cls.fields if legacy_name(member_name(field.name)) != field.name]
    if fields:
        yield "    fields:"
        yield from (f"      {name}: {member_name(name)}" for name in fields)
    messages = dict(_messages(cls, classes))
    if messages:
        yield "    messages:"
        yield from (f"      {name}: {{{keys}}}" for name, keys in messages.items())


def _removed(cls: DatamodelClass) -> Iterator[str]:
    """The messages that the API no longer has; all of a class without objects."""
    if is_bound(cls):
        yield from (f"{cls.name}.{name}" for name in cls.removed)
    elif cls.removed:
        yield f"{cls.name}.*"


def _messages(cls: DatamodelClass, classes: Mapping[str, DatamodelClass]) -> Iterator[tuple[str, str]]:
    """The messages that deviate from the rules, with their keys."""
    for message in cls.messages:
        keys = []
        if legacy_name(member_name(message.name)) != message.name:
            keys.append(f"member: {member_name(message.name)}")
        if message.name.startswith(READING):
            keys.append("effect: read")
        inner = message.result.innermost
        if inner.kind == "record" and inner.name in classes and not is_bound(classes[inner.name]):
            keys.append(f"result: {{fields: {{{_picked(classes[inner.name])}}}}}")
        optional = OPTIONAL.get(f"{cls.name}.{message.name}", {})
        given = [f"{name}: {optional[name]}" for name, _ in message.parameters if name in optional]
        if given:
            keys.append(f"optional: {{{', '.join(given)}}}")
        if keys:
            yield message.name, ", ".join(keys)


def _picked(cls: DatamodelClass) -> str:
    """The fields of a record that travels by value."""
    return ", ".join(f"{field.name}: {member_name(field.name)}" for field in cls.fields)


def _self(cls: DatamodelClass) -> str:
    """The parameter with the reference of an object."""
    return cls.name.lower()
