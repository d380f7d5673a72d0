"""org.xen.xcp.gateway on a message bus: owns the name over a connection of its own and reconnects when it is lost.

Calls of legacy clients do not use this connection. The caller of each call is identified by the bus
(GetConnectionCredentials), never by the caller itself, and checked against the access rules. The tables of objects.py
say which members exist and which right each needs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import time
from typing import Any, TypeVar
from uuid import uuid4

from dbus_fast import Message, MessageFlag, MessageType, RequestNameReply, Variant
from dbus_fast.aio import MessageBus
from msgspec import Struct
from msgspec.structs import asdict

from adapters.admin_dbus import objects
from adapters.admin_dbus.objects import CONTROL, MANAGER, METHOD, PROPERTIES, ROOT, SERVICE, Member
from adapters.dbus import connect
from adapters.dbus.connection import BUS_NAME, BUS_PATH
from gateway.core.admin.access import AccessRules, Caller, Right, denial
from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.admin.views import (
    Explanation,
    MappingsReloaded,
    ModeChange,
    ModeRequest,
    ModeResult,
    Notification,
    RollbackDone,
)
from gateway.core.interfaces import AdminOperations
from gateway.core.logger import Logger
from gateway.core.rpc.model import Value

OPEN_TIMEOUT = 10.0  # seconds for connecting, authenticating and asking for the name together
SOONEST, LATEST = 0.1, 5.0  # seconds before the next attempt to connect; doubled each time
VENDOR = "xcp-gateway"

_T = TypeVar("_T")
_log = Logger("admin")


class AdminBusService:
    """The admin service on one bus. `user_name` returns the name of a uid, for the audit."""

    def __init__(
        self,
        address: str,
        operator: AdminOperations,
        rights: AccessRules,
        user_name: Callable[[int], str],
        version: str,
    ) -> None:
        self._address = address
        self._operator = operator
        self._rights = rights
        self._user_name = user_name
        self._service = {
            "Name": "gateway", "Vendor": VENDOR, "Version": version, "Features": [], "InstanceId": str(uuid4()),
            "Since": int(time()),
        }  # fmt: skip
        self._running: asyncio.Task[None] | None = None
        self._serving: CallServer | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self.last_error = "not connected yet"
        self.here = asyncio.Event()
        self.away = asyncio.Event()  # set once an attempt or a connection has ended

    @property
    def connected(self) -> bool:
        """Whether the bus name is owned, or queued for behind another gateway."""
        return self._serving is not None

    def status(self) -> Mapping[str, object]:
        """Return the row of `xcp-gateway status`."""
        return {"address": self._address, "connected": self.connected, "last_error": self.last_error}

    async def start(self) -> None:
        """Start to connect; returns at once, reconnects until `stop`."""
        self._unsubscribe = self._operator.subscribe(self._notify)
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Release the name and close."""
        self._unsubscribe()
        self._unsubscribe = lambda: None
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None

    def _notify(self, news: Notification) -> None:
        if self._serving is not None:
            self._serving.notify(news)

    async def _run(self) -> None:
        pause = SOONEST
        while True:
            try:
                await self._serve()
                pause = SOONEST
                error = "the bus has closed the connection"
            except AdminConnectError as failure:
                error = str(failure)
            if error != self.last_error:
                _log.warning("the admin service on D-Bus is not available", bus=self._address, error=error)
            self.last_error = error
            self.away.set()
            await asyncio.sleep(pause)
            pause = min(LATEST, pause * 2)

    async def _serve(self) -> None:
        """Serve one connection until it is lost; raises AdminConnectError if the name cannot be had.

        The handler is registered before the name is requested, so that no call is missed.
        """
        bus = await _in_time(connect.connect(self._address))
        serving = CallServer(bus, self._operator, self._rights, Callers(bus, self._user_name), self._service)
        try:
            reply = await _in_time(bus.request_name(objects.BUS_NAME))
            if reply is RequestNameReply.IN_QUEUE:
                _log.info("another gateway owns the name; queued for it", name=objects.BUS_NAME)
            self._serving, self.last_error = serving, ""
            self.away.clear()
            self.here.set()
            _log.info("the admin service is available on D-Bus", bus=self._address, name=objects.BUS_NAME)
            await serving.until_lost()
        finally:
            self._serving = None
            self.here.clear()
            try:
                await serving.end()
            finally:
                await connect.close(bus)


