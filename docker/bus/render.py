"""Writes the configuration of the toolstack's own bus: bus.conf and the .service files.

`render.py --dir RUN_DIR` prints the address of the bus and the command that starts it. The other options have defaults
for one user who tries it out; in production name the users:

    render.py --dir /run/xcp --toolstack /opt/xcp/toolstack --toolstack-user xcp-toolstack --gateway-user xcp-gateway
"""

import argparse
import os
import pwd
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
SERVICES = ("xapi", "xenopsd", "storage", "squeezed", "networkd", "perfmon")
GATEWAY = "org.xen.xcp.gateway"  # the bus name of the admin service
BUS_NAMES = tuple(f"org.xen.xcp.{service}" for service in SERVICES)
OPERATOR_INTERFACES = ("org.freedesktop.DBus.Monitoring", "org.freedesktop.DBus.Debug.Stats")
RELOAD = (
    'allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus" send_member="ReloadConfig"'
)


class RenderError(Exception):
    """The configuration cannot be written; the text says why."""


def current_user() -> str:
    """Return the present user by name, or by number when it has no name."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True)
class Bus:
    """The configuration to write. The bus runs as the toolstack's user, since its services do."""

    directory: Path  # for bus.conf, services/, and the socket unless `address` says otherwise
    python: str = sys.executable
    toolstack: Path = HERE.parent / "toolstack"
    toolstack_user: str = field(default_factory=current_user)
    gateway_user: str = field(default_factory=current_user)
    address: str = ""
    switch_user: bool = False  # root starts the bus, which then becomes the toolstack's user

    @property
    def listen(self) -> str:
        """The bus's address."""
        return self.address or f"unix:path={self.directory.resolve()}/bus"

    @property
    def config(self) -> Path:
        """The file that dbus-daemon reads."""
        return self.directory.resolve() / "bus.conf"

    @property
    def command(self) -> list[str]:
        """Start the bus in the foreground; it prints its address when it listens."""
        return ["dbus-daemon", f"--config-file={self.config}", "--nofork", "--nopidfile", "--print-address"]

    @property
    def users(self) -> list[str]:
        """Return the users that may connect."""
        return list(dict.fromkeys(("root", self.toolstack_user, self.gateway_user)))


def render(bus: Bus) -> Bus:
    """Write the files, all anew; raises RenderError."""
    _check(bus)
    services = bus.directory.resolve() / "services"
    services.mkdir(parents=True, exist_ok=True)
    bus.config.write_text(_config(bus, services))
    for old in services.glob("*.service"):
        old.unlink()
    for service, name in zip(SERVICES, BUS_NAMES, strict=True):
        (services / f"{name}.service").write_text(_service(bus, service, name))
    return bus


def _check(bus: Bus) -> None:
    for user in (bus.toolstack_user, bus.gateway_user):
        try:
            user.isdigit() or pwd.getpwnam(user)
        except KeyError:
            # dbus-daemon would only warn, and leave out the user's policy.
            raise RenderError(f"there is no user '{user}'") from None
    if missing := [name for name in SERVICES if not (bus.toolstack / f"{name}.py").is_file()]:
        raise RenderError(f"{bus.toolstack} holds no {missing[0]}.py")
    if any("\n" in text for text in (bus.python, str(bus.toolstack), str(bus.directory), bus.address)):
        raise RenderError("a path cannot hold a line break")


def _config(bus: Bus, services: Path) -> str:
    values = {
        "user": f"  <user>{escape(bus.toolstack_user)}</user>\n" if bus.switch_user else "",
        "address": escape(bus.listen),
        "services_dir": escape(str(services)),
        "toolstack_user": _attribute(bus.toolstack_user),
        "gateway_user": _attribute(bus.gateway_user),
        "connect": _rules(f'allow user="{_attribute(user)}"' for user in bus.users),
        "gateway": GATEWAY,
        "own": _rules(f'allow own="{name}"' for name in BUS_NAMES),
        "call": _rules(f'allow send_destination="{name}" send_type="method_call"' for name in BUS_NAMES),
        "operators": "\n".join(_operator(user) for user in dict.fromkeys(("root", bus.toolstack_user))),
    }
    return Template((HERE / "bus.conf.in").read_text()).substitute(values)


def _operator(user: str) -> str:
    calls = [f'allow send_destination="{name}" send_type="method_call"' for name in BUS_NAMES]
    calls += [f'allow send_destination="org.freedesktop.DBus" send_interface="{name}"' for name in OPERATOR_INTERFACES]
    calls += [RELOAD]
    if user == "root":
        calls.append(f'allow send_destination="{GATEWAY}" send_type="method_call"')
    return f'  <policy user="{_attribute(user)}">\n{_rules(calls)}\n  </policy>'


def _rules(rules: Iterable[str]) -> str:
    return "\n".join(f"    <{rule}/>" for rule in rules)


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _service(bus: Bus, service: str, name: str) -> str:
    command = shlex.join([bus.python, str(bus.toolstack.resolve() / f"{service}.py")])
    return Template((HERE / "service.in").read_text()).substitute(name=name, command=command)


def main() -> int:
    """Write the configuration; print the address, then the command that starts the bus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="where to write; for the socket too")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has dbus-next (default: this one)")
    parser.add_argument("--toolstack", type=Path, default=HERE.parent / "toolstack", help="folder of the services")
    parser.add_argument("--toolstack-user", default=current_user(), help="runs bus and services (default: you)")
    parser.add_argument("--gateway-user", default=current_user(), help="runs the gateway (default: you)")
    parser.add_argument("--address", default="", help="default: unix:path=DIR/bus")
    parser.add_argument("--switch-user", action="store_true", help="the bus is started by root and changes its user")
    options = parser.parse_args()
    bus = Bus(
        options.dir,
        options.python,
        options.toolstack,
        options.toolstack_user,
        options.gateway_user,
        options.address,
        options.switch_user,
    )
    try:
        render(bus)
    except (RenderError, OSError) as error:
        parser.exit(1, f"render.py: {error}\n")
    sys.stdout.write(f"{bus.listen}\n{shlex.join(bus.command)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
