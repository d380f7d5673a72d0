"""The old xapi: every class of XenAPI from the same tables as the D-Bus service; the session is the first parameter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from inspect import Parameter, Signature
from typing import Any

from dbus_next import Variant
from legacy_calls import UNKNOWN_OBJECT, Method, Service, boolean, plain
from legacy_wire import Failure
from service import Bus, Error
from xenapi import schema
from xenapi.schema import SERVED_OTHERWISE, Class, Field, Message, Type

SESSIONLESS = ("session.login_with_password", "system.listMethods")
# Parameters that a client may leave out at the end.
OPTIONAL: Mapping[str, tuple[Any, ...]] = {
    "VM.start": (False, False),
    "VM.resume": (False, False),
    "VM.snapshot": ([],),
    "VDI.snapshot": ({},),
    "VDI.clone": ({},),
}


RENAMED = {"AuthenticationFailed": "SessionAuthenticationFailed"}


class _Errors(dict[str, Callable[[list[Any]], Any]]):
    """An error has the name that its D-Bus error has, in capitals; a power state is told in small letters."""

    def get(self, name: str, _default: Any = None) -> Callable[[list[Any]], Any] | None:  # type: ignore[override]
        if "." in name:
            return None
        code = "_".join(part.upper() for part in re.findall(r"[A-Z][a-z0-9]*", RENAMED.get(name, name)))
        small = code == "VM_BAD_POWER_STATE"
        return lambda args: [code, *(str(each).lower() if small and at else str(each) for at, each in enumerate(args))]


ERRORS = _Errors()


class Xapi:
    """The methods of all classes, and sessions."""

    def __init__(self, bus: Bus) -> None:
        self._xapi = Service(bus, "xapi")
        self._root = self._xapi.path()

    def methods(self) -> Mapping[str, Method]:
        """Every method by its name."""
        found: dict[str, Method] = {
            "session.login_with_password": self._login,
            "session.logout": self._logout,
            "session.get_this_user": self._this_user,
        }
        for name, cls in schema.classes().items():
            if name not in SERVED_OTHERWISE:
                found |= {f"{name}.{message}": method for message, method in self._of_class(cls)}
        return {**found, "VM_start": found["VM.start"]}

    def _of_class(self, cls: Class) -> Iterator[tuple[str, Method]]:
        readers = {"get_all": self._all, "get_all_records": self._records, "get_record": self._record}
        readers |= {"get_by_uuid": partial(self._look_up, "GetByUuid")}
        readers |= {"get_by_name_label": partial(self._look_up, "GetByNameLabel")}
        yield from ((name, partial(reader, cls)) for name, reader in readers.items() if name in cls.readers)
        for each in cls.fields.values() if cls.readers else ():
            yield f"get_{each.name}", partial(self._get, cls, each)
            if each.writable:
                yield f"set_{each.name}", partial(self._set, cls, each)
        for message in (*cls.methods.values(), *cls.statics.values()):
            method = partial(self._do, cls, message)
            method.__signature__ = _signature(message)  # type: ignore[attr-defined] # which parameters it needs
            yield message.name.partition(".")[2], method

    async def _all(self, cls: Class, session: str) -> Any:
        return await self._xapi.one(cls.path, f"{cls.manager}.GetAll")

    async def _look_up(self, member: str, cls: Class, session: str, wanted: str) -> Any:
        return await self._xapi.one(cls.path, f"{cls.manager}.{member}", "s", wanted)

    async def _records(self, cls: Class, session: str) -> Any:
        found = await self._xapi.managed(cls.path)
        records = {_reference(path): plain(has[cls.interface]) for path, has in found.items()}
        return {ref: _shown_record(cls, properties) for ref, properties in records.items()}

    async def _record(self, cls: Class, session: str, ref: str) -> Any:
        properties = await self._object(cls, ref, self._xapi.all(self._path(cls, ref), cls.interface))
        return _shown_record(cls, properties)

    async def _get(self, cls: Class, field: Field, session: str, ref: str) -> Any:
        value = await self._object(cls, ref, self._xapi.get(self._path(cls, ref), cls.interface, field.property))
        return _shown(field.type, value)

    async def _set(self, cls: Class, field: Field, session: str, ref: str, value: Any) -> Any:
        variant = Variant(field.type.signature, _taken(field.type, value))
        path = self._path(cls, ref)
        await self._object(cls, ref, self._xapi.put(path, cls.interface, field.property, variant))
        return ""

    async def _do(self, cls: Class, message: Message, session: str, *params: Any) -> Any:
        bound = _signature(message).bind(session, *params)
        bound.apply_defaults()
        given = list(bound.args[1:])
        ref = "" if message.static else str(given.pop(0))
        path = cls.path if message.static else self._path(cls, ref)
        values = [_taken(kind, value) for (_, kind), value in zip(message.parameters, given, strict=True)]
        interface = cls.manager if message.static else cls.interface
        asked = self._xapi.ask(path, f"{interface}.{message.member}", message.signature, *values)
        answer = await (asked if message.static else self._object(cls, ref, asked))
        return _shown(message.result, plain(answer[0])) if answer else ""

    async def _login(self, uname: str, pwd: str, version: str = "", originator: str = "") -> Any:
        return await self._xapi.one(self._root, "Session1.Login", "ss", uname, pwd)

    async def _logout(self, session: str) -> Any:
        await self._xapi.ask(self._root, "Session1.Logout", "s", session)
        return ""

    async def _this_user(self, session: str, subject: str) -> Any:
        _uuid, _host, user, *_ = await self._xapi.ask(self._root, "Session1.Stat", "s", subject)
        return user

    async def check(self, session: Any) -> None:
        """Whether a session is open, asked before every call that has one."""
        try:
            await self._xapi.ask(self._root, "Session1.Check", "s", str(session))
        except Error:
            raise Failure(["SESSION_INVALID", str(session)]) from None

    def _path(self, cls: Class, ref: str) -> str:
        return self._xapi.path(cls.name.lower(), ref)

    async def _object(self, cls: Class, ref: str, asked: Any) -> Any:
        """An error that says which object it was about."""
        try:
            return await asked
        except Error as error:
            if error.type == UNKNOWN_OBJECT:
                raise Failure(["HANDLE_INVALID", cls.name, ref]) from None
            raise


def _signature(message: Message) -> Signature:
    """The parameters of a message: session, object, its own."""
    own = [name for name, _ in message.parameters]
    names = ["session", *([] if message.static else ["ref"]), *own]
    optional = OPTIONAL.get(message.name, ())
    defaults = [Parameter.empty] * (len(names) - len(optional)) + list(optional)
    kind = Parameter.POSITIONAL_ONLY
    return Signature([Parameter(f"p{at}", kind, default=each) for at, each in enumerate(defaults)])


def _reference(path: str) -> str:
    """The reference in the path of an object."""
    return re.sub("_(..)", lambda found: chr(int(found[1], 16)), path.rpartition("/")[2])


def _shown_record(cls: Class, properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shown(each.type, properties[each.property]) for name, each in cls.fields.items()}


def _shown(kind: Type, value: Any) -> Any:
    """A value as a client gets it."""
    if kind.kind == "datetime":
        return datetime.fromtimestamp(value, UTC)
    if kind.kind == "record":
        fields = schema.classes()[kind.name].fields.values()
        return {each.name: _shown(each.type, value[each.property]) for each in fields if each.property in value}
    if kind.kind == "set":
        return [_shown(kind.item, each) for each in value]
    if kind.kind == "map":
        return {str(key): _shown(kind.item, each) for key, each in value.items()}
    return value


def _taken(kind: Type, value: Any) -> Any:
    """A client's value as the service takes it: numbers may be text; a record has further members."""
    if kind.kind == "record":
        fields = [each for each in schema.classes()[kind.name].fields.values() if each.name in value]
        return {each.property: Variant(each.type.signature, _taken(each.type, value[each.name])) for each in fields}
    if kind.kind == "set":
        return [_taken(kind.item, each) for each in value]
    if kind.kind == "map":
        return {_taken(kind.key, key): _taken(kind.item, each) for key, each in value.items()}
    if kind.kind == "datetime" and isinstance(value, str):
        return int(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp())
    return {"int": int, "float": float, "bool": boolean}.get(kind.kind, lambda each: each)(value)