class AdminConnectError(Exception):
    """The bus cannot be reached, or refuses the name; the text is for the operator."""


async def _in_time(opening: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await opening
    except Exception as error:
        raise AdminConnectError(str(error) or type(error).__name__) from error


# Calls

REMEMBERED = 1024  # cached callers; the bus never reuses a unique name


class Callers:
    """The callers of one connection. `user_name` returns the name of a uid, for the audit."""

    def __init__(self, bus: MessageBus, user_name: Callable[[int], str]) -> None:
        self._bus = bus
        self._user_name = user_name
        self._known: dict[str, Caller] = {}

    async def of(self, unique_name: str) -> Caller | None:
        """Return the caller; None if the bus does not know it: it has left, or has no credentials."""
        known = self._known.get(unique_name)
        if known is not None:
            return known
        question = Message(BUS_NAME, BUS_PATH, BUS_NAME, "GetConnectionCredentials", signature="s", body=[unique_name])
        answer = await self._bus.call(question)
        if answer is None or answer.message_type is not MessageType.METHOD_RETURN:
            return None
        credentials = {name: variant.value for name, variant in answer.body[0].items()}
        if "UnixUserID" not in credentials:
            return None
        uid, gids = credentials["UnixUserID"], credentials.get("UnixGroupIDs", ())  # older brokers omit the groups
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        known = self._known[unique_name] = Caller(uid, frozenset(gids), self._user_name(uid))
        return known


INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
REFUSED = "org.xen.xcp.Error.Refused"


class DBusError(Struct, frozen=True):
    """A D-Bus error with one text."""

    name: str
    text: str


MethodReturn = list[Any] | DBusError

_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "percent": (str, int, float), "control": (str,), "observe": (bool,), "noise": (bool,), "seconds": (int, float),
    "guarded": (bool,),
}  # fmt: skip


def mode_request(pattern: str, mode: str, options: Mapping[str, Variant], why: str) -> ModeRequest | DBusError:
    """Build the request of SetMode; returns an InvalidArgs error that names the bad option."""
    values = {name: variant.value for name, variant in options.items()}
    for name, value in values.items():
        if name not in _OPTIONS:
            return DBusError(INVALID, f"unknown option '{name}'; expected one of {', '.join(_OPTIONS)}")
        if not isinstance(value, _OPTIONS[name]) or (isinstance(value, bool) and bool not in _OPTIONS[name]):
            return DBusError(INVALID, f"option '{name}': unexpected type '{options[name].signature}'")
    return ModeRequest(pattern, mode, why=why, **values)


def moved(changed: ModeResult | StateRefused) -> list[Any] | DBusError:
    """Encode the result of a change."""
    if isinstance(changed, StateRefused):
        return DBusError(REFUSED, changed.why)
    return [[[each.service, each.method, each.before, each.after, each.stays] for each in changed.methods]]


_SIGNATURES: Mapping[type, str] = {bool: "b", int: "i", str: "s", list: "as"}


def explained(explanation: Explanation) -> dict[str, Variant]:
    """Encode an explanation; None becomes an empty text, or -1 for a number."""
    values = {name: "" if value is None else value for name, value in asdict(explanation).items()}
    values["bucket"] = -1 if explanation.bucket is None else explanation.bucket
    return {name: Variant(_SIGNATURES[type(value)], value) for name, value in values.items()}


