"""Commands that ask the gateway, and for mapping files: check, schema, routes, call, reload, status, web, demo."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlencode

import msgspec
import typer
from rich.text import Text

from gateway.cli import client, completion
from gateway.cli.app import (
    DEFAULT_CONFIG,
    DEFAULT_SOCKET,
    FAILED,
    UNUSABLE,
    ArgsArgument,
    Commands,
    ConfigOption,
    JsonOption,
    PathsArgument,
    SocketOption,
    argument,
    ask,
    check_exists,
    fail,
    flag,
    option,
    positional,
)
from gateway.cli.output import count, err, out, print_json, report_problems, table
from gateway.cli.reports.status import print_methods, print_status, print_troubles

commands = Commands()

TASK_PREFIXES = ("Async.", "InternalAsync.")
RUNNING = ("pending", "cancelling")
EVERY = 0.5  # seconds between two questions
INTERRUPTED = 130


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
        from gateway.cli.reports.against import report

        form = "json" if as_json else form
        report(paths or [], config, against, socket, level or [], ignore or [], ignore_file, form)
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


@commands.command()
def call(
    method: Annotated[str, positional("METHOD", "The legacy method: VM.start", completion.methods)],
    args: ArgsArgument = None,
    socket: SocketOption = DEFAULT_SOCKET,
    listener: Annotated[
        str | None, option("NAME", "The name of the listener.", autocompletion=completion.listeners)
    ] = None,
    path: Annotated[str | None, option("PATH", "The path of the endpoint: /RPC2")] = None,
    protocol: Annotated[
        str | None, option("CODEC", "xmlrpc or jsonrpc; default: any.", autocompletion=lambda: ["xmlrpc", "jsonrpc"])
    ] = None,
    *,
    explain: Annotated[
        bool, flag("--explain", "Show the value at each step, from the request to the bus and back.")
    ] = False,
    wait: Annotated[
        bool, flag("--wait", "Make the call as a task of XenAPI, and show its progress to the end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make one call through the running gateway, as a legacy client would.

    Where several listeners, or several services, take the call, --listener and --path say which is meant.
    With --wait the exit status is 0 when the task has succeeded, and 1 when it has not.

    Examples: `xcp-gateway call system.listMethods --listener rpc --path /RPC2`,
    `xcp-gateway call reserve_memory dbg xenopsd 4096 --listener rpc --path /memory --explain`
    """
    request = {
        "method": method,
        "params": [argument(text) for text in args or []],
        "listener": listener,
        "path": path,
        "codec": protocol,
    }
    if wait and not method.startswith(TASK_PREFIXES):
        request["method"] = TASK_PREFIXES[0] + method  # the form that is answered with a task
    answer = ask(socket, "POST", "/v1/call", request)
    if wait and "fault" not in answer:
        _wait_for_task(socket, request, answer, as_json=as_json)
    if as_json:
        print_json(answer if explain else {key: value for key, value in answer.items() if key != "steps"})
    else:
        for number, step in enumerate(answer["steps"] if explain else (), 1):
            out.print(Text.assemble((f"{number} ", "bold cyan"), (step["name"], "bold")))
            out.print(f"  {step['value'].rstrip()}")
        if explain:
            (err if "fault" in answer else out).print()
        _print_outcome(answer)
    raise typer.Exit(FAILED if "fault" in answer else 0)


