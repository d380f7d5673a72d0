"""Operators on the toolstack's own bus: a real gateway process, the shipped policy, and who may call what."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.admin_dbus.objects import BUS_NAME, CONTROL, METHOD, ROOT
from tests.kit.admin import DBusAdminClient, dbus_admin_client
from tests.kit.command import succeed
from tests.kit.gateway import Folder, gateway_process
from tests.kit.programs import TIMEOUT
from tests.kit.toolstack import Toolstack

pytestmark = pytest.mark.bus

ECHO = f"{ROOT}/method/toy_2fecho"


@asynccontextmanager
async def gateway(folder: Path, **users: str) -> AsyncIterator[tuple[Toolstack, DBusAdminClient]]:
    """A gateway on the toolstack's bus, its config as an operator has it, and somebody else there."""
    async with Toolstack(**users) as toolstack:
        made = Folder(folder)
        made.buses({"toolstack": (toolstack.address, "org.example.*")})
        made.config.write_text(made.config.read_text().replace("[admin]\n", '[admin]\nbus = "toolstack"\n'))
        with gateway_process(made.config):
            async with dbus_admin_client(toolstack.address) as caller:
                await caller.until_there()
                yield toolstack, caller


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Toolstack, DBusAdminClient]]:
    async with gateway(tmp_path) as running:
        yield running


async def test_a_mode_is_set_over_the_bus_and_seen_by_the_command(
    both: tuple[Toolstack, DBusAdminClient], tmp_path: Path
) -> None:
    _, caller = both
    await caller.listen()
    await caller.call(ROOT, f"{CONTROL}.SetMode", "ssa{sv}s", "echo", "off", {}, "over the bus")
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert await caller.signal() == (ROOT, "ModeChanged", ["toy", "echo", "dbus", "off", me])
    assert "over the bus" in await asyncio.to_thread(succeed, "mode", socket=tmp_path / "control")
    await asyncio.to_thread(succeed, "mode", "clear", "echo", socket=tmp_path / "control")
    path, member, body = await caller.signal()
    while member != "PropertiesChanged" or body[1]["Mode"].value != "dbus":  # that of "off" comes first
        path, member, body = await caller.signal()
    assert (path, body[0]) == (ECHO, METHOD)


async def test_busctl_finds_its_way(both: tuple[Toolstack, DBusAdminClient]) -> None:
    address = f"--address={both[0].address}"
    assert ECHO in await _run("busctl", address, "tree", BUS_NAME)
    assert ".Verdict" in await _run("busctl", address, "introspect", BUS_NAME, ECHO)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_not_let_in_by_the_bus(tmp_path: Path) -> None:
    async with gateway(tmp_path, toolstack_user="nobody", gateway_user="root") as (toolstack, _):
        call = ("dbus-send", f"--bus={toolstack.address}", "--print-reply", f"--dest={BUS_NAME}", ROOT)
        asked = (*call, "org.freedesktop.DBus.Introspectable.Introspect")
        assert "Control1" in await _run(*asked)
        assert "AccessDenied" in await _run(*asked, user="nobody", status=1)


async def _run(*command: str, user: str | None = None, status: int = 0) -> str:
    other: dict[str, Any] = {"user": user, "extra_groups": [], "cwd": "/"} if user else {}
    running = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **other)
    said, _ = await asyncio.wait_for(running.communicate(), TIMEOUT)
    assert running.returncode == status, said
    return said.decode()
