"""XenAPI over several workers: a session, a task and a token of one of them are good at the others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from dbus_fast import Variant

from tests.kit.cases import expect
from tests.kit.gateway import Folder, ship
from tests.kit.programs import until
from tests.kit.toolstack import Toolstack
from tests.kit.workers import Connection, Team, kill, running_team, with_workers

pytestmark = pytest.mark.bus

UPSTREAM = '[upstream.xapi]\nurl = "http+unix:///nowhere"\ndialect = "xenapi"\n'
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def toolstack(runner: asyncio.Runner) -> Iterator[Toolstack]:
    made = Toolstack()
    runner.run(made.__aenter__())
    yield made
    runner.run(made.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, toolstack: Toolstack) -> Iterator[Team]:
    directory = tmp_path_factory.mktemp("workers")
    folder = Folder(directory)
    shutil.rmtree(folder.mappings)
    ship(directory, "xapi")
    folder.buses({"one": (toolstack.address, "org.xen.xcp.*")})
    with_workers(folder)
    folder.config.write_text(folder.config.read_text() + UPSTREAM)
    with running_team(folder) as team:
        yield team


def login(client: Connection) -> str:
    return str(client.call("session.login_with_password", "root", "xenroot"))


def until_task(client: Connection, session: str, task: str, status: str) -> dict[str, Any]:
    """Wait until a task is so; its record."""
    return until(
        lambda: expect(dict, client.call("task.get_record", session, task)), lambda record: record["status"] == status
    )


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


def test_a_session_of_one_worker_is_known_to_the_other(team: Team) -> None:
    with team.connected_to(1) as one, team.connected_to(2) as other:
        session = login(one)
        until(lambda: other.call("VM.get_all", session) and other.line().get("user") == "root")
        token = other.call("event.from", session, ["vm"], "", 5.0)["token"]
        other.send("event.from", session, ["vm"], token, 600.0)
        one.call("session.logout", session)
        assert "SESSION_INVALID" in str(other.answer())  # the logout has woken it
        assert "SESSION_INVALID" in str(one.call("VM.get_all", session))


def test_a_task_of_one_worker_is_seen_changed_and_has_events_at_the_other(team: Team) -> None:
    with team.connected_to(1) as one, team.connected_to(2) as other:
        session = login(one)
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
        vm = next(ref for ref, each in records.items() if each["power_state"] == "Halted" and not each["is_a_template"])
        begun = one.call("Async.VM.start", session, vm, False, False)
        assert until_task(other, session, begun, "success")["name_label"].endswith("VM.start")
        one.call("task.destroy", session, task)
        assert "HANDLE_INVALID" in str(other.call("task.get_record", session, task))
        assert task not in other.call("task.get_all", session)


def test_a_token_of_one_worker_loses_nothing_at_the_other(
    team: Team, toolstack: Toolstack, runner: asyncio.Runner
) -> None:
    """The other worker goes on after it, or says that it cannot: then everything comes."""
    with team.connected_to(1) as one, team.connected_to(2) as other:
        session = login(one)
        token = one.call("event.from", session, ["vm"], "", 5.0)["token"]
        other.call("event.from", session, ["vm"], "", 5.0)
        runner.run(rename(toolstack, "renamed meanwhile"))
        batch = other.call("event.from", session, ["vm"], token, 30.0)
        if batch == "EVENTS_LOST":
            batch = other.call("event.from", session, ["vm"], "", 30.0)
        assert "renamed meanwhile" in names(batch)


def test_a_task_of_a_worker_that_died_is_kept_and_is_ended_at_another(team: Team) -> None:
    follower = team.follower()
    with team.connected_to(team.leader()["number"]) as one, team.connected_to(follower["number"]) as other:
        session = login(one)
        task = other.call("task.create", session, "kept", "")
        until_task(one, session, task, "pending")
        kill(follower["pid"])
        assert until_task(one, session, task, "pending")["name_label"] == "kept"  # from the state file
        one.call("task.set_status", session, task, "success")
        until_task(one, session, task, "success")
    team.restarted(follower)
