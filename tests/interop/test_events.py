"""`event.from` and its like through a real gateway to the sample toolstack, over both codecs.

Then the same events over connections that stay open: WebSockets and server-sent events.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
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
def either(request: pytest.FixtureRequest, running: Environment) -> Iterator[Client]:
    """A client of each codec."""
    made = Client(running.url, request.param)
    yield made
    made.close()


@pytest.fixture
def client(running: Environment) -> Iterator[Client]:
    made = Client(running.url, "jsonrpc")
    yield made
    made.close()


def web(client: Client) -> str:
    """The reference of a VM."""
    [found] = client.ask("VM.get_by_name_label", "web")
    return str(found)


def test_the_whole_pool_is_told_with_the_records_that_get_record_gives(either: Client) -> None:
    batch = either.from_(["*"])
    for event in batch["events"]:
        assert event["operation"] == "add"
        assert event["class"] == event["class"].lower()
        assert event["id"].isdecimal()
        assert event["timestamp"] == "0.0"
    if either.xml:  # counts are numbers of 32 bits, as no other number of XenAPI is
        assert b"<name>pool</name><value><i4>1</i4></value>" in either.raw
    names = {name.lower(): name for name in ("VM", "SR", "host", "pool", "network", "VM_metrics", "message")}
    for lower, name in names.items():
        records = either.ask(f"{name}.get_all_records")
        told = {event["ref"]: event["snapshot"] for event in batch["events"] if event["class"] == lower}
        assert told == records
        assert batch["valid_ref_counts"][lower] == len(records)
    kinds = [event["class"] == "message" for event in batch["events"]]
    assert kinds == sorted(kinds, reverse=True)  # messages come first


def test_each_event_method_of_xenapi_tells_of_a_change(either: Client) -> None:
    vm = web(either)
    assert either.ask("event.next") == ["SESSION_NOT_REGISTERED", either.session]
    assert either.ask("event.register", ["VM"]) == ""
    token = either.ask("event.inject", "VM", vm)
    [injected] = either.from_(["VM"], token, 60.0)["events"]
    assert either.ask("event.next")[0]["ref"] == vm
    assert int(either.ask("event.get_current_id")) >= int(injected["id"])
    token = either.from_(["*"])["token"]
    waiting = [either.begin(wanted, token) for wanted in (["VM"], [f"vm/{vm}"], ["*"])]
    other = either.begin(["sr"], token, 1.0)
    either.ask("VM.set_name_description", vm, either.session)
    for events in (*(each.result(TIMEOUT)["events"] for each in waiting), either.ask("event.next")):
        [event] = [event for event in events if event["ref"] == vm]
        assert (event["operation"], event["class"]) == ("mod", "vm")
        assert event["snapshot"]["name_description"] == either.session
        assert event["snapshot"] == either.ask("VM.get_record", vm)
    assert other.result(TIMEOUT)["events"] == []
    assert either.ask("event.unregister", ["vm"]) == ""
    assert either.ask("event.next") == ["SESSION_NOT_REGISTERED", either.session]


def test_a_task_is_followed_by_its_events(client: Client) -> None:
    batch = client.from_(["task"])
    ref = client.ask("Async.VM.start", web(client), False, False)
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
    client.ask("VM.hard_shutdown", web(client))


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
def websocket(client: Client) -> Iterator[WebSocketClient]:
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


def test_a_websocket_takes_calls_batches_and_notifications(websocket: WebSocketClient, client: Client) -> None:
    assert websocket.call("VM.get_name_label", client.session, web(client)) == "web"
    assert websocket.call("VM.get_name_label", client.session, "none") == ["HANDLE_INVALID", "VM", "none"]
    one = {"jsonrpc": "2.0", "method": "pool.get_all", "params": [client.session]}
    websocket.text(json.dumps([{**one, "id": 1}, one, {**one, "id": 2}]))
    assert [answer["id"] for answer in websocket.receive()] == [1, 2]
    websocket.text(json.dumps(one))  # without an id there is no answer
    websocket.text("{")
    assert websocket.receive()["error"]
    assert {"events.subscribe", "events.unsubscribe"} <= set(websocket.call("system.listMethods"))
    assert "for a WebSocket" in str(client.ask("events.subscribe", ["*"]))  # which was over HTTP
    document = client.call("rpc.discover")
    assert [each["name"] for each in document["x-notification"]] == ["events.changed", "events.ended"]


def test_a_subscription_begins_with_a_snapshot_and_is_resumed_from_a_token(
    websocket: WebSocketClient, client: Client
) -> None:
    vm = web(client)
    assert websocket.call("events.subscribe", client.session, ["vm"]) == {"subscription": "1"}
    first = websocket.receive()["params"]
    assert first["snapshot"] is True
    records = client.ask("VM.get_all_records")
    rest = changed(websocket, len(records) - len(first["events"]))
    assert "snapshot" not in rest[-1]
    assert {event["ref"]: event["snapshot"] for event in [*first["events"], *rest[:-1]]} == records
    client.ask("VM.set_name_description", vm, client.session)
    [event, params] = changed(websocket, 1)
    assert (event["operation"], event["ref"]) == ("mod", vm)
    assert websocket.call("events.unsubscribe", "1") == ""
    client.ask("VM.set_name_description", vm, "")
    assert websocket.call("events.subscribe", client.session, [f"vm/{vm}"], params["token"]) == {"subscription": "2"}
    [event, params] = changed(websocket, 1)
    assert (event["operation"], event["snapshot"]["name_description"]) == ("mod", "")
    assert params["subscription"] == "2"


def test_a_subscription_needs_a_session_and_ends_with_it_and_those_of_a_connection_are_bounded(
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
    large = client.session, [f"vm/{number}" for number in range(1500)], token  # the connection goes on
    assert websocket.call("events.subscribe", *large) == {"subscription": "2"}
    assert "expected subscriptions of at most" in str(websocket.call("events.subscribe", *large))
    assert websocket.call("events.unsubscribe", "2") == ""
    assert websocket.call("events.subscribe", *large) == {"subscription": "3"}


def test_curl_reads_server_sent_events_and_goes_on_from_the_last_one(running: Environment, client: Client) -> None:
    vm = web(client)
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


def test_the_command_watch_shows_no_secrets(running: Environment, client: Client) -> None:
    line = [sys.executable, "-m", "gateway", "watch", "secret", "--all", "--json", "--socket", str(running.admin)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            changes = json.loads(next(process.stdout))["changes"]
        finally:
            process.terminate()
    [secret] = client.ask("secret.get_all_records").values()
    assert (changes["uuid"]["new"], changes["value"]["new"]) == (secret["uuid"], {"$redacted": "text"})
    failed = command("watch", "nothing", socket=running.admin)
    assert failed.exit_code != 0
    assert "unknown class 'nothing'; expected *, or one of" in failed.stderr
