"""org.xen.xcp.perfmon: compares what xapi measures with rules and raises alerts; measures nothing itself.

Each alert is also a message of xapi about the VM, so that clients of XenAPI have it as an object and as an event.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Any

from dbus_next.service import method, signal
from service import NAMES, ROOT, Bus, Error, Record, Service1, element, field, run

SENSES = ("high", "low")
PRIORITIES = range(1, 6)
XAPI, MESSAGES = f"{NAMES}.xapi", f"{ROOT}/xapi/message"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"


def path_of(target: str) -> str:
    """The object path of a VM."""
    return f"{ROOT}/xapi/vm/{element(target)}"


@dataclass(frozen=True)
class Rule:
    """When to raise an alert; the fields are the IDL's, in its order."""

    variable: str
    level: float
    sense: str
    inhibit: int  # seconds
    adjustment: int  # percent of the level
    priority: int

    def __post_init__(self) -> None:
        if self.sense not in SENSES:
            raise Error("InvalidValue", "ss", "sense", self.sense)
        if self.priority not in PRIORITIES:
            raise Error("InvalidValue", "ss", "priority", str(self.priority))

    def broken_by(self, value: float) -> bool:
        """Tell whether the value is on the wrong side."""
        level = self.level * (1 + self.adjustment / 100)
        return value > level if self.sense == "high" else value < level

    def row(self) -> list[Any]:
        """The rule as the IDL writes it."""
        return [self.variable, self.level, self.sense, self.inhibit, self.adjustment, self.priority]


class Alerts1(Record):
    """Rules and their alerts."""

    Interval = field("Interval", "u", writable=True)
    LastRefresh = field("LastRefresh", "x")
    Active = field("Active", "u")

    def __init__(self, bus: Bus) -> None:
        super().__init__("perfmon.Alerts1", Interval=0, LastRefresh=0, Active=0)
        self.bus = bus
        self.rules: dict[str, list[Rule]] = {}
        self.alerts: dict[int, list[Any]] = {}
        self.raised: dict[tuple[str, Rule], float] = {}  # when it was last raised, by the monotonic clock
        self.last_id = 0
        self.periodic = asyncio.ensure_future(self._refresh_every(0))

    @method()
    def SetRules(self, target: "s", rules: "a(sdsuny)"):
        self.rules[target] = [Rule(*rule) for rule in rules]

    @method()
    def AddRule(self, target: "s", rule: "(sdsuny)"):
        new = Rule(*rule)
        others = [r for r in self.rules.get(target, []) if (r.variable, r.sense) != (new.variable, new.sense)]
        self.rules[target] = [*others, new]

    @method()
    def GetRules(self, target: "s") -> "a(sdsuny)":
        return [rule.row() for rule in self.rules.get(target, [])]

    @method()
    async def Refresh(self) -> "u":
        return await self.refresh()

    @method()
    def ListAlerts(self) -> "a(tssdsyx)":
        return list(self.alerts.values())

    @method()
    def Acknowledge(self, id: "t"):
        if self.alerts.pop(id, None) is None:
            raise Error("NotFound", "ss", "alert", str(id))
        self.put(Active=len(self.alerts))

    @signal()
    def AlertRaised(self, id: int, target: str, variable: str, value: float, sense: str, priority: int) -> "tssdsy":
        return [id, target, variable, value, sense, priority]

    def diagnose(self) -> list[str]:
        """Lines for people."""
        rules = [f"{target} {rule.row()}" for target, rules in self.rules.items() for rule in rules]
        return [f"{len(self.alerts)} alerts", *rules]

    def put(self, **changes: Any) -> None:
        """Change properties; a new interval begins at once."""
        super().put(**changes)
        if "Interval" in changes:
            self.periodic.cancel()
            self.periodic = asyncio.ensure_future(self._refresh_every(changes["Interval"]))

    async def refresh(self) -> int:
        """Check all values; return the number of alerts raised."""
        before = self.last_id
        for target in list(self.rules):
            await self._judge(target, await self._measure(target))
        self.put(LastRefresh=int(time.time()))
        return self.last_id - before

    async def _refresh_every(self, interval: int) -> None:
        while interval:
            await asyncio.sleep(interval)
            await self.refresh()

    async def _measure(self, target: str) -> dict[str, float]:
        try:
            [sources] = await self.bus.ask(XAPI, path_of(target), f"{XAPI}.VM1.GetDataSources")
        except Error as error:
            if error.type == UNKNOWN_OBJECT:
                self.rules.pop(target, None)
            return {}
        return {source["NameLabel"].value: source["Value"].value for source in sources}

    async def _judge(self, target: str, values: dict[str, float]) -> None:
        for rule in self.rules.get(target, []):
            value = values.get(rule.variable)
            if value is not None and rule.broken_by(value) and not self._inhibited(target, rule):
                self._raise(target, rule, value)
                await self._tell_xapi(target, rule, value)

    def _inhibited(self, target: str, rule: Rule) -> bool:
        last = self.raised.get((target, rule))
        return last is not None and time.monotonic() - last < rule.inhibit

    def _raise(self, target: str, rule: Rule, value: float) -> None:
        self.last_id += 1
        self.raised[target, rule] = time.monotonic()
        alert = [self.last_id, target, rule.variable, value, rule.sense, rule.priority]
        self.alerts[self.last_id] = [*alert, int(time.time())]
        self.put(Active=len(self.alerts))
        self.AlertRaised(*alert)

    async def _tell_xapi(self, target: str, rule: Rule, value: float) -> None:
        """Write a message about the VM, in the form of XenServer's alarms."""
        config = f'<variable><name value="{rule.variable}"/><alarm_trigger_level value="{rule.level}"/></variable>'
        body = f"value: {value:f}\nconfig:\n{config}"
        try:
            uuid = await self.bus.get(XAPI, path_of(target), f"{XAPI}.VM1", "Uuid")
            create = f"{XAPI}.MessageManager1.Create"
            await self.bus.ask(XAPI, MESSAGES, create, "sxsss", "ALARM", rule.priority, "VM", uuid, body)
        except Error as error:
            print(f"alert {self.last_id} has no message in xapi: {error}", file=sys.stderr, flush=True)  # noqa: T201


async def start(bus: Bus) -> None:
    """Export the one object; there are no rules yet."""
    alerts = Alerts1(bus)
    bus.export(f"{ROOT}/perfmon", Service1("perfmon", ["inhibit"], alerts.diagnose))
    bus.export(f"{ROOT}/perfmon", alerts)


if __name__ == "__main__":
    run("perfmon", start)
