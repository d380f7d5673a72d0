"""The daemon's TOML file, gateway.toml: listeners, buses, legacy services and limits.

`load` checks a file and reports all of its problems at once, with line and column: first by the schema, then what no
schema can say (a name that another section must have). `doubts` lists settings that are valid and perhaps not meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec

from gateway.config.checks import Finding, doubts, problems, reached_by_others
from gateway.config.schema import MAX_WORKERS, schema, validator
from gateway.config.settings import (
    Config,
    ListenerConfig,
    Seconds,
    Size,
    UpstreamConfig,
    WorkerCount,
)
from gateway.config.toml import TomlDocument
from gateway.config.toml import parse as parse_toml
from gateway.core.rpc import units
from gateway.mapping.problem import Path as Steps
from gateway.mapping.problem import Positioned, Problem
from gateway.mapping.schema import errors, explain
from gateway.ops.process import cores

__all__ = [
    "Config",
    "ConfigError",
    "Finding",
    "ListenerConfig",
    "UpstreamConfig",
    "document",
    "doubts",
    "load",
    "notes",
    "parse",
    "reached_by_others",
    "read_text",
    "schema",
]

Check: TypeAlias = Callable[[Config], Iterable[Finding]]


class ConfigError(Exception):
    """The config cannot be used; the text has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load(path: Path, *checks: Check, text: str | None = None) -> Config:
    """Read and check a config file; raises ConfigError with all of its problems, those of `checks` included.

    `text` replaces the content of the file.
    """
    return _checked(_read(path, text), checks)


def parse(data: Mapping[str, Any], path: Path, *checks: Check) -> Config:
    """Check a document. `path` is the file that messages name and that relative paths start from."""
    return _checked(TomlDocument(path, "", dict(data), {}, {}), checks)


def document(settings: Config) -> Positioned:
    """The document of a config that was loaded, for the places of problems that are found later."""
    try:
        return _read(Path(settings.file))
    except ConfigError:  # it has changed since: problems are at its beginning
        return TomlDocument(Path(settings.file), "", {}, {}, {})


def notes(settings: Config) -> list[str]:
    """A line for each doubtful setting, with its place in the file."""
    around = document(settings)
    return [str(around.problem(*doubt)) for doubt in doubts(settings)]


def read_text(path: Path) -> str:
    """The text of a config file; raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        text = f"cannot be read: {error.strerror}; `--config` names another file"
        raise ConfigError([Problem(str(path), 1, 1, "", text, "config")]) from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        mark = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigError([Problem(str(path), *mark, "", "invalid UTF-8", "config")]) from error


def _read(path: Path, text: str | None = None) -> TomlDocument:
    document = parse_toml(path, read_text(path) if text is None else text)
    if isinstance(document, Problem):
        raise ConfigError([document])
    return document


def _checked(document: TomlDocument, checks: Iterable[Check]) -> Config:
    found: dict[Problem, None] = {}
    wrong: list[Steps] = []
    for error in errors(document.data, schema(), validator()):
        found.update(dict.fromkeys(explain(document, error)))
        wrong += _wrong_nodes(error)
    data = deepcopy(document.data)  # without its wrong nodes, so that the rest can be checked
    for path in sorted(wrong, key=len, reverse=True):
        _leave_out(data, path)
    try:
        settings = msgspec.convert({**data, "file": str(document.path)}, Config, dec_hook=_with_unit)
    except msgspec.ValidationError as error:
        raise ConfigError(sorted(found or [document.problem((), str(error))])) from error
    broken = {() if path[0] in ("bus", "upstream") and len(path) == 1 else path[:2] for path in wrong if path}
    for check in (problems, *checks):
        found |= {document.problem(*each): None for each in check(settings) if each[0][:2] not in broken}
    if found:
        raise ConfigError(sorted(found))
    return settings


def _wrong_nodes(error: Any) -> list[Steps]:
    """The nodes of an error, missing ones too."""
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        return [(*path, key) for key in error.instance if key not in error.schema["properties"]]
    if error.validator == "required":
        return [(*path, key) for key in error.validator_value if key not in error.instance]
    return [(*path, error.instance)] if "propertyNames" in error.absolute_schema_path else [path]


def _leave_out(data: Any, path: Steps) -> None:
    """Remove a node, or the whole list of a wrong item. A required key gets a value that is valid."""
    for number, step in enumerate(path, 1):
        inside = data.get(step) if isinstance(data, dict) else None
        if number == len(path) or isinstance(inside, list):
            if isinstance(data, dict):
                data.pop(step, None)
                data |= {step: _VALID[step]} if step in _VALID else {}
            return
        data = inside


# Required key -> a value that takes the place of a wrong or missing one.
_VALID: Mapping[str | int, Any] = {
    "address": "unix:path=/",
    "bind": ["unix:/-"],
    "directories": ["."],
    "listener": {"-": {"bind": ["unix:/-"]}},
    "mappings": {"directories": ["."]},
    "services": ["-"],
    "url": "http://-",
}


def _with_unit(wanted: type, written: object) -> object:
    """Read Seconds, Size and WorkerCount, which msgspec does not know."""
    if wanted is WorkerCount:
        return WorkerCount(min(cores(), MAX_WORKERS) if written == "auto" else int(str(written)))
    if not isinstance(written, str):
        raise TypeError(f"expected a string with a unit, such as '30s' or '32MiB', got {written!r}")
    return Seconds(units.seconds(written)) if wanted is Seconds else Size(units.size(written))


def base_url(address: str) -> str:
    """The URL at which clients reach an address: `tcp:0.0.0.0:80` is http://localhost:80; "" for one without a URL."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return f"http+unix://{quote(rest, safe='')}"
    host, _, port = rest.rpartition(":")
    if kind != "tcp" or not port.isdecimal():
        return ""
    any_host = host.strip("[]") in ("", "0.0.0.0", "::", "*")  # noqa: S104 - compared, not bound
    return f"http://{'localhost' if any_host else host}:{port}"


def base_urls(settings: Config) -> dict[str, str]:
    """The URL of each listener, of its first address that has one."""
    found = {name: [*filter(None, map(base_url, each.bind))] for name, each in settings.listener.items()}
    return {name: urls[0] for name, urls in found.items() if urls}