def _wait_for_task(socket: Path, request: dict[str, Any], answer: Mapping[str, Any], *, as_json: bool) -> NoReturn:
    """Follow the task that answers a call, show its progress on a terminal, and end the command with its outcome."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    task, name = answer.get("value"), request["method"]
    if not isinstance(task, str) or not request["params"]:
        fail(f"{name} was answered without a task: {task!r}; --wait is for calls of XenAPI", UNUSABLE)
    question = {**request, "method": "task.get_record", "params": [request["params"][0], task]}

    def record() -> Mapping[str, Any]:
        try:
            told = client.ask(socket, "POST", "/v1/call", question)
        except (client.UnreachableError, client.RefusedError) as error:
            later = f"`xcp-gateway call task.get_record SESSION {task}` asks again"
            fail(f"the outcome of {task} is unknown: {error}; {later}", FAILED)
        if "fault" in told:
            fault = told["fault"]
            why = " ".join(map(str, (fault["name"] or fault["code"], *(fault["data"] or ()))))
            fail(f"the outcome of {task} is unknown: task.get_record answers {why}", FAILED)
        found: Mapping[str, Any] = told["value"]
        return found

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            shown = bar.add_task(name, total=1.0)
            while (ended := record())["status"] in RUNNING:
                bar.update(shown, completed=float(ended["progress"]), description=f"{name} ({ended['status']})")
                time.sleep(EVERY)
    except KeyboardInterrupt:
        fail(f"{task} goes on; `xcp-gateway call task.cancel SESSION {task}` asks it to end", INTERRUPTED)
    is_success = ended["status"] == "success"
    if as_json:
        print_json({"task": task, **{name: ended[name] for name in ("status", "result", "error_info")}})
    elif is_success:  # the result is a fragment of XML-RPC
        out.print(ended["result"] or "(no result)", markup=False, highlight=False)
    else:
        err.print(f"{ended['status']}: {' '.join(ended['error_info'])}", style="red", markup=False, highlight=False)
    raise typer.Exit(0 if is_success else FAILED)


@commands.command()
def reload(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """Load config and mapping files again and print the live revision. With any problem nothing changes.

    Example: `xcp-gateway check && xcp-gateway reload`
    """
    answer = ask(socket, "POST", "/v1/reload")
    problems = answer.get("problems", [])
    refused = f"reload refused; revision {answer['revision']} stays live"
    if as_json:
        print_json({"error": refused, "status": FAILED, **answer} if problems else answer)
        raise typer.Exit(FAILED if problems else 0)
    if problems:
        for problem in problems:
            err.print(problem)
        fail(refused, FAILED)
    out.print(f"revision {answer['revision']} is live (before: {answer['before']})")
    lines = [*_changes("", answer), *_changes("bus ", answer["buses"]), *_changes("upstream ", answer["upstreams"])]
    for line in lines:
        out.print(f"  {line}")
    for note in answer["notes"]:
        out.print(f"  {note}", style="yellow")
    if not lines and not answer["needs_restart"]:
        out.print("  nothing has changed")
    if answer["needs_restart"]:
        out.print(f"  changed but not applied without a restart: {', '.join(answer['needs_restart'])}", style="yellow")


_SHOWN = 20  # names of a kind that a reload prints; --json has all


def _changes(what: str, changed: Mapping[str, Any]) -> Iterator[str]:
    for how in ("added", "removed", "changed"):
        if names := changed[how]:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            yield f"{what}{how}: {', '.join(names[:_SHOWN])}{more}"


@commands.command()
def status(
    pattern: Annotated[
        str | None, positional("PATTERN", "Only methods of this pattern: 'VM.*', group:NAME.", completion.patterns)
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

    Methods without calls are only counted when they have the mode of the mapping, or one person has set the mode of
    many of them (`rollback --all`), unless PATTERN selects them.

    Examples: `xcp-gateway status`, `xcp-gateway status 'VM.get_*'`, `xcp-gateway status '*'`
    """
    answer = ask(socket, "GET", "/v1/status")
    rows = ask(socket, "GET", f"/v1/methods?{urlencode({'pattern': pattern or '*'})}")
    if as_json:
        print_json({**answer, "methods": rows})
        raise typer.Exit(0 if answer["ready"] else FAILED)
    if pattern is None:
        print_status(answer)
    else:
        print_troubles(answer)
    two_sided = [row for row in rows if row["upstream"] is not None]
    if two_sided:
        if pattern is None:
            out.print()
        print_methods(two_sided, out.width if out.is_terminal else None, everything=pattern is not None)
    elif pattern is not None:
        out.print("these methods have no legacy service: D-Bus is the only side")
    raise typer.Exit(0 if answer["ready"] else FAILED)


@commands.command()
def web(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """Print the address of the web page. It lets its first visitor in as you, within a minute.

    The page needs `web = "tcp:127.0.0.1:8081"` in `[admin]`. From another machine forward the port first:
    `ssh -L 8081:127.0.0.1:8081 HOST`.

    Example: `xcp-gateway web`
    """
    answer = ask(socket, "POST", "/v1/web")
    if as_json:
        print_json(answer)
    else:
        out.print(answer["url"])


@commands.command()
def demo(
    *,
    stay: Annotated[bool, flag("--stay", "Keep everything running and print commands to try.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a private bus, a sample toolstack and a gateway, call it with real clients, and show the messages on the bus.

    Exit status 0 only if every answer was right.

    Example: `xcp-gateway demo --stay`
    """
    checkout = Path(__file__).parents[2] / "docker"
    installed = Path(sysconfig.get_path("data")) / "share" / "xcp-gateway"
    place = next((each for each in (checkout, installed) if (each / "demo").is_dir()), None)
    if place is None:
        fail(f"the demo is not installed: expected {installed / 'demo'}", UNUSABLE)
    program = [sys.executable, "-m", "demo", *["--stay"] * stay, *["--json"] * as_json]
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))
    os.execve(program[0], program, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - our own program


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


def _print_outcome(answer: Mapping[str, Any]) -> None:
    from rich.syntax import Syntax

    if "fault" in answer:
        fault = answer["fault"]
        details = "" if fault["data"] is None else " " + msgspec.json.encode(fault["data"]).decode()
        err.print(f"fault {fault['code']}: {fault['message']}{details}", style="red")
        return
    text = msgspec.json.format(msgspec.json.encode(answer["value"]), indent=2).decode()
    out.print(Syntax(text, "json", background_color="default", word_wrap=True) if out.is_terminal else Text(text))
