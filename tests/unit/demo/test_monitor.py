"""What the demo sees of a real bus: every call to the toolstack once, in order, and nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from dbus_fast import Message
from dbus_fast.aio import MessageBus

from demo import monitor
from demo.monitor import Monitor, MonitorError, Seen, called, program
from tests.kit.buses import private_bus

pytestmark = pytest.mark.bus


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus:
        yield bus.address


def send(address: str, destination: str, member: str) -> None:
    """Call a member; nobody is there to answer."""
    to = [f"--bus={address}", "--type=method_call", f"--dest={destination}"]
    subprocess.run(["dbus-send", *to, "/org/xen/xcp/x", f"org.xen.xcp.x.Thing1.{member}"], check=True)


def test_calls_are_seen_in_their_order_and_each_once(address: str) -> None:
    with Monitor(address) as watching:
        assert watching.since_last_time() == []
        send(address, "org.xen.xcp.x", "First")
        send(address, "org.xen.xcp.y", "Second")
        assert [(one.destination, one.member) for one in watching.since_last_time()] == [
            ("org.xen.xcp.x", "First"),
            ("org.xen.xcp.y", "Second"),
        ]
        send(address, "org.xen.xcp.x", "Third")
        assert [one.member for one in watching.since_last_time()] == ["Third"]


def test_calls_to_others_than_the_toolstack_are_left_out(address: str) -> None:
    with Monitor(address) as watching:
        send(address, "org.example.toy", "First")
        send(address, "org.freedesktop.DBus", "Second")
        assert watching.since_last_time() == []


def test_a_call_is_shown_as_bus_name_object_path_interface_and_member() -> None:
    assert str(Seen("xapi", "org.xen.xcp.x", "/a/b", "org.x.Y1", "Do")) == "xapi → org.xen.xcp.x /a/b org.x.Y1.Do"


async def test_who_called_is_its_program_while_it_is_there(address: str) -> None:
    bus = await MessageBus(bus_address=address).connect()
    call = Message(destination="org.xen.xcp.x", path="/x", interface="org.xen.xcp.x.Thing1", member="Do")
    try:
        with Monitor(address) as watching:
            await bus.call(call)  # nobody is there: the bus itself answers
            assert [one.sender for one in watching.since_last_time()] == [program(os.getpid())]
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


def test_who_has_gone_is_its_unique_name(address: str) -> None:
    with Monitor(address) as watching:
        send(address, "org.xen.xcp.x", "First")
        (seen,) = watching.since_last_time()
        assert seen.sender.startswith(":1.")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python /opt/toolstack/xapi.py", "xapi"),
        ("python /x/legacy_twin.py storage --address unix:path=/x", "old storage"),
        ("python -m gateway run --config /x/gateway.toml", "gateway"),
        ("/usr/bin/busctl monitor", "busctl"),
    ],
)
def test_a_program_is_called_by_what_it_runs(command: str, name: str) -> None:
    assert called(command.split()) == name


def test_a_process_that_has_gone_is_a_number() -> None:
    assert program(2**22 + 1) == "process 4194305"


def test_a_monitor_that_shows_nothing_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PATIENCE", 2.0)
    with private_bus() as other, Monitor(other.address) as watching:
        watching._address = address  # the marks go where it does not look
        with pytest.raises(MonitorError, match="shows nothing of unix:"):
            watching.since_last_time()
