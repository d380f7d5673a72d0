"""The sockets that this process was given, by name: by systemd (sd_listen_fds(3)), or by its supervisor."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

FIRST = 3  # SD_LISTEN_FDS_START
UNNAMED = "unknown"  # the name of a socket without one, sd_listen_fds_with_names(3)
FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class InheritedSockets:
    """Descriptors by name. A name may have several sockets, and is taken once.

    `listening`: the sockets listen already, as those of systemd do.
    """

    def __init__(self, descriptors: Mapping[str, Sequence[int]], *, listening: bool = True) -> None:
        self._descriptors = dict(descriptors)
        self._listening = listening

    @property
    def names(self) -> tuple[str, ...]:
        """The names that no listener has taken."""
        return tuple(self._descriptors)

    def take(self, name: str) -> list[socket.socket]:
        """The sockets of that name; raises OSError that lists the names there are."""
        if name not in self._descriptors:
            there = ", ".join(map(repr, self._descriptors)) or "none"
            raise OSError(f"systemd passed no socket named {name!r}; left to take: {there}")
        return [_adopt(descriptor, name, listening=self._listening) for descriptor in self._descriptors.pop(name)]


def inherited(environment: MutableMapping[str, str] = os.environ) -> InheritedSockets:
    """Take the sockets of systemd for this process, and remove its variables; raises OSError for invalid ones."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return InheritedSockets({})
    passed = {name: environment.pop(name) for name in _VARIABLES if name in environment}
    count = passed.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        raise OSError(f"LISTEN_FDS: expected a number, got {count!r}")
    names = passed["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in passed else [UNNAMED] * int(count)
    if len(names) != int(count):
        raise OSError(f"LISTEN_FDNAMES: expected {count} names, got {len(names)}")
    descriptors: dict[str, list[int]] = {}
    for descriptor, name in enumerate(names, FIRST):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
        descriptors.setdefault(name, []).append(descriptor)
    return InheritedSockets(descriptors)


def _adopt(descriptor: int, name: str, *, listening: bool) -> socket.socket:
    """A descriptor as a socket; raises OSError when it is not a stream socket, or does not listen as it should."""
    adopted = socket.socket(fileno=descriptor)
    listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not listening
    if adopted.type != socket.SOCK_STREAM or adopted.family not in FAMILIES or not listens:
        adopted.close()
        raise OSError(f"the socket named {name!r} is not a listening stream socket (ListenStream=, Accept=no)")
    return adopted
