"""Commands that need no running gateway: run one, check files, print what is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import typer
from rich.syntax import Syntax
from rich.text import Text

from gateway.cli.app import (
    DEFAULT_CONFIG,
    DEFAULT_SOCKET,
    FAILED,
    FILES,
    GATEWAY,
    UNUSABLE,
    ConfigOption,
    JsonOption,
    SocketOption,
    app,
    argument,
    ask,
    fail,
    words,
)
from gateway.cli.output import count, err, out, print_json, report_problems, table
from gateway.cli.status import print_methods, print_status


@app.command(rich_help_panel=GATEWAY)
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP reads the mappings again.

    Example: `xcp-gateway run --config /etc/xcp-gateway/gateway.toml`
    """
    import uvloop

    from gateway import server as application
    from gateway.config import ConfigError, load
    from gateway.ops import log

    try:
        settings = load(config)
        log.configure(settings.log.format, settings.log.level)
        uvloop.run(application.run(config))
    except (ConfigError, OSError) as error:
        fail(words(error), UNUSABLE)
    except application.MappingError as error:
        report_problems(error.problems, as_json=False)


@app.command(rich_help_panel=FILES)
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Mapping files or directories; default: those the config names.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    live: Annotated[bool, typer.Option("--live", help="Also against what the running services answer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check mapping files: in themselves, against the IDL and, with --live, against the running services.

    Every problem of every file is one line: `file:line:column: place: what is wrong`.

    Examples: `xcp-gateway check mappings/` or `xcp-gateway check --config gateway.toml --live`
    """
    from gateway import check as checking
    from gateway.config import ConfigError

    try:
        checked = checking.check(paths or [], config, live=live)
    except (ConfigError, OSError) as error:
        fail(str(error), UNUSABLE)
    for note in checked.notes:
        err.print(f"note: {note}", markup=False, soft_wrap=True)
    if checked.problems:
        report_problems(checked.problems, as_json=as_json)
    nothing_seen = live and checked.contracts > 0 and checked.unseen == checked.contracts
    if as_json:
        seen = {"contracts": checked.contracts, "unseen": checked.unseen} if live else {}
        print_json({"problems": [], "methods": checked.methods, "files": checked.files, "notes": checked.notes, **seen})
    else:
        out.print(
            f"{count(checked.methods, 'method')} in {count(checked.files, 'file')}: no problems (schema and IDL"
            f"{' and the running services' if live and not checked.unseen else ''})",
            soft_wrap=True,
        )
        if checked.unseen:
            told = f"{checked.unseen} of {count(checked.contracts, 'use')} of an interface could not be checked live"
            out.print(f"{told}: see the notes", style="yellow", markup=False, soft_wrap=True)
    if nothing_seen:
        raise typer.Exit(FAILED)


@app.command(rich_help_panel=FILES)
def schema(
    *,
    admin: Annotated[
        bool, typer.Option("--admin", help="Print the OpenAPI document of the admin API instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of mapping files, for editors.

    Examples: `xcp-gateway schema`, `xcp-gateway schema --admin > openapi.json`
    """
    if admin:
        from gateway.admin.api import document

        print_json(document())
        return
    print(files("gateway.mapping").joinpath("mapping.schema.json").read_text(encoding="utf-8"), end="")  # noqa: T201


# Commands that ask a running gateway how it is, what is mapped, and for a call or a reload.


@app.command(rich_help_panel=FILES)
def routes(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Mapping files or directories, instead of the running gateway's.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show every mapped method: protocol, endpoint, D-Bus target, and the line of the file that says so.

    Examples: `xcp-gateway routes` (of the running gateway) or `xcp-gateway routes mappings/`
    """
    rows = _routes_of_files(paths) if paths else ask(socket, "GET", "/v1/routes")
    if as_json:
        print_json(rows)
        return
    _print_routes(rows)


@app.command(rich_help_panel=GATEWAY)
def call(
    method: Annotated[str, typer.Argument(help="The legacy method: VM.start")],
    args: Annotated[
        list[str] | None, typer.Argument(metavar="ARG...", help="Parameters: JSON, or else plain text.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    listener: Annotated[str | None, typer.Option(help="The listener's name.")] = None,
    path: Annotated[str | None, typer.Option(help="The endpoint's path: /RPC2")] = None,
    protocol: Annotated[str | None, typer.Option(help="xmlrpc or jsonrpc; default: the first that fits.")] = None,
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each step's value, from bytes to bus and back.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make one call through the running gateway, as a legacy client of that endpoint would.

    Examples: `xcp-gateway call system.listMethods` or
    `xcp-gateway call reserve_memory dbg xenopsd 4096 --path /memory --explain`
    """
    request = {
        "method": method,
        "params": [argument(text) for text in args or []],
        "listener": listener,
        "path": path,
        "codec": protocol,
    }
    answer = ask(socket, "POST", "/v1/call", request)
    if as_json:
        print_json(answer if explain else {key: value for key, value in answer.items() if key != "steps"})
    else:
        _print_answer(answer, explain=explain)
    raise typer.Exit(FAILED if "fault" in answer else 0)


@app.command(rich_help_panel=GATEWAY)
def reload(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """Read config and mappings again and swap them in at once; with any problem the old ones stay.

    Answers which revision is live.
    """
    answer = ask(socket, "POST", "/v1/reload")
    problems = answer.get("problems", [])
    if as_json:
        print_json(answer)
        raise typer.Exit(FAILED if problems else 0)
    if problems:
        for problem in problems:
            err.print(problem, markup=False, soft_wrap=True)
        fail(f"reload refused; revision {answer['revision']} stays live", FAILED)
    out.print(f"revision {answer['revision']} is live (before: {answer['before']})")
    for what in ("added", "removed", "changed"):
        if answer[what]:
            out.print(f"  {what}: {', '.join(answer[what])}", markup=False)
    if answer["needs_restart"]:
        out.print(f"  changed but not applied without a restart: {', '.join(answer['needs_restart'])}", style="yellow")


@app.command(rich_help_panel=GATEWAY)
def status(
    methods: Annotated[
        str | None, typer.Argument(metavar="METHODS", help="Of methods, only those of a pattern: 'VM.*', group:NAME.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show the running gateway: revision, listeners, buses, services, and each method that has two sides.

    Exit status 1 when it is not ready. Ready: every bus is connected, and every mapped service is there or starts on
    demand. A method's row: who answers and who said so; what D-Bus answers of it (SHARE of the keys); and, of the old
    service / D-Bus, CALLS that were run, ERRORS and latency; EQUAL of the comparisons; and what all that says.

    Methods to which nothing has happened are only counted, unless METHODS names them.

    Examples: `xcp-gateway status`, `xcp-gateway status 'VM.get_*'`, `xcp-gateway status '*'`
    """
    answer = ask(socket, "GET", "/v1/status")
    rows = ask(socket, "GET", f"/v1/methods?{urlencode({'pattern': methods or '*'})}")
    if as_json:
        print_json({**answer, "methods": rows})
        raise typer.Exit(0 if answer["ready"] else FAILED)
    if methods is None:
        print_status(answer)
    two_sided = [row for row in rows if row["upstream"] is not None]
    if two_sided:
        if methods is None:
            out.print()
        print_methods(two_sided, out.width if out.is_terminal else None, everything=methods is not None)
    elif methods is not None:
        out.print("no legacy service answers any of these: D-Bus is the only side")
    raise typer.Exit(0 if answer["ready"] else FAILED)


def _routes_of_files(paths: Sequence[Path]) -> list[Mapping[str, object]]:
    from gateway import check
    from gateway.mapping.table import describe_routes

    checked = check.check(paths, None, live=False)
    if checked.problems:
        report_problems(checked.problems, as_json=False)
    return describe_routes(checked.table)


def _print_routes(rows: Sequence[Mapping[str, Any]]) -> None:
    with table("METHOD", "PROTOCOL", "ENDPOINT", "TARGET", "EFFECT", "SOURCE") as shown:
        for row in rows:
            cells = (row[key] for key in ("method", "protocol", "endpoint", "target", "effect", "source"))
            shown.add_row(*map(Text, map(str, cells)), style="dim" if row["mode"] == "off" else None)
    example = next((row for row in rows if row["spellings"]), None)
    if example is not None:
        forms = ", ".join(example["spellings"])
        protocol, method = example["protocol"], example["method"]
        out.print(f"where {protocol} is spoken {method} is also {forms}, and so on: one method, one mode", markup=False)


def _print_answer(answer: Mapping[str, Any], *, explain: bool) -> None:
    if explain:
        for number, step in enumerate(answer["steps"], 1):
            out.print(f"[bold cyan]{number}[/] [bold]{step['name']}[/]")
            out.print(f"  {step['value']}", markup=False, soft_wrap=True)
        out.print()
    if "fault" in answer:
        fault = answer["fault"]
        details = "" if fault["data"] is None else " " + msgspec.json.encode(fault["data"]).decode()
        err.print(f"fault {fault['code']}: {fault['message']}{details}", style="red", markup=False, soft_wrap=True)
        return
    text = msgspec.json.format(msgspec.json.encode(answer["value"]), indent=2).decode()
    out.print(Syntax(text, "json", background_color="default", word_wrap=True) if out.is_terminal else Text(text))
