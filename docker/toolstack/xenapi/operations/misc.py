"""Tasks, messages to people, roles, blobs, plugins, clusters."""

from __future__ import annotations

import json

from xenapi.operations.registry import Pool, failure, message, now
from xenapi.schema import NULL_REF
from xenapi.store import Row

CLASSES = {"VM": "VM", "Host": "host", "SR": "SR", "Pool": "pool", "VMPP": "VMPP", "VMSS": "VMSS", "VDI": "VDI"}
CLASSES |= {"PVS_proxy": "PVS_proxy", "Certificate": "Certificate"}


def answer_plugin(plugin: str, fn: str, args: dict[str, str]) -> str:
    """Run a plugin: `echo` has the function `main`, which returns its arguments as JSON."""
    if plugin != "echo":
        raise failure("XENAPI_MISSING_PLUGIN", plugin)
    if fn != "main":
        raise failure("XENAPI_PLUGIN_FAILURE", fn, "UnknownFunction", f"echo has no function {fn}")
    return json.dumps(args, sort_keys=True)


# Tasks


@message("task.create")
def create_task(pool: Pool, label: str, description: str) -> Row:
    """Make a task whose progress its client reports."""
    own = {"name_label": label, "name_description": description, "created": now(), "status": "pending"}
    return pool.store.create("task", **own, type="<none/>", resident_on=pool.row["master"])


@message("task.cancel")
def cancel_task(_pool: Pool, task: Row) -> None:
    """End a task that is pending."""
    if task["status"] != "pending":
        raise failure("OPERATION_NOT_ALLOWED", f"The task is not pending, it is {task['status']}.")
    task.put(status="cancelled", finished=now(), error_info=["TASK_CANCELLED", task.ref])


@message("task.set_status")
def set_task_status(_pool: Pool, task: Row, value: str) -> None:
    """Set what became of a task."""
    task.put(status=value, finished=task["finished"] if value == "pending" else now())


# Messages to people


