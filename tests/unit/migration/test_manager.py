"""Settings, evidence and the file behind them, together; and methods that move in a running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from gateway.admin.service import AdminService
from gateway.core.admin.records import Change, MethodId, Rejected, StateRefused
from gateway.core.migration.modes import Mode, Setting, Side
from gateway.core.routing.overrides import Override
from gateway.core.rpc.model import Call, Reply
from gateway.migration.manager import MigrationManager
from gateway.migration.rollout_commands import RolloutCommands, RolloutView
from gateway.server import Gateway
from tests.kit import migrations
from tests.kit.buses import private_bus
from tests.kit.cases import expect
from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.mappings import noting, route
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service
from tests.kit.upstreams import LegacyServer, legacy_server, ok

STAT = route("VM.start")
HELD = MethodId("toy", "echo")
ECHO = route("echo", service="toy")


async def until(found: Callable[[], object]) -> None:
    """Wait for what comes by itself."""
    async with asyncio.timeout(TIMEOUT):
        while not found():  # noqa: ASYNC110 - it comes from a thread or another process, which set no event here
            await asyncio.sleep(0.01)


async def test_evidence_that_is_forgotten_takes_along_what_was_not_yet_written(tmp_path: Path) -> None:
    async with MigrationManager(tmp_path / "state.db", lambda: [ECHO]) as moving:
        orders = RolloutCommands(moving.state, lambda: [ECHO])
        admin = AdminService(lambda: [ECHO], moving.toggles, moving.state, orders, flush=moving.flush)
        noting(moving.evidence.count)("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)
        assert await admin.reset_statistics("echo", "alice") == (HELD,)
        await moving.flush()
        assert await moving.state.evidence() == {}


async def test_what_was_seen_is_written_while_it_runs_and_at_its_end(tmp_path: Path) -> None:
    async with MigrationManager(tmp_path / "state.db", tuple) as moving:
        note = noting(moving.evidence.count)
        note("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)
        await until(lambda: HELD in moving.here)
        note("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)
    async with MigrationManager(tmp_path / "state.db", tuple) as moving:
        counts = await moving.state.evidence()
        assert not isinstance(counts, StateRefused)
        assert counts[HELD].counters["calls_dbus"] == 2


# In a running gateway

MOVING = (
    TOY_MAPPING.replace("methods:", "legacy: {upstream: old}\nmethods:")
    .replace("mode: dbus", "mode: legacy")
    .replace("defaults: {", "defaults: {mode: legacy, ")
)


@asynccontextmanager
async def moving_gateway(tmp_path: Path, old: LegacyServer) -> AsyncIterator[Gateway]:
    folder = Folder(tmp_path)
    folder.mapping(MOVING)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        upstream = f'[upstream.old]\nurl = "{old.url}"\ncodec = "jsonrpc"\n[state]\nfile = "state.db"\n'
        folder.config.write_text(folder.config.read_text() + upstream)
        async with Gateway(folder.config) as gateway:
            yield gateway


def echo(request: bytes) -> bytes:
    """The legacy service: it answers in capitals."""
    call = json.loads(request.partition(b"\r\n\r\n")[2])
    return ok(b'{"jsonrpc": "2.0", "id": %d, "result": "%b"}' % (call["id"], str(call["params"][0]).upper().encode()))


async def ask(gateway: Gateway, text: str, **headers: str) -> None:
    address = next(each for each in gateway.addresses() if each.startswith("tcp:")).removeprefix("tcp:")
    body = {"jsonrpc": "2.0", "method": "echo", "params": [text], "id": 7}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/jsonrpc", json=body, headers=headers) as response,
    ):
        assert response.status == 200


async def test_a_reload_that_changes_a_rule_begins_the_counts_of_a_rollout_anew(tmp_path: Path) -> None:
    async with legacy_server(echo) as old, moving_gateway(tmp_path, old) as gateway, asyncio.timeout(TIMEOUT):
        [file] = tmp_path.rglob("toy.yaml")
        more = "key: text, rollout: quick, compare: [{path: $, ignore: true}]"
        moved = MOVING.replace("params: [text]}", f"params: [text], {more}}}")
        plan = "rollouts: {quick: {steps: [{shadow: 1}, {gate: person}, dbus], limits: {samples: 1}}}\n"
        file.write_text(plan + moved)
        assert "problems" not in await gateway.reload()
        rollouts = gateway.admin_service.rollouts
        assert isinstance(await rollouts.start("echo", "alice"), RolloutView)
        while rollouts.states() != {"toy/echo": "waiting"}:
            await ask(gateway, "hi")
        file.write_text(plan + moved.replace("[{path: $, ignore: true}]", "[]"))
        assert "problems" not in await gateway.reload()
        assert isinstance(await rollouts.approve("toy/echo", "alice"), Rejected)
        await until(lambda: rollouts.states() != {"toy/echo": "waiting"})
        while rollouts.states() != {"toy/echo": "rolled back"}:  # by what is found with the new rule
            await ask(gateway, "hi")
        entries = await gateway.migration.state.audit(subject="toy/echo")
        assert not isinstance(entries, StateRefused)
        assert [entry.why for entry in entries if "mapping" in entry.why] == [
            "the mapping of echo has changed: the counts of this step begin anew"
        ]


async def test_what_the_old_service_answers_needs_no_bus_to_be_ready(tmp_path: Path) -> None:
    async with legacy_server(echo) as old, moving_gateway(tmp_path, old) as gateway:
        assert (await gateway.status())["services"] == []
        await ask(
            gateway, "hi", **{"X-Gateway-Side": "dbus"}
        )  # no client forces a side where the listener does not let it
        assert old.requests
        override = Override("echo", Setting(Mode.DBUS), "alice", 1.0)
        assert await gateway.migration.state.decide(Change((migrations.entry("echo"),), (override,))) is None
        await until(lambda: gateway.migration.toggles.overrides == (override,))
        services = expect(list, (await gateway.status())["services"])
        assert [service.name for service in services] == ["org.example.toy"]
