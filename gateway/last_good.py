"""The mapping files that were live last, beside the state file: a gateway whose files are refused starts with them.

Mapping and IDL files are kept as they are, so that they compile to the same revision. Without a state file none are.
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


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    revision: str
    mappings: dict[str, bytes]  # by path
    idl: dict[str, bytes]


class LastGood:
    """One file for each config: several gateways may share a state file."""

    def __init__(self, state: Path | None, config: Path) -> None:
        name = hashlib.sha256(os.fsencode(config.absolute())).hexdigest()[:8]
        self.path = state.with_name(f"{state.name}.mappings-{name}") if state is not None else None

    def save(self, table: Table) -> None:
        """Keep these; raises OSError. They are there whole, or those of before are."""
        if self.path is None:
            return
        kept = _Kept(FORMAT, table.revision, _named(table.mappings), _named(table.idl))
        made, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # mode 0600
        try:
            with os.fdopen(made, "wb") as file:
                file.write(msgspec.json.encode(kept))
                file.flush()
                os.fsync(made)
            Path(name).rename(self.path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def load(self) -> tuple[tuple[Path, ...], Mapping[Path, bytes]] | None:
        """The mapping files, and what they and their IDL files hold; None when there are none that can be used."""
        if self.path is None:
            return None
        try:
            kept = msgspec.json.decode(read_regular(self.path), type=_Kept)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if kept.format != FORMAT or not kept.mappings:
            return None
        return tuple(map(Path, kept.mappings)), {Path(name): file for name, file in (kept.mappings | kept.idl).items()}


def _named(files: Mapping[Path, bytes]) -> dict[str, bytes]:
    return {str(path): content for path, content in files.items()}
