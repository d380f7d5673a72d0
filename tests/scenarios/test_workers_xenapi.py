"""XenAPI over several workers: a session, a task and a token of one of them are good at the others."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from tests.kit.gateway import Folder
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toolstack import Toolstack
from tests.kit.workers import Connection, Team, kill, running_team, with_workers

pytestmark = pytest.mark.bus

UPSTREAM = '[upstream.xapi]\nurl = "http+unix:///nowhere"\ndialect = "xenapi"\n'
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.fixture
async def toolstack() -> AsyncIterator[Toolstack]:
    async with Toolstack() as running:
        yield running


@pytest.fixture
async def team(tmp_path: Path, toolstack: Toolstack) -> AsyncIterator[Team]:
    folder = Folder(tmp_path)
    shutil.rmtree(folder.mappings)
    shutil.copytree(ROOT / "mappings/idl", folder.mappings / "idl")
    shutil.copy(ROOT / "mappings/xapi.yaml", folder.mappings)
    folder.buses({"one": (toolstack.address, "org.xen.xcp.*")})
    with_workers(folder)
    folder.config.write_text(folder.config.read_text() + UPSTREAM)
    with running_team(folder) as team:
        yield team


class Caller:
    """A client of one worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def login(self) -> str:
        session: str = self._connection.call("session.login_with_password", "root", "xenroot")
        return session

    def call(self, method: str, *params: Any) -> Any:
        return self._connection.call(method, *params)

    def send(self, method: str, *params: Any) -> None:
        self._connection.send(method, *params)

    def answer(self) -> Any:
        return self._connection.answer()

    def line(self) -> dict[str, Any]:
        """The line of the log of the last call."""
        return self._connection.line()

    def until_user(self, session: str, user: str) -> None:
        """Wait until calls of a session are logged with its user."""
        end = time.monotonic() + TIMEOUT
        while self.call("VM.get_all", session) and self.line().get("user") != user:
            assert time.monotonic() < end, self.line()
            time.sleep(0.05)

    def until_task(self, session: str, task: str, status: str) -> dict[str, Any]:
        """Wait until a task is so; its record."""
        end = time.monotonic() + TIMEOUT
        while True:
            record: dict[str, Any] = self.call("task.get_record", session, task)
            if record["status"] == status:
                return record
            assert time.monotonic() < end, record
            time.sleep(0.05)


async def rename(toolstack: Toolstack, name: str) -> None:
    """Give the first VM of the service a name, without the gateway."""
    async with toolstack.client() as client:
        found = await client.call("xapi", "vm", "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
        path = min(found)
        arguments = "org.xen.xcp.xapi.VM1", "NameLabel", Variant("s", name)
        await client.call("xapi", path, f"{PROPERTIES}.Set", "ssv", *arguments)


def names(batch: dict[str, Any]) -> list[str]:
    """The names of the VMs of a batch of events."""
    return [event["snapshot"]["name_label"] for event in batch["events"] if event["class"] == "vm"]


async def test_a_session_of_one_worker_is_known_to_the_other(team: Team) -> None:
    def scenario() -> None:
        with team.connected_to(1) as first, team.connected_to(2) as second:
            one, other = Caller(first), Caller(second)
            session = one.login()
            other.until_user(session, "root")
            token = other.call("event.from", session, ["vm"], "", 5.0)["token"]
            other.send("event.from", session, ["vm"], token, 600.0)
            one.call("session.logout", session)
            assert "SESSION_INVALID" in str(other.answer())  # the logout has woken it
            assert "SESSION_INVALID" in str(one.call("VM.get_all", session))

    await asyncio.to_thread(scenario)


async def test_a_task_of_one_worker_is_seen_changed_and_has_events_at_the_other(team: Team) -> None:
    def scenario() -> None:
        with team.connected_to(1) as first, team.connected_to(2) as second:
            one, other = Caller(first), Caller(second)
            session = one.login()
            token = other.call("event.from", session, ["task"], "", 5.0)["token"]
            task = one.call("task.create", session, "long", "one's")
            assert other.call("task.get_record", session, task)["name_label"] == "long"
            other.call("task.set_progress", session, task, 0.5)
            assert one.call("task.get_progress", session, task) == 0.5
            other.call("task.add_to_other_config", session, task, "a", "b")
            assert one.call("task.get_other_config", session, task) == {"a": "b"}
            seen = other.call("event.from", session, ["task"], token, 30.0)["events"]
            assert task in [event["ref"] for event in seen]
            records = other.call("VM.get_all_records", session)
            vm = next(
                ref for ref, each in records.items() if each["power_state"] == "Halted" and not each["is_a_template"]
            )
            begun = one.call("Async.VM.start", session, vm, False, False)
            assert other.until_task(session, begun, "success")["name_label"].endswith("VM.start")
            one.call("task.destroy", session, task)
            assert "HANDLE_INVALID" in str(other.call("task.get_record", session, task))
            assert task not in other.call("task.get_all", session)

    await asyncio.to_thread(scenario)


async def test_a_task_of_a_worker_that_died_ends_with_an_unknown_outcome(team: Team) -> None:
    def scenario() -> None:
        follower = team.follower()
        with team.connected_to(team.leader()["number"]) as stays, team.connected_to(follower["number"]) as lost:
            one, other = Caller(stays), Caller(lost)
            session = one.login()
            task = other.call("task.create", session, "kept", "")
            one.until_task(session, task, "pending")
            kill(follower["pid"])
            assert one.until_task(session, task, "pending")["name_label"] == "kept"  # from the state file
            one.call("task.set_status", session, task, "success")
            one.until_task(session, task, "success")
        team.restarted(follower)

    await asyncio.to_thread(scenario)


async def test_a_token_of_one_worker_loses_nothing_at_the_other(team: Team, toolstack: Toolstack) -> None:
    """The other worker goes on after it, or says that it cannot: then everything comes."""
    loop = asyncio.get_running_loop()

    def scenario() -> None:
        with team.connected_to(1) as first, team.connected_to(2) as second:
            one, other = Caller(first), Caller(second)
            session = one.login()
            token = one.call("event.from", session, ["vm"], "", 5.0)["token"]
            other.call("event.from", session, ["vm"], "", 5.0)
            asyncio.run_coroutine_threadsafe(rename(toolstack, "renamed meanwhile"), loop).result(TIMEOUT)
            batch = other.call("event.from", session, ["vm"], token, 30.0)
            if batch == "EVENTS_LOST":
                batch = other.call("event.from", session, ["vm"], "", 30.0)
            assert "renamed meanwhile" in names(batch)

    await asyncio.to_thread(scenario)
