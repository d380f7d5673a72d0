"""The pool: master, high availability, certificates, repositories, updates."""

from __future__ import annotations

import uuid
from typing import Any

from xenapi.operations.hosts import (
    disable_local_storage_caching,
    enable_local_storage_caching,
    switch_to,
)
from xenapi.operations.registry import Pool, failure, message, now
from xenapi.schema import NULL_REF
from xenapi.store import Row

# The pool


@message("pool.designate_new_master")
def designate_new_master(pool: Pool, host: Row) -> None:
    """Make another host the master."""
    if not host.one("metrics")["live"]:
        raise failure("HOST_OFFLINE", host.ref)
    pool.row.put(master=host.ref)


@message("pool.join", "pool.join_force")
def join(_pool: Pool, address: str, _user: str, _password: str) -> None:
    """Join another pool: the sample has only one, so that no address leads to another."""
    raise failure("JOINING_HOST_CONNECTION_FAILED", address)


@message("pool.enable_ha")
def enable_ha(pool: Pool, srs: list[Row], configuration: dict[str, str]) -> None:
    """Protect the guests, with a heartbeat on these repositories."""
    if pool.row["ha_enabled"]:
        raise failure("HA_IS_ENABLED")
    for sr in srs:
        if not sr["shared"]:
            raise failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr.ref)
    files = [disk.ref for sr in srs for disk in sr.many("VDIs")[:1]]
    pool.row.put(ha_enabled=True, ha_configuration=configuration, ha_statefiles=files, ha_plan_exists_for=1)


@message("pool.disable_ha")
def disable_ha(pool: Pool) -> None:
    """Protect no guest."""
    if not pool.row["ha_enabled"]:
        raise failure("HA_NOT_ENABLED")
    pool.row.put(ha_enabled=False, ha_configuration={}, ha_statefiles=[], ha_plan_exists_for=0)


@message("pool.ha_compute_max_host_failures_to_tolerate", "pool.ha_compute_hypothetical_max_host_failures_to_tolerate")
def failures_to_tolerate(pool: Pool, *_configuration: Any) -> int:
    """How many hosts can fail: all but one."""
    return len([host for host in pool.store.all("host") if host["enabled"]]) - 1


@message("pool.recover_slaves")
def recover_slaves(_pool: Pool) -> list[Row]:
    """Tell the hosts who the master is; all know it."""
    return []


@message("pool.ha_failover_plan_exists")
def ha_failover_plan_exists(pool: Pool, n: int) -> bool:
    """Tell whether the guests survive the failure of `n` hosts."""
    return n <= failures_to_tolerate(pool)


@message("pool.ha_compute_vm_failover_plan")
def ha_compute_vm_failover_plan(pool: Pool, failed: list[Row], vms: list[Row]) -> dict[Row, dict[str, str]]:
    """Where each guest of the hosts that failed would start."""
    left = [host for host in pool.store.all("host") if host["enabled"] and host not in failed]
    return {vm: {"host": left[0].ref} if left else {"error_code": "NO_HOSTS_AVAILABLE"} for vm in vms}


@message("pool.get_license_state")
def get_license_state(pool: Pool, _row: Row) -> dict[str, str]:
    """The edition that every host has, and until when."""
    return {"edition": pool.master["edition"], "expiry": "never"}


@message("pool.install_ca_certificate", "pool.certificate_install")
def install_ca_certificate(pool: Pool, name: str, cert: str) -> None:
    """Trust a certificate authority."""
    if any(each["name"] == name for each in pool.store.all("Certificate")):
        raise failure("CERTIFICATE_ALREADY_EXISTS", name)
    if "BEGIN CERTIFICATE" not in cert:
        raise failure("CERTIFICATE_CORRUPT", name)
    pool.store.create("Certificate", name=name, type="ca", not_before=now(), not_after=now() + 365 * 86400)


@message("pool.uninstall_ca_certificate", "pool.certificate_uninstall")
def uninstall_ca_certificate(pool: Pool, name: str) -> None:
    """Trust it no more."""
    for each in pool.store.all("Certificate"):
        if (each["type"], each["name"]) == ("ca", name):
            pool.store.destroy(each)
            return
    raise failure("CERTIFICATE_DOES_NOT_EXIST", name)


@message("pool.certificate_list")
def certificate_list(pool: Pool) -> list[str]:
    """The names of the certificate authorities that are trusted."""
    return [each["name"] for each in pool.store.all("Certificate") if each["type"] == "ca"]


