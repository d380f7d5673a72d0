"""The command `xcp-gateway`: says what was asked and shows what came back; decides nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gateway import __version__
from gateway.control import client

# Exit status, the same for every command.
FAILED = 1  # it was tried and did not work: a fault, a refused reload, a gateway that is not ready
UNUSABLE = 2  # bad arguments, or a config that cannot be used
PROBLEMS = {"schema": 3, "idl": 4, "live": 5}  # `check`: the first level that failed
UNREACHABLE = 69  # no gateway answers on the control socket (EX_UNAVAILABLE)

EPILOG = (
    "Exit status: 0 all well, 1 it did not work, 2 bad arguments or config, 3 mapping file wrong in itself, "
    "4 wrong against the IDL, 5 wrong against the running services, 69 no gateway answers."
)

app = typer.Typer(
    name="xcp-gateway",
    help="Old XML-RPC and JSON-RPC clients of the Xen toolstack reach D-Bus services through mapping files.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

DEFAULT_CONFIG = Path("/etc/xcp-gateway/gateway.toml")
DEFAULT_SOCKET = Path("/run/xcp-gateway/control")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The daemon's config.", envvar="XCP_GATEWAY_CONFIG")]
SocketOption = Annotated[
    Path, typer.Option("--socket", help="The gateway's control socket.", envvar="XCP_GATEWAY_SOCKET")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@app.command()
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP reads the mappings again.

    Example: `xcp-gateway run --config /etc/xcp-gateway/gateway.toml`
    """
    import uvloop

    from gateway import app as application
    from gateway import log
    from gateway.config import ConfigError, load

    try:
        settings = load(config)
        log.configure(settings.log.format, settings.log.level)
        uvloop.run(application.run(config))
    except (ConfigError, OSError) as error:
        _fail(_words(error), UNUSABLE)
    except application.MappingError as error:
        _report_problems(error.problems, as_json=False)


@app.command()
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
    from gateway import checking
    from gateway.config import ConfigError

    try:
        checked = checking.check(paths or [], config, live=live)
    except (ConfigError, OSError) as error:
        _fail(str(error), UNUSABLE)
    for note in checked.notes:
        err.print(f"note: {note}", markup=False)
    if checked.problems:
        _report_problems(checked.problems, as_json=as_json)
    if as_json:
        _print_json({"problems": [], "methods": checked.methods, "files": checked.files, "notes": checked.notes})
    else:
        levels = "schema, IDL and the running services" if live else "schema and IDL"
        out.print(f"{_count(checked.methods, 'method')} in {_count(checked.files, 'file')}: no problems ({levels})")


@app.command()
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
    rows = _routes_of_files(paths) if paths else _ask(socket, "GET", "/v1/routes")
    if as_json:
        _print_json(rows)
        return
    _print_routes(rows)


@app.command()
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
        "params": [_argument(text) for text in args or []],
        "listener": listener,
        "path": path,
        "codec": protocol,
    }
    answer = _ask(socket, "POST", "/v1/call", request)
    if as_json:
        _print_json(answer if explain else {key: value for key, value in answer.items() if key != "steps"})
    else:
        _print_answer(answer, explain=explain)
    raise typer.Exit(FAILED if "fault" in answer else 0)


