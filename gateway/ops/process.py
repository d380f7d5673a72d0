"""The process on its host: notifications to the service manager (sd_notify(3)), its memory, and its change of user.

Without a service manager notifications are discarded. `become` runs once, after every socket is bound.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.core.logger import Logger

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # in a container: microseconds of each period, or "max"

# Options of mallopt(3), and their values. By itself glibc takes blocks of up to 32 MiB from its heaps once one of that
# size was freed, and has a heap for each thread. A small block that stays behind a large message then keeps all of it.
_MALLOC = {
    -3: 1024**2,  # M_MMAP_THRESHOLD: a block of this size has pages of its own, which go when it is freed
    -1: 2 * 1024**2,  # M_TRIM_THRESHOLD: free bytes at the end of a heap that are kept
    -8: 2,  # M_ARENA_MAX: heaps
}

_log = Logger()


def return_freed_memory() -> None:
    """Have the allocator give large blocks back to the system when they are freed; does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC.items():
            mallopt(option, value)


class ServiceManager:
    """The notification socket. `watchdog`: the interval in seconds in which `alive` must be called; None: off."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._stopping = False
        self.watchdog = watchdog

    def ready(self, status: str) -> None:
        """Notify that start or reload has finished."""
        self.notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Notify that a reload begins; `ready` ends it."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def alive(self, status: str) -> None:
        """Notify the watchdog."""
        self.notify("WATCHDOG=1", f"STATUS={status}")

    def stopping(self) -> None:
        """Notify that the process stops; later notifications are discarded."""
        self.notify("STOPPING=1", "STATUS=finishing the calls in flight")
        self._stopping = True

    def notify(self, *lines: str) -> None:
        """Send these lines; those of a worker are passed on so too."""
        if not self._address or self._stopping:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:  # the daemon's work goes on
                _log.warning("the service manager was not notified", what=lines[0], why=error.strerror)


def from_environment(environment: Mapping[str, str] = os.environ) -> ServiceManager:
    """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; raise OSError if one is invalid."""
    address = environment.get("NOTIFY_SOCKET", "")
    if address and address[0] not in "/@":
        raise OSError(f"NOTIFY_SOCKET: expected /PATH or @NAME, got {address!r}")
    watchdog, written = None, environment.get("WATCHDOG_USEC", "")
    if written and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):  # as sd_watchdog_enabled(3)
        if not (written.isascii() and written.isdigit() and int(written)):
            raise OSError(f"WATCHDOG_USEC: expected a number above 0, got {written!r}")
        watchdog = int(written) / 1_000_000
    return ServiceManager(address, watchdog)


def cores() -> int:
    """The cores that this process may use: those of its affinity, and no more than its control group gives it."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text(encoding="ascii").split()
        return allowed if quota == "max" else max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # another version of control groups, or none
        return allowed


def become(name: str, files: Sequence[Path]) -> None:
    """Change to a user and its groups permanently, and give it `files`; raise PermissionError with the reason.

    A file of another group than the process's keeps its group.
    """
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise PermissionError(f"user = '{name}': the user does not exist") from None
    if os.geteuid() == account.pw_uid != 0:
        return
    if os.geteuid() != 0:
        raise PermissionError(f"user = '{name}': only root can change to it, and this is uid {os.geteuid()}")
    try:
        for file in files:
            group = account.pw_gid if file.lstat().st_gid == os.getegid() else -1
            os.chown(file, account.pw_uid, group, follow_symlinks=False)
        os.initgroups(name, account.pw_gid)
        os.setgid(account.pw_gid)
        _check_folders(account, [file for file in files if file.is_socket()])
        os.setuid(account.pw_uid)
    except OSError as error:
        raise PermissionError(f"user = '{name}': cannot change to it: {error.strerror or error}") from error
    assert os.getresuid() == (account.pw_uid,) * 3  # no id of root is left
    assert os.getresgid() == (account.pw_gid,) * 3


def _check_folders(account: pwd.struct_passwd, sockets: Sequence[Path]) -> None:
    """Raise PermissionError unless the user may remove its socket files at stop."""
    os.seteuid(account.pw_uid)
    try:
        for file in sockets:
            if not os.access(file.parent, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(f"the user cannot remove {file} at stop: its directory belongs to another user")
    finally:
        os.seteuid(0)
