"""What a gateway starts with: its config, and its mapping files or those that were live last.

These are stored beside the state file, for a start with files that are refused: mapping and IDL files, unchanged, so
that they compile to the same revision. Without a state file nothing is stored.

A process without a free file descriptor can neither accept a client nor reach a service. So the soft limit is raised to
what all limits of the config need together. If the hard limit is too low, listeners accept fewer connections than the
config says, and that is logged.
"""

from __future__ import annotations

import hashlib
import os
import resource
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway import wiring
from gateway.admin.connection_limits import BACKLOG, CONNECTIONS, RESERVE
from gateway.config import Config
from gateway.core.logger import Logger
from gateway.mapping.load import read_regular
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table

_log = Logger()


class MappingError(Exception):
    """The mapping files cannot be used; `problems` lists the problems of all files."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Start(Struct, frozen=True):
    """What a gateway is made of. `refused`: the problems of newer files, in place of which these are used."""

    settings: Config
    table: Table
    refused: list[str]


def start_from_files(path: Path, text: str | None = None) -> Start:
    """The files, or those that were live last where mapping files are refused; `text` replaces the config's content.

    Raises ConfigError or MappingError.
    """
    settings = wiring.load_config(path, text)
    table, problems = wiring.compile_mappings(settings)
    if not problems:
        return Start(settings, table, [])
    stored = LastGood(settings.state_path(), path).load()
    table, unusable = wiring.compile_mappings(settings, *stored) if stored is not None else (table, problems)
    if unusable:
        raise MappingError(problems)
    refused = [str(problem) for problem in problems]
    _log.error(
        "mapping files refused; the revision that was live last is used", revision=table.revision, problems=refused
    )
    return Start(settings, table, refused)


FORMAT = 1


class _Stored(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    revision: str
    mappings: dict[str, bytes]  # by path
    idl: dict[str, bytes]


class LastGood:
    """The stored files of one config. Several gateways, each with its config, may share a state file."""

    def __init__(self, state: Path | None, config: Path) -> None:
        name = hashlib.sha256(os.fsencode(config.absolute())).hexdigest()[:8]
        self.path = state.with_name(f"{state.name}.mappings-{name}") if state is not None else None

    def save(self, table: Table) -> None:
        """Store the files of a table; raises OSError. On failure the previous ones stay."""
        if self.path is None:
            return
        stored = _Stored(FORMAT, table.revision, _named(table.mappings), _named(table.idl))
        made, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # mode 0600
        try:
            with os.fdopen(made, "wb") as file:
                file.write(msgspec.json.encode(stored))
                file.flush()
                os.fsync(made)
            Path(name).rename(self.path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def load(self) -> tuple[tuple[Path, ...], Mapping[Path, bytes]] | None:
        """The mapping files, and the content of mapping and IDL files; None if there are no usable ones."""
        if self.path is None:
            return None
        try:
            stored = msgspec.json.decode(read_regular(self.path), type=_Stored)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if stored.format != FORMAT or not stored.mappings:
            return None
        files = stored.mappings | stored.idl
        return tuple(map(Path, stored.mappings)), {Path(name): content for name, content in files.items()}


def _named(files: Mapping[Path, bytes]) -> dict[str, bytes]:
    return {str(path): content for path, content in files.items()}


# File descriptors

OWN = 64  # state file, log, listening sockets, event loop, files that a reload reads
LEAST = 16  # connections that a listener keeps at least


def fitted(settings: Config) -> Config:
    """The config, with fewer connections where the process limit needs it; raises the soft limit as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(settings)
    if wanted > soft:
        with suppress(OSError):  # a sandbox may forbid it: then the limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted <= soft:
        return settings
    clients = _clients(settings)  # each listener gets fewer in the same proportion
    share = max(soft - _beside_clients(settings), 0) / max(sum(clients.values()), 1)
    lowered = {name: min(most, max(LEAST, int(most * share))) for name, most in clients.items()}
    _log.warning(
        "too few file descriptors: listeners take fewer connections; raise LimitNOFILE or lower max_connections",
        needed=wanted,
        allowed=soft,
        max_connections=lowered,
    )
    fewer = {name: replace(settings.listener[name], max_connections=most) for name, most in lowered.items()}
    return replace(settings, listener={**settings.listener, **fewer})


def needed(settings: Config) -> int:
    """The descriptors that all limits of the config can use together."""
    return _beside_clients(settings) + sum(_clients(settings).values())


def _beside_clients(settings: Config) -> int:
    operators = 2 * (2 * CONNECTIONS + BACKLOG)  # admin socket and metrics port, and the connections of root on top
    services = sum(2 * upstream.connections for upstream in settings.upstream.values())  # for observed calls too
    buses = sum(2 * bus.connections + 1 for bus in settings.bus.values())
    return OWN + RESERVE + operators + services + buses + len(settings.listener)


def _clients(settings: Config) -> dict[str, int]:
    return {name: each.max_connections for name, each in settings.listener.items() if not each.is_store}
