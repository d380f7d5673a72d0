"""The old memory service: every parameter by position, the first a text for the log. Sizes are KiB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from legacy_calls import Errors, Method, Service
from service import Bus

MEMORY = "Memory1"

ERRORS: Errors = {
    "CannotFreeThisMuchMemory": lambda args: ["Cannot_free_this_much_memory", args],
    "DomainsRefusedToCooperate": lambda args: ["Domains_refused_to_cooperate", args[0]],
    "UnknownReservation": lambda args: ["Unknown_reservation", args[0]],
    "InvalidMemoryValue": lambda args: ["Invalid_memory_value", args[1]],
    "NoReservation": lambda _: "No_reservation",
}


def methods(bus: Bus) -> Mapping[str, Method]:
    """Every method by its name."""
    memory = Service(bus, "squeezed")
    path = memory.path()

    async def get_diagnostics(_dbg: str) -> Any:
        return await memory.one(path, "Service1.GetDiagnostics")

    async def login(_dbg: str, service: str) -> Any:
        return await memory.one(path, f"{MEMORY}.Login", "s", service)

    async def reserve_memory(_dbg: str, session: str, kib: Any) -> Any:
        return await memory.one(path, f"{MEMORY}.ReserveMemory", "sx", session, int(kib))

    async def reserve_memory_range(_dbg: str, session: str, least: Any, most: Any) -> Any:
        return await memory.ask(path, f"{MEMORY}.ReserveMemoryRange", "sxx", session, int(least), int(most))

    async def delete_reservation(_dbg: str, session: str, reservation: str) -> None:
        await memory.ask(path, f"{MEMORY}.DeleteReservation", "ss", session, reservation)

    async def transfer_reservation_to_domain(_dbg: str, session: str, reservation: str, domid: Any) -> None:
        arguments = session, reservation, int(domid)
        await memory.ask(path, f"{MEMORY}.TransferReservationToDomain", "ssi", *arguments)

    async def query_reservation_of_domain(_dbg: str, session: str, domid: Any) -> Any:
        return await memory.one(path, f"{MEMORY}.QueryReservationOfDomain", "si", session, int(domid))

    async def balance_memory(_dbg: str) -> None:
        await memory.ask(path, f"{MEMORY}.BalanceMemory")

    async def get_host_reserved_memory(_dbg: str) -> Any:
        return await memory.one(path, f"{MEMORY}.GetHostReservedMemory")

    async def get_host_initial_free_memory(_dbg: str) -> Any:
        return await memory.one(path, f"{MEMORY}.GetHostInitialFreeMemory")

    async def get_domain_zero_policy(_dbg: str) -> Any:
        return await memory.one(path, f"{MEMORY}.GetDomainZeroPolicy")

    return {name: method for name, method in locals().items() if callable(method) and name != "bus"}
