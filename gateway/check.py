"""`xcp-gateway check`: mapping files in themselves, against the IDL and, live, against what running services say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gateway import config, wiring
from gateway.config import Config
from gateway.mapping.compiler import build
from gateway.mapping.live_check import differences
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table, ungoverned

BUS_PATIENCE = 2.0  # seconds that start, and a live check, wait for the buses


@dataclass(frozen=True, slots=True)
class CheckReport:
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


def check(paths: Sequence[Path], config_path: Path | None, *, live: bool) -> CheckReport:
    """Check mapping files; raises ConfigError where the config is needed (no paths, or live) and cannot be used."""
    settings = config.load(config_path) if config_path is not None and (live or not paths) else None
    if settings is not None:
        wiring.upstreams(settings, wiring.Quota())  # names and files that the config gives; nobody is asked
    if settings is not None:
        table, problems = wiring.compile_mappings(settings, paths)
        doubts, passing = [*config.crowding(settings), *config.open_listeners(settings)], wiring.passing(settings)
    else:
        table, problems = build(
            paths,
            codecs=set(wiring.CODECS),
            dialects=set(wiring.DIALECTS),
            listeners=None,
            spellings=wiring.SPELLINGS,
        )
        doubts, passing = [], {}
    notes = [*doubts, *([] if problems else ungoverned(table, passing))]
    if problems or settings is None or not live:
        return CheckReport(table, problems, notes)
    checked = asyncio.run(_check_live(settings, table))
    return replace(checked, notes=[*notes, *checked.notes])


def compiled(path: Path, content: bytes) -> tuple[Table, list[Problem]]:
    """A mapping file as if it held this."""
    return build(
        [path],
        codecs=set(wiring.CODECS),
        dialects=set(wiring.DIALECTS),
        listeners=None,
        contents={path: content},
        spellings=wiring.SPELLINGS,
    )


async def _check_live(settings: Config, table: Table) -> CheckReport:
    backend = wiring.backend(settings)
    await backend.start()
    try:
        await connected(backend)
        unreachable = _unreachable(settings, backend)
        if unreachable:
            return CheckReport(table, unreachable)
        compared = await differences(table, backend.introspect)
    finally:
        await backend.stop()
    return CheckReport(table, sorted(compared.problems), list(compared.notes), compared.contracts, compared.unseen)


async def connected(backend: wiring.Backend) -> None:
    """Give the buses a moment; `status` tells which ones are there then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BUS_PATIENCE):
            await backend.connected()


def _unreachable(settings: Config, backend: wiring.Backend) -> list[Problem]:
    return [
        Problem(settings.file, 1, 1, f"$.bus.{bus.name}.address", f"{bus.address} cannot be reached", "live")
        for bus in backend.status()
        if not bus.connected
    ]
