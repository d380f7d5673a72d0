"""`event.from` and its like through a real gateway to the sample toolstack, over both codecs.

Then the same events over connections that stay open: WebSockets and server-sent events.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

import pytest
import XenAPI
from typer.testing import Result

from demo.environment import Environment
from tests.kit.clients import tcp_post
from tests.kit.command import command
from tests.kit.event_mirrors import WebSocketClient
from tests.kit.programs import TIMEOUT, until

pytestmark = pytest.mark.bus

USER, PASSWORD = "root", "xenroot"


class Client:
    """A session over one codec; each call has a connection of its own, so that several can wait."""

    def __init__(self, url: str, codec: str) -> None:
        self.address = url.removeprefix("http://")
        self.xml = codec == "xmlrpc"
        self.raw = b""  # the last answer
        self.threads = ThreadPoolExecutor(16)
        self.session = self.call("session.login_with_password", USER, PASSWORD)

    def call(self, method: str, *params: Any) -> Any:
        """The value of a call; of an error the list."""
        if self.xml:
            body = xmlrpc.client.dumps(params, method)
            answer: Any = xmlrpc.client.loads(self._post("/", body))[0][0]
            return answer["Value"] if answer["Status"] == "Success" else answer["ErrorDescription"]
        answer = json.loads(
            self._post("/jsonrpc", json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        )
        return answer["result"] if "result" in answer else [answer["error"]["message"], *answer["error"]["data"]]

    def _post(self, path: str, body: str) -> bytes:
        self.raw = tcp_post(self.address, path, body)
        return self.raw

    def ask(self, method: str, *params: Any) -> Any:
        return self.call(method, self.session, *params)

    def close(self) -> None:
        """Log out, which ends what still waits."""
        self.ask("session.logout")
        self.threads.shutdown()

    def from_(self, classes: list[str], token: str = "", seconds: float = 0.0) -> Any:
        return self.ask("event.from", classes, token, seconds)

    def begin(self, classes: list[str], token: str, seconds: float = 60.0) -> Future[Any]:
        return self.threads.submit(self.from_, classes, token, seconds)


@pytest.fixture(params=["xmlrpc", "jsonrpc"])
def client(request: pytest.FixtureRequest, running: Environment) -> Iterator[Client]:
    made = Client(running.url, request.param)
    yield made
    made.close()


@pytest.fixture
def vm(client: Client) -> str:
    [web] = client.ask("VM.get_by_name_label", "web")
    return str(web)


def test_the_whole_pool_is_told_with_the_records_that_get_record_gives(client: Client) -> None:
    batch = client.from_(["*"])
    for event in batch["events"]:
        assert event["operation"] == "add"
        assert event["class"] == event["class"].lower()
        assert event["id"].isdecimal()
        assert event["timestamp"] == "0.0"
    names = {name.lower(): name for name in ("VM", "SR", "host", "pool", "network", "VM_metrics", "message")}
    for lower, name in names.items():
        records = client.ask(f"{name}.get_all_records")
        told = {event["ref"]: event["snapshot"] for event in batch["events"] if event["class"] == lower}
        assert told == records
        assert batch["valid_ref_counts"][lower] == len(records)
    kinds = [event["class"] == "message" for event in batch["events"]]
    assert kinds == sorted(kinds, reverse=True)  # messages come first


def test_counts_are_numbers_of_32_bits_and_ids_are_text(client: Client) -> None:
    client.from_(["pool"])
    if client.xml:
        assert b"<name>pool</name><value><i4>1</i4></value>" in client.raw
    else:
        assert json.loads(client.raw)["result"]["valid_ref_counts"] == {"pool": 1}


def test_a_change_wakes_who_waits_for_its_class_or_object(client: Client, vm: str) -> None:
    token = client.from_(["*"])["token"]
    waiting = [client.begin(wanted, token) for wanted in (["VM"], [f"vm/{vm}"], ["*"])]
    other = client.begin(["sr"], token, 1.0)
    client.ask("VM.set_name_description", vm, client.session)
    for each in waiting:
        batch = each.result(TIMEOUT)
        [event] = [event for event in batch["events"] if event["ref"] == vm]
        assert (event["operation"], event["class"]) == ("mod", "vm")
        assert event["snapshot"]["name_description"] == client.session
        assert event["snapshot"] == client.ask("VM.get_record", vm)
    assert other.result(TIMEOUT)["events"] == []


def test_an_object_is_added_changed_and_removed(client: Client) -> None:
    token = client.from_(["network"])["token"]
    record = {"name_label": "new", "name_description": "", "MTU": "1500", "other_config": {}, "bridge": ""}
    ref = client.ask("network.create", record)
    batch = client.from_(["network"], token, 60.0)
    assert [(event["operation"], event["ref"]) for event in batch["events"]] == [("add", ref)]
    client.ask("network.set_name_label", ref, "renamed")
    later = client.from_(["network"], batch["token"], 60.0)
    assert [(event["operation"], event["ref"]) for event in later["events"]] == [("mod", ref)]
    client.ask("network.destroy", ref)
    last = client.from_(["network"], later["token"], 60.0)
    assert [(event["operation"], event["ref"]) for event in last["events"]] == [("del", ref)]
    assert "snapshot" not in last["events"][0]
    assert client.from_(["network"], token)["events"] == []  # to who never had it, it was never there


def test_a_token_taken_before_reading_everything_leaves_no_gap(client: Client) -> None:
    pool = client.ask("pool.get_all")[0]
    token = client.ask("event.inject", "pool", pool)
    records = client.ask("pool.get_all_records")
    batch = client.from_(["pool"], token, 60.0)
    assert [(event["operation"], event["ref"]) for event in batch["events"]] == [("mod", pool)]
    assert batch["events"][0]["snapshot"] == records[pool]


def test_a_logout_wakes_all_calls_of_the_session(running: Environment, client: Client) -> None:
    other = Client(running.url, "xmlrpc" if client.xml else "jsonrpc")
    token = other.from_(["sr"])["token"]
    waiting = [other.begin(["sr"], token) for _ in range(3)]
    session, stays = other.session, client.begin(["sr"], token, 0.5)
    time.sleep(0.2)  # no condition depends on it: a call that comes after the logout is refused in the same way
    other.ask("session.logout")
    for each in waiting:
        assert each.result(TIMEOUT) == ["SESSION_INVALID", session]
    assert stays.result(TIMEOUT)["events"] == []
    other.threads.shutdown()


def test_the_deprecated_methods(client: Client, vm: str) -> None:
    assert client.ask("event.next") == ["SESSION_NOT_REGISTERED", client.session]
    assert client.ask("event.register", ["VM"]) == ""
    waiting = client.threads.submit(client.ask, "event.next")
    client.ask("VM.set_name_description", vm, client.session)
    [event] = waiting.result(TIMEOUT)
    assert (event["operation"], event["ref"], event["snapshot"]["name_description"]) == ("mod", vm, client.session)
    assert int(client.ask("event.get_current_id")) >= int(event["id"])
    assert client.ask("event.unregister", ["vm"]) == ""
    assert client.ask("event.next") == ["SESSION_NOT_REGISTERED", client.session]


def test_a_task_is_followed_by_its_events(client: Client, vm: str) -> None:
    batch = client.from_(["task"])
    ref = client.ask("Async.VM.start", vm, False, False)
    seen: list[Any] = []
    while not seen or seen[-1]["status"] == "pending":
        batch = client.from_(["task"], batch["token"], 60.0)
        seen += [event["snapshot"] for event in batch["events"] if event["ref"] == ref]
    assert seen[-1]["status"] == "success", seen
    records = client.ask("task.get_all_records")
    assert batch["valid_ref_counts"]["task"] == len(records)
    assert records[ref] == seen[-1]
    assert ref in client.ask("task.get_all")
    client.ask("task.destroy", ref)
    batch = client.from_(["task"], batch["token"], 60.0)
    assert ("del", ref) in [(event["operation"], event["ref"]) for event in batch["events"]]
    client.ask("VM.hard_shutdown", vm)


def test_the_python_client_of_pypi_mirrors_the_vms_in_a_loop(running: Environment) -> None:
    session = XenAPI.Session(running.url)
    session.xenapi.login_with_password(USER, PASSWORD, "1.0", "events")
    mirror: dict[str, Any] = {}
    token, stopped = "", threading.Event()

    def follow() -> None:
        nonlocal token
        while not stopped.is_set():
            batch = session.xenapi.event_from(["vm"], token, 0.5)
            for event in batch["events"]:
                if event["operation"] == "del":
                    del mirror[event["ref"]]
                else:
                    mirror[event["ref"]] = event["snapshot"]
            token = batch["token"]

    other = Client(running.url, "xmlrpc")
    follower = other.threads.submit(follow)
    [web] = other.ask("VM.get_by_name_label", "web")
    made = []
    for number in range(20):
        made.append(other.ask("VM.clone", web, f"copy {number}"))
        other.ask("VM.set_name_description", made[number // 2], str(number))
        if number % 3 == 0:
            other.ask("VM.destroy", made[number])
    truth = other.ask("VM.get_all_records")
    until(lambda: follower.done() or mirror == truth)
    stopped.set()
    follower.result(TIMEOUT)
    assert mirror == truth
    session.xenapi.session.logout()
    session("close")()
    other.close()


# Over a connection that stays open


@pytest.fixture
def websocket(running: Environment, client: Client) -> Iterator[WebSocketClient]:
    host, _, port = client.address.partition(":")
    with WebSocketClient((host, int(port))) as made:
        yield made


def changed(websocket: WebSocketClient, count: int) -> list[Any]:
    """Return the next `count` events, and the notification with the last one."""
    events: list[Any] = []
    while len(events) < count:
        notification = websocket.receive()
        assert notification["method"] == "events.changed"
        events += notification["params"]["events"]
    return [*events, notification["params"]]


def test_a_websocket_takes_calls_batches_and_notifications(websocket: WebSocketClient, client: Client, vm: str) -> None:
    assert websocket.call("VM.get_name_label", client.session, vm) == "web"
    assert websocket.call("VM.get_name_label", client.session, "none") == ["HANDLE_INVALID", "VM", "none"]
    one = {"jsonrpc": "2.0", "method": "pool.get_all", "params": [client.session]}
    websocket.text(json.dumps([{**one, "id": 1}, one, {**one, "id": 2}]))
    assert [answer["id"] for answer in websocket.receive()] == [1, 2]
    websocket.text(json.dumps(one))  # without an id there is no answer
    websocket.text("{")
    assert websocket.receive()["error"]
    assert {"events.subscribe", "events.unsubscribe"} <= set(websocket.call("system.listMethods"))


def test_a_subscription_begins_with_a_snapshot_and_is_resumed_from_a_token(
    websocket: WebSocketClient, client: Client, vm: str
) -> None:
    assert websocket.call("events.subscribe", client.session, ["vm"]) == {"subscription": "1"}
    first = websocket.receive()["params"]
    assert first["snapshot"] is True
    records = client.ask("VM.get_all_records")
    rest = changed(websocket, len(records) - len(first["events"]))
    assert "snapshot" not in rest[-1]
    told = {event["ref"]: event["snapshot"] for event in [*first["events"], *rest[:-1]]}
    assert told.keys() == records.keys()
    if not client.xml:
        assert told == records
    client.ask("VM.set_name_description", vm, client.session)
    [event, params] = changed(websocket, 1)
    assert (event["operation"], event["ref"]) == ("mod", vm)
    assert websocket.call("events.unsubscribe", "1") == ""
    client.ask("VM.set_name_description", vm, "")
    assert websocket.call("events.subscribe", client.session, [f"vm/{vm}"], params["token"]) == {"subscription": "2"}
    [event, params] = changed(websocket, 1)
    assert (event["operation"], event["snapshot"]["name_description"]) == ("mod", "")
    assert params["subscription"] == "2"


def test_a_subscription_needs_a_session_and_ends_with_it(
    running: Environment, websocket: WebSocketClient, client: Client
) -> None:
    assert websocket.call("events.subscribe", "stolen", ["*"]) == ["SESSION_INVALID", "stolen"]
    assert websocket.call("events.subscribe", client.session, ["vm/a/b"])[0] == "EVENT_SUBSCRIPTION_PARSE_FAILURE"
    assert websocket.call("events.unsubscribe", "9")[0] == "INVALID_VALUE"
    other = Client(running.url, "jsonrpc")
    token = other.from_(["sr"])["token"]
    websocket.call("events.subscribe", other.session, ["sr"], token)
    other.close()
    assert websocket.receive() == {
        "jsonrpc": "2.0",
        "method": "events.ended",
        "params": {"subscription": "1", "error": {"message": "SESSION_INVALID", "data": [other.session]}},
    }
    assert websocket.call("pool.get_all", client.session)  # the connection goes on


def test_the_subscriptions_of_a_connection_are_bounded(websocket: WebSocketClient, client: Client) -> None:
    objects = [f"vm/{number}" for number in range(1500)]
    token = client.from_(["vm"])["token"]
    assert websocket.call("events.subscribe", client.session, objects, token) == {"subscription": "1"}
    assert "expected subscriptions of at most" in str(
        websocket.call("events.subscribe", client.session, objects, token)
    )
    assert websocket.call("events.unsubscribe", "1") == ""
    assert websocket.call("events.subscribe", client.session, objects, token) == {"subscription": "2"}


def test_over_http_a_subscription_is_refused(client: Client) -> None:
    if not client.xml:
        answer = client.ask("events.subscribe", ["*"])
        assert "for a WebSocket" in str(answer)


def test_curl_reads_server_sent_events_and_goes_on_from_the_last_one(
    running: Environment, client: Client, vm: str
) -> None:
    url = f"{running.url}/jsonrpc/events?class=vm"
    with following(url, client.session) as lines:
        token, params = notified(lines)
        assert params["snapshot"] is True
        count = len(params["events"])
        while count < len(client.ask("VM.get_all")):
            token, params = notified(lines)
            count += len(params["events"])
    client.ask("VM.set_name_description", vm, client.session)
    with following(url, client.session, token) as lines:
        later, params = notified(lines)
        [event] = params["events"]
        assert (event["operation"], event["ref"], later) == ("mod", vm, params["token"])
        assert "snapshot" not in params


def test_server_sent_events_need_a_session_and_an_origin_that_is_listed(running: Environment, client: Client) -> None:
    for headers, status in (
        ({}, "401"),
        ({"Cookie": "session_id=stolen"}, "401"),
        ({"Cookie": f"session_id={client.session}", "Origin": "https://evil.example"}, "403"),
        ({"Cookie": f"session_id={client.session}", "Last-Event-ID": "wrong"}, "400"),
    ):
        options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
        line = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, f"{running.url}/jsonrpc/events"]
        assert subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout == status


def test_an_alert_of_perfmon_is_a_message_with_an_event(running: Environment, client: Client) -> None:
    def perfmon(method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return json.loads(client._post("/perfmon/jsonrpc", body))["result"]

    [vm] = client.ask("VM.get_by_name_label", "web")
    if client.ask("VM.get_power_state", vm) == "Halted":
        client.ask("VM.start", vm, False, False)
    token = client.ask("event.from", ["message"], "", 0.0)["token"]
    rule = {"variable": "cpu_usage", "level": 0.5, "sense": "high", "inhibit": 0, "adjustment": 0, "priority": 2}
    perfmon("perfmon.set_rules", vm, [rule])
    assert perfmon("perfmon.refresh") == 1
    perfmon("perfmon.set_rules", vm, [])
    [event] = client.ask("event.from", ["message"], token, 60.1)["events"]
    message = event["snapshot"]
    assert (event["operation"], message["name"], message["cls"]) == ("add", "ALARM", "VM")
    assert message["obj_uuid"] == client.ask("VM.get_uuid", vm)
    assert message["body"].startswith("value: 0.750000\nconfig:\n<variable>")
    assert client.ask("message.get_record", event["ref"]) == message


def test_a_call_is_waited_for_and_its_outcome_is_the_exit_status(running: Environment, client: Client) -> None:
    def call(*arguments: str) -> Result:
        where = ("--listener", "rpc", "--path", "/jsonrpc")
        return command("call", "--wait", *where, *arguments, socket=running.admin)

    [db] = client.ask("VM.get_by_name_label", "db")
    started = call("VM.start", client.session, db, "false", "false")
    assert (started.exit_code, started.stdout) == (0, "(no result)\n"), started.stderr
    again = call("Async.VM.start", client.session, db, "false", "false")
    assert again.exit_code == 1
    assert again.stderr.startswith("failure: VM_BAD_POWER_STATE OpaqueRef:"), again.stderr
    stopped = call("VM.hard_shutdown", client.session, db, "--json")
    assert stopped.exit_code == 0
    assert json.loads(stopped.stdout).keys() == {"task", "status", "result", "error_info"}
    refused = call("VM.get_all", client.session)
    assert (refused.exit_code, "No async mode" in refused.stdout + refused.stderr) == (1, True)


@contextmanager
def following(url: str, session: str, token: str = "") -> Iterator[IO[str]]:
    """The lines that `curl -N` prints."""
    last = ["-H", f"Last-Event-ID: {token}"] if token else []
    line = ["curl", "-sN", "-H", f"Authorization: Bearer {session}", *last, url]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.terminate()


def notified(lines: IO[str]) -> tuple[str, Any]:
    """The id and the parameters of the next event."""
    last_id, data, end = (next(lines) for _ in range(3))
    assert (last_id[:4], data[:6], end) == ("id: ", "data: ", "\n")
    notification = json.loads(data[6:])
    assert notification["method"] == "events.changed"
    return last_id[4:].strip(), notification["params"]


# The operator's side


def test_the_command_watch_shows_old_and_new_values_and_no_secrets(
    running: Environment, client: Client, vm: str
) -> None:
    with watching(running, "secret", "--all", "--json") as lines:
        [secret] = client.ask("secret.get_all_records").values()
        told = json.loads(next(lines))
        assert told["changes"]["uuid"]["new"] == secret["uuid"]
        assert told["changes"]["value"]["new"] == {"$redacted": "text"}
    with watching(running, f"VM/{vm}", "--all", "--json") as lines:
        before = json.loads(next(lines))["changes"]["name_description"]["new"]
        client.ask("VM.set_name_description", vm, client.session)
        told = json.loads(next(lines))
        assert (told["operation"], told["class"], told["ref"]) == ("mod", "VM", vm)
        assert told["changes"] == {"name_description": {"old": before, "new": client.session}}
    failed = command("watch", "nothing", socket=running.admin)
    assert failed.exit_code != 0
    assert "unknown class 'nothing'; expected *, or one of" in failed.stderr


@contextmanager
def watching(running: Environment, *arguments: str) -> Iterator[IO[str]]:
    """The lines that the command prints."""
    line = [sys.executable, "-m", "gateway", "watch", *arguments, "--socket", str(running.admin)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.terminate()


def test_the_openrpc_document_describes_the_notifications(client: Client) -> None:
    if not client.xml:
        document = client.call("rpc.discover")
        assert [each["name"] for each in document["x-notification"]] == ["events.changed", "events.ended"]
        assert "event.from" in {each["name"] for each in document["methods"]}
