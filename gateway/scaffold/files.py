"""The files of a scaffold: what is there, what it becomes, and the difference.

A new mapping file is compiled before it is written. An entry that has a problem is left out, with the reason, so that
what is written passes `check`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.check import compiled
from gateway.core.dbus.introspection_xml import Node, parse
from gateway.mapping.problem import Problem
from gateway.scaffold import SourceError
from gateway.scaffold.description import Description, following, idl_text
from gateway.scaffold.mapping import Settings, mapping_text, sections
from gateway.scaffold.update import Update

MOST_CHECKS = 3  # of a new file: without an entry another one may have a problem


class Plan(Struct):
    """Files to write: path -> the text. `before`: those that exist, with their text; `notes`: for the person."""

    files: dict[Path, str]
    before: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> dict[Path, str]:
        """The files whose text changes."""
        return {path: text for path, text in self.files.items() if self.before.get(path) != text}

    def diff(self) -> Iterator[str]:
        """The lines of a unified diff of all files."""
        for path, text in self.changed.items():
            old = self.before.get(path)
            was = "/dev/null" if old is None else str(path)
            yield from difflib.unified_diff((old or "").splitlines(), text.splitlines(), was, str(path), lineterm="")


def existing(paths: Collection[Path]) -> dict[Path, str]:
    """Those of the files that exist, with their text and line ends; raises OSError or UnicodeDecodeError."""
    return {path: path.read_bytes().decode() for path in paths if path.exists()}


def new_files(service: Description, settings: Settings, directory: Path) -> Plan:
    """IDL and mapping file of a service as new files; raises SourceError or OSError."""
    idl, mapping = paths(settings, directory)
    xml = idl_text(service, settings.command)
    names = [entry.name for section in sections(service, settings) for entry in section.entries]
    left_out: dict[str, str] = {}
    for _ in range(MOST_CHECKS):
        text = mapping_text(service, replace(settings, left_out=left_out))
        found = problems(mapping, text, idl, xml)
        if not found:
            break
        for each in found:  # `methods.device.name.params[1]` begins with the name of its method
            place = each.place.removeprefix("methods.")
            matching = [name for name in names if place == name or place.startswith((f"{name}.", f"{name}["))]
            left_out.setdefault(max(matching, key=len, default=each.place or each.file), each.message)
    if left_out.keys() >= set(names):
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise SourceError(f"no method of {service.bus_name} can be mapped{f': {reasons}' if reasons else ''}")
    notes = [f"{name} is left out: {why}" for name, why in left_out.items()]
    notes += [f"to do: {each}" for each in found]
    return Plan({idl: xml, mapping: text}, existing([idl, mapping]), [*service.notes, *notes])


def updated_files(service: Description, settings: Settings, directory: Path, *, complete: bool) -> Plan:
    """The files after the service has changed; raises OSError, IdlError, RewriteError or SourceError.

    `complete`: what the description does not have, the service does not have.
    """
    idl, mapping = paths(settings, directory)
    there = existing([idl, mapping])
    node = parse(there[idl]) if idl in there else Node({}, ())
    before = {**node.inner, **node.interfaces}
    service = following(service, before, complete=complete)
    if mapping not in there:
        return new_files(service, settings, directory)
    xml = idl_text(service, settings.command)
    after = parse(xml).interfaces
    if idl in there and after == before:
        xml = there[idl]  # only its layout differs
    update = Update(there[mapping], settings.idl, before, after)
    text = update.run(sections(service, settings))
    left = [f"to do: {each}" for each in problems(mapping, text, idl, xml)]
    return Plan({idl: xml, mapping: text}, there, [*service.notes, *update.notes, *left])


def paths(settings: Settings, directory: Path) -> tuple[Path, Path]:
    """The IDL file and the mapping file."""
    return directory / settings.idl, directory / f"{settings.service}.yaml"


def problems(mapping: Path, text: str, idl: Path, xml: str) -> list[Problem]:
    """The problems of a mapping file with this text, beside an IDL file with this one."""
    _, found = compiled(mapping, text.encode(), {idl: xml.encode()})
    return found
