"""`xcp-gateway check`: checks mapping files, against the IDL and, with --live, against running services."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from gateway import config, wiring
from gateway.config import Config
from gateway.core.migration.modes import Mode
from gateway.mapping.changes.compare import compare
from gateway.mapping.changes.revision import checkout
from gateway.mapping.changes.rules import FoundChange
from gateway.mapping.changes.surface import surface
from gateway.mapping.compiler import build
from gateway.mapping.live_check import differences
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table, ungoverned
from gateway.mapping.targets import NOTHING

BUS_TIMEOUT = 2.0  # seconds that a start and a live check wait for the buses


class CheckReport(Struct, frozen=True):
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
    settings = wiring.load_config(config_path) if config_path is not None and (live or not paths) else None
    if settings is not None:
        table, problems = wiring.compile_mappings(settings, paths)
        doubtful, passing = config.notes(settings), wiring.passing(settings)
    else:
        table, problems = _build(paths)
        doubtful, passing = [], {}
    notes = [*doubtful, *([] if problems else [*ungoverned(table, passing), *table.notes])]
    if problems or settings is None or not live:
        return CheckReport(table, problems, notes)
    checked = asyncio.run(_check_live(settings, table))
    return replace(checked, notes=[*notes, *checked.notes])


def compiled(path: Path, content: bytes, idl: Mapping[Path, bytes] = NOTHING) -> tuple[Table, list[Problem]]:
    """Compile a mapping file as if it had this content, and these IDL files theirs."""
    return _build([path], {path: content, **idl})


def _build(paths: Sequence[Path], contents: Mapping[Path, bytes] = NOTHING) -> tuple[Table, list[Problem]]:
    """Compile mapping files without a config: any listener and any upstream is accepted."""
    return build(
        paths,
        codecs=set(wiring.CODECS),
        dialects=set(wiring.DIALECTS),
        listeners=None,
        contents=contents,
        spellings=wiring.SPELLINGS,
    )


class Against(Struct, frozen=True):
    """Another revision of the mapping files: a directory, a commit, or files with the given contents."""

    paths: Sequence[Path]
    contents: Mapping[Path, bytes] = field(default_factory=dict)
    commit: str = ""


class OldRevisionError(Exception):
    """The other revision has problems of its own; the text lists the first."""


def changes_against(paths: Sequence[Path], config_path: Path | None, other: Against) -> list[FoundChange]:
    """The changes from another revision to the files at `paths`, which must have no problem, or of the config.

    Raises ConfigError, RevisionError, or OldRevisionError. Both are compiled without the config's listeners.
    """
    files = list(paths) or list(config.load(config_path).mapping_paths() if config_path is not None else ())
    new = surface(_without_problems(files))
    if not other.commit:
        return compare(surface(_without_problems(other.paths, other.contents)), new)
    with checkout(other.commit, files) as found:
        changes = compare(surface(_without_problems(found.paths)), new)
        return [replace(each, file=found.name(each.file)) for each in changes]


def _without_problems(paths: Sequence[Path], contents: Mapping[Path, bytes] = NOTHING) -> Table:
    table, problems = _build(paths, contents)
    if problems:
        raise OldRevisionError(f"{problems[0]}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}")
    return table


async def _check_live(settings: Config, table: Table) -> CheckReport:
    backend = wiring.Backend(wiring.buses(settings))
    place = config.document(settings).problem
    await backend.start()
    try:
        _, (unreachable, notes) = await asyncio.gather(connected(backend), _probe_upstreams(settings, table))
        for bus in backend.status():
            if not bus.connected:
                where = ("bus", bus.name, "address")
                unreachable.append(replace(place(where, f"{bus.address} cannot be reached"), level="live"))
        if unreachable:
            return CheckReport(table, sorted(unreachable), notes)
        compared = await differences(table, backend.introspect)
    finally:
        await backend.stop()
    notes += compared.notes
    return CheckReport(table, sorted(compared.problems), notes, len(table.contracts), compared.unseen)


async def _probe_upstreams(settings: Config, table: Table) -> tuple[list[Problem], list[str]]:
    """A problem for each upstream that is needed and cannot be reached, a note for one that is not needed now."""
    upstreams = wiring.Upstreams(wiring.upstreams(settings, wiring.Quota()))
    await upstreams.start()
    try:
        found = await upstreams.probed(BUS_TIMEOUT)
    finally:
        await upstreams.stop()
    needed = {*wiring.passing(settings).values()}
    for route in table.routes():
        setting, upstream = route.migration.setting, route.migration.upstream
        if upstream and (setting.observe or setting.mode in (Mode.LEGACY, Mode.SHADOW, Mode.CANARY)):
            needed.add(upstream)
    place = config.document(settings).problem
    problems: list[Problem] = []
    notes: list[str] = []
    for each in found:
        if each.unreachable:
            text = f"{each.url} cannot be reached: {each.unreachable}"
            problem = replace(place(("upstream", each.name, "url"), text), level="live")
            if each.name in needed:
                problems.append(problem)
            else:
                notes.append(f"{problem}; no method has a mode that needs it")
    return problems, notes


async def connected(backend: wiring.Backend) -> None:
    """Wait a little until all buses are connected; `status` has those that are."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BUS_TIMEOUT):
            await backend.connected()
