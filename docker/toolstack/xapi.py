"""org.xen.xcp.xapi: the pool's front: sessions, and the objects of XenAPI. xenopsd runs the VMs that it starts."""

from __future__ import annotations

from service import Bus, Service1, element, run
from sessions import Session1
from xenapi.bus_objects import Objects
from xenapi.operations import Pool
from xenapi.operations.registry import XENOPSD, now
from xenapi.sample_pool import fill
from xenapi.schema import NULL_REF, PATH
from xenapi.store import Row

LIVE = ("Running", "Paused")
GUEST = {"PV_drivers_version": {"major": "8", "minor": "3", "micro": "0", "build": "1"}, "PV_drivers_detected": True}
GUEST_SYSTEM = {"name": "Debian GNU/Linux 12 (bookworm)", "uname": "6.1.0-18-amd64", "distro": "debian", "major": "12"}


class Follower:
    """Keeps the VMs of the store what xenopsd says; signals come before replies: answers are up to date."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def follow(self) -> None:
        """Load the state of the VMs, and follow it."""
        watch = self.pool.bus.watch
        await watch(XENOPSD, f"{XENOPSD}.Host1.DomainCreated", lambda _path, domid, vm: self._place(vm, domid))
        await watch(XENOPSD, f"{XENOPSD}.Host1.DomainDestroyed", lambda _path, _domid, vm: self._place(vm, -1))
        await watch(XENOPSD, f"{XENOPSD}.VM1.PowerStateChanged", self._power_changed)
        await self.pool.bus.watch_end("xenopsd", self._all_halted)
        if await self.pool.bus.is_running("xenopsd"):
            [vms] = await self.pool.ask_xenopsd("VMs1.List", "")
            for vm, _name, state, domid, *_ in vms:
                self._place(vm, domid or -1)
                self._power_changed(element(vm), "", state)

    def guests(self) -> list[Row]:
        """The VMs that xenopsd may know."""
        vms = self.pool.store.all("VM")
        return [vm for vm in vms if not (vm["is_a_template"] or vm["is_control_domain"])]

    def _place(self, id: str, domid: int) -> None:
        for vm in self.guests():
            if vm["uuid"] == id:
                wanted = vm.one("scheduled_to_be_resident_on") or vm.one("resident_on") or self.pool.master
                vm.put(domid=domid, resident_on=NULL_REF if domid < 0 else wanted.ref)

    def _power_changed(self, path: str, _previous: str, current: str) -> None:
        for vm in self.guests():
            if path.rpartition("/")[2] == element(vm["uuid"]):
                self._become(vm, current)

    def _become(self, vm: Row, state: str) -> None:
        """Set the power state, and what goes with it: metrics, devices, what the guest tells of itself."""
        before, live = vm["power_state"], state in LIVE
        vm.put(power_state=state)
        for device in (*vm.many("VBDs"), *vm.many("VIFs"), *vm.many("VUSBs")):
            if live != (before in LIVE):
                device.put(currently_attached=live and not device.values.get("empty"))
        metrics = {"memory_actual": vm["memory_dynamic_max"] if live else 0, "last_updated": now()}
        metrics["state"] = ["running"] if state == "Running" else [state.lower()]
        if live and before == "Halted":
            metrics |= {"start_time": now(), "VCPUs_number": vm["VCPUs_at_startup"], "hvm": vm["domain_type"] == "hvm"}
        own = vm.one("metrics")
        if own is not None:
            own.put(**metrics)
        self._guest(vm, live=live, halted=state == "Halted")

    def _guest(self, vm: Row, *, live: bool, halted: bool) -> None:
        told = vm.one("guest_metrics")
        if halted and told is not None:
            self.pool.store.destroy(told)
        elif told is not None:
            told.put(live=live, last_updated=now())
        elif live:
            number = self.guests().index(vm) + 20
            networks = {f"{vif['device']}/ip": f"192.0.2.{number}" for vif in vm.many("VIFs")}
            own = {"live": True, "networks": networks, "os_version": dict(GUEST_SYSTEM), "last_updated": now()}
            told = self.pool.store.create("VM_guest_metrics", **GUEST, **own, can_use_hotplug_vbd="yes")
            vm.put(guest_metrics=told.ref)

    def _all_halted(self) -> None:
        """End all domains: in this sample they end with xenopsd."""
        for vm in self.guests():
            self._place(vm["uuid"], -1)
            if vm["power_state"] != "Halted":
                self._become(vm, "Halted")


async def start(bus: Bus) -> None:
    """Export the sample's pool."""
    pool = Pool(bus)
    fill(pool.store)
    session, follower = Session1(), Follower(pool)

    def diagnose() -> list[str]:
        states = (f"{vm['name_label']} {vm['power_state']}" for vm in follower.guests())
        return [f"{len(session.sessions)} sessions open", *states]

    for interface in (Service1("xapi", ["sessions"], diagnose), session):
        bus.export(PATH, interface)
    Objects(bus, pool)
    await follower.follow()


if __name__ == "__main__":
    run("xapi", start)
