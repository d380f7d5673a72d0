"""How the gateway is, for people: listeners, state, buses, old services, stores, services. Knows no command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from gateway.cli.showing import out, table


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
