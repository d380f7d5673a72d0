"""Stores the mapping files that were live last beside the state file: a gateway whose files are refused uses them.

Mapping and IDL files are stored unchanged, so that they compile to the same revision. Without a state file nothing is
stored.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.mapping.load import read_regular
from gateway.mapping.table import Table

FORMAT = 1


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
