"""Rollouts of writes on running gateways: what one key, a client's mistakes and a person's mode do, and who drives.

The legacy service answers every call. D-Bus refuses those whose key says so. A key is in the canary by its hash.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.core.routing.policy import bucket
from gateway.server import Gateway
from tests.kit.admin import ask
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.gateway import TOY_IDL, Folder, Process, gateway_process
from tests.kit.programs import until as wait_until
from tests.kit.side_by_side import until
from tests.kit.toy_service import toy_service
from tests.kit.upstreams import LegacyServer, legacy_server, ok

pytestmark = pytest.mark.bus

START = "toy/start"
REFUSE = '<arg name="text" type="s" direction="in"/><arg name="same" type="s" direction="out"/>'
IDL = TOY_IDL.replace('<method name="Hang"/>', f'<method name="Refuse">{REFUSE}</method>')
MAPPING = """\
mapping: 1
service: toy
dbus: {bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}
legacy: {upstream: old}
expose: [{listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: plain}]
errors: {org.example.Error.NotFound: {code: 404, message: gone}, "*": {code: INTERNAL_ERROR}}
client_errors: [404]
rollouts:
  quick:
    steps: [{canary: 50%, calls: 300}, dbus]
    limits: {samples: 50, slow_from: 60s}
    watch: 1s
methods:
  start: {member: Refuse, params: [{name: vm, to: text}], effect: write, mode: legacy, key: vm, rollout: quick}
