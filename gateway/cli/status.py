"""How the gateway is, for people: listeners, state, buses, legacy services, stores, services. Knows no command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from gateway.cli.output import NOTHING, number, out, pair, rate, seconds, table


def print_status(answer: Mapping[str, Any]) -> None:
    """Everything but the methods."""
    ready = "[green]ready[/]" if answer["ready"] else "[red]not ready[/]"
    out.print(
        f"xcp-gateway {answer['version']}  {ready}  revision {answer['revision']}  {answer['in_flight']} in flight"
    )
    out.print(f"listening on {', '.join(answer['listening'])}", markup=False)
    _print_troubles(answer)
    with table("BUS", "STATE", "ADDRESS", "IN FLIGHT", "LATE REPLIES", "LAST ERROR") as shown:
        for bus in answer["buses"]:
            state = Text("connected", "green") if bus["connected"] else Text("down", "red")
            shown.add_row(
                bus["name"],
                state,
                bus["address"],
                str(bus["in_flight"]),
                str(bus["late_replies"]),
                bus["last_error"] or "",
            )
    if answer["upstreams"]:
        out.print()
        with table("OLD SERVICE", "ADDRESS", "IN FLIGHT", "WAITING", "LAST ERROR") as shown:
            for upstream in answer["upstreams"]:
                shown.add_row(*(str(upstream[key]) for key in ("name", "url", "in_flight", "waiting", "last_error")))
    if answer["stores"]:
        out.print()
        with table("STORE", "STATE", "ADDRESS", "WATCHES", "WAITING", "LAST ERROR") as shown:
            for store in answer["stores"]:
                shown.add_row(*_store_cells(store))
    out.print()
    with table("SERVICE", "BUS", "OWNER", "BREAKER", "IN FLIGHT", "CALLS", "FAULTS") as shown:
        for service in answer["services"]:
            shown.add_row(*_service_cells(service))


def _print_troubles(answer: Mapping[str, Any]) -> None:
    for reason in answer["reasons"]:
        out.print(f"not ready: {reason}", markup=False, soft_wrap=True)
    for trouble in filter(None, [*answer["warnings"], answer["state"]["trouble"]]):
        out.print(trouble, style="red", markup=False, soft_wrap=True)
    if not answer["state"]["trouble"]:
        out.print(f"state: {answer['state']['place']}", markup=False, soft_wrap=True)
    for what in answer["ungoverned"]:
        out.print(f"no mode governs this: {what}", markup=False, soft_wrap=True)
    operators = answer["operators"]
    if operators is not None and not operators["connected"]:
        out.print(
            f"no operators are heard on D-Bus: {operators['last_error']}", style="red", markup=False, soft_wrap=True
        )


def _store_cells(store: Mapping[str, Any]) -> Iterator[str | Text]:
    yield store["listener"]
    yield Text("connected", "green") if store["connected"] else Text("away", "red")
    yield store["address"]
    yield str(store["watches"])
    yield str(store["waiting"])
    yield store["last_error"] if not store["connected"] or store["reconnects"] else ""


def _service_cells(service: Mapping[str, Any]) -> Iterator[str | Text]:
    missing = service["state"] in ("absent", "unknown")
    yield service["name"]
    yield service["bus"]
    yield Text(service["owner"] or service["state"], "red" if missing else "")
    probe = f", asked again in {service['probe_in']:g} s" if service["probe_in"] else ""
    yield Text(service["breaker"] + probe, "" if service["breaker"] == "closed" else "red")
    yield from (str(service[key]) for key in ("in_flight", "calls", "faults"))


# The table of methods that have two sides, a row each, as wide as there is room. Knows no command.


Row = Mapping[str, Any]

STYLES = {
    "dbus fails": "bold red", "differs": "bold red", "dbus slow": "red",
    "no evidence": "dim", "not compared": "dim", "equal so far": "yellow", "equal but for ignored": "green",
    "equal": "green",
}  # fmt: skip


def print_methods(rows: Sequence[Row], width: int | None, *, everything: bool = False) -> None:
    """`width`: of the terminal; None: there is none, and rows are as long as they are.

    Methods to which nothing has happened are only counted, unless `everything` is asked for.
    """
    told = rows if everything else [row for row in rows if not _untouched(row)]
    if told:
        _print_rows(told, width)
    if len(told) < len(rows):
        out.print(Text(_as_mapped([row for row in rows if _untouched(row)]), "dim"), soft_wrap=True)


def _as_mapped(rows: Sequence[Row]) -> str:
    """ "as the mapping says, and not called yet: networkd 30 dbus, xapi 2 dbus and 1 off"."""
    services: dict[str, dict[str, int]] = {}
    for row in rows:
        modes = services.setdefault(row["service"], {})
        modes[row["mode"]] = modes.get(row["mode"], 0) + 1
    counts = (
        f"{service} {' and '.join(f'{number} {mode}' for mode, number in modes.items())}"
        for service, modes in services.items()
    )
    return f"as the mapping says, and not called yet: {', '.join(counts)} (`status '*'` shows them)"


def _print_rows(rows: Sequence[Row], width: int | None) -> None:
    columns = [name for name, (_, least) in _COLUMNS.items() if width is None or width >= least]
    services = {row["service"] for row in rows}
    out.print(_LEGEND, style="dim")
    with table("METHOD", *columns) as shown:
        for column in shown.columns:
            header = str(column.header)
            column.no_wrap = header not in _FOLDED
            column.justify = "left" if header in _LEFT else "right"
        for row in rows:
            name = Text(f"{row['service']}/{row['method']}" if len(services) > 1 else row["method"])
            cells = (_COLUMNS[column][0](row) for column in columns)
            shown.add_row(name, *cells, style="dim" if _untouched(row) else None)
    if any((row["setting"]["mode"], row["setting"]["control"]) == ("shadow", "legacy") for row in rows):
        out.print(_CAPACITY, style="dim", soft_wrap=True)


def _untouched(row: Row) -> bool:
    return row["set_by"] == "mapping" and not row["legacy"]["calls"] and not row["dbus"]["calls"]


def _mode(row: Row) -> Text:
    words = row["mode"].split()
    return Text(" ".join(word for word in words if not word.endswith("%")))


def _share(row: Row) -> Text:
    setting = row["setting"]
    return Text(f"{setting['percent']}%" if setting["mode"] == "canary" else NOTHING)


def _set_by(row: Row) -> Text:
    rollout = f" ({row['rollout']})" if row["rollout"] else ""
    return Text(row["set_by"] + rollout, "dim" if row["set_by"] == "mapping" else "")


def _equal(row: Row) -> Text:
    return Text(f"{rate(row['equal_share'])} of {number(row['comparisons'])}" if row["comparisons"] else NOTHING)


def _compared(row: Row) -> Text:
    too_large = row["not_compared"].get("too_large", 0)
    return Text(rate(row["compared_share"]) + (f", {number(too_large)} too large" if too_large else ""))


def _verdict(row: Row) -> Text:
    return Text(row["verdict"], STYLES.get(row["verdict"], ""))


def _both(read: Callable[[Mapping[str, Any]], str]) -> Callable[[Row], Text]:
    """Of the legacy service and of D-Bus."""
    return lambda row: Text(pair(read(row["legacy"]), read(row["dbus"])))


# Each column with the width that a terminal must have for it.
_COLUMNS: Mapping[str, tuple[Callable[[Row], Text], int]] = {
    "MODE": (_mode, 0),
    "SHARE": (_share, 0),
    "SOURCE": (_set_by, 100),
    "CALLS": (_both(lambda side: number(side["calls"])), 120),
    "EQUAL": (_equal, 0),
    "COMPARED": (_compared, 110),
    "ERRORS": (_both(lambda side: rate(side["error_rate"])), 76),
    "P50": (_both(lambda side: seconds(side["p50"])), 140),
    "P99": (_both(lambda side: seconds(side["p99"])), 90),
    "ASSESSMENT": (_verdict, 0),
}
_LEFT = frozenset({"METHOD", "MODE", "SOURCE", "ASSESSMENT"})
_FOLDED = frozenset({"METHOD", "SOURCE", "ASSESSMENT"})
_CAPACITY = "shadow proves no capacity: D-Bus gets the compared share of the calls, and no client waits for it"
_LEGEND = "of two numbers the first is the legacy service's, the second D-Bus's"
