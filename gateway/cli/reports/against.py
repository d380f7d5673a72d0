"""`check --against`: what a change of mapping files breaks, as text, JSON, SARIF 2.1.0 or annotations of GitHub."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer

from gateway import __version__
from gateway.cli.app import BREAKING, FAILED, UNUSABLE, ask, error_text, fail
from gateway.cli.output import count, err, out, print_json

LIVE = "live"
FORMATS = ("text", "json", "sarif", "github")
SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def report(
    paths: Sequence[Path],
    config: Path | None,
    other: str,
    socket: Path,
    levels: Sequence[str],
    ignore: Sequence[str],
    ignore_file: Path | None,
    form: str,
) -> NoReturn:
    """Compare the files with another revision, print the changes, and end the command with the exit status."""
    from gateway import check
    from gateway.config import ConfigError
    from gateway.mapping.changes.revision import RevisionError
    from gateway.mapping.changes.rules import DEFAULT_LEVELS, Ignored, Level, without_ignored

    known = {level.value: level for level in Level}
    for name in levels:
        if name not in known:
            fail(f"--level: expected one of {', '.join(known)}, got '{name}'", UNUSABLE)
    chosen = {known[name] for name in levels} or set(DEFAULT_LEVELS)
    try:
        ignored = [Ignored.parse(entry) for entry in (*ignore, *_lines(ignore_file))]
    except ValueError as error:
        fail(f"--ignore: {error}", UNUSABLE)
    if form not in FORMATS:
        fail(f"--format: expected one of {', '.join(FORMATS)}, got '{form}'", UNUSABLE)
    try:
        found = check.changes_against(paths, config, _other(other, socket))
    except check.OldRevisionError as error:
        fail(f"--against {other}: its mapping files have problems of their own: {error}", FAILED)
    except (RevisionError, ConfigError, OSError) as error:
        fail(f"--against {other}: {error_text(error)}", UNUSABLE)
    kept, unused = without_ignored(found, ignored)
    for each in unused:
        err.print(f"note: nothing is ignored by '{each}'")
    breaking = [each for each in kept if each.level in chosen]
    {"text": _text, "json": _json, "sarif": _sarif, "github": _github}[form](kept, breaking, len(found) - len(kept))
    raise typer.Exit(BREAKING if breaking else 0)


def _other(other: str, socket: Path) -> Any:
    """The revision that `--against` names: `live`, a directory or file, else a commit."""
    from gateway.check import Against

    if not other:
        fail("--against: expected `live`, a directory, a file or a commit, got an empty text", UNUSABLE)
    if other == LIVE:
        served = ask(socket, "GET", "/v1/mappings")
        files = {
            Path(name): base64.b64decode(text) for each in ("mappings", "idl") for name, text in served[each].items()
        }
        return Against([Path(name) for name in served["mappings"]], files)
    if Path(other).exists():
        return Against([Path(other)])
    return Against([], commit=other)


def _lines(file: Path | None) -> list[str]:
    """The entries of an ignore file: one a line, `#` begins a comment."""
    if file is None:
        return []
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--ignore-file: {error_text(error)}", UNUSABLE)
    return [line for line in lines if line]


# Formats


def _text(found: Sequence[Any], breaking: Sequence[Any], ignored: int) -> None:
    for each in sorted(found, key=lambda change: (change not in breaking, change)):
        where = f"{each.file}:{each.line}: " if each.file else ""
        line = f"{where}{each.subject}: {each.level.value} {each.rule}: {each.message}"
        out.print(line, style="red" if each in breaking else "")
    others = len(found) - len(breaking)
    more = [*([count(others, "other")] if others else []), *([f"{ignored} ignored"] if ignored else [])]
    levels = sorted({each.level.value for each in breaking})
    summary = f"{count(len(breaking), 'change')} that break{'s' if len(breaking) == 1 else ''} {', '.join(levels)}"
    out.print("; ".join([summary if breaking else "nothing breaks", *more]), style="bold")


def _json(found: Sequence[Any], breaking: Sequence[Any], ignored: int) -> None:
    rows = [
        {
            "subject": each.subject,
            "rule": each.rule,
            "level": each.level.value,
            "breaks": each in breaking,
            "message": each.message,
            "file": each.file,
            "line": each.line,
        }
        for each in found
    ]
    print_json({"changes": rows, "breaking": len(breaking), "ignored": ignored})


def _sarif(found: Sequence[Any], breaking: Sequence[Any], _ignored: int) -> None:
    from gateway.mapping.changes.rules import RULES

    used = sorted({each.rule for each in found})
    rules = [{"id": rule, "shortDescription": {"text": RULES[rule][1]}} for rule in used]
    driver = {"name": "xcp-gateway", "version": __version__, "rules": rules}
    results = [
        {
            "ruleId": each.rule,
            "ruleIndex": used.index(each.rule),
            "level": "error" if each in breaking else "note",
            "message": {"text": f"{each.subject}: {each.message}"},
            "locations": [{"physicalLocation": _place(each)}] if each.file else [],
        }
        for each in found
    ]
    print_json({"$schema": SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]})


def _place(change: Any) -> dict[str, Any]:
    return {"artifactLocation": {"uri": _relative(change.file)}, "region": {"startLine": change.line}}


def _github(found: Sequence[Any], breaking: Sequence[Any], _ignored: int) -> None:
    """Workflow commands: an annotation for each change. Only those that break are errors."""
    for each in found:
        kind = "error" if each in breaking else "notice"
        place = f"file={_escaped(_relative(each.file))},line={each.line}," if each.file else ""
        title = _escaped(f"{each.level.value} {each.rule}")
        message = f"{each.subject}: {each.message}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        out.print(f"::{kind} {place}title={title}::{message}")


def _escaped(text: str) -> str:
    """A property of a workflow command."""
    for letter, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        text = text.replace(letter, code)
    return text


def _relative(file: str) -> str:
    """The path below the working directory, as both formats want it."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