"""
UPSTREAM = '[upstream.old]\nurl = "{url}"\ncodec = "jsonrpc"\n[state]\nfile = "{state}"\n'


def in_canary(beginning: str, number: int) -> list[str]:
    """So many keys that D-Bus serves at 50 %."""
    keys = (f"{beginning} {each}" for each in range(10 * number))
    return [key for key in keys if bucket(START, key) < 50_000][:number]


SAMPLES = 50  # of the plan
GOOD = [f"vm {number}" for number in range(60)]
BROKEN = in_canary("refuse org.example.Error.Broken", 50)
REFUSED = in_canary("refuse org.example.Error.NotFound", 30)  # by D-Bus
GONE = [f"refuse org.example.Error.NotFound gone {number}" for number in range(60)]  # for both sides


def old_answers(request: bytes) -> bytes:
    call = json.loads(request.partition(b"\r\n\r\n")[2])
    key = call["params"][0]
    outcome = {"error": {"code": 404, "message": "gone"}} if key in GONE else {"result": key}
    answer = {"jsonrpc": "2.0", "id": call["id"], **outcome}
    return ok(json.dumps(answer).encode(), "Content-Type: application/json")


class Client:
    """Calls a gateway, and its admin API."""

    def __init__(self, control: Path, session: aiohttp.ClientSession, url: str) -> None:
        self._control = control
        self._session = session
        self._url = url

    async def call(self, key: str) -> str:
        """The answer, or the code of the fault."""
        body = {"jsonrpc": "2.0", "method": "start", "params": [key], "id": 1}
        async with self._session.post(self._url, json=body) as response:
            answer = await response.json()
        return str(answer["result"]) if "result" in answer else str(answer["error"]["message"]).split(":")[0]

    async def calls(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.call(key)

    async def ask(self, path: str, body: Any = None, status: int = 200) -> Any:
        verb, sent = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
        found, answer = await ask(self._control, verb, path, sent)
        assert found == status, answer
        return answer

    async def metrics(self) -> str:
        connector = aiohttp.UnixConnector(str(self._control))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://gateway/metrics") as told:
            return await told.text()

    async def rollout(self) -> dict[str, Any]:
        [view] = await self.ask("/v1/rollouts")
        return dict(view)

    async def start(self) -> None:
        """Start the rollout, and call until both sides have run enough calls to compare."""
        await self.ask("/v1/rollouts/start", {"name": "start"})
        await until(self._comparable)

    async def _comparable(self) -> bool:
        await self.calls(GOOD)
        numbers = (await self.rollout())["numbers"]
        return bool(min(numbers["dbus_calls"], numbers["legacy_calls"]) >= SAMPLES)

    async def calls_until(self, keys: Sequence[str], *states: str) -> dict[str, Any]:
        """Call until the rollout is in one of these states."""

        async def reached() -> bool:
            await self.calls(keys)
            return (await self.rollout())["state"] in states

        await until(reached)
        return await self.rollout()


def folder(directory: Path, bus: PrivateBus, old: LegacyServer, state: Path) -> Folder:
    directory.mkdir(exist_ok=True)
    made = Folder(directory)
    (made.mappings / "toy.xml").write_text(IDL)
    made.mapping(MAPPING)
    made.buses({"a": (bus.address, "org.example.*")})
    made.config.write_text(made.config.read_text() + UPSTREAM.format(url=old.url, state=state))
    return made


@asynccontextmanager
async def services() -> AsyncIterator[tuple[PrivateBus, LegacyServer]]:
    with private_bus() as bus, toy_service(bus.address, "org.example.toy", "new"):
        async with legacy_server(old_answers) as old:
            yield bus, old


@asynccontextmanager
async def client_of(directory: Path) -> AsyncIterator[Client]:
    async with services() as (bus, old):
        made = folder(directory, bus, old, directory / "state.db")
        async with Gateway(made.config) as gateway, aiohttp.ClientSession() as session:
            yield Client(made.control, session, f"http://{gateway.addresses()[0].removeprefix('tcp:')}/jsonrpc")


# One key does not decide


async def test_one_key_that_always_fails_and_mistakes_of_clients_roll_nothing_back(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await client.start()
        assert await client.call(BROKEN[0]) == "INTERNAL_ERROR"
        await client.calls(GONE)
        view = await client.calls_until([*GOOD, *BROKEN[:1] * 20, *GONE], "done", "rolled back")
        assert view["state"] == "done", view
        [row] = await client.ask("/v1/methods?pattern=start")
        [explained] = await client.ask("/v1/explain", {"method": "start", "params": ["vm 1"]})
        assert row["client_errors"] == explained["client_errors"] == ["404"]
        assert min(row[side]["client_errors"] for side in ("legacy", "dbus")) > 0
        assert row["legacy"]["errors"] == 0
        audit = await client.ask("/v1/audit")
        promoted = next(entry for entry in audit if "canary 50% -> dbus" in entry["why"])
        assert promoted["why"].endswith(" of them set aside as of one key)")
        assert promoted["numbers"]["dbus_errors"] >= 20


async def test_d_bus_that_takes_right_calls_for_mistakes_of_clients_is_rolled_back(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await client.start()
        assert await client.call(REFUSED[0]) == "gone"
        view = await client.calls_until([*GOOD, *REFUSED], "done", "rolled back")
        assert view["state"] == "rolled back"
        assert "refused as mistakes of clients" in view["why"]
        assert await client.call(REFUSED[0]) == REFUSED[0]


# A mapping that changes


async def test_a_reload_that_changes_a_rule_begins_the_counts_of_its_rollout_anew(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await client.start()
        ruled = MAPPING.replace("key: vm,", "key: vm, compare: [{path: $, ignore: true}],")
        (tmp_path / "mappings/toy.yaml").write_text(ruled)
        assert "problems" not in await client.ask("/v1/reload", {})

        async def begun_anew() -> bool:
            return "has changed: the counts of this step begin anew" in str(await client.ask("/v1/audit"))

        await until(begun_anew)
        assert (await client.calls_until(GOOD, "done"))["state"] == "done"


async def test_what_the_old_service_answers_needs_no_bus_to_be_ready(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        assert (await client.ask("/v1/status"))["services"] == []
        await client.ask("/v1/mode", {"pattern": "start", "mode": "dbus"})
        assert [each["name"] for each in (await client.ask("/v1/status"))["services"]] == ["org.example.toy"]


# What a person has set


async def told(client: Client) -> tuple[str, str, list[str], str]:
    """The state of the rollout, what holds, and how loudly: warnings of the status, and the metric."""
    [row] = await client.ask("/v1/methods?pattern=start")
    gauge = next(line for line in (await client.metrics()).splitlines() if line.startswith("xcp_gateway_rollouts_b"))
    return row["rollout"], row["mode"], (await client.ask("/v1/status"))["warnings"], gauge.split()[-1]


async def test_a_breach_under_a_persons_mode_is_loud_and_acts_when_that_ends(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await client.start()
        await client.ask("/v1/mode", {"pattern": "start", "mode": "dbus"})
        await client.calls_until([*GOOD, *BROKEN], "breached")
        state, mode, [warning], gauge = await told(client)
        assert (state, mode, gauge) == ("breached", "dbus", "1.0")
        assert warning.startswith("rollout of toy/start: breached: ")
        assert warning.endswith("has set toy/start to dbus, and that holds")
        assert (await client.ask("/v1/audit?limit=1"))[0]["what"] == "breach"
        await client.ask("/v1/mode/clear", {"pattern": "start"})
        await client.calls_until([], "rolled back")
        assert await told(client) == ("rolled back", "legacy", [], "0.0")


# Who drives


DRIVES = "this process drives the rollouts"


def drivers(processes: Sequence[Process]) -> list[int]:
    """Those that drive, by their logs, which end with what holds."""
    found = []
    for number, process in enumerate(processes):
        words = [line["event"] for line in process.lines if "drives the rollouts" in str(line.get("event"))]
        found += [number] if words[-1:] == [DRIVES] else []
    return found


async def test_when_the_driver_is_killed_another_process_drives_on(tmp_path: Path) -> None:
    """That it takes less than a second by the product's clock is shown in test_rollout_controller.py."""
    async with services() as (bus, old), AsyncExitStack() as stack:
        processes: list[Process] = []
        clients: list[Client] = []
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for name in ("one", "two"):
            made = folder(tmp_path / name, bus, old, tmp_path / "state.db")
            processes.append(await asyncio.to_thread(stack.enter_context, gateway_process(made.config)))
            address = processes[-1].wait_for("ready")["listening"][0]
            clients.append(Client(made.control, session, f"http://{address.removeprefix('tcp:')}/jsonrpc"))
        await clients[0].start()
        [driver] = await asyncio.to_thread(wait_until, lambda: drivers(processes))
        left = processes[1 - driver]
        processes[driver].signal(signal.SIGKILL)
        assert processes[driver].wait() == -signal.SIGKILL
        await asyncio.to_thread(wait_until, lambda: drivers([left]))
        view = await clients[1 - driver].calls_until([*GOOD, *BROKEN], "done", "rolled back")
        assert view["state"] == "rolled back"
        assert [line["event"] for line in left.lines].count(DRIVES) == 1
