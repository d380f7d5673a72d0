"""The old xapi: XenAPI's sessions, pool, hosts and VMs; the session is the first parameter."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dbus_next import Variant
from legacy_calls import UNKNOWN_OBJECT, Errors, Method, Service, boolean, named, picked
from legacy_wire import Failure
from sample import of_class
from service import Bus, Error

SESSIONLESS = ("session.login_with_password", "system.listMethods")

POOL = {
    "uuid": "Uuid",
    "name_label": "NameLabel",
    "name_description": "NameDescription",
    "master": "Master",
    "default_SR": "DefaultSR",
    "ha_enabled": "HaEnabled",
    "other_config": "OtherConfig",
}
HOST = {
    "uuid": "Uuid",
    "name_label": "NameLabel",
    "name_description": "NameDescription",
    "hostname": "Hostname",
    "address": "Address",
    "enabled": "Enabled",
    "memory_overhead": "MemoryOverhead",
    "cpu_info": "CpuInfo",
    "software_version": "SoftwareVersion",
    "resident_VMs": "ResidentVMs",
    "other_config": "OtherConfig",
}
VM = {
    "uuid": "Uuid",
    "name_label": "NameLabel",
    "name_description": "NameDescription",
    "power_state": "PowerState",
    "allowed_operations": "AllowedOperations",
    "is_a_template": "IsATemplate",
    "memory_overhead": "MemoryOverhead",
    "memory_static_min": "MemoryStaticMin",
    "memory_static_max": "MemoryStaticMax",
    "memory_dynamic_min": "MemoryDynamicMin",
    "memory_dynamic_max": "MemoryDynamicMax",
    "VCPUs_max": "VcpusMax",
    "VCPUs_at_startup": "VcpusAtStartup",
    "resident_on": "ResidentOn",
    "affinity": "Affinity",
    "domid": "Domid",
    "metrics": "Ref",
    "platform": "Platform",
    "other_config": "OtherConfig",
    "tags": "Tags",
}
CLASSES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "pool": ("Pool1", POOL),
    "host": ("Host1", HOST),
    "VM": ("VM1", VM),
}
WRITABLE = {
    "pool": {"name_label": "s"},
    "VM": {"name_label": "s", "name_description": "s", "other_config": "a{ss}", "tags": "as", "affinity": "s"},
}
SOURCE = ("name_label", "name_description", "units", "enabled", "standard", "min", "max", "value")

ERRORS: Errors = {
    "AuthenticationFailed": lambda args: ["SESSION_AUTHENTICATION_FAILED", args[0]],
    "HostDisabled": lambda args: ["HOST_DISABLED", args[0]],
    "HostNotEnoughFreeMemory": lambda args: ["HOST_NOT_ENOUGH_FREE_MEMORY", *map(str, args)],
    "InvalidValue": lambda args: ["INVALID_VALUE", *args],
    "MapDuplicateKey": lambda args: ["MAP_DUPLICATE_KEY", *args],
    "SessionInvalid": lambda args: ["SESSION_INVALID", args[0]],
    "UuidInvalid": lambda args: ["UUID_INVALID", *args],
}


def _record(kind: str, fields: Mapping[str, str], properties: Mapping[str, Any]) -> dict[str, Any]:
    """A VM's metrics are an object of their own here."""
    record = picked(fields, properties)
    return {**record, "metrics": of_class(record["metrics"], "VM_metrics")} if kind == "VM" else record


