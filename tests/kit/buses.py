"""Private message buses for tests: dbus-daemon, which can die and come back on its address, and dbus-broker.

dbus-broker runs without its launcher, which needs a journal socket and a running session bus. The broker itself needs
only a controller: this file, which passes it a socket to listen on and a policy that allows everything.
(dbus-broker, src/launch/launcher.c)
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import pytest
from dbus_fast import Message, Variant
from dbus_fast._private.unmarshaller import Unmarshaller

from tests.kit.programs import TIMEOUT

CONFIG = Template("""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>$listen</listen>
  $auth
  $activation
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  $limits
</busconfig>
""")
EXTERNAL = "<auth>EXTERNAL</auth>"
ANONYMOUS = "<auth>ANONYMOUS</auth><allow_anonymous/>"  # what a TCP listener needs: it carries no credentials

# What the system bus allows; a session bus allows 50,000 pending replies.
SYSTEM_LIMITS = {"max_replies_per_connection": 128, "max_message_size": 32 * 1024**2}


class PrivateBus:
    """One broker process. `address` is valid as soon as the context is entered, and again after `restart`."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        """The broker's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the broker and wait until it listens."""
        options = ("--nofork", "--nopidfile", "--nosyslog", "--print-address=1")
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={self._config}", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # in a container it complains about the limit on open files
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, f"dbus-daemon did not start with {self._config.read_text()}"

    def kill(self) -> None:
        """Kill the broker and wait until it has ended."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def restart(self) -> None:
        """Kill it if it still runs, then start it on the same address."""
        self.kill()
        self.start()


@contextmanager
def private_bus(
    *, limits: Mapping[str, int] = SYSTEM_LIMITS, listen: str = "", auth: str = EXTERNAL, activation: Path | None = None
) -> Iterator[PrivateBus]:
    """Run a broker with these limits. `activation`: a directory of .service files."""
    with tempfile.TemporaryDirectory(prefix="bus-") as directory:
        config = Path(directory, "bus.conf")
        config.write_text(
            CONFIG.substitute(
                listen=listen or f"unix:path={directory}/socket",
                auth=auth,
                activation=f"<servicedir>{activation}</servicedir>" if activation else "",
                limits="".join(f'<limit name="{name}">{value}</limit>' for name, value in limits.items()),
            )
        )
        bus = PrivateBus(config)
        bus.start()
        try:
            yield bus
        finally:
            bus.kill()


# dbus-broker


UNPACKED = Path(__file__).parents[2] / ".venv" / "dbus-broker"  # by scripts/setup
BROKER = shutil.which("dbus-broker", path=f"{os.environ['PATH']}:{UNPACKED}")
MACHINE_ID = "0123456789abcdef0123456789abcdef"  # for Peer.GetMachineId
# What the launcher gives it on a system bus; per user, and all of a test is one user.
QUOTAS = {"bytes": 512 * 1024**2, "fds": 1024, "matches": 10_000, "objects": 10_000}

_BATCH = "bta(btbs)a(btssssuutt)a(btssssuutt)"  # connect, own, send, receive: each a verdict and its priority
_POLICY = f"(a(u({_BATCH}))a(buu({_BATCH}))a(ss)bs)"  # by uid, by group, SELinux, AppArmor, type of bus
_ANYTHING = (True, 1, "", "", "", "", 0, 0, 0, 2**64 - 1)
_ALLOW = (True, 1, [(True, 1, True, "")], [_ANYTHING], [_ANYTHING])
_EVERYBODY = 2**32 - 1


@contextmanager
def dbus_broker(program: str) -> Iterator[str]:
    """Run a broker; yields the address of its bus."""
    ours, its = socket.socketpair()
    with (
        tempfile.TemporaryDirectory(prefix="broker-") as directory,
        ours,
        its,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        ours.settimeout(TIMEOUT)
        listener.bind(f"{directory}/socket")
        listener.listen()
        listener.setblocking(False)
        quotas = [word for name, amount in QUOTAS.items() for word in (f"--max-{name}", str(amount))]
        with subprocess.Popen(
            [program, "--controller", str(its.fileno()), "--machine-id", MACHINE_ID, *quotas],
            pass_fds=[its.fileno()],
            stderr=subprocess.DEVNULL,  # it prints each user over quota
        ) as process:
            its.close()
            try:
                _add_listener(ours, listener)
                yield f"unix:path={directory}/socket"
            finally:
                process.kill()


def _add_listener(controller: socket.socket, listener: socket.socket) -> None:
    """Authenticate as any client does, then pass the socket to listen on, with a policy that allows everything."""
    uid = str(os.getuid()).encode().hex().encode()
    controller.sendall(b"\0AUTH EXTERNAL " + uid + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
    said = b""
    while said.count(b"\r\n") < 2:
        part = controller.recv(4096)
        assert part, f"dbus-broker hung up after {said!r}"
        said += part
    assert re.fullmatch(rb"OK .*\r\nAGREE_UNIX_FD\r\n", said), f"dbus-broker answered {said!r}"
    policy: tuple[object, ...] = ([(_EVERYBODY, _ALLOW)], [], [], False, "session")
    message = Message(
        path="/org/bus1/DBus/Broker",
        interface="org.bus1.DBus.Broker",
        member="AddListener",
        signature="ohv",
        body=["/org/bus1/DBus/Listener/0", 0, Variant(_POLICY, policy, verify=False)],
        unix_fds=[listener.fileno()],
        serial=1,
    )
    data = bytes(message._marshall(True))
    assert socket.send_fds(controller, [data], [listener.fileno()]) == len(data)
    stream: Any = io.BytesIO(controller.recv(4096))
    answer = Unmarshaller(stream).unmarshall()
    assert answer is not None
    assert not answer.error_name, f"dbus-broker does not listen: {answer.error_name}"


# Either broker


BROKERS = ("dbus-broker", "dbus-daemon")


@contextmanager
def broker(name: str) -> Iterator[str]:
    """Run this broker; yields the address of its bus. Skips the test when it is not installed."""
    if name == "dbus-daemon":
        with private_bus() as bus:
            yield bus.address
        return
    if BROKER is None:
        pytest.skip("there is no dbus-broker here, and scripts/setup could not get one")
    with dbus_broker(BROKER) as address:
        yield address
