"""`xcp-gateway check`: mapping files in themselves, against the IDL and, live, against what running services say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gateway import config, parts
from gateway.config import Config
from gateway.mapping.compile import build
from gateway.mapping.live import differences
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table, ungoverned

BUS_PATIENCE = 2.0  # seconds that start, and a live check, wait for the buses


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found.

    `notes`: doubtful numbers of the config; who else can call; what no mode governs; what could not be held against a
    running service. `contracts`: uses of an interface that a live check has to look at; `unseen`: those of them that
    it could not.
    """

    table: Table
    problems: Sequence[Problem]
    notes: Sequence[str] = ()
    contracts: int = 0
    unseen: int = 0

    @property
    def methods(self) -> int:
        """How many methods are mapped."""
        return len(self.table.routes())

    @property
    def files(self) -> int:
        """How many files they stand in."""
        return len({route.source.rpartition(":")[0] for route in self.table.routes()})


def check(paths: Sequence[Path], config_path: Path | None, *, live: bool) -> Checked:
    """Check mapping files; raises ConfigError where the config is needed (no paths, or live) and cannot be used."""
    settings = config.load(config_path) if config_path is not None and (live or not paths) else None
    if settings is not None:
        parts.upstreams(settings, parts.Room())  # names and files that the config gives; nobody is asked
    if settings is not None:
        table, problems = parts.compile_mappings(settings, paths)
        doubts, passing = [*config.crowding(settings), *config.open_listeners(settings)], parts.passing(settings)
    else:
        table, problems = build(
            paths,
            codecs=set(parts.CODECS),
            dialects=set(parts.DIALECTS),
            listeners=None,
            spellings=parts.SPELLINGS,
        )
        doubts, passing = [], {}
    notes = [*doubts, *([] if problems else ungoverned(table, passing))]
    if problems or settings is None or not live:
        return Checked(table, problems, notes)
    checked = asyncio.run(_check_live(settings, table))
    return replace(checked, notes=[*notes, *checked.notes])


def compiled(path: Path, content: bytes) -> tuple[Table, list[Problem]]:
    """A mapping file as if it held this."""
    return build(
        [path],
        codecs=set(parts.CODECS),
        dialects=set(parts.DIALECTS),
        listeners=None,
        contents={path: content},
        spellings=parts.SPELLINGS,
    )


async def _check_live(settings: Config, table: Table) -> Checked:
    backend = parts.backend(settings)
    await backend.start()
    try:
        await connected(backend)
        unreachable = _unreachable(settings, backend)
        if unreachable:
            return Checked(table, unreachable)
        compared = await differences(table, backend.introspect)
    finally:
        await backend.stop()
    return Checked(table, sorted(compared.problems), list(compared.notes), compared.contracts, compared.unseen)


async def connected(backend: parts.Backend) -> None:
    """Give the buses a moment; `status` tells which ones are there then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BUS_PATIENCE):
            await backend.connected()


def _unreachable(settings: Config, backend: parts.Backend) -> list[Problem]:
    return [
        Problem(settings.file, 1, 1, f"$.bus.{bus.name}.address", f"{bus.address} cannot be reached", "live")
        for bus in backend.status()
        if not bus.connected
    ]
