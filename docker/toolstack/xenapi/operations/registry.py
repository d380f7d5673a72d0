"""How a message finds its operation: a function that is registered for it, or a rule that follows from the fields.

An operation gets the pool, the object (unless the message is static) and the parameters; references arrive as objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import sample
from dbus_next import Variant
from service import NAMES, ROOT, Bus, Error

from xenapi import schema
from xenapi.schema import NULL_REF, Field, Message, Type
from xenapi.store import Row, Store

Operation = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {}
XENOPSD = f"{NAMES}.xenopsd"
# Messages that have nothing to do in a pool without hardware and without a database on disk: to return is the truth.
NOTHING_TO_DO = frozenset((
    "pool.sync_database", "pool.certificate_sync", "pool.detect_nonhomogeneous_external_auth", "host.sync_data",
    "host.backup_rrds", "host.refresh_pack_info", "host.syslog_reconfigure", "host.restart_agent",
    "host.record_data_source", "host.forget_data_source_archives", "VM.record_data_source",
    "VM.forget_data_source_archives", "SR.record_data_source", "SR.forget_data_source_archives",
    "VM.update_allowed_operations", "VM.wait_memory_target_live", "SR.update", "VDI.update", "PIF.scan",
    "PUSB.scan", "SR.assert_can_host_ha_statefile", "SR.assert_supports_database_replication", "pool.rotate_secret",
    "pool.ha_prevent_restarts_for", "host.license_remove", "host.license_add", "VM.restart_device_models",
    "host.send_debug_keys", "VM.send_sysrq", "VM.send_trigger", "pool_patch.clean", "pool_patch.pool_clean",
    "pool_patch.clean_on_host", "pool_update.pool_clean", "Cluster.pool_resync",
))  # fmt: skip
# A control domain is there as long as its host is.
OF_GUESTS = frozenset((
    "start", "start_on", "pause", "unpause", "suspend", "resume", "resume_on", "destroy", "clone", "copy",
    "clean_shutdown", "hard_shutdown", "shutdown", "power_state_reset", "clean_reboot", "hard_reboot", "provision",
    "pool_migrate", "migrate_send", "set_VCPUs_number_live", "set_appliance", "snapshot", "checkpoint", "revert",
))  # fmt: skip


class Pool:
    """What operations work on: the store, the bus, and the services behind."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.store = Store()

    @property
    def row(self) -> Row:
        """The pool itself."""
        return self.store.all("pool")[0]

    @property
    def master(self) -> Row:
        """The host that is the pool's master."""
        return self.store.find("host", self.row["master"])

    async def ask_xenopsd(self, member: str, signature: str, *arguments: Any) -> list[Any]:
        """Call xenopsd's one object."""
        return await self.bus.ask(XENOPSD, f"{ROOT}/xenopsd", f"{XENOPSD}.{member}", signature, *arguments)

    async def free_memory(self, host: Row) -> int:
        """Bytes that a host can give away. All domains live in one squeezed, which counts the memory of the master."""
        if host is not self.master:
            taken = sum(vm["memory_dynamic_max"] for vm in host.many("resident_VMs") if not vm["is_control_domain"])
            return max(0, sample.HOST_MEMORY - sample.RESERVED_MEMORY - sample.DOMAIN_ZERO_MEMORY - taken)
        memory = f"{NAMES}.squeezed.Memory1"
        kib: int = await self.bus.get(f"{NAMES}.squeezed", f"{ROOT}/squeezed", memory, "FreeKib")
        return kib * sample.KIB


def message(*names: str) -> Callable[[Operation], Operation]:
    """Register a function as the operation of these messages."""

    def register(operation: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, operation))
        return operation

    return register


def failure(code: str, *arguments: str | int) -> Error:
    """An error of XenAPI: VM_IS_TEMPLATE is org.xen.xcp.Error.VmIsTemplate; numbers stay numbers."""
    name = "".join(part.capitalize() for part in code.split("_"))
    signature = "".join("s" if isinstance(each, str) else "x" for each in arguments)
    return Error(name, signature, *arguments)


def now() -> int:
    """The time in Unix seconds."""
    return int(time.time())


def answers(found: Message) -> bool:
    """Tell whether a message has an operation; the others answer NotImplemented."""
    return found.name in OPERATIONS or found.name in NOTHING_TO_DO or _rule(found) is not None