@message("pool.crl_list")
def crl_list(_pool: Pool) -> list[str]:
    """The lists of revoked certificates: none."""
    return []


switch_to("pool.disable_client_certificate_auth", "client_certificate_auth_enabled", value=False)


@message("pool.enable_tls_verification")
def enable_tls_verification(pool: Pool) -> None:
    """Verify certificates between the hosts."""
    for row in (pool.row, *pool.store.all("host")):
        row.put(tls_verification_enabled=True)


@message("pool.enable_client_certificate_auth")
def enable_client_certificate_auth(_pool: Pool, row: Row, name: str) -> None:
    """Let clients with a certificate of this name in."""
    row.put(client_certificate_auth_enabled=True, client_certificate_auth_name=name)


@message("pool.enable_redo_log")
def enable_redo_log(pool: Pool, sr: Row) -> None:
    """Keep the log of the database on a repository."""
    pool.row.put(redo_log_enabled=True, redo_log_vdi=next(iter(sr["VDIs"]), NULL_REF))


@message("pool.disable_redo_log")
def disable_redo_log(pool: Pool) -> None:
    """Keep no log of the database."""
    pool.row.put(redo_log_enabled=False, redo_log_vdi=NULL_REF)


@message("pool.configure_repository_proxy")
def configure_repository_proxy(pool: Pool, row: Row, url: str, username: str, password: str) -> None:
    """Reach repositories of updates through a proxy."""
    secret = pool.store.create("secret", value=password).ref if password else NULL_REF
    row.put(repository_proxy_url=url, repository_proxy_username=username, repository_proxy_password=secret)


@message("pool.disable_repository_proxy")
def disable_repository_proxy(pool: Pool, row: Row) -> None:
    """Reach repositories of updates directly."""
    secret = row.one("repository_proxy_password")
    row.put(repository_proxy_url="", repository_proxy_username="", repository_proxy_password=NULL_REF)
    if secret is not None:
        pool.store.destroy(secret)


@message("pool.configure_update_sync")
def configure_update_sync(_pool: Pool, row: Row, frequency: str, day: int) -> None:
    """Set when updates are fetched."""
    row.put(update_sync_frequency=frequency, update_sync_day=day)


@message("pool.sync_updates")
def sync_updates(_pool: Pool, row: Row, _force: bool, _token: str, _token_id: str) -> str:
    """Fetch updates; returns the hash of what is there."""
    row.put(last_update_sync=now())
    return "0" * 64


@message("pool.check_update_readiness", "host.apply_updates")
def check_update_readiness(_pool: Pool, _row: Row, _detail: Any) -> list[list[str]]:
    """Nothing hinders updates, and there are none."""
    return []


@message("pool.retrieve_wlb_configuration", "pool.retrieve_wlb_recommendations")
def no_balancer(_pool: Pool) -> dict[str, str]:
    """Say that there is no workload balancer."""
    raise failure("WLB_NOT_INITIALIZED")


@message("VM.retrieve_wlb_recommendations")
def no_recommendations(_pool: Pool, _vm: Row) -> dict[Row, list[str]]:
    """Say that there is no workload balancer."""
    raise failure("WLB_NOT_INITIALIZED")


@message("pool.test_archive_target")
def check_archive_target(_pool: Pool, _row: Row, _config: dict[str, str]) -> str:
    """Say that a place for archives cannot be reached."""
    return "false"


@message("pool.add_repository")
def add_repository(_pool: Pool, row: Row, repository: Row) -> None:
    """Take updates from a repository."""
    if repository.ref not in row["repositories"]:
        row.put(repositories=[*row["repositories"], repository.ref])


@message("pool.remove_repository")
def remove_repository(_pool: Pool, row: Row, repository: Row) -> None:
    """Take no updates from a repository."""
    row.put(repositories=[ref for ref in row["repositories"] if ref != repository.ref])


@message("pool.set_vswitch_controller")
def set_vswitch_controller(pool: Pool, address: str) -> None:
    """Record the address of the controller of virtual switches."""
    pool.row.put(vswitch_controller=address)


@message("pool.reset_telemetry_uuid")
def reset_telemetry_uuid(pool: Pool, row: Row) -> None:
    """Give the pool another identity for telemetry."""
    row.put(telemetry_uuid=pool.store.create("secret", value=str(uuid.uuid4())).ref)


