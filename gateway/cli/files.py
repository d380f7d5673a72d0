"""Commands for mapping files: check, schema, routes, docs.

`check --against` says what a change breaks, as text, JSON, SARIF 2.1.0 or annotations of GitHub.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.text import Text

from gateway import __version__
from gateway.cli.app import (
    BREAKING,
    DEFAULT_CONFIG,
    DEFAULT_SOCKET,
    FAILED,
    UNUSABLE,
    Commands,
    ConfigOption,
    JsonOption,
    PathsArgument,
    SocketOption,
    ask,
    check_exists,
    error_text,
    fail,
    flag,
    option,
    positional,
)
from gateway.cli.output import count, err, out, print_json, report_problems, table

commands = Commands()


@commands.command()
def check(
    paths: PathsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    live: Annotated[bool, flag("--live", "Compare with the running services too.")] = False,
    strict: Annotated[bool, flag("--strict", "With --live: what could not be checked is an error too.")] = False,
    against: Annotated[
        str | None,
        option(
            "REV|DIR|live",
            "Say what has changed since a git revision, from another directory, or from what the gateway serves.",
        ),
    ] = None,
    level: Annotated[
        list[str] | None,
        option(
            "LEVEL",
            "With --against: fail for wire, source, dbus, access, evidence or compatible; "
            "default: wire, dbus and access.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, option("ENTRY", "With --against: ignore `RULE`, `RULE PATTERN` or `* PATTERN` of methods.")
    ] = None,
    ignore_file: Annotated[Path | None, option("FILE", "With --against: a file with an entry in each line.")] = None,
    form: Annotated[str, option("FORMAT", "With --against: text, json, sarif or github.", "--format")] = "text",
    socket: SocketOption = DEFAULT_SOCKET,
    as_json: JsonOption = False,
) -> None:
    """Check the config and its mapping files, or these files, and with --live the running services.

    The config is checked against its schema, names and files; mapping files against theirs and the IDL. Every problem
    of every file is one line: `file:line:column: place: what is wrong`. With --against, changes from another
    revision are listed too, with those for whom they break something.

    Examples: `xcp-gateway check mappings/`, `xcp-gateway check --config gateway.toml --live`,
    `xcp-gateway check mappings/ --against main`
    """
    from gateway import check as checking
    from gateway.config import ConfigError

    of_changes = {"--level": level, "--ignore": ignore, "--ignore-file": ignore_file, "--format": form != "text"}
    _expect_with("--against", against is not None, of_changes)
    _expect_with("--live", live, {"--strict": strict})
    check_exists(paths or ())
    try:
        checked = checking.check(paths or [], config, live=live)
    except ConfigError as error:
        report_problems(error.problems)
    for note in checked.notes:
        err.print(f"note: {note}")
    if checked.problems:
        report_problems(checked.problems)
    if against is not None:
        form = "json" if as_json else form
        _report_changes(paths or [], config, against, socket, level or [], ignore or [], ignore_file, form)
    nothing_seen = live and checked.contracts > 0 and checked.unseen == checked.contracts
    failed = nothing_seen or (strict and checked.unseen > 0)
    if as_json:
        seen = {"contracts": checked.contracts, "unseen": checked.unseen} if live else {}
        print_json({"problems": [], "methods": checked.methods, "files": checked.files, "notes": checked.notes, **seen})
    else:
        out.print(
            f"{count(checked.methods, 'method')} in {count(checked.files, 'file')}: no problems (schema and IDL"
            f"{' and the running services' if live and not checked.unseen else ''})",
        )
        if checked.unseen:
            seen_uses = f"{checked.contracts - checked.unseen} of {count(checked.contracts, 'use')} of an interface"
            out.print(
                f"live: {seen_uses} checked, {checked.unseen} could not be: see the notes with `not checked`",
                style="yellow",
            )
    if failed:
        raise typer.Exit(FAILED)


def _expect_with(subject: str, is_given: bool, options: Mapping[str, object]) -> None:  # noqa: FBT001
    """End the command when an option is given without the one that it belongs to."""
    alone = next((name for name, value in options.items() if value), None)
    if alone is not None and not is_given:
        fail(f"{alone} belongs to {subject}: expected {subject} too", UNUSABLE)


@commands.command()
def schema(
    *,
    config: Annotated[bool, flag("--config", "Print that of gateway.toml instead.")] = False,
    admin: Annotated[bool, flag("--admin", "Print the OpenAPI document of the admin API instead.")] = False,
) -> None:
    """Print the JSON Schema of mapping files, for editors.

    Examples: `xcp-gateway schema`, `xcp-gateway schema --config`, `xcp-gateway schema --admin > openapi.json`
    """
    from importlib.resources import files

    if admin and config:
        fail("expected --config or --admin, not both", UNUSABLE)
    if config:
        from gateway.config import schema as config_schema

        print_json(config_schema())
    elif admin:
        from gateway.admin.api import document

        print_json(document())
    else:
        print(files("gateway.mapping").joinpath("mapping.schema.json").read_text(encoding="utf-8"), end="")  # noqa: T201


@commands.command()
def routes(
    paths: Annotated[
        list[Path] | None, positional("PATH...", "Mapping files or directories; default: those of the running gateway.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    *,
    as_json: JsonOption = False,
) -> None:
    """List every mapped method: protocol, endpoint, D-Bus target, and the line of its mapping file.

    Examples: `xcp-gateway routes`, `xcp-gateway routes mappings/`
    """
    if paths:
        from gateway import check
        from gateway.mapping.table import describe_routes

        check_exists(paths)
        checked = check.check(paths, None, live=False)
        if checked.problems:
            report_problems(checked.problems)
        rows: Sequence[Mapping[str, Any]] = describe_routes(checked.table)
    else:
        rows = ask(socket, "GET", "/v1/routes")
    if as_json:
        print_json(rows)
    else:
        _print_routes(rows)


def _print_routes(rows: Sequence[Mapping[str, Any]]) -> None:
    with table("METHOD", "PROTOCOL", "ENDPOINT", "TARGET", "EFFECT", "SOURCE") as shown:
        for row in rows:
            protocol = "/".join(filter(None, (row["codec"], row["dialect"])))
            source = row["file"] if row["line"] is None else f"{row['file']}:{row['line']}"
            access = "" if row["access"] == "call" else f" ({row['access']})"
            member = f"{row['interface']}.{row['member']}" if row["member"] else row["interface"]
            target = (
                f"{row['bus_name']} {row['object_path']} {member}{access}" if row["access"] else "the gateway itself"
            )
            cells = (row["method"], protocol, f"{row['listener']} {row['path']}", target, row["effect"], source)
            shown.add_row(*map(Text, cells), style="dim" if row["mode"] == "off" else None)
    example = next((row for row in rows if row["spellings"]), None)
    if example is not None:
        forms = ", ".join(example["spellings"])
        names = f"accepts {forms} as other names of {example['method']}"
        out.print(f"{example['dialect']} {names}; one mode applies to all")


@commands.command()
def docs(
    paths: PathsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    directory: Annotated[Path, option("DIR", "Write the pages there.", "--output", "-o")] = Path(),
    form: Annotated[
        Literal["markdown", "html"], typer.Option("--format", help="The format of the pages.")
    ] = "markdown",
    url: Annotated[str, option("URL", "Where clients reach the listeners; default: from the config.")] = "",
    *,
    as_json: JsonOption = False,
) -> None:
    """Write reference pages: a page for each endpoint, with every method, its errors, and examples of calls.

    Example: `xcp-gateway docs mappings/ --url http://gateway.example.org --format html --output reference`
    """
    from gateway import check
    from gateway.config import ConfigError, base_urls, load
    from gateway.mapping.changes.surface import surface
    from gateway.reference import pages, to_html

    check_exists(paths or [])
    try:
        checked = check.check(paths or [], config, live=False)
        listeners = {} if paths else base_urls(load(config))
        base = url.rstrip("/")
        urls = {
            key: f"{base or listeners.get(key.listener, 'http://localhost:8080')}{key.path}"
            for key in checked.table.endpoints
        }
    except (ConfigError, OSError) as error:
        fail(error_text(error), UNUSABLE)
    if checked.problems:
        report_problems(checked.problems)
    suffix = "html" if form == "html" else "md"
    made = pages(surface(checked.table), urls, suffix=suffix)
    files = {directory / name: to_html(page) if form == "html" else page for name, page in made.items()}
    _write_pages(files)
    if as_json:
        print_json({"files": list(map(str, files))})
        return
    for path in files:
        out.print(str(path))


def _write_pages(files: dict[Path, str]) -> None:
    """Write pages. A file that is there must be a page that was generated before."""
    from gateway.reference import MARK

    try:
        for path in files:
            if path.exists() and MARK.partition(" `")[0] not in path.read_text(encoding="utf-8")[:2000]:
                fail(f"{path} exists and was not generated: name another directory with --output", FAILED)
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(error_text(error), FAILED)


# check --against


LIVE = "live"
FORMATS = ("text", "json", "sarif", "github")
SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def _report_changes(
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
    from gateway import check as checking
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
        found = checking.changes_against(paths, config, _other(other, socket))
    except checking.OldRevisionError as error:
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