def call(pool: Pool, found: Message, row: Row | None, body: list[Any]) -> Any:
    """Do what a message says."""
    operation = OPERATIONS.get(found.name) or _rule(found)
    if found.name in NOTHING_TO_DO:
        operation = _nothing
    if operation is None:
        raise failure("NOT_IMPLEMENTED", found.name)
    if found.constructor:
        return operation(pool, _record(pool.store, found.name.partition(".")[0], body[0]))
    arguments = [resolved(pool.store, kind, value) for (_, kind), value in zip(found.parameters, body, strict=True)]
    if row is None:
        return operation(pool, *arguments)
    _refuse_blocked(row, found)
    return operation(pool, row, *arguments)


def _record(store: Store, cls: str, given: dict[str, Variant]) -> dict[str, Any]:
    """The fields for a new object: those of the constructor that are given, the others with their default."""
    own = store.classes[cls]
    values = {each.name: deepcopy(each.default) for each in own.fields.values() if each.constructor}
    for name, variant in given.items():
        field = own.by_property.get(name)
        if field is None or variant.signature != field.type.signature:
            raise failure("INVALID_VALUE", name if field is None else field.name, str(variant.value))
        if field.name in values:
            store.check(field, variant.value)
            values[field.name] = variant.value
    return values


def resolved(store: Store, kind: Type, value: Any) -> Any:
    """The objects instead of references; a null reference is None. Sessions are no objects of the store."""
    if kind.kind == "ref" and kind.name != "session":
        return None if value in ("", NULL_REF) else store.find(kind.name, value)
    if kind.kind == "set":
        return [resolved(store, kind.item, each) for each in value]
    if kind.kind == "map":
        return {resolved(store, kind.key, key): resolved(store, kind.item, each) for key, each in value.items()}
    return value


def plain(value: Any) -> Any:
    """References instead of objects: the inverse of `resolved`."""
    if isinstance(value, Row):
        return value.ref
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def _refuse_blocked(row: Row, found: Message) -> None:
    if row.cls.name != "VM":
        return
    operation = found.name.partition(".")[2]
    if operation in row["blocked_operations"]:
        raise failure("OPERATION_BLOCKED", row.ref, row["blocked_operations"][operation])
    if row["is_control_domain"] and operation in OF_GUESTS:
        raise failure("OPERATION_NOT_ALLOWED", "This operation is not allowed on a control domain.")


# Rules


def _nothing(*_arguments: Any) -> None:
    """Return at once."""


def _rule(found: Message) -> Operation | None:
    """The operation that follows from the fields of the class."""
    cls, _, name = found.name.partition(".")
    fields = schema.classes()[cls].fields
    if found.constructor:
        return partial(_create, cls)
    if name in ("destroy", "forget"):
        return _destroy
    for prefix, change in CHANGES.items():
        field = fields.get(name.removeprefix(prefix))
        if field is not None and name.startswith(prefix) and not found.static:
            return partial(change, field)
    if name in ("create", "introduce", "db_introduce") and all(
        parameter in fields for parameter, _ in found.parameters
    ):
        return partial(_introduce, cls, [parameter for parameter, _ in found.parameters])
    return None


def _create(cls: str, pool: Pool, values: dict[str, Any]) -> Row:
    return pool.store.create(cls, **values)


def _introduce(cls: str, names: list[str], pool: Pool, *arguments: Any) -> Row:
    return pool.store.create(cls, **dict(zip(names, map(plain, arguments), strict=True)))


def _destroy(pool: Pool, row: Row) -> None:
    pool.store.destroy(row)


def _add_pair(field: Field, _pool: Pool, row: Row, key: str, value: Any) -> None:
    if key in row[field.name]:
        raise failure("MAP_DUPLICATE_KEY", row.cls.name, field.name, row.ref, str(key))
    row.put(**{field.name: {**row[field.name], key: plain(value)}})


def _remove_pair(field: Field, _pool: Pool, row: Row, key: str) -> None:
    row.put(**{field.name: {each: value for each, value in row[field.name].items() if each != key}})


def _add_item(field: Field, _pool: Pool, row: Row, value: Any) -> None:
    if plain(value) not in row[field.name]:
        row.put(**{field.name: [*row[field.name], plain(value)]})


def _remove_item(field: Field, _pool: Pool, row: Row, value: Any) -> None:
    row.put(**{field.name: [each for each in row[field.name] if each != plain(value)]})


def _set(field: Field, pool: Pool, row: Row, value: Any) -> None:
    pool.store.check(field, plain(value))
    row.put(**{field.name: plain(value)})


CHANGES: dict[str, Operation] = {
    "add_to_": _add_pair,
    "remove_from_": _remove_pair,
    "add_": _add_item,
    "remove_": _remove_item,
    "set_": _set,
}
