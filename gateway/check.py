"""`xcp-gateway check`: checks mapping files, against the IDL and, with --live, against running services."""

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

BUS_TIMEOUT = 2.0  # seconds that a start and a live check wait for the buses


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a check.

    `notes`: doubtful settings, calls that no mode governs, and services that could not be compared. `contracts`: uses
    of an interface that a live check compares with a running service; `unseen`: those that it could not compare.
    """

    table: Table
    problems: Sequence[Problem]
    notes: Sequence[str] = ()
    contracts: int = 0
    unseen: int = 0

    @property
    def methods(self) -> int:
        """The number of mapped methods."""
        return len(self.table.routes())

    @property
    def files(self) -> int:
        """The number of mapping files that have a method."""
        return len({route.source.rpartition(":")[0] for route in self.table.routes()})


def check(paths: Sequence[Path], config_path: Path | None, *, live: bool) -> CheckReport:
    """Check mapping files. Raises ConfigError when the config is needed (no paths, or live) and cannot be used."""
    settings = config.load(config_path) if config_path is not None and (live or not paths) else None
    if settings is not None:
        wiring.upstreams(settings, wiring.Quota())  # checks names and files; makes no connection
    if settings is not None:
        table, problems = wiring.compile_mappings(settings, paths)
        doubtful, passing = (
            [*config.capacity_warnings(settings), *config.open_listeners(settings)],
            wiring.passing(settings),
        )
    else:
        table, problems = build(
            paths,
            codecs=set(wiring.CODECS),
            dialects=set(wiring.DIALECTS),
            listeners=None,
            spellings=wiring.SPELLINGS,
        )
        doubtful, passing = [], {}
    notes = [*doubtful, *([] if problems else ungoverned(table, passing))]
    if problems or settings is None or not live:
        return CheckReport(table, problems, notes)
    checked = asyncio.run(_check_live(settings, table))
    return replace(checked, notes=[*notes, *checked.notes])


def compiled(path: Path, content: bytes) -> tuple[Table, list[Problem]]:
    """Compile a mapping file as if it had this content."""
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
    """Wait a little until all buses are connected; `status` has those that are."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BUS_TIMEOUT):
            await backend.connected()


def _unreachable(settings: Config, backend: wiring.Backend) -> list[Problem]:
    return [
        Problem(settings.file, 1, 1, f"$.bus.{bus.name}.address", f"{bus.address} cannot be reached", "live")
        for bus in backend.status()
        if not bus.connected
    ]
