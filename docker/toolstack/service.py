"""The base of every service of the sample toolstack: its bus, its errors, its properties."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from dbus_next import (
    DBusError,
    ErrorType,
    Message,
    MessageFlag,
    MessageType,
    NameFlag,
    PropertyAccess,
    RequestNameReply,
    Variant,
)
from dbus_next.aio import MessageBus
from dbus_next.service import ServiceInterface, dbus_property, method

VERSION = "1.0"
ROOT = "/org/xen/xcp"
NAMES = "org.xen.xcp"
STANDARD_INTERFACES = {
    "org.freedesktop.DBus.Introspectable",
    "org.freedesktop.DBus.ObjectManager",
    "org.freedesktop.DBus.Peer",
    "org.freedesktop.DBus.Properties",
}


class Error(DBusError):
    """org.xen.xcp.Error.NAME with typed arguments as its body; dbus-next's own carries one text."""

    def __init__(self, name: str, signature: str = "", *arguments: Any) -> None:
        name = name if "." in name else f"{NAMES}.Error.{name}"
        super().__init__(name, ", ".join(map(str, arguments)))
        self.signature = signature
        self.arguments = list(arguments)

    def _as_message(self, call: Message) -> Message:
        return Message(
            message_type=MessageType.ERROR,
            reply_serial=call.serial,
            destination=call.sender,
            error_name=self.type,
            signature=self.signature,
            body=self.arguments,
        )


