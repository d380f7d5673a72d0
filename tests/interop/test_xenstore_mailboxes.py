"""Mailboxes in a real store, driven by Debian's tools as a toolstack drives them, to xenopsd on D-Bus."""

from __future__ import annotations

from typing import Any

import pytest

from demo.environment import Environment
from tests.kit.clients import json_call
from tests.kit.stores import Tools

pytestmark = pytest.mark.bus

WEB = "11111111-aaaa-4aaa-8aaa-000000000001"
PCI = "0000:00:19.0"


@pytest.fixture
def tools(running: Environment) -> Tools:
    return Tools(running.store)


def xenopsd(running: Environment, method: str, **named: Any) -> Any:
    return json_call(running.url, "/xenopsd/jsonrpc", method, {"debug_info": "x", **named})


def start_vm(running: Environment) -> None:
    """Start the VM, and wait for the end of the task, for which the service wakes the caller of UPDATES.get."""
    known = 0
    task = xenopsd(running, "VM.start", id=WEB, paused=False)
    while xenopsd(running, "Task.stat", id=task)["state"][0] == "Pending":
        known = xenopsd(running, "UPDATES.get", last_id=known, timeout=30)[2]


def power_state(running: Environment) -> str:
    return str(xenopsd(running, "VM.get_power_state", id=WEB))


def only_domid(running: Environment) -> int:
    """The domain of a VM that has one: VM.stat answers with the VM and its state."""
    (found,) = xenopsd(running, "VM.stat", id=WEB)[1]["domids"]
    return int(found)


@pytest.fixture
def domid(running: Environment) -> int:
    """The domain of a VM that runs."""
    if power_state(running) != "Running":
        start_vm(running)
    return only_domid(running)


def device_model(tools: Tools, path: str, command: str, parameter: str = "") -> str | None:
    """As xenopsd does it: remember the state, write parameter and command, wait for another state, put it back."""
    before = tools.read(f"{path}/state")
    assert before == "running"
    with tools.watching(f"{path}/state") as wait:
        wait(lambda value: value == before)
        tools.run("write", f"{path}/parameter", parameter, f"{path}/command", command)
        after = wait(lambda value: value != before)
    tools.put(f"{path}/state", before)
    return after


@pytest.mark.parametrize("dm", [0, 77])
def test_a_device_model_does_what_its_mailbox_says(running: Environment, tools: Tools, domid: int, dm: int) -> None:
    path = f"/local/domain/{dm}/device-model/{domid}"
    tools.put(f"{path}/state", "running")
    assert device_model(tools, path, "pci-ins", PCI) == "pci-inserted"
    assert tools.read(f"{path}/parameter") == "0x20"
    assert device_model(tools, path, "pci-ins", PCI) == "pci-insert-failed"
    assert device_model(tools, path, "pci-rem", PCI) == "pci-removed"
    assert device_model(tools, path, "save") == "paused"
    assert power_state(running) == "Paused"
    with tools.watching(f"{path}/command") as wait:  # the state is the same before and after
        tools.put(f"{path}/command", "continue")
        wait(lambda value: value is None)
    assert power_state(running) == "Running"


def test_a_guest_that_was_asked_to_end_has_acknowledged_when_the_word_is_gone(
    running: Environment, tools: Tools, domid: int
) -> None:
    path = f"/local/domain/{domid}/control/shutdown"
    with tools.watching(path) as wait:
        tools.put(path, "reboot")
        assert wait(lambda value: value == "") == ""
    reborn = only_domid(running)
    assert reborn != domid
    path = f"/local/domain/{reborn}/control/shutdown"
    with tools.watching(path) as wait:
        tools.put(path, "poweroff")
        wait(lambda value: value == "")
    assert power_state(running) == "Halted"


def test_a_word_of_a_guest_about_itself_is_done_and_about_another_is_not(
    running: Environment, tools: Tools, domid: int
) -> None:
    path = f"/local/domain/{domid}/control/sysrq"
    for owner, left in ((domid, ""), (domid + 1000, None)):
        tools.run("rm", path, check=False)
        tools.put(f"/local/domain/{domid}/control", "")
        tools.run("chmod", f"/local/domain/{domid}/control", f"n{owner}")
        with tools.watching(path) as wait:
            wait(lambda value: value is None)
            tools.put(path, "h")
            wait(lambda value, left=left: value == left)  # type: ignore[misc]


def test_a_word_that_nobody_knows_or_about_no_domain_is_not_acknowledged(tools: Tools, domid: int) -> None:
    for number, word in ((domid, "explode"), (31000, "poweroff")):
        path = f"/local/domain/{number}/control/shutdown"
        with tools.watching(path) as wait:
            tools.put(path, word)
            wait(lambda value: value is None)
