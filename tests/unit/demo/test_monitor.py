"""What the demo sees of a real bus: every call to the toolstack once, in order, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from gateway.demo import monitor
from gateway.demo.monitor import Monitor, MonitorError, Seen
from tests.kit.bus import private_bus

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
    assert str(Seen("org.xen.xcp.x", "/a/b", "org.x.Y1", "Do")) == "org.xen.xcp.x /a/b org.x.Y1.Do"


def test_a_monitor_that_shows_nothing_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PATIENCE", 0.2)
    with private_bus() as other, Monitor(other.address) as watching:
        watching._address = address  # the marks go where it does not look
        with pytest.raises(MonitorError, match="shows nothing of unix:"):
            watching.since_last_time()
