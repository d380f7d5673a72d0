"""Commands for the gateway itself and for mapping files: run, check, schema, routes, call, reload, status, demo."""

from __future__ import annotations

import os
import sys
import sysconfig
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
    error_text,
    fail,
)
from gateway.cli.output import count, err, out, print_json, report_problems, table
from gateway.cli.status import print_methods, print_status


@app.command(rich_help_panel=GATEWAY)
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP loads config and mapping files again.

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
        fail(error_text(error), UNUSABLE)
    except application.MappingError as error:
        report_problems(error.problems)


@app.command(rich_help_panel=FILES)
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Mapping files or directories; default: those of the config.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    live: Annotated[bool, typer.Option("--live", help="Compare with the running services too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check mapping files against the schema, the IDL and, with --live, the running services.

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
        err.print(f"note: {note}")
    if checked.problems:
        report_problems(checked.problems)
    nothing_seen = live and checked.contracts > 0 and checked.unseen == checked.contracts
    if as_json:
        seen = {"contracts": checked.contracts, "unseen": checked.unseen} if live else {}
        print_json({"problems": [], "methods": checked.methods, "files": checked.files, "notes": checked.notes, **seen})
    else:
        out.print(
            f"{count(checked.methods, 'method')} in {count(checked.files, 'file')}: no problems (schema and IDL"
            f"{' and the running services' if live and not checked.unseen else ''})",
        )
        if checked.unseen:
            unseen = f"{checked.unseen} of {count(checked.contracts, 'use')} of an interface could not be checked live"
            out.print(f"{unseen}: see the notes", style="yellow")
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


@app.command(rich_help_panel=FILES)
def routes(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Mapping files or directories; default: those of the running gateway."),
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    *,
    as_json: JsonOption = False,
) -> None:
    """List every mapped method: protocol, endpoint, D-Bus target, and the line of its mapping file.

    Examples: `xcp-gateway routes`, `xcp-gateway routes mappings/`
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
        list[str] | None, typer.Argument(metavar="ARG...", help="Parameters, as JSON or plain text.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    listener: Annotated[str | None, typer.Option(metavar="NAME", help="The name of the listener.")] = None,
    path: Annotated[str | None, typer.Option(metavar="PATH", help="The path of the endpoint: /RPC2")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="CODEC", help="xmlrpc or jsonrpc; default: any."),
    ] = None,
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the value at each step, from the request to the bus and back.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make one call through the running gateway, as a legacy client would.

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
    """Load config and mapping files again and print the live revision. With any problem nothing changes."""
    answer = ask(socket, "POST", "/v1/reload")
    problems = answer.get("problems", [])
    if as_json:
        print_json(answer)
        raise typer.Exit(FAILED if problems else 0)
    if problems:
        for problem in problems:
            err.print(problem)
        fail(f"reload refused; revision {answer['revision']} stays live", FAILED)
    out.print(f"revision {answer['revision']} is live (before: {answer['before']})")
    for what in ("added", "removed", "changed"):
        if answer[what]:
            out.print(f"  {what}: {', '.join(answer[what])}")
    if answer["needs_restart"]:
        out.print(f"  changed but not applied without a restart: {', '.join(answer['needs_restart'])}", style="yellow")


@app.command(rich_help_panel=GATEWAY)
def status(
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="Only methods of this pattern: 'VM.*', group:NAME.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show revision, listeners, buses, services, and each method that has a legacy service.

    Exit status 1 if the gateway is not ready. It is ready when every bus is connected and every mapped service runs or
    can be started on demand. Columns of a method: its MODE and the SOURCE of the mode; the SHARE of keys that D-Bus
    serves; as legacy / D-Bus the number of CALLS, the rate of ERRORS, and latency; the share of EQUAL comparisons; and
    the ASSESSMENT of D-Bus.

    Methods with the mode of the mapping and without calls are only counted, unless PATTERN selects them.

    Examples: `xcp-gateway status`, `xcp-gateway status 'VM.get_*'`, `xcp-gateway status '*'`
    """
    answer = ask(socket, "GET", "/v1/status")
    rows = ask(socket, "GET", f"/v1/methods?{urlencode({'pattern': pattern or '*'})}")
    if as_json:
        print_json({**answer, "methods": rows})
        raise typer.Exit(0 if answer["ready"] else FAILED)
    if pattern is None:
        print_status(answer)
    two_sided = [row for row in rows if row["upstream"] is not None]
    if two_sided:
        if pattern is None:
            out.print()
        print_methods(two_sided, out.width if out.is_terminal else None, everything=pattern is not None)
    elif pattern is not None:
        out.print("these methods have no legacy service: D-Bus is the only side")
    raise typer.Exit(0 if answer["ready"] else FAILED)


@app.command(rich_help_panel=GATEWAY)
def demo(
    *,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything running and print commands to try.")] = False,
) -> None:
    """Run a private bus, a sample toolstack and a gateway, call it with real clients, and show the messages on the bus.

    Exit status 0 only if every answer was right.
    """
    checkout = Path(__file__).parents[2] / "docker"
    installed = Path(sysconfig.get_path("data")) / "share" / "xcp-gateway"
    place = next((each for each in (checkout, installed) if (each / "demo").is_dir()), None)
    if place is None:
        fail(f"the demo is not installed: expected {installed / 'demo'}", UNUSABLE)
    program = [sys.executable, "-m", "demo", *(["--stay"] if stay else [])]
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))
    os.execve(program[0], program, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - our own program


def _routes_of_files(paths: Sequence[Path]) -> list[Mapping[str, object]]:
    from gateway import check
    from gateway.mapping.table import describe_routes

    checked = check.check(paths, None, live=False)
    if checked.problems:
        report_problems(checked.problems)
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
        out.print(f"{protocol} accepts {forms} as other names of {method}; one mode applies to all of them")


def _print_answer(answer: Mapping[str, Any], *, explain: bool) -> None:
    if explain:
        for number, step in enumerate(answer["steps"], 1):
            out.print(Text.assemble((f"{number} ", "bold cyan"), (step["name"], "bold")))
            out.print(f"  {step['value']}")
        out.print()
    if "fault" in answer:
        fault = answer["fault"]
        details = "" if fault["data"] is None else " " + msgspec.json.encode(fault["data"]).decode()
        err.print(f"fault {fault['code']}: {fault['message']}{details}", style="red")
        return
    text = msgspec.json.format(msgspec.json.encode(answer["value"]), indent=2).decode()
    out.print(Syntax(text, "json", background_color="default", word_wrap=True) if out.is_terminal else Text(text))