class Bus(MessageBus):
    """A connection that tells callers about missing objects, and never shows them a Python traceback."""

    def __init__(self, address: str) -> None:
        super().__init__(bus_address=address)
        self.objects: Callable[[Message], Message | bool] = lambda _message: False  # answers for objects of its own
        self.add_message_handler(lambda message: self.objects(message) or self._refuse_unknown_object(message))

    def send(self, msg: Message) -> asyncio.Future[None]:
        """Send a message; the traceback that dbus-next puts into an error goes to stderr instead."""
        if msg.error_name in (ErrorType.SERVICE_ERROR.value, ErrorType.INTERNAL_ERROR.value):
            print(*msg.body, file=sys.stderr)  # noqa: T201 - a service's stderr is its log
            msg.body = ["internal error"]
        return super().send(msg)

    def _send_reply(self, msg: Message) -> Any:
        # dbus-next's __exit__ does not return what _exit says, and so logs each expected error as if it were a bug.
        reply = super()._send_reply(msg)
        type(reply).__exit__ = type(reply)._exit  # noqa: SLF001 - the class was made for this one message
        return reply

    async def ask(self, bus_name: str, path: str, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        """Call `interface.Member` and return its body; an error is raised with its name and arguments."""
        interface, _, name = member.rpartition(".")
        call = Message(
            destination=bus_name,
            path=path,
            interface=interface,
            member=name,
            signature=signature,
            body=list(arguments),
        )
        reply = await self.call(call)
        if reply.message_type is MessageType.ERROR:
            raise Error(reply.error_name, reply.signature, *reply.body)
        return list(reply.body)

    async def get(self, bus_name: str, path: str, interface: str, name: str) -> Any:
        """Read one property of another service."""
        [value] = await self.ask(bus_name, path, "org.freedesktop.DBus.Properties.Get", "ss", interface, name)
        return value.value

    async def is_running(self, service: str) -> bool:
        """Tell whether a service is on the bus now; asking does not start it."""
        ask = "org.freedesktop.DBus.NameHasOwner"
        [running] = await self.ask("org.freedesktop.DBus", "/org/freedesktop/DBus", ask, "s", f"{NAMES}.{service}")
        return bool(running)

    async def watch(self, sender: str, member: str, handler: Callable[..., None]) -> None:
        """Call `handler` with the path and the arguments of each signal `interface.Member` of this sender."""
        interface, _, name = member.rpartition(".")

        def receive(message: Message) -> None:
            if message.message_type is MessageType.SIGNAL and (message.interface, message.member) == (interface, name):
                handler(message.path, *message.body)

        self.add_message_handler(receive)
        rule = f"type='signal',sender='{sender}',interface='{interface}',member='{name}'"
        await self.ask("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.AddMatch", "s", rule)

    async def watch_end(self, service: str, handler: Callable[[], None]) -> None:
        """Call `handler` whenever this service leaves the bus."""

        def changed(_path: str, name: str, _old: str, new: str) -> None:
            if name == f"{NAMES}.{service}" and not new:
                handler()

        await self.watch("org.freedesktop.DBus", "org.freedesktop.DBus.NameOwnerChanged", changed)

    def _refuse_unknown_object(self, call: Message) -> Message | bool:
        if call.message_type is not MessageType.METHOD_CALL or call.interface in STANDARD_INTERFACES:
            return False
        if call.path in self._path_exports:
            return False
        if call.flags & MessageFlag.NO_REPLY_EXPECTED:
            return True
        return Message.new_error(call, ErrorType.UNKNOWN_OBJECT, f"no object at {call.path}")


class Record(ServiceInterface):
    """An interface whose properties are the entries of one dictionary."""

    def __init__(self, interface: str, **values: Any) -> None:
        super().__init__(f"{NAMES}.{interface}")
        self.values = values

    def put(self, **changes: Any) -> None:
        """Change properties and emit PropertiesChanged."""
        changes = {name: value for name, value in changes.items() if self.values[name] != value}
        self.values.update(changes)
        if changes:
            self.emit_properties_changed(changes)


def field(name: str, signature: str, check: Callable[[str, Any], None] | None = None, *, writable: bool = False) -> Any:
    """Make a property of a Record; `check` raises Error for a value that cannot be written."""

    def read(self: Record) -> Any:
        return self.values[name]

    def write(self: Record, value: Any) -> None:
        if check:
            check(name, value)
        self.put(**{name: value})

    # dbus-next finds getter and setter by these names, and the signature in the annotation.
    read.__name__ = write.__name__ = name
    read.__annotations__["return"] = signature
    if not writable:
        return dbus_property(PropertyAccess.READ)(read)
    return dbus_property()(read).setter(write)


def table(interface: str, members: Mapping[str, tuple[str, str, Callable[..., Any]]]) -> ServiceInterface:
    """Make an interface of a table: member -> arguments ("name:signature ..."), signature of the result, function."""
    made = {name: _member(name, *entry) for name, entry in members.items()}
    interface = f"{NAMES}.{interface}"
    return type("Table", (ServiceInterface,), made)(interface)


def _member(name: str, arguments: str, result: str, answer: Callable[..., Any]) -> Any:
    async def call(_self: Any, *values: Any) -> Any:
        found = answer(*values)
        return await found if inspect.isawaitable(found) else found

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [argument.partition(":") for argument in arguments.split()]
    parameters = [inspect.Parameter(each, kind, annotation=signature) for each, _, signature in named]
    returned = result or inspect.Signature.empty
    call.__signature__ = inspect.Signature([inspect.Parameter("self", kind), *parameters], return_annotation=returned)
    return method(name)(call)


class Service1(Record):
    """org.xen.xcp.Service1: identity of the service, and its present state."""

    def __init__(self, name: str, features: list[str], diagnose: Callable[[], list[str]]) -> None:
        instance = str(uuid.uuid4())
        identity = {"Name": name, "Vendor": "xcp-gateway sample toolstack", "Version": VERSION}
        super().__init__("Service1", **identity, Features=features, InstanceId=instance, Since=int(time.time()))
        self._diagnose = diagnose

    Name = field("Name", "s")
    Vendor = field("Vendor", "s")
    Version = field("Version", "s")
    Features = field("Features", "as")
    InstanceId = field("InstanceId", "s")
    Since = field("Since", "t")

    @method()
    def GetDiagnostics(self) -> "s":
        return "\n".join(self._diagnose()) + "\n"


def element(text: str) -> str:
    """Escape text as one element of an object path, as sd_bus_path_encode does."""
    escaped = "".join(chr(b) if chr(b).isascii() and chr(b).isalnum() else f"_{b:02x}" for b in text.encode())
    if escaped[:1].isdigit():
        escaped = f"_{ord(escaped[0]):02x}{escaped[1:]}"
    return escaped or "_"


def variants(values: dict[str, Any]) -> dict[str, Variant]:
    """Make a{sv} of text, booleans and numbers (x); a Variant stays as it is, None is left out."""
    return {name: variant(value) for name, value in values.items() if value is not None}


def variant(value: Any) -> Variant:
    """Make a variant of text, a boolean, a number (x), or text by keys."""
    if isinstance(value, Variant):
        return value
    signatures = {bool: "b", int: "x", float: "d", str: "s", dict: "a{ss}"}
    return Variant(signatures[type(value)], value)


def unwrapped(value: Any) -> Any:
    """A value without its variants."""
    if isinstance(value, Variant):
        return unwrapped(value.value)
    if isinstance(value, dict):
        return {name: unwrapped(item) for name, item in value.items()}
    return [unwrapped(item) for item in value] if isinstance(value, (list, tuple)) else value


def plain(values: dict[str, Variant]) -> dict[str, str]:
    """Make a{ss} of a{sv}: the stored form of a configuration."""
    return {name: str(value.value) for name, value in values.items()}


def run(name: str, start: Callable[[Bus], Any]) -> None:
    """Run the service: `start(bus)` exports its objects, then it owns its name until the bus ends."""
    parser = argparse.ArgumentParser(
        description=f"{NAMES}.{name} of the sample toolstack; started by the bus on demand."
    )
    parser.add_argument("--address", default=os.environ.get("DBUS_STARTER_ADDRESS"), help="address of the bus")
    parser.add_argument("--version", action="version", version=f"{name} {VERSION}")
    address = parser.parse_args().address
    if not address:
        parser.error("no bus: give --address, or let the bus start the service (DBUS_STARTER_ADDRESS)")
    asyncio.run(_serve(f"{NAMES}.{name}", address, start))


async def _serve(bus_name: str, address: str, start: Callable[[Bus], Any]) -> None:
    bus = await Bus(address).connect()
    await start(bus)
    if await bus.request_name(bus_name, NameFlag.DO_NOT_QUEUE) is not RequestNameReply.PRIMARY_OWNER:
        sys.exit(f"{bus_name} runs already")
    try:
        await bus.wait_for_disconnect()
    except (EOFError, OSError):
        return  # a service ends with its bus
