"""Commands that ask the gateway: call, reload, status, web; and demo."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.text import Text

from gateway.cli import client, completion
from gateway.cli.app import (
    DEFAULT_SOCKET,
    FAILED,
    UNUSABLE,
    ArgsArgument,
    Commands,
    JsonOption,
    SocketOption,
    argument,
    ask,
    fail,
    flag,
    option,
    positional,
)
from gateway.cli.output import NOTHING, err, number, out, pair, print_json, rate, seconds, table

commands = Commands()

TASK_PREFIXES = ("Async.", "InternalAsync.")
RUNNING = ("pending", "cancelling")
EVERY = 0.5  # seconds between two questions
INTERRUPTED = 130


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
    rows = ask(socket, "GET", "/v1/methods", pattern=pattern or "*")
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


def _print_outcome(answer: Mapping[str, Any]) -> None:
    from rich.syntax import Syntax

    if "fault" in answer:
        fault = answer["fault"]
        details = "" if fault["data"] is None else " " + msgspec.json.encode(fault["data"]).decode()
        err.print(f"fault {fault['code']}: {fault['message']}{details}", style="red")
        return
    text = msgspec.json.format(msgspec.json.encode(answer["value"]), indent=2).decode()
    out.print(Syntax(text, "json", background_color="default", word_wrap=True) if out.is_terminal else Text(text))


# The tables of `status`


def print_status(answer: Mapping[str, Any]) -> None:
    """Print everything but the methods."""
    ready = ("ready", "green") if answer["ready"] else ("not ready", "red")
    rest = f"  revision {answer['revision']}  {answer['in_flight']} in flight"
    out.print(Text.assemble(f"xcp-gateway {answer['version']}  ", ready, rest))
    out.print(f"listening on {', '.join(answer['listening'])}")
    print_troubles(answer)
    if not answer["state"]["trouble"]:
        out.print(f"state: {answer['state']['place']}")
    for what in answer["ungoverned"]:
        out.print(f"independent of modes: {what}")
    with table("BUS", "STATE", "ADDRESS", "IN FLIGHT", "LATE REPLIES", "LAST ERROR") as shown:
        for bus in answer["buses"]:
            numbers = (str(bus["in_flight"]), str(bus["late_replies"]))
            shown.add_row(bus["name"], _connected(bus), bus["address"], *numbers, bus["last_error"] or "")
    if answer["upstreams"]:
        out.print()
        with table("UPSTREAM", "STATE", "ADDRESS", "IN FLIGHT", "WAITING", "LAST ERROR") as shown:
            for upstream in answer["upstreams"]:
                why = upstream["unreachable"]
                state = Text("unreachable", "red") if why else Text("reachable", "green")
                numbers = (str(upstream["in_flight"]), str(upstream["waiting"]))
                shown.add_row(upstream["name"], state, upstream["url"], *numbers, why or upstream["last_error"])
    if answer["stores"]:
        out.print()
        with table("STORE", "STATE", "ADDRESS", "WATCHES", "WAITING", "LAST ERROR") as shown:
            for store in answer["stores"]:
                numbers = (str(store["watches"]), str(store["waiting"]))
                error = store["last_error"] if not store["connected"] or store["reconnects"] else ""
                shown.add_row(store["listener"], _connected(store), store["address"], *numbers, error)
    _print_processes(answer)


def _connected(part: Mapping[str, Any]) -> Text:
    return Text("connected", "green") if part["connected"] else Text("down", "red")


def _print_processes(answer: Mapping[str, Any]) -> None:
    """Print the workers, where there are several, and the services."""
    if answer["workers"]:
        out.print()
        with table("WORKER", "PID", "STATE", "LEADS", "RESTARTS") as shown:
            for each in answer["workers"]:
                state = Text(each["state"], "green" if each["state"] == "serving" else "red")
                leads = "yes" if each["leads"] else ""
                shown.add_row(str(each["number"]), str(each["pid"]), state, leads, str(each["restarts"]))
    out.print()
    with table("SERVICE", "BUS", "OWNER", "BREAKER", "IN FLIGHT", "CALLS", "FAULTS") as shown:
        for service in answer["services"]:
            missing = service["state"] in ("absent", "unknown")
            owner = Text(service["owner"] or service["state"], "red" if missing else "")
            probe = f", next probe in {service['probe_in']:g} s" if service["probe_in"] else ""
            breaker = Text(service["breaker"] + probe, "" if service["breaker"] == "closed" else "red")
            counts = (str(service[key]) for key in ("in_flight", "calls", "faults"))
            shown.add_row(service["name"], service["bus"], owner, breaker, *counts)


def print_troubles(answer: Mapping[str, Any]) -> None:
    """Print why the gateway is not ready, and what an operator has to repair."""
    for reason in answer["reasons"]:
        out.print(f"not ready: {reason}")
    for warning in answer["warnings"]:  # trouble with the state file is one
        out.print(warning, style="red")
    operators = answer["operators"]
    if operators is not None and not operators["connected"]:
        out.print(f"the admin service is not on D-Bus: {operators['last_error']}", style="red")


Row = Mapping[str, Any]
MANY = 20  # methods without calls that one person's mode may list

STYLES = {
    "dbus fails": "bold red", "differs": "bold red", "dbus slow": "red",
    "no evidence": "dim", "not compared": "dim", "equal so far": "yellow", "equal but for ignored": "green",
    "equal": "green",
}  # fmt: skip


def print_methods(rows: Sequence[Row], width: int | None, *, everything: bool = False) -> None:
    """Print one row for each method. `width`: of the terminal; None: not a terminal, all columns.

    Methods without calls are only counted if they have the mapping's mode, or that of one person, who set many (as
    after `rollback --all`); unless `everything` is true.
    """
    uncalled: dict[str, list[Row]] = {}
    for row in () if everything else filter(_uncalled, rows):
        uncalled.setdefault(row["set_by"], []).append(row)
    counted = {who: rows for who, rows in uncalled.items() if who == "mapping" or len(rows) > MANY}
    if listed := [row for row in rows if row["set_by"] not in counted or not _uncalled(row)]:
        _print_rows(listed, width)
    for who, those in counted.items():
        out.print(Text(_count(who, those), "dim"))


def _count(who: str, rows: Sequence[Row]) -> str:
    """ "mode of the mapping, not called yet: networkd 30 dbus, xapi 2 dbus and 1 off"."""
    services: dict[str, dict[str, int]] = {}
    for row in rows:
        modes = services.setdefault(row["service"], {})
        modes[row["mode"]] = modes.get(row["mode"], 0) + 1
    counts = (
        f"{service} {' and '.join(f'{number} {mode}' for mode, number in modes.items())}"
        for service, modes in services.items()
    )
    source = "mode of the mapping" if who == "mapping" else f"mode set by {who}"
    return f"{source}, not called yet: {', '.join(counts)} (`status '*'` shows them)"


def _print_rows(rows: Sequence[Row], width: int | None) -> None:
    columns = [name for name, least in _COLUMNS.items() if width is None or width >= least]
    services = {row["service"] for row in rows}
    out.print(_LEGEND, style="dim")
    with table("METHOD", *columns) as shown:
        for column in shown.columns:
            header = str(column.header)
            column.no_wrap = header not in _FOLDED
            column.justify = "left" if header in _LEFT else "right"
        for row in rows:
            name = Text(f"{row['service']}/{row['method']}" if len(services) > 1 else row["method"])
            cells = _cells(row)
            style = "dim" if _uncalled(row) and row["set_by"] == "mapping" else None
            shown.add_row(name, *(cells[column] for column in columns), style=style)
    if any(row[side]["client_errors"] for row in rows for side in ("legacy", "dbus")):
        out.print(_CLIENT_ERRORS, style="dim", soft_wrap=True)
    if any((row["setting"]["mode"], row["setting"]["control"]) == ("shadow", "legacy") for row in rows):
        out.print(_CAPACITY, style="dim", soft_wrap=True)


def _uncalled(row: Row) -> bool:
    return not row["legacy"]["calls"] and not row["dbus"]["calls"]


def _cells(row: Row) -> dict[str, Text]:
    """The cells of a method by column. Where another source holds than its rollout: "root (rollout done)"."""

    def both(name: str, write: Callable[[Any], str]) -> str:
        return pair(write(row["legacy"][name]), write(row["dbus"][name]))

    setting, source, state = row["setting"], row["set_by"], row["rollout"]
    rollout = state if source.startswith("rollout ") else f"rollout {state}"
    too_large = row["not_compared"].get("too_large", 0)
    has_client_errors = row["legacy"]["client_errors"] or row["dbus"]["client_errors"]
    clients = f", client {both('client_errors', number)}" if has_client_errors else ""
    equal = f"{rate(row['equal_share'])} of {number(row['comparisons'])}" if row["comparisons"] else NOTHING
    return {
        "MODE": Text(" ".join(word for word in row["mode"].split() if not word.endswith("%"))),
        "SHARE": Text(f"{setting['percent']}%" if setting["mode"] == "canary" else NOTHING),
        "SOURCE": Text(f"{source} ({rollout})" if state else source, "dim" if source == "mapping" else ""),
        "CALLS": Text(both("calls", number)),
        "EQUAL": Text(equal),
        "COMPARED": Text(rate(row["compared_share"]) + (f", {number(too_large)} too large" if too_large else "")),
        "ERRORS": Text(both("error_rate", rate) + clients),
        "P50": Text(both("p50", seconds)),
        "P99": Text(both("p99", seconds)),
        "ASSESSMENT": Text(row["verdict"], STYLES.get(row["verdict"], "")),
    }


# Column -> the least width of a terminal that shows it.
_COLUMNS = {
    "MODE": 0,
    "SHARE": 0,
    "SOURCE": 100,
    "CALLS": 120,
    "EQUAL": 0,
    "COMPARED": 110,
    "ERRORS": 76,
    "P50": 140,
    "P99": 90,
    "ASSESSMENT": 0,
}
_LEFT = frozenset({"METHOD", "MODE", "SOURCE", "ASSESSMENT"})
_FOLDED = frozenset({"METHOD", "SOURCE", "ASSESSMENT"})
_CAPACITY = "shadow proves no capacity: D-Bus gets the compared share of the calls, and no client waits for it"
_CLIENT_ERRORS = "client: faults that the mapping lists as the client's (client_errors); they count for neither side"
_LEGEND = "columns with two values show legacy / D-Bus"
