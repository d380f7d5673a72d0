"""The demo's client that `scripts/programs` installs: Ansible with its modules for XenServer. Else it is skipped."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo.environment import Environment
from demo.http_clients import PASSWORD, USER
from demo.report import CallCheck

INSTALLED = Path(__file__).parents[2] / ".state/programs"
NAME = "made by ansible"


def why_no_ansible() -> str:
    """Return the empty text when Ansible is installed here, or the reason why it is not."""
    return "" if (INSTALLED / "ansible/.done").exists() else "scripts/programs python ansible"


def ansible(environment: Environment, check: CallCheck) -> None:
    """Ansible 10 with its modules for XenServer: XML-RPC, dialect xenapi."""

    def module(name: str, **arguments: object) -> Callable[[], Any]:
        given = {"hostname": environment.url, "username": USER, "password": PASSWORD, "name": NAME, **arguments}
        command = [str(INSTALLED / "python/bin/ansible"), "localhost", "-m", f"community.general.{name}"]
        paths = {
            "ANSIBLE_COLLECTIONS_PATH": str(INSTALLED / "ansible"),
            "PATH": os.pathsep.join((os.environ.get("PATH", ""), os.defpath)),  # it runs modules by the shell's tools
            "LC_ALL": "C.UTF-8",
        }

        def make_call() -> Any:
            done = subprocess.run(
                [*command, "-a", json.dumps(given)],
                env={**os.environ, **paths},
                capture_output=True,
                text=True,
                check=True,
            )
            return json.loads(done.stdout.partition("=> ")[2])

        return make_call

    client = "ansible"
    hardware, disks = {"num_cpus": 2, "memory_mb": 1024}, [{"size_gb": 10, "sr": "NFS storage"}]
    check(
        client, f"xenserver_guest: {NAME}, 2 CPUs, 1 GiB, a disk of 10 GiB, powered on", "VM1.Start",
        module(
            "xenserver_guest", template="Debian Bookworm 12", state="poweredon", hardware=hardware, disks=disks,
            networks=[{"name": "Pool-wide network"}],
        ),
        lambda answer: answer["changed"] is True and answer["instance"]["hardware"].items() >= hardware.items(),
    )  # fmt: skip
    check(
        client, "xenserver_guest_powerstate: the same powered on, which changes nothing", "Properties.GetAll",
        module("xenserver_guest_powerstate", state="powered-on"),
        lambda answer: answer["changed"] is False and answer["instance"]["state"] == "poweredon",
    )  # fmt: skip
    check(
        client, "xenserver_guest: absent", "VM1.Destroy", module("xenserver_guest", state="absent", force=True),
        lambda answer: answer["changed"] is True,
    )  # fmt: skip
