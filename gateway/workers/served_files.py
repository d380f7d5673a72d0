"""What the supervisor gives a worker: its place among the others, its sockets, and the files that it serves.

A worker that starts later serves exactly what the others serve, whatever has happened to the files since they were
loaded: the supervisor keeps the content of config, mapping and IDL files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from gateway import wiring
from gateway.config import Config
from gateway.mapping.table import Table
from gateway.server import MappingError, Start


class ServedFiles(Struct, frozen=True):
    """The content of the files that are served. `refused`: the problems of newer files, which are not served."""

    config: str
    mappings: Mapping[str, bytes] = field(default_factory=dict)
    idl: Mapping[str, bytes] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, table: Table, refused: Sequence[str] = ()) -> ServedFiles:
        """The files of a table, and the text of its config."""
        mappings, idl = (
            {str(path): content for path, content in files.items()} for files in (table.mappings, table.idl)
        )
        return cls(text, mappings, idl, tuple(refused))

    def load(self, path: Path) -> Config:
        """The config, as if the file at `path` had this content."""
        return wiring.load_config(path, self.config)

    def start(self, path: Path) -> Start:
        """What a gateway is made of; raises ConfigError or MappingError."""
        settings = self.load(path)
        table, problems = wiring.compile_contents(settings, self.mappings, self.idl)
        if problems:
            raise MappingError(problems)
        return Start(settings, table, list(self.refused))


class Assignment(Struct, frozen=True):
    """What one worker is started with.

    `started`: the files at the start of the gateway, from which sockets and limits come; `live`: those served now.
    None: the worker is the first, and reads the files.
    """

    number: int
    config: str  # the text with which the gateway has started
    started: ServedFiles | None
    live: ServedFiles | None
    version: int  # of `live`
    sockets: Mapping[str, Sequence[int]]  # descriptors by name; see SharedSockets
    watchdog: float | None  # seconds in which it must report that its buses answer