@app.command()
def reload(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """Read config and mappings again and swap them in at once; with any problem the old ones stay.

    Answers which revision is live.
    """
    answer = _ask(socket, "POST", "/v1/reload")
    problems = answer.get("problems", [])
    if as_json:
        _print_json(answer)
        raise typer.Exit(FAILED if problems else 0)
    if problems:
        for problem in problems:
            err.print(problem, markup=False, soft_wrap=True)
        _fail(f"reload refused; revision {answer['revision']} stays live", FAILED)
    out.print(f"revision {answer['revision']} is live (before: {answer['before']})")
    for what in ("added", "removed", "changed"):
        if answer[what]:
            out.print(f"  {what}: {', '.join(answer[what])}", markup=False)
    if answer["needs_restart"]:
        out.print(f"  changed but not applied without a restart: {', '.join(answer['needs_restart'])}", style="yellow")


@app.command()
def status(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """Show the running gateway: revision, listeners, buses, services. Exit status 1 when it is not ready.

    Ready: every bus is connected, and every mapped service is there or starts on demand.
    """
    answer = _ask(socket, "GET", "/v1/status")
    if as_json:
        _print_json(answer)
    else:
        _print_status(answer)
    raise typer.Exit(0 if answer["ready"] else FAILED)


@app.command()
def schema() -> None:
    """Print the JSON Schema of mapping files, for editors."""
    print(files("gateway.mapping").joinpath("mapping.schema.json").read_text(encoding="utf-8"), end="")  # noqa: T201


@app.command()
def demo(
    *,
    stay: Annotated[bool, typer.Option("--stay", help="Leave everything running and print what to try.")] = False,
) -> None:
    """Start a private bus, the sample toolstack and a gateway; call it with real clients; show what the bus saw.

    Exit status 0 only when every answer was right.
    """
    from gateway.demo import showing

    raise typer.Exit(showing.run(stay=stay))


@app.command()
def version() -> None:
    """Print the version."""
    out.print(f"xcp-gateway {__version__}")


def main() -> None:
    """Entry point of the console script."""
    app()


# Asking and failing


def _ask(socket: Path, verb: str, path: str, body: object = None) -> Any:
    try:
        return client.ask(socket, verb, path, body)
    except client.UnreachableError as error:
        _fail(str(error), UNREACHABLE)
    except client.RefusedError as error:
        _fail(str(error), FAILED)


def _fail(message: str, status: int) -> Any:
    err.print(message, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(status)


def _words(error: Exception) -> str:
    """An error in the words it was raised with, without Python's "[Errno 98]" before them."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)


def _argument(text: str) -> object:
    """JSON where it is JSON, else the text itself: `5`, `true`, `'{"a": 1}'`, `xenopsd`."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _routes_of_files(paths: Sequence[Path]) -> list[Mapping[str, object]]:
    from gateway import checking
    from gateway.mapping.table import describe_routes

    checked = checking.check(paths, None, live=False)
    if checked.problems:
        _report_problems(checked.problems, as_json=False)
    return describe_routes(checked.table)


def _report_problems(problems: Sequence[Any], *, as_json: bool) -> None:
    """Print every problem, then end with the status of the first level that failed."""
    if as_json:
        _print_json({"problems": problems})
    else:
        for problem in problems:
            err.print(str(problem), markup=False, soft_wrap=True)
        names = {problem.file for problem in problems}
        err.print(f"{_count(len(problems), 'problem')} in {_count(len(names), 'file')}", style="bold")
    levels = {problem.level for problem in problems}
    raise typer.Exit(next(status for level, status in PROBLEMS.items() if level in levels))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# Showing


def _print_json(document: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2).decode() + "\n")


@contextmanager
def _table(*columns: str) -> Iterator[Table]:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    yield table
    # Piped into a file or another program a row stays a line; on a terminal it is folded to fit.
    console = out if out.is_terminal else Console(highlight=False, width=500)
    console.print(table)


def _print_routes(rows: Sequence[Mapping[str, Any]]) -> None:
    with _table("METHOD", "PROTOCOL", "ENDPOINT", "TARGET", "EFFECT", "SOURCE") as table:
        for row in rows:
            cells = (row[key] for key in ("method", "protocol", "endpoint", "target", "effect", "source"))
            table.add_row(*map(Text, map(str, cells)), style="dim" if row["mode"] == "off" else None)


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


def _print_status(answer: Mapping[str, Any]) -> None:
    ready = "[green]ready[/]" if answer["ready"] else "[red]not ready[/]"
    out.print(
        f"xcp-gateway {answer['version']}  {ready}  revision {answer['revision']}  {answer['in_flight']} in flight"
    )
    out.print(f"listening on {', '.join(answer['listening'])}", markup=False)
    for reason in answer["reasons"]:
        out.print(f"not ready: {reason}", markup=False, soft_wrap=True)
    with _table("BUS", "STATE", "ADDRESS", "IN FLIGHT", "LATE REPLIES", "LAST ERROR") as table:
        for bus in answer["buses"]:
            state = Text("connected", "green") if bus["connected"] else Text("down", "red")
            table.add_row(
                bus["name"],
                state,
                bus["address"],
                str(bus["in_flight"]),
                str(bus["late_replies"]),
                bus["last_error"] or "",
            )
    out.print()
    with _table("SERVICE", "BUS", "OWNER", "BREAKER", "IN FLIGHT", "CALLS", "FAULTS") as table:
        for service in answer["services"]:
            table.add_row(*_service_cells(service))


def _service_cells(service: Mapping[str, Any]) -> Iterator[str | Text]:
    missing = service["state"] in ("absent", "unknown")
    yield service["name"]
    yield service["bus"]
    yield Text(service["owner"] or service["state"], "red" if missing else "")
    probe = f", asked again in {service['probe_in']:g} s" if service["probe_in"] else ""
    yield Text(service["breaker"] + probe, "" if service["breaker"] == "closed" else "red")
    yield from (str(service[key]) for key in ("in_flight", "calls", "faults"))
