"""The tables of `xcp-gateway status`: the parts of the gateway, and one row for each method with two sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from gateway.cli.output import NOTHING, number, out, pair, rate, seconds, table


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