def plain(value: Any) -> Value:
    """Convert the value of a variant to a legacy value."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    as_it_is: Value = value
    return as_it_is


MOST = 16  # calls in flight of one caller; the bus limits the connections of a user

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"
FAILED = "org.freedesktop.DBus.Error.Failed"
UNKNOWN = "org.freedesktop.DBus.Error.Unknown"  # Object, Interface, Method, Property


class CallServer:
    """Serves one connection until it is lost."""

    def __init__(
        self,
        bus: MessageBus,
        operator: AdminOperations,
        rights: AccessRules,
        callers: Callers,
        service: Mapping[str, Any],
    ) -> None:
        self._bus = bus
        self._operator = operator
        self._rights = rights
        self._callers = callers
        self._service = service
        self._calls: set[asyncio.Task[None]] = set()
        self._in_flight: Counter[str] = Counter()  # calls by the unique name of their caller
        bus.add_message_handler(self._received)

    async def until_lost(self) -> None:
        """Wait until the connection is gone."""
        with suppress(Exception):  # the reason does not matter here
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # theirs

    async def end(self) -> None:
        """Cancel the calls in flight; their replies can no longer be sent."""
        self._bus.remove_message_handler(self._received)
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    # Signals

    def notify(self, news: Notification) -> None:
        """Send a notification as signals."""
        match news:
            case ModeChange():
                known = MethodId(news.service, news.method)
                body = [news.service, news.method, news.before, news.after, news.set_by]
                self._signal(ROOT, CONTROL, "ModeChanged", body)
                changed = [METHOD, objects.of_change(news), []]
                self._signal(objects.path_of(known), PROPERTIES, "PropertiesChanged", changed)
            case RollbackDone():
                self._signal(ROOT, CONTROL, "RolledBack", [news.subject, news.who, news.why])
            case MappingsReloaded():
                for method in news.removed:
                    self._signal(ROOT, MANAGER, "InterfacesRemoved", [objects.path_of(method), [METHOD]])
                for method in news.added:  # clients read the properties when they need them
                    self._signal(ROOT, MANAGER, "InterfacesAdded", [objects.path_of(method), {METHOD: {}}])

    def _signal(self, path: str, interface: str, member: str, body: list[Any]) -> None:
        signature = objects.SIGNALS[interface][member].reply
        self._send(Message.new_signal(path, interface, member, signature, body))

    def _send(self, message: Message) -> None:
        self._bus.send(message).add_done_callback(_forget)

    # Calls

    def _received(self, message: Message) -> bool:
        """Handle an incoming message; returns True for a method call of ours."""
        if message.message_type is not MessageType.METHOD_CALL or message.interface == objects.PEER:
            return False
        sender = message.sender or ""
        if self._in_flight[sender] >= MOST:
            self._reply(message, DBusError(LIMITS, f"{MOST} of your calls are in flight; try again later"))
            return True

        def ended(task: asyncio.Task[None]) -> None:
            self._calls.discard(task)
            self._in_flight[sender] -= 1
            if not self._in_flight[sender]:
                del self._in_flight[sender]

        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._in_flight[sender] += 1
        self._calls.add(task)
        task.add_done_callback(ended)
        return True

    def _reply(self, message: Message, answer: MethodReturn) -> None:
        if MessageFlag.NO_REPLY_EXPECTED in message.flags:
            return
        if isinstance(answer, DBusError):
            self._send(Message.new_error(message, answer.name, answer.text))
        else:
            _, member = _meant(message)
            self._send(Message.new_method_return(message, member.reply, answer))

    async def _answer(self, message: Message) -> None:
        try:
            answer = await self._answered(message)
        except Exception:  # noqa: BLE001 - a bug costs this call only; the caller gets no traceback
            _log.exception("a bug answered this call", member=message.member)
            answer = DBusError(FAILED, "internal error")
        self._reply(message, answer)

    async def _answered(self, message: Message) -> MethodReturn:
        """The right comes first, and who may not read sees no methods: a stranger costs as little as can be."""
        path, name, (interface, member) = message.path or "", str(message.member), _meant(message)
        caller = await self._admitted(message, member.right)
        if isinstance(caller, DBusError):
            return caller
        may_read = self._rights.have(caller, Right.READ)
        paths = objects.paths_of(tuple(self._operator.names()) if may_read else ())
        if not objects.exists(path, paths):
            return DBusError(f"{UNKNOWN}Object", f"no object at {path}")
        here = (*objects.interfaces_at(path, paths), objects.INTROSPECTABLE)
        if interface not in here or name not in objects.METHODS.get(interface, {}):
            return DBusError(f"{UNKNOWN}Method", f"no method {message.interface}.{message.member} at {path}")
        if message.signature != member.signature:
            text = f"{message.member}: expected signature '{member.signature}', got '{message.signature}'"
            return DBusError(INVALID, text)
        if interface == CONTROL:
            return await self._control(name, str(caller), message.body)
        if interface == PROPERTIES:
            return await self._property(path, name, *message.body)
        if interface == objects.INTROSPECTABLE:
            return [objects.introspection(path, paths)]
        return await self._objects(interface)

    async def _admitted(self, message: Message, right: Right | None) -> Caller | DBusError:
        caller = await self._callers.of(message.sender or "")
        if right is None:
            return caller or Caller(-1)
        if caller is None:
            return DBusError(DENIED, "the bus does not know the credentials of the caller")
        return caller if self._rights.have(caller, right) else DBusError(DENIED, denial(caller, right))

    async def _control(self, member: str, who: str, body: Sequence[Any]) -> MethodReturn:
        if member == "SetMode":
            wanted = mode_request(*body)
            return wanted if isinstance(wanted, DBusError) else moved(await self._operator.set_mode(wanted, who))
        if member == "ClearMode":
            pattern, why = body
            return moved(await self._operator.clear_mode(pattern, who, why))
        if member == "RollbackAll":
            ended = await self._operator.rollback_all(who, *body)
            answer = moved(ended)
            return answer if isinstance(answer, DBusError) or isinstance(ended, StateRefused) else [*answer, ended.held]
        method, params, key = body
        explanation = self._operator.explain(method, [plain(param) for param in params], key=key or None)
        if isinstance(explanation, StateRefused):
            return DBusError(REFUSED, explanation.why)
        return [[explained(each) for each in explanation]]

    async def _objects(self, interface: str) -> MethodReturn:
        """All methods as managed objects, or as text for diagnostics."""
        rows = await self._operator.methods()
        if interface == MANAGER:
            if isinstance(rows, StateRefused):
                return DBusError(REFUSED, rows.why)
            return [{objects.path_of(MethodId(row.service, row.method)): {METHOD: objects.of_row(row)} for row in rows}]
        if isinstance(rows, StateRefused):
            return [f"{rows.why}\n"]
        lines = [f"{row.service}/{row.method}: {row.mode} ({row.source}), {row.verdict}\n" for row in rows]
        return ["".join(lines) or "no methods\n"]

    async def _property(self, path: str, member: str, interface: str, name: str = "", *_value: Variant) -> MethodReturn:
        """Get, GetAll or Set, which sets nothing."""
        known: Mapping[str, Mapping[str, Variant]] = {}
        if path == ROOT:
            types = objects.SERVICE_PROPERTIES.items()
            of_service = {each: Variant(type_, self._service[each]) for each, type_ in types}
            known = {SERVICE: of_service, CONTROL: {}, MANAGER: {}}
        else:
            rows = await self._operator.methods()
            for row in () if isinstance(rows, StateRefused) else rows:
                if objects.path_of(MethodId(row.service, row.method)) == path:
                    known = {METHOD: objects.of_row(row)}
                    break
        if interface not in known:
            return DBusError(f"{UNKNOWN}Interface", f"no interface {interface} at {path}")
        if member == "GetAll":
            return [known[interface]]
        if name not in known[interface]:
            return DBusError(f"{UNKNOWN}Property", f"no property {interface}.{name} at {path}")
        if member == "Get":
            return [known[interface][name]]
        return DBusError(READ_ONLY, f"{name} is read-only; call SetMode to change the mode")


def _meant(message: Message) -> tuple[str, Member]:
    """Return interface and member of a call; a call may omit the interface (D-Bus specification, "Method Calls")."""
    member = str(message.member)
    if message.interface:
        return message.interface, objects.METHODS.get(message.interface, {}).get(member, Member())
    found = ((name, members[member]) for name, members in objects.METHODS.items() if member in members)
    return next(found, ("", Member()))


def _forget(sent: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a send that failed because the bus is gone."""
    if not sent.cancelled():
        sent.exception()