class Xapi:
    """The methods that all classes have are made from the tables above."""

    def __init__(self, bus: Bus) -> None:
        self._xapi = Service(bus, "xapi")
        self._root = self._xapi.path()

    def methods(self) -> Mapping[str, Method]:
        """Every method by its name."""
        found: dict[str, Method] = {
            "session.login_with_password": self._login,
            "session.logout": self._logout,
            "session.get_this_user": self._this_user,
            "host.enable": self._doing("host", "Enable"),
            "host.disable": self._doing("host", "Disable"),
            "host.get_servertime": self._servertime,
            "host.compute_free_memory": self._free_memory,
            "VM.start": self._start("Start"),
            "VM_start": self._start("Start"),
            "VM.resume": self._start("Resume"),
            "VM.get_data_sources": self._data_sources,
            "VM.set_memory_limits": self._memory_limits,
            "VM.create": self._create,
        }
        for name in ("pause", "unpause", "clean_shutdown", "hard_shutdown", "suspend", "destroy"):
            found[f"VM.{name}"] = self._doing("VM", name.title().replace("_", ""))
        for kind in CLASSES:
            found |= self._of_class(kind)
        return {**found, "VM.get_metrics": self._metrics}

    async def _metrics(self, session: str, ref: str) -> Any:
        own = await self._object("VM", ref, self._xapi.get(self._path("VM", ref), "VM1", "Ref"))
        return of_class(own, "VM_metrics")

    def _of_class(self, kind: str) -> Mapping[str, Method]:
        interface, fields = CLASSES[kind]

        async def get_all(session: str) -> Any:
            return await self._xapi.one(self._root, "Directory1.List", "s", kind)

        async def get_by_uuid(session: str, uuid: str) -> Any:
            return await self._xapi.one(self._root, "Directory1.GetByUuid", "ss", kind, uuid)

        async def get_by_name_label(session: str, label: str) -> Any:
            return await self._xapi.one(self._root, "Directory1.GetByNameLabel", "ss", kind, label)

        async def get_all_records(session: str) -> Any:
            return {each["Ref"]: _record(kind, fields, each) for each in await self._xapi.objects(interface)}

        async def get_record(session: str, ref: str) -> Any:
            found = await self._object(kind, ref, self._xapi.all(self._path(kind, ref), interface))
            return _record(kind, fields, found)

        async def add_to_other_config(session: str, ref: str, key: str, value: str) -> Any:
            add = self._xapi.ask(self._path(kind, ref), f"{interface}.AddToOtherConfig", "ss", key, value)
            return await self._void(kind, ref, add)

        async def remove_from_other_config(session: str, ref: str, key: str) -> Any:
            remove = self._xapi.ask(self._path(kind, ref), f"{interface}.RemoveFromOtherConfig", "s", key)
            return await self._void(kind, ref, remove)

        methods = [get_all, get_by_uuid, get_by_name_label, get_all_records, get_record]
        methods += [add_to_other_config, remove_from_other_config]
        getters = {f"{kind}.get_{field}": self._getter(kind, name) for field, name in fields.items()}
        setters = {f"{kind}.set_{field}": self._setter(kind, field) for field in WRITABLE.get(kind, {})}
        return {**getters, **setters, **{f"{kind}.{method.__name__}": method for method in methods}}

    def _getter(self, kind: str, name: str) -> Method:
        async def get(session: str, ref: str) -> Any:
            return await self._object(kind, ref, self._xapi.get(self._path(kind, ref), CLASSES[kind][0], name))

        return get

    def _setter(self, kind: str, field: str) -> Method:
        interface, fields = CLASSES[kind]

        async def put(session: str, ref: str, value: Any) -> Any:
            variant = Variant(WRITABLE[kind][field], value)
            return await self._void(kind, ref, self._xapi.put(self._path(kind, ref), interface, fields[field], variant))

        return put

    def _doing(self, kind: str, member: str) -> Method:
        async def do(session: str, ref: str) -> Any:
            return await self._void(kind, ref, self._xapi.ask(self._path(kind, ref), f"{CLASSES[kind][0]}.{member}"))

        return do

    def _start(self, member: str) -> Method:
        async def start(session: str, ref: str, paused: Any = False, force: Any = False) -> Any:
            asked = self._xapi.ask(self._path("VM", ref), f"VM1.{member}", "bb", boolean(paused), boolean(force))
            return await self._void("VM", ref, asked)

        return start

    async def _login(self, uname: str, pwd: str, version: str = "", originator: str = "") -> Any:
        return await self._xapi.one(self._root, "Session1.Login", "ss", uname, pwd)

    async def _logout(self, session: str) -> Any:
        await self._xapi.ask(self._root, "Session1.Logout", "s", session)
        return ""

    async def _this_user(self, session: str, subject: str) -> Any:
        user, *_ = await self._xapi.ask(self._root, "Session1.Stat", "s", subject)
        return user

    async def check(self, session: Any) -> None:
        """Whether a session is open, asked before every call that has one."""
        try:
            await self._xapi.ask(self._root, "Session1.Check", "s", str(session))
        except Error:
            raise Failure(["SESSION_INVALID", str(session)]) from None

    async def _servertime(self, session: str, ref: str) -> Any:
        now = await self._object("host", ref, self._xapi.one(self._path("host", ref), "Host1.GetServerTime"))
        return datetime.fromtimestamp(now, UTC)

    async def _free_memory(self, session: str, ref: str) -> Any:
        return await self._object("host", ref, self._xapi.one(self._path("host", ref), "Host1.ComputeFreeMemory"))

    async def _data_sources(self, session: str, ref: str) -> Any:
        found = await self._object("VM", ref, self._xapi.one(self._path("VM", ref), "VM1.GetDataSources"))
        return [named(SOURCE, each) for each in found]

    async def _memory_limits(self, session: str, ref: str, *limits: Any) -> Any:
        sizes = list(map(int, limits))
        asked = self._xapi.ask(self._path("VM", ref), "VM1.SetMemoryLimits", "xxxx", *sizes)
        return await self._void("VM", ref, asked)

    async def _create(self, session: str, record: dict[str, Any]) -> Any:
        arguments = (
            record["name_label"],
            record.get("name_description", ""),
            int(record["memory_static_max"]),
            int(record.get("memory_dynamic_min", 0)),
            int(record.get("VCPUs_max", 1)),
            record.get("other_config", {}),
        )
        return await self._xapi.one(self._root, "Directory1.CreateVM", "ssxxxa{ss}", *arguments)

    def _path(self, kind: str, ref: str) -> str:
        return self._xapi.path(kind.lower(), ref)

    async def _void(self, kind: str, ref: str, asked: Any) -> str:
        await self._object(kind, ref, asked)
        return ""

    async def _object(self, kind: str, ref: str, asked: Any) -> Any:
        """An error that says which object it was about."""
        try:
            return await asked
        except Error as error:
            if error.type == UNKNOWN_OBJECT:
                raise Failure(["HANDLE_INVALID", kind, ref]) from None
            if error.type.endswith(".BadPowerState"):
                raise Failure(["VM_BAD_POWER_STATE", ref, *error.arguments]) from None
            raise
