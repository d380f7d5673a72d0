"""The toolstack's own bus, with a real dbus-daemon: who may come in, own, call and look, and what it holds.

Root tries other users out; anybody else tries the same rules from the other side, as the user whom they leave out.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message
from dbus_fast.errors import AuthError

from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toolstack import BUS, BUS_PATH, SERVICES, Client, Toolstack, render

pytestmark = pytest.mark.bus

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
AM_ROOT = os.geteuid() == 0
ME = render.current_user()
OTHER = "nobody"
CALLS = 300  # more than the 128 that a bus allows unless it is told otherwise


async def request_name(client: Client, name: str) -> str | None:
    """Try to own a name; returns the error's name."""
    reply = await client.answer(BUS, BUS_PATH, f"{BUS}.RequestName", "su", name, 4)
    return reply.error_name


async def send_as(user: str | None, toolstack: Toolstack, *words: str) -> tuple[int, str]:
    """Run dbus-send, as another user if one is given; returns its exit status and what it said."""
    command = ("dbus-send", f"--bus={toolstack.address}", "--print-reply", *words)
    options: dict[str, Any] = {"user": user, "extra_groups": []} if user else {}
    done = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", **options
    )
    said, _ = await asyncio.wait_for(done.communicate(), TIMEOUT)
    assert done.returncode is not None
    return done.returncode, said.decode()


# Who may own a name


async def test_only_the_user_of_the_toolstack_owns_its_names_and_no_others() -> None:
    names = [f"org.xen.xcp.{service}" for service in SERVICES]
    async with Toolstack() as ours, ours.client() as client:
        assert [await request_name(client, name) for name in names] == [None] * len(names)
        for name in ("org.example.thing", "org.xen.xcp.other", "org.xen.xcp.xapi.more", "org.xen.xcp"):
            assert await request_name(client, name) == DENIED
    async with Toolstack(toolstack_user=OTHER, gateway_user=ME) as theirs, theirs.client() as client:
        assert [await request_name(client, name) for name in names] == [DENIED] * len(names)


# Who may call and send


async def test_who_has_no_rule_is_not_called_and_nobody_changes_what_services_are_started_with() -> None:
    async with Toolstack() as toolstack, toolstack.client() as caller, toolstack.client() as somebody:
        unique_name = str(somebody.bus.unique_name)
        change = (f"{BUS}.UpdateActivationEnvironment", "a{ss}", {"PYTHONPATH": "/tmp"})
        assert (await caller.refusal(BUS, BUS_PATH, *change)).name == DENIED
        assert (await caller.refusal(unique_name, "/", "org.freedesktop.DBus.Peer.Ping")).name == DENIED
        assert await request_name(somebody, "org.xen.xcp.perfmon") is None
        await caller.call(unique_name, "/", "org.freedesktop.DBus.Peer.Ping")


async def test_the_gateway_sends_no_signal_of_a_service() -> None:
    async with Toolstack(toolstack_user=OTHER, gateway_user=ME) as toolstack:
        assert await _signal_arrives(toolstack) is False
    async with Toolstack() as toolstack:
        assert await _signal_arrives(toolstack) is True


async def _signal_arrives(toolstack: Toolstack) -> bool:
    rule = "type='signal',member='AlertRaised'"
    signal = Message.new_signal("/x", "org.xen.xcp.perfmon.Alerts1", "AlertRaised", "s", ["false alarm"])
    async with toolstack.client() as sender, toolstack.client() as listener, listener.signals(rule) as heard:
        await sender.bus.send(signal)
        await sender.ask_bus("GetId")  # the bus has handled the signal when it answers this,
        await listener.ask_bus("GetId")  # and the listener has it when this is answered
        return not heard.empty()


# Users


async def test_a_user_who_is_not_listed_cannot_connect() -> None:
    if AM_ROOT:
        get_id = f"--dest={BUS}", BUS_PATH, f"{BUS}.GetId"
        async with Toolstack() as toolstack:
            assert [(await send_as(user, toolstack, *get_id))[0] for user in (OTHER, None)] == [1, 0]
    else:
        async with Toolstack(toolstack_user=OTHER, gateway_user=OTHER) as toolstack:
            with pytest.raises((AuthError, EOFError, ConnectionError)):
                await toolstack.client().__aenter__()


