"""Starts one of Debian's stores on a private folder, on a machine without Xen.

There are two: the C xenstored, and oxenstored, which XCP-ng hosts run. `start.py --dir DIR [--store oxenstored]`
compiles hypervisor_shim.c into DIR, prints the path of the socket (XENSTORED_PATH for the `xenstore-*` tools) and
becomes the store, which ends with SIGTERM. It listens when the socket accepts: `listens()`.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHIM = Path(__file__).resolve().parent / "hypervisor_shim.c"
HOMES = ("/usr/lib", "/usr/libexec", "/usr/local/lib", "/opt/xen/lib")  # /usr/lib/xen-4.17/bin/xenstored in Debian 12
STORES = ("xenstored", "oxenstored")  # programs; one package has both
PACKAGES = "xen-utils-4.17 (Debian 12) or xen-utils-4.20 (Debian 13), xenstore-utils, gcc, libc6-dev"
LONGEST_PATH = 107  # bytes of a Unix socket's path (unix(7))
OXENSTORED = """\
pid-file = {directory}/pid
xenstored-log-file = {directory}/oxenstored.log
xenstored-kva = {directory}/xsd_kva
xenstored-port = {directory}/xsd_port
"""


class StartError(Exception):
    """The store cannot be started here; the text says why, and what to install."""


@dataclass(frozen=True)
class Store:
    """The folder of one store, and its command."""

    directory: Path
    program: Path
    shim: Path
    options: Sequence[str] = ()

    @property
    def socket(self) -> Path:
        """The socket for clients."""
        return self.directory.resolve() / "socket"

    @property
    def command(self) -> Sequence[str]:
        """Run it in the foreground, with its nodes in memory."""
        if self.program.name == "xenstored":
            return [str(self.program), "-N", *self.options]
        return [str(self.program), "--no-fork", "--no-access-log", "--config-file", str(self._config)]

    @property
    def _config(self) -> Path:
        return self.directory.resolve() / "oxenstored.conf"

    def configure(self) -> None:
        """Write the configuration of the program."""
        if self.program.name == "oxenstored":
            head = OXENSTORED.format(directory=self.directory.resolve())
            self._config.write_text("\n".join([head, *self.options, ""]))

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment of the command, besides the caller's own."""
        directory = str(self.directory.resolve())
        names = dict.fromkeys(("XENSTORED_RUNDIR", "XENSTORED_ROOTDIR"), directory)
        return {**names, "XENSTORED_PATH": str(self.socket), "LD_PRELOAD": str(self.shim)}


def find(name: str = STORES[0]) -> Path:
    """The store of this name on this machine, the newest if there are several; raises StartError."""
    found = [path for home in HOMES for path in Path(home).glob(f"xen*/bin/{name}")]
    if not found:
        raise StartError(f"there is no {name} here; install {PACKAGES}")
    return max(
        found, key=lambda path: [int(part) for part in path.parts[-3].split("-")[-1].split(".") if part.isdigit()]
    )


def compile_shim(directory: Path) -> Path:
    """Compile the stand-in for the hypervisor into a folder; raises StartError."""
    shim = directory.resolve() / "hypervisor_shim.so"
    try:
        done = subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise StartError(f"there is no C compiler here; install {PACKAGES}") from None
    if done.returncode != 0:
        raise StartError(f"{SHIM.name} does not compile here (installed should be: {PACKAGES}):\n{done.stderr}")
    return shim


def prepare(directory: Path, shim: Path | None = None, name: str = STORES[0], options: Sequence[str] = ()) -> Store:
    """All that is needed before the command can run; `shim`: one that is compiled already. Raises StartError.

    `options` are arguments of the C xenstored, lines of oxenstored's configuration file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    store = Store(directory, find(name), shim or compile_shim(directory), options)
    if len(os.fsencode(store.socket)) > LONGEST_PATH:
        raise StartError(f"{store.socket} is too long for a socket's path ({LONGEST_PATH} bytes)")
    store.configure()
    return store


def listens(path: Path) -> bool:
    """Whether a store accepts there now."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def main() -> int:
    """Replace this process by the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="where to keep the socket and the compiled shim")
    parser.add_argument("--store", choices=STORES, default=STORES[0], help="which one")
    arguments = parser.parse_args()
    try:
        store = prepare(arguments.dir, name=arguments.store)
    except (StartError, OSError) as error:
        parser.exit(1, f"start.py: {error}\n")
    sys.stdout.write(f"{store.socket}\n")
    sys.stdout.flush()
    os.execve(store.program, list(store.command), {**os.environ, **store.environment})


if __name__ == "__main__":
    sys.exit(main())
