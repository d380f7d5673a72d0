"""A private dbus-daemon for one test: starts, dies, comes back on its address; knows nothing of what runs on it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

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
OPTIONS = ["--nofork", "--nopidfile", "--nosyslog", "--print-address=1"]
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
        """Start the broker and wait until it listens: it prints its address then."""
        self._process = subprocess.Popen(
            [
                "dbus-daemon",
                f"--config-file={self._config}",
                "--nofork",
                "--nopidfile",
                "--nosyslog",
                "--print-address=1",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # in a container it complains about the limit on open files
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, f"dbus-daemon did not start with {self._config.read_text()}"

    def kill(self) -> None:
        """End the broker as a crash would, and wait until it is gone."""
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
    *,
    limits: Mapping[str, int] = SYSTEM_LIMITS,
    listen: str = "",
    auth: str = EXTERNAL,
    activation: Path | None = None,
) -> Iterator[PrivateBus]:
    """A broker with these limits; `activation` is a directory of .service files."""
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
