"""org.xen.xcp.squeezed: reserves and balances the host's memory; it identifies domains by number."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from dataclasses import field as member
from typing import Any

import sample
from dbus_next import Variant
from dbus_next.service import dbus_property, method, signal
from service import NAMES, ROOT, Bus, Error, Record, Service1, element, field, run

NO_DOMAIN = -1
DOMAINS = f"{ROOT}/squeezed/domain"
XENOPSD_HOST = f"{NAMES}.xenopsd.Host1"
INITIAL_FREE = (sample.HOST_MEMORY - sample.DOMAIN_ZERO_MEMORY - sample.RESERVED_MEMORY) // sample.KIB


@dataclass
class Reservation:
    """Memory taken from the free memory; `kib` shrinks towards `least` when its domain is squeezed. Sizes are KiB."""

    session: str
    kib: int
    least: int
    greatest: int
    domid: int = NO_DOMAIN
    id: str = member(default_factory=lambda: str(uuid.uuid4()))


class Domain1(Record):
    """The memory of one domain, as its reservation has it."""

    Domid = field("Domid", "i")
    DynamicMinKib = field("DynamicMinKib", "x")
    DynamicMaxKib = field("DynamicMaxKib", "x")
    Uncooperative = field("Uncooperative", "b")

    def __init__(self, memory: Memory1, of: Reservation, *, deaf: bool) -> None:
        sizes = {"TargetKib": of.kib, "DynamicMinKib": of.least, "DynamicMaxKib": of.greatest}
        super().__init__("squeezed.Domain1", Domid=of.domid, Uncooperative=deaf, **sizes)
        self.memory = memory
        self.reservation = of

    @dbus_property()
    def TargetKib(self) -> "x":
        return self.values["TargetKib"]

    @TargetKib.setter
    def TargetKib(self, kib: "x"):
        self.memory.retarget(self.reservation, kib)


class Memory1(Record):
    """The whole state: reservations by id; what is free is what they leave."""

    FreeKib = field("FreeKib", "x")
    ReservedKib = field("ReservedKib", "x")

    @dbus_property()
    def UncooperativeDomains(self) -> "ai":
        return self.values["UncooperativeDomains"]

    @UncooperativeDomains.setter
    def UncooperativeDomains(self, domids: "ai"):
        self.put(UncooperativeDomains=domids)
        for domid, domain in self.domains.items():
            domain.put(Uncooperative=domid in domids)

    def __init__(self, bus: Bus) -> None:
        super().__init__("squeezed.Memory1", FreeKib=INITIAL_FREE, ReservedKib=0, UncooperativeDomains=[])
        self.reservations: dict[str, Reservation] = {}
        self.bus = bus
        self.domains: dict[int, Domain1] = {}  # by domid; each on the bus

    @method()
    def Login(self, service: "s") -> "s":
        self._drop(lambda r: r.session == service and r.domid == NO_DOMAIN)
        return service

    @method()
    def ReserveMemory(self, session: "s", kib: "x") -> "s":
        return self._reserve(session, {"kib": kib}).id

    @method()
    def ReserveMemoryRange(self, session: "s", min: "x", max: "x") -> "sx":
        reservation = self._reserve(session, {"min": min, "max": max})
        return [reservation.id, reservation.kib]

    @method()
    def DeleteReservation(self, session: "s", reservation: "s"):
        del self.reservations[self._reserved(session, reservation).id]
        self._count()

    @method()
    def TransferReservationToDomain(self, session: "s", reservation: "s", domid: "i"):
        self._reserved(session, reservation).domid = domid
        self._count()

    @method()
    def QueryReservationOfDomain(self, session: "s", domid: "i") -> "s":
        found = next((r.id for r in self._of_domains() if r.domid == domid), None)
        if found is None:
            raise Error("NoReservation")
        return found

    @method()
    def BalanceMemory(self):
        for reservation in self._of_domains():
            more = min(reservation.greatest - reservation.kib, self._free())
            if more > 0 and reservation.domid not in self.values["UncooperativeDomains"]:
                self._resize(reservation, reservation.kib + more)
        self._count()

    @method()
    def GetHostReservedMemory(self) -> "x":
        return sample.RESERVED_MEMORY // sample.KIB

    @method()
    def GetHostInitialFreeMemory(self) -> "x":
        return INITIAL_FREE

    @method()
    def GetDomainZeroPolicy(self) -> "(sv)":
        return ["Fixed_size", Variant("x", sample.DOMAIN_ZERO_MEMORY // sample.KIB)]

    @method()
    def Echo(self, values: "a{ss}") -> "a{ss}":
        return values

    @method()
    def List(self) -> "a(ssxxxi)":
        return [[r.session, r.id, r.kib, r.least, r.greatest, r.domid] for r in self.reservations.values()]

    @signal()
    def TargetChanged(self, domid: int, kib: int) -> "ix":
        return [domid, kib]

    def learn(self, domains: dict[int, int]) -> None:
        """Take over domains (domid: KiB) that an earlier instance made."""
        learnt = [Reservation("xenopsd", kib, kib, kib, domid) for domid, kib in domains.items()]
        self.reservations.update({r.id: r for r in learnt})
        self._count()

    def domain_destroyed(self, domid: int) -> None:
        """Free the memory of a domain that has ended."""
        self._drop(lambda r: r.domid == domid)

    def domains_lost(self) -> None:
        """End all domains: in this sample they end with xenopsd."""
        self._drop(lambda r: r.domid != NO_DOMAIN)

    def diagnose(self) -> list[str]:
        """Lines for people."""
        total = f"free {self._free()} KiB of {INITIAL_FREE} KiB"
        return [total, *(f"{r.session} {r.id} {r.kib} KiB domid {r.domid}" for r in self.reservations.values())]

    def _reserve(self, session: str, sizes: dict[str, int]) -> Reservation:
        for argument, kib in sizes.items():
            if kib < 0:
                raise Error("InvalidMemoryValue", "sx", argument, kib)
        least, *_, greatest = sizes.values() if len(sizes) > 1 else [*sizes.values()] * 2
        if greatest < least:
            raise Error("InvalidMemoryValue", "sx", "max", greatest)
        if self._free() < least:
            self._squeeze(least)
        reservation = Reservation(session, min(greatest, self._free()), least, greatest)
        self.reservations[reservation.id] = reservation
        self._count()
        return reservation

    def _squeeze(self, needed: int) -> None:
        """Shrink domains, the largest room first, until `needed` is free; nothing changes when that cannot be."""
        deaf = self.values["UncooperativeDomains"]
        room = {r.id: r.kib - r.least for r in self._of_domains() if r.kib > r.least}
        helpers = [key for key in room if self.reservations[key].domid not in deaf]
        possible = self._free() + sum(room[key] for key in helpers)
        if self._free() + sum(room.values()) < needed:
            raise Error("CannotFreeThisMuchMemory", "xx", needed, possible)
        if possible < needed:
            refused = sorted(self.reservations[key].domid for key in room if key not in helpers)
            raise Error("DomainsRefusedToCooperate", "ai", refused)
        for key in sorted(helpers, key=room.__getitem__, reverse=True):
            reservation = self.reservations[key]
            self._resize(reservation, reservation.kib - min(room[key], max(0, needed - self._free())))

    def _resize(self, reservation: Reservation, kib: int) -> None:
        if kib != reservation.kib:
            reservation.kib = kib
            if reservation.domid in self.domains:
                self.domains[reservation.domid].put(TargetKib=kib)
            self.TargetChanged(reservation.domid, kib)

    def retarget(self, reservation: Reservation, kib: int) -> None:
        """Set the memory of a domain from outside of the balancing."""
        if not reservation.least <= kib <= reservation.greatest:
            raise Error("InvalidMemoryValue", "sx", "kib", kib)
        if kib - reservation.kib > self._free():
            raise Error("CannotFreeThisMuchMemory", "xx", kib - reservation.kib, self._free())
        if reservation.domid in self.values["UncooperativeDomains"]:
            raise Error("DomainsRefusedToCooperate", "ai", [reservation.domid])
        self._resize(reservation, kib)
        self._count()

    def _reserved(self, session: str, key: str) -> Reservation:
        found = self.reservations.get(key)
        if found is None or found.session != session or found.domid != NO_DOMAIN:
            raise Error("UnknownReservation", "s", key)
        return found

    def _of_domains(self) -> list[Reservation]:
        return [r for r in self.reservations.values() if r.domid != NO_DOMAIN]

    def _free(self) -> int:
        return INITIAL_FREE - sum(r.kib for r in self.reservations.values())

    def _drop(self, wanted: Any) -> None:
        self.reservations = {key: r for key, r in self.reservations.items() if not wanted(r)}
        self._count()

    def _count(self) -> None:
        self._show_domains()
        reserved = sum(r.kib for r in self.reservations.values() if r.domid == NO_DOMAIN)
        self.put(FreeKib=self._free(), ReservedKib=reserved)

    def _show_domains(self) -> None:
        """An object for each domain, and for no other."""
        there = {r.domid: r for r in self._of_domains()}
        for domid in self.domains.keys() - there.keys():
            self.bus.unexport(f"{DOMAINS}/{element(str(domid))}")
            del self.domains[domid]
        for domid, reservation in there.items():
            if domid not in self.domains:
                deaf = domid in self.values["UncooperativeDomains"]
                self.domains[domid] = Domain1(self, reservation, deaf=deaf)
                self.bus.export(f"{DOMAINS}/{element(str(domid))}", self.domains[domid])


async def start(bus: Bus) -> None:
    """Export the one object, learn which domains there are, and follow those that xenopsd ends."""
    memory = Memory1(bus)
    bus.export(f"{ROOT}/squeezed", Service1("squeezed", ["ranges", "balancing"], memory.diagnose))
    bus.export(f"{ROOT}/squeezed", memory)
    ended = f"{XENOPSD_HOST}.DomainDestroyed"
    await bus.watch(f"{NAMES}.xenopsd", ended, lambda _path, domid, _vm: memory.domain_destroyed(domid))
    await bus.watch_end("xenopsd", memory.domains_lost)
    if await bus.is_running("xenopsd"):
        [vms] = await bus.ask(f"{NAMES}.xenopsd", f"{ROOT}/xenopsd", f"{NAMES}.xenopsd.VMs1.List")
        memory.learn({domid: size // sample.KIB for _id, _name, _state, domid, size, _vcpus in vms if domid})


if __name__ == "__main__":
    run("squeezed", start)
