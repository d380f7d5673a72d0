"""Programs that people run against XenAPI, unchanged from their packages, do whole scenarios against the gateway.

`scripts/programs` installs them, and tests/interop/programs/ has what they are asked to do. One that is not here is
skipped with the reason. docs/compatibility.md has the table of what was run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import XenAPI

from demo.environment import Environment, start_environment
from demo.http_clients import ARCHIVE, PASSWORD, USER, WEB
from tests.kit.programs import ROOT, TIMEOUT, until

pytestmark = [pytest.mark.bus, pytest.mark.programs]

INSTALLED = ROOT / ".state/programs"
SCENARIOS = Path(__file__).parent / "programs"
TEMPLATE = "Debian Bookworm 12"
SCENARIO = 4 * TIMEOUT  # seconds: a playbook runs many programs


@pytest.fixture(scope="module")
def gateway() -> Iterator[Environment]:
    with start_environment() as running:
        yield running


def run(part: str, *command: str | Path, **environment: str | Path) -> str:
    """Run a program of this part of scripts/programs; return what it printed."""
    if not (INSTALLED / part / ".done").exists():
        pytest.skip(f"`scripts/programs {part}` has not installed it here; .state/programs/{part}.log may say why")
    if command[0] == "node" and shutil.which("node") is None:
        pytest.skip("there is no node here; `scripts/programs` installs it where it can")
    added = {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        command, env={**os.environ, **added}, capture_output=True, text=True, check=False, timeout=SCENARIO
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# npm


def node(scenario: str, gateway: Environment) -> Any:
    """Run a scenario with the packages of npm; return what it says."""
    return json.loads(run("node", "node", SCENARIOS / scenario, INSTALLED / "node/node_modules", gateway.url))


def test_xen_orchestras_xen_api(gateway: Environment) -> None:
    done = node("xen_api.mjs", gateway)
    types = {types for types, records in done["transports"].values() if records > types}
    assert len(done["transports"]) == 3
    assert len(types) == 1
    assert types.pop() >= 57
    with xmlrpc.client.ServerProxy(f"{gateway.url}/RPC2") as api:
        assert done["cache"] == ("event.from" in api.system.listMethods())  # type: ignore[operator]


def test_npms_xmlrpc(gateway: Environment) -> None:
    assert node("xmlrpc.cjs", gateway)["web"] == WEB


def test_npms_jayson(gateway: Environment) -> None:
    done = node("jayson.cjs", gateway)
    assert done["1"] == done["2"] > 0


# Ansible, fence agents, wrappers of XenAPI


def test_ansibles_modules(gateway: Environment) -> None:
    printed = run(
        "ansible",
        INSTALLED / "python/bin/ansible-playbook",
        SCENARIOS / "guest.yml",
        "-e",
        f"url={gateway.url}",
        ANSIBLE_COLLECTIONS_PATH=INSTALLED / "ansible",
        ANSIBLE_LOCALHOST_WARNING="0",
        LC_ALL="C.UTF-8",
    )
    assert "failed=0" in printed


def test_debians_fence_agent(gateway: Environment) -> None:
    def fence(action: str, *more: str) -> list[str]:
        usr = INSTALLED / "fence/usr"
        options = ["-o", action, "-s", gateway.url, "-l", USER, "-p", PASSWORD, *more]
        agent = (INSTALLED / "python/bin/python", usr / "sbin/fence_xenapi")
        return run("fence", *agent, *options, PYTHONPATH=usr / "share/fence").splitlines()

    db = "22222222-bbbb-4bbb-8bbb-000000000002"
    assert f"{db},db" in fence("list")
    assert fence("monitor") == []
    for action, said in (
        ("on", "Success: Powered ON"),
        ("on", "Success: Already ON"),
        ("status", "Status: ON"),
        ("reboot", "Success: Rebooted"),
        ("off", "Success: Powered OFF"),
    ):
        assert fence(action, "-n", "db") == [said]


CLOUD: Mapping[str, str] = {
    "cloud": "{{root_dir: {0}, log_file: {0}/log, pki_dir: {0}/pki, cachedir: {0}/cache}}",
    "cloud.providers": "pool: {{driver: xen, url: '{1}', user: root, password: xenroot}}",
    "cloud.profiles": "small: {{provider: pool, image: web, deploy: false, clone: true, storage_repo: Local storage}}",
}


def test_salt_cloud(gateway: Environment, tmp_path: Path) -> None:
    """It clones a VM that is halted, and acts on it by tasks."""
    for name, text in CLOUD.items():
        (tmp_path / name).write_text(text.format(tmp_path, gateway.url))

    def cloud(*words: str) -> Any:
        program = INSTALLED / "salt/bin/salt-cloud"
        return json.loads(run("salt", program, "-c", tmp_path, "--log-level=error", "--out=json", "-y", *words))

    assert cloud("-p", "small", "made by salt")["made by salt"]["state"] == "Running"
    for action, state in (
        ("reboot", "Running"),
        ("suspend", "Suspended"),
        ("resume", "Running"),
        ("pause", "Paused"),
        ("unpause", "Running"),
        ("shutdown", "Halted"),
        ("start", "Running"),
    ):
        assert cloud("-a", action, "made by salt")["pool"]["xen"]["made by salt"]["state"] == state
    assert "made by salt" in cloud("-Q")["pool"]["xen"]
    assert cloud("-d", "made by salt")["pool"]["xen"]["made by salt"]["destroyed"] is True
    assert "made by salt" not in cloud("-Q")["pool"]["xen"]


def test_xengarden(gateway: Environment) -> None:
    run("python", INSTALLED / "python/bin/python", SCENARIOS / "xengarden_vm.py", gateway.url)


# Python's XenAPI and the standard library


def refusal(call: Any, *params: Any) -> list[str]:
    """The failure that a call ends with."""
    with pytest.raises(XenAPI.Failure) as caught:
        call(*params)
    return list(caught.value.details)


def test_pypis_xenapi(gateway: Environment) -> None:
    with XenAPI.Session(gateway.url) as session:
        api = session.xenapi
        assert refusal(api.login_with_password, USER, "wrong")[0] == "SESSION_AUTHENTICATION_FAILED"
        api.login_with_password(USER, PASSWORD, "2.0", "test")
        assert {record["name_label"] for record in api.VM.get_all_records().values()} >= {"web", "db", TEMPLATE}
        [template] = api.VM.get_by_name_label(TEMPLATE)
        vm = api.VM.clone(template, "made by XenAPI")
        api.VM.provision(vm)
        config = api.VM.get_other_config(vm)
        api.VM.add_to_other_config(vm, "owner", "test")
        assert api.VM.get_other_config(vm) == {**config, "owner": "test"}
        task = api.Async.VM.start(vm, False, False)
        until(lambda: api.task.get_status(task) != "pending")
        record = api.task.get_record(task)
        assert (record["status"], record["progress"], record["error_info"]) == ("success", 1.0, [])
        api.task.destroy(task)
        assert api.VM.get_power_state(vm) == "Running"
        assert refusal(api.VM.start, vm, False, False) == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
        domid = api.VM.get_domid(vm)
        api.VM.clean_reboot(vm)
        assert api.VM.get_domid(vm) != domid
        api.VM.suspend(vm)
        assert api.VDI.get_type(api.VM.get_suspend_VDI(vm)) == "suspend"
        api.VM.resume(vm, False, False)
        other = next(host for host in api.host.get_all() if host != api.VM.get_resident_on(vm))
        api.VM.pool_migrate(vm, other, {"live": "true"})
        assert (api.VM.get_resident_on(vm), vm in api.host.get_resident_VMs(other)) == (other, True)
        api.VM.hard_shutdown(vm)
        api.VM.destroy(vm)
        assert refusal(api.VM.get_record, vm) == ["HANDLE_INVALID", "VM", vm]
        assert refusal(api.VM.get_by_uuid, "no-uuid") == ["UUID_INVALID", "VM", "no-uuid"]
        assert refusal(api.VM.no_such_message, vm) == ["MESSAGE_METHOD_UNKNOWN", "VM.no_such_message"]
        assert refusal(api.VM.start, vm) == ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1"]
        assert refusal(api.VM.start, ARCHIVE, False, False)[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"
        api.logout()


def test_the_standard_librarys_client(gateway: Environment) -> None:
    with xmlrpc.client.ServerProxy(f"{gateway.url}/RPC2", allow_none=True) as proxy:
        api: Any = proxy

        def ask(method: str, *params: Any) -> Any:
            answer = getattr(api, method)(*params)
            return answer.get("Value", answer.get("ErrorDescription"))

        session = ask("session.login_with_password", USER, PASSWORD)
        [pool] = ask("pool.get_all_records", session).values()
        assert ask("host.get_record", session, pool["master"])["enabled"] is True
        assert isinstance(ask("host.get_servertime", session, pool["master"]), xmlrpc.client.DateTime)
        assert set(api.system.listMethods()) > {"VM.start", "task.cancel"}
        made = ask("network.create", session, {"name_label": "made by xmlrpc.client", "MTU": "1400", "bridge": ""})
        assert ask("network.get_MTU", session, made) == "1400"
        assert ask("network.destroy", session, made) == ""
        assert ask("network.get_record", session, made) == ["HANDLE_INVALID", "network", made]
        assert ask("session.logout", session) == ""
        assert ask("VM.get_all", session) == ["SESSION_INVALID", session]
