"""Either message broker, for tests of what holds for both; knows no service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kit import dbus_broker
from tests.kit.bus import private_bus

BROKERS = ("dbus-broker", "dbus-daemon")


@contextmanager
def broker(name: str) -> Iterator[str]:
    """Run it; the address of its bus. Skips the test where there is none."""
    if name == "dbus-daemon":
        with private_bus() as bus:
            yield bus.address
        return
    if dbus_broker.BROKER is None:
        pytest.skip(dbus_broker.MISSING)
    with dbus_broker.dbus_broker() as address:
        yield address
