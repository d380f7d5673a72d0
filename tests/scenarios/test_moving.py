"""The whole story of a move, over XML-RPC, JSON-RPC and xenstore at once, while clients keep calling.

Legacy only; shadow finds what is wrong, and the legacy services are mended; a canary; a rollout that D-Bus spoils, and
the way back; D-Bus only, and the legacy services end.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.kit.side_by_side import World, nothing, share, two_sides, until

pytestmark = pytest.mark.bus

SLOW = 1.0  # seconds

# What is said in the mappings of the move; all the rest is as it is shipped.
QUICK = """\
rollouts:
  quick:
    steps:
      - {shadow: 25}
      - {canary: 25%, calls: 25}
      - {canary: 50%, calls: 25}
      - {gate: person}
      - dbus
    limits: {samples: 25, slow_from: 700ms}
"""
SAID = {
    "xapi": f"groups: {{vms: {{methods: [VM.get_record, VM.get_power_state], key: vm, rollout: quick}}}}\n{QUICK}",
    "xenopsd": f"groups: {{domains: {{methods: [VM.stat], key: id, rollout: quick}}}}\n{QUICK}",
    "squeezed-xenstore": "groups: {memory: {methods: [reserve-memory, delete-reservation], key: session_id}}\n",
}
READS = ("vms", "domains")  # groups that may run twice
GROUPS = (*READS, "memory")


@pytest.mark.timeout(1800)  # seconds: a long story of many processes, on a machine that has other things to do
async def test_methods_move_there_and_back_and_there_while_clients_keep_calling(tmp_path: Path) -> None:
    async with two_sides(tmp_path, SAID) as world:
        for part in (legacy_only, shadow, canary, rollout, dbus_only):
            await part(world)
            assert world.clients.faults == [], part.__name__
        world.clients.stop()
        world.process.signal(signal.SIGTERM)
        assert world.process.wait() == 0


async def legacy_only(world: World) -> None:
    """The gateway is there, and the new services are not asked."""
    await world.rounds()
    assert world.sides() == (world.keys, nothing())


async def shadow(world: World) -> None:
    """Two legacy services are wrong in a field each: it is found and named, and nothing else is."""
    world.old["xapi"].switch(**{"VM.get_record": {"wrong": {"memory_static_max": "1"}}})
    world.old["xenopsd"].switch(**{"VM.stat": {"wrong": {"*.vcpu_target": 99}}})
    await world.rounds()
    for group in READS:
        await world.command("mode", f"group:{group}", "shadow", "--why", "a first look")
    await until(lambda: compared(world))
    assert "$.memory_static_max - " in await world.command("diff", "VM.get_record", "--limit", "1")
    assert await differing(world) == {"VM.get_record": {"$.memory_static_max"}, "VM.stat": {"$[1].vcpu_target"}}
    for name in ("xapi", "xenopsd"):
        world.old[name].switch()
    await world.rounds()
    for group in READS:
        await world.command("diff", f"group:{group}", "--reset")
    await until(lambda: compared(world))
    assert await differing(world) == {}


async def compared(world: World) -> bool:
    """Whether each method in shadow has been compared often enough."""
    rows = [row for row in await world.get("/v1/methods") if row["setting"]["mode"] == "shadow"]
    return all(row["comparisons"] >= 30 for row in rows)


async def differing(world: World) -> dict[str, set[str]]:
    """In which places methods have differed, as the command tells it to machines."""
    found: dict[str, set[str]] = {}
    for line in (await world.command("diff", "--json-lines", "--limit", "10000")).splitlines():
        pair = json.loads(line)
        paths = {difference["path"] for difference in pair["differences"]}
        found.setdefault(pair["call"]["method"], set()).update(paths)
    return found


async def canary(world: World) -> None:
    """A tenth of all VMs, domains and sessions: each stays on its side for every client and protocol."""
    for group in GROUPS:
        await world.command("mode", f"group:{group}", "canary", "--percent", "10")
    await world.rounds()
    since = world.asked()
    await world.rounds(3)
    old, new = world.sides(since)
    for group in GROUPS:
        assert new[group] == share(group, world.keys[group], 10) != set(), group
        assert old[group] == world.keys[group] - new[group], group


async def rollout(world: World) -> None:
    """It goes up by itself, and back by itself when D-Bus fails here and is slow there, though a person is awaited.

    How soon it goes back is shown in unit/migration/test_rollout_controller.py.
    """
    for group in READS:
        await world.command("mode", "clear", f"group:{group}")
        await world.command("rollout", "start", f"group:{group}")
    await until(lambda: all_are(world, "waiting"))
    assert world.clients.faults == []
    since = world.asked()
    world.new.switch({"/org/xen/xcp/xapi/vm/*": {"fail": 0.5}, "/org/xen/xcp/xenopsd": {"slow": SLOW}})
    await until(lambda: all_are(world, "rolled back"))
    await world.rounds()
    bad = world.new.called()[since.new :]
    faults, world.clients.faults = world.clients.faults, []
    assert {vm for _, vm, _ in faults} <= share("vms", world.vms, 50)
    assert len(faults) <= sum(call["failed"] for call in bad)
    since = world.asked()
    await world.rounds()
    old, _ = world.sides(since)
    assert [old[group] for group in READS] == [world.keys[group] for group in READS]


async def all_are(world: World, state: str) -> bool:
    """Whether all rollouts are in a state; none that should go up has gone back."""
    views = await world.get("/v1/rollouts")
    back = [view for view in views if view["state"] == "rolled back"]
    assert state == "rolled back" or not back, back
    return {view["state"] for view in views} == {state}


async def dbus_only(world: World) -> None:
    """D-Bus is mended and answers all; the legacy services end, and no client notices."""
    world.new.switch({})
    await world.command("mode", "group:memory", "dbus")
    await world.command("mode", "*", "dbus", "--why", "all is well")
    await world.rounds()
    since = world.asked()
    await world.rounds()
    for each in world.old.values():
        each.kill()
    await world.rounds()
    assert world.sides(since) == (nothing(), world.keys)