@message("message.create")
def create_message(pool: Pool, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> Row:
    """Write a message about an object."""
    if cls not in CLASSES:
        raise failure("INVALID_VALUE", "cls", cls)
    pool.store.by_uuid(CLASSES[cls], obj_uuid)
    own = {"name": name, "priority": priority, "cls": cls, "obj_uuid": obj_uuid, "body": body}
    return pool.store.create("message", **own, timestamp=now())


@message("message.get")
def get_messages(pool: Pool, cls: str, obj_uuid: str, since: int) -> dict[Row, Row]:
    """The messages about an object, since a time."""
    found = [row for row in pool.store.all("message") if (row["cls"], row["obj_uuid"]) == (cls, obj_uuid)]
    return {row: row for row in found if row["timestamp"] >= since}


@message("message.get_since")
def get_messages_since(pool: Pool, since: int) -> dict[Row, Row]:
    """All messages since a time."""
    return {row: row for row in pool.store.all("message") if row["timestamp"] >= since}


@message("message.destroy_many")
def destroy_messages(pool: Pool, messages: list[Row]) -> None:
    """Remove messages."""
    for row in messages:
        pool.store.destroy(row)


# Roles and users


def _permissions(role: Row) -> list[Row]:
    """What a role permits, with its subroles."""
    found = {}
    for each in role.many("subroles"):
        found |= {row.ref: row for row in (_permissions(each) or [each])}
    return list(found.values())


@message("role.get_permissions")
def get_permissions(_pool: Pool, role: Row) -> list[Row]:
    """What a role permits."""
    return _permissions(role)


@message("role.get_permissions_name_label")
def get_permissions_name_label(_pool: Pool, role: Row) -> list[str]:
    """The names of what a role permits."""
    return [each["name_label"] for each in _permissions(role)]


@message("role.get_by_permission")
def get_by_permission(pool: Pool, permission: Row) -> list[Row]:
    """The roles that permit something."""
    return [role for role in pool.store.all("role") if permission in _permissions(role)]


@message("role.get_by_permission_name_label")
def get_by_permission_name_label(pool: Pool, label: str) -> list[Row]:
    """The same by its name."""
    return [role for row in pool.store.named("role", label) for role in get_by_permission(pool, row)]


@message("subject.add_to_roles")
def add_role(_pool: Pool, subject: Row, role: Row) -> None:
    """Give a user a role."""
    if role.ref in subject["roles"]:
        raise failure("ROLE_ALREADY_EXISTS")
    subject.put(roles=[*subject["roles"], role.ref])


@message("subject.remove_from_roles")
def remove_role(_pool: Pool, subject: Row, role: Row) -> None:
    """Take a role from a user."""
    if role.ref not in subject["roles"]:
        raise failure("ROLE_NOT_FOUND")
    subject.put(roles=[ref for ref in subject["roles"] if ref != role.ref])


@message("subject.get_permissions_name_label")
def get_subject_permissions(_pool: Pool, subject: Row) -> list[str]:
    """The names of what a user may do."""
    return sorted({row["name_label"] for role in subject.many("roles") for row in _permissions(role)})


@message("auth.get_subject_identifier")
def get_subject_identifier(pool: Pool, name: str) -> str:
    """The identifier of a user in the directory: the sample's directory has the subjects."""
    for subject in pool.store.all("subject"):
        if subject["other_config"].get("subject-name") == name:
            return str(subject["subject_identifier"])
    raise failure("SUBJECT_CANNOT_BE_RESOLVED")


@message("auth.get_subject_information_from_identifier")
def get_subject_information(pool: Pool, identifier: str) -> dict[str, str]:
    """What the directory says of a user."""
    for subject in pool.store.all("subject"):
        if subject["subject_identifier"] == identifier:
            return dict(subject["other_config"])
    raise failure("SUBJECT_CANNOT_BE_RESOLVED")


@message("auth.get_group_membership")
def get_group_membership(pool: Pool, identifier: str) -> list[str]:
    """The groups of a user: none."""
    get_subject_information(pool, identifier)
    return []


# Blobs


@message("blob.create")
def create_blob(pool: Pool, mime_type: str, public: bool) -> Row:
    """Make an empty blob."""
    return pool.store.create(
        "blob", mime_type=mime_type or "application/octet-stream", public=public, last_updated=now()
    )


@message(
    "VM.create_new_blob",
    "host.create_new_blob",
    "network.create_new_blob",
    "SR.create_new_blob",
    "pool.create_new_blob",
)
def create_blob_of(pool: Pool, row: Row, name: str, mime_type: str, public: bool) -> Row:
    """Make an empty blob that belongs to an object."""
    blob = create_blob(pool, mime_type, public)
    blob.put(name_label=name)
    row.put(blobs={**row["blobs"], name: blob.ref})
    return blob


# Others


@message("DR_task.create")
def create_dr_task(pool: Pool, _type: str, _device_config: dict[str, str], whitelist: list[str]) -> Row:
    """Make a task that introduces repositories of another pool; there is none here."""
    if whitelist:
        raise failure("SR_BACKEND_FAILURE", "no such repository", *whitelist)
    return pool.store.create("DR_task")


@message("VTPM.create")
def create_vtpm(pool: Pool, vm: Row, is_unique: bool) -> Row:
    """Give a halted VM a TPM."""
    if vm["VTPMs"]:
        raise failure("VTPM_MAX_AMOUNT_REACHED", "1")
    return pool.store.create("VTPM", VM=vm.ref, backend=NULL_REF, is_unique=is_unique)


def _grouping(cls: str) -> None:
    @message(f"{cls}.create")
    def create(pool: Pool, name: str, text: str, config: dict[str, str]) -> Row:
        return pool.store.create(cls, name_label=name, name_description=text, other_config=config)


_grouping("GPU_group")
_grouping("USB_group")


@message("Cluster.get_network")
def get_cluster_network(_pool: Pool, cluster: Row) -> Row | None:
    """The network of its hosts."""
    for member in cluster.many("cluster_hosts"):
        return member.one("PIF").one("network")
    return None


@message("Cluster_host.enable")
def enable_cluster_host(_pool: Pool, member: Row) -> None:
    """Let a host take part."""
    member.put(enabled=True, live=True)


@message("Cluster_host.disable")
def disable_cluster_host(_pool: Pool, member: Row) -> None:
    """Let a host rest."""
    member.put(enabled=False, live=False)


@message("Cluster_host.force_destroy", "Cluster.pool_destroy", "Cluster.pool_force_destroy")
def destroy_cluster(pool: Pool, row: Row) -> None:
    """Remove a cluster, or a host from it."""
    pool.store.destroy(row)


@message("Cluster.create")
def create_cluster(pool: Pool, pif: Row, stack: str, join: bool, timeout: float, coefficient: float) -> Row:
    """Make a cluster of one host."""
    own = {"cluster_stack": stack, "pool_auto_join": join, "token_timeout": timeout}
    cluster = pool.store.create("Cluster", **own, token_timeout_coefficient=coefficient)
    create_cluster_host(pool, cluster, pif.one("host"), pif)
    return cluster


@message("Cluster.pool_create")
def create_cluster_of_all(pool: Pool, network: Row, stack: str, timeout: float, coefficient: float) -> Row:
    """Make a cluster of all hosts on a network."""
    own = {"cluster_stack": stack, "pool_auto_join": True, "token_timeout": timeout}
    cluster = pool.store.create("Cluster", **own, token_timeout_coefficient=coefficient)
    for pif in network.many("PIFs"):
        create_cluster_host(pool, cluster, pif.one("host"), pif)
    return cluster


@message("Cluster_host.create")
def create_cluster_host(pool: Pool, cluster: Row, host: Row, pif: Row) -> Row:
    """Add a host to a cluster."""
    own = {"enabled": True, "joined": True, "live": True}
    return pool.store.create("Cluster_host", cluster=cluster.ref, host=host.ref, PIF=pif.ref, **own)