async def test_a_gateway_that_is_another_user_calls_and_does_nothing_else() -> None:
    user = OTHER if AM_ROOT else None
    service = ("--dest=org.xen.xcp.perfmon", "/org/xen/xcp/perfmon", "org.xen.xcp.Service1.GetDiagnostics")
    own = (f"--dest={BUS}", BUS_PATH, f"{BUS}.RequestName", "string:org.xen.xcp.xapi", "uint32:4")
    reload = (f"--dest={BUS}", BUS_PATH, f"{BUS}.ReloadConfig")
    monitor = (f"--dest={BUS}", BUS_PATH, f"{BUS}.Monitoring.BecomeMonitor", "array:string:", "uint32:0")
    async with Toolstack(gateway_user=user or ME) as toolstack:
        status, said = await send_as(user, toolstack, *service)
        assert (status, "0 alerts" in said) == (0, True), said
        for refused in (own, reload, monitor) if user else ():
            status, said = await send_as(user, toolstack, *refused)
            assert (status, DENIED in said) == (1, True), said


async def test_root_starts_a_bus_that_becomes_the_user_of_the_toolstack() -> None:
    async with Toolstack(toolstack_user=OTHER if AM_ROOT else ME, switch_user=AM_ROOT) as toolstack:
        async with toolstack.client() as client:
            uid = await client.ask_bus("GetConnectionUnixUser", "s", BUS)
        assert uid == (65534 if AM_ROOT else os.geteuid())


# Limits


async def test_more_calls_wait_on_one_connection_than_a_bus_allows_by_default() -> None:
    async with Toolstack() as toolstack, toolstack.client() as caller, toolstack.client() as service:
        assert await request_name(service, "org.xen.xcp.perfmon") is None
        waiting: list[Message] = []
        all_there = asyncio.Event()

        def hold(message: Message) -> bool:
            if message.member == "Hold":
                waiting.append(message)
                if len(waiting) == CALLS:
                    all_there.set()
            return message.member == "Hold"

        service.bus.add_message_handler(hold)
        calls = []
        for number in range(CALLS):
            calls.append(asyncio.ensure_future(caller.answer("perfmon", "", "Alerts1.Hold")))
            if number % 50 == 0:  # dbus-fast gives up a connection whose buffer is full
                await caller.ask_bus("GetId")
        await asyncio.wait_for(all_there.wait(), TIMEOUT)
        assert not any(call.done() for call in calls), "an error of the bus"
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


# The program that writes it


async def test_odd_paths_are_written_so_that_the_bus_reads_them(tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s "a" <b> & $c'
    shutil.copytree(ROOT / "docker/toolstack", odd, ignore=shutil.ignore_patterns("__pycache__"))
    async with Toolstack(toolstack=odd) as toolstack, toolstack.client() as client:
        await client.call("perfmon", "", "org.freedesktop.DBus.Peer.Ping")


def test_the_program_prints_the_address_and_the_command_unless_a_user_does_not_exist(tmp_path: Path) -> None:
    # dbus-daemon would start, and leave out the rules that name him.
    with pytest.raises(render.RenderError, match="there is no user 'xcp-nobody-knows'"):
        render.render(render.Bus(tmp_path, gateway_user="xcp-nobody-knows"))
    assert not list(tmp_path.iterdir())
    program = [sys.executable, str(ROOT / "docker/bus/render.py"), "--dir", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    address, command = done.stdout.splitlines()
    assert address == f"unix:path={tmp_path}/bus"
    assert command == f"dbus-daemon --config-file={tmp_path}/bus.conf --nofork --nopidfile --print-address"
    written = {path.stem for path in (tmp_path / "services").iterdir()}
    files = {path.stem.removesuffix(".classes") for path in (ROOT / "mappings/idl").glob("*.xml")}
    assert written == {*render.BUS_NAMES} == files - {render.GATEWAY}


def test_one_service_with_large_answers_is_stopped_before_the_answers_of_others_are_dropped() -> None:
    limits = dict(re.findall(r'<limit name="(\w+)">(\d+)</limit>', (ROOT / "docker/bus/bus.conf.in").read_text()))
    longest, incoming, outgoing = (
        int(limits[f"max_{each}"]) for each in ("message_size", "incoming_bytes", "outgoing_bytes")
    )
    assert longest <= incoming <= outgoing // 8