@message("pool.set_https_only")
def set_https_only(pool: Pool, _row: Row, value: bool) -> None:
    """Let every host refuse HTTP without TLS."""
    for host in pool.store.all("host"):
        host.put(https_only=value)


@message("pool.disable_ssl_legacy")
def disable_ssl_legacy(pool: Pool, _row: Row) -> None:
    """Let every host refuse old ciphers."""
    for host in pool.store.all("host"):
        host.put(ssl_legacy=False)


@message("pool.enable_local_storage_caching")
def enable_caching_everywhere(pool: Pool, _row: Row) -> None:
    """Use the local repository of every host as its cache."""
    for host in pool.store.all("host"):
        local = [pbd.one("SR") for pbd in host.many("PBDs") if not pbd.one("SR")["shared"]]
        if local:
            enable_local_storage_caching(pool, host, local[0])


@message("pool.disable_local_storage_caching")
def disable_caching_everywhere(pool: Pool, _row: Row) -> None:
    """Use no cache on any host."""
    for host in pool.store.all("host"):
        disable_local_storage_caching(pool, host)


@message("host.install_server_certificate")
def install_server_certificate(pool: Pool, host: Row, certificate: str, _key: str, _chain: str) -> None:
    """Give a host another certificate."""
    if "BEGIN CERTIFICATE" not in certificate:
        raise failure("SERVER_CERTIFICATE_INVALID")
    _renew_certificate(pool, host)


@message("host.reset_server_certificate", "host.refresh_server_certificate")
def _renew_certificate(pool: Pool, host: Row) -> None:
    """Give a host a new certificate of its own."""
    for each in host.many("certificates"):
        if each["type"] == "host":
            pool.store.destroy(each)
    own = {"type": "host", "not_before": now(), "not_after": now() + 3650 * 86400}
    pool.store.create("Certificate", host=host.ref, fingerprint=str(uuid.uuid4()), **own)


# Updates


@message("pool_patch.apply")
def apply_patch(pool: Pool, patch: Row, host: Row) -> str:
    """Apply a patch to a host."""
    for applied in host.many("patches"):
        if applied["pool_patch"] == patch.ref:
            raise failure("PATCH_ALREADY_APPLIED", patch.ref)
    own = {"name_label": patch["name_label"], "version": patch["version"], "applied": True, "timestamp_applied": now()}
    pool.store.create("host_patch", host=host.ref, pool_patch=patch.ref, size=patch["size"], **own)
    everywhere = {each["host"] for each in patch.many("host_patches")} == {each.ref for each in pool.store.all("host")}
    patch.put(pool_applied=everywhere)
    return f"{patch['name_label']} applied"


@message("pool_patch.pool_apply")
def apply_patch_everywhere(pool: Pool, patch: Row) -> None:
    """Apply a patch to every host that does not have it."""
    have = {each["host"] for each in patch.many("host_patches")}
    for host in pool.store.all("host"):
        if host.ref not in have:
            apply_patch(pool, patch, host)


@message("pool_patch.precheck")
def precheck_patch(_pool: Pool, _patch: Row, _host: Row) -> str:
    """Nothing hinders a patch."""
    return ""


@message("pool_update.introduce")
def introduce_update(pool: Pool, disk: Row) -> Row:
    """Record the update on a disk."""
    if any(update["vdi"] == disk.ref for update in pool.store.all("pool_update")):
        raise failure("UPDATE_ALREADY_EXISTS", disk["uuid"])
    return pool.store.create("pool_update", name_label=disk["name_label"], version="1.0", vdi=disk.ref)


@message("pool_update.precheck")
def precheck_update(_pool: Pool, _update: Row, _host: Row) -> str:
    """Nothing hinders an update, and none patches a kernel that runs."""
    return "ok"


@message("pool_update.apply")
def apply_update(_pool: Pool, update: Row, host: Row) -> None:
    """Apply an update to a host."""
    if host.ref in update["hosts"]:
        raise failure("UPDATE_ALREADY_APPLIED", update.ref)
    update.put(hosts=[*update["hosts"], host.ref])


@message("pool_update.pool_apply")
def apply_update_everywhere(pool: Pool, update: Row) -> None:
    """Apply an update to every host."""
    update.put(hosts=[host.ref for host in pool.store.all("host")])


@message("pool_update.destroy")
def destroy_update(pool: Pool, update: Row) -> None:
    """Remove an update that no host has."""
    if update["hosts"]:
        raise failure("UPDATE_IS_APPLIED", update.ref)
    pool.store.destroy(update)
