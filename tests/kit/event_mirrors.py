"""Clients that mirror the objects of a gateway by its events, and go on whatever is killed."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from tests.kit.clients import UnixConnection
from tests.kit.programs import TIMEOUT

USER, PASSWORD = "root", "xenroot"  # of the sample toolstack
PAUSE = 0.05  # seconds before a client tries again
CUT = (OSError, http.client.HTTPException, ValueError)  # how a call ends whose gateway dies


class Failure(Exception):  # noqa: N818 - it is an answer
    """A failure of XenAPI: its code and arguments."""


class Caller:
    """A JSON-RPC client of XenAPI on a Unix socket. A session that has ended is replaced by the next call."""

    def __init__(self, path: Path, endpoint: str = "/jsonrpc") -> None:
        self._socket = path
        self._endpoint = endpoint
        self._connection: http.client.HTTPConnection | None = None
        self.session = ""

    def call(self, method: str, *params: Any) -> Any:
        """Make a call; raises Failure, or what CUT has."""
        connection = self._connection = self._connection or UnixConnection(self._socket)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            connection.request("POST", self._endpoint, body.encode(), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        except BaseException:
            self.close()
            raise
        if "result" in answer:
            return answer["result"]
        error = answer["error"]
        raise Failure(error["message"], *error.get("data", ()))

    def ask(self, method: str, *params: Any) -> Any:
        """Make a call with a session."""
        if not self.session:
            self.session = self.call("session.login_with_password", USER, PASSWORD)
        try:
            return self.call(method, self.session, *params)
        except Failure as failure:
            if failure.args[0] == "SESSION_INVALID":
                self.session = ""
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Mirror(threading.Thread):
    """The records of some classes, built from events. `begun_anew`: how many times all of them came again."""

    classes: ClassVar[tuple[str, ...]] = ("vm", "network")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = path
        self._stopped = threading.Event()
        self.objects: dict[tuple[str, str], Any] = {}
        self.begun_anew = 0
        self.events = 0

    def run(self) -> None:
        """Follow until stopped."""
        raise NotImplementedError

    def stop(self) -> None:
        """Follow no more."""
        self._stopped.set()
        self.join(TIMEOUT)
        assert not self.is_alive()

    def of(self, name: str) -> dict[str, Any]:
        """The records of one class by reference."""
        return {ref: record for (kind, ref), record in list(self.objects.items()) if kind == name}

    def apply(self, name: str, ref: str, operation: str, record: Any) -> None:
        """Apply one event. A deletion is of an object that is there."""
        self.events += 1
        if operation == "del":
            del self.objects[name, ref]
        else:
            self.objects[name, ref] = record

    def begin_anew(self) -> None:
        """Forget everything: all records come again."""
        self.begun_anew += 1
        self.objects.clear()


class EventFrom(Mirror):
    """Over `event.from`."""

    def run(self) -> None:
        caller, token = Caller(self._socket), ""
        while not self._stopped.is_set():
            try:
                batch = caller.ask("event.from", [*self.classes], token, 0.5)
            except Failure as failure:
                if failure.args[0] == "EVENTS_LOST":
                    token = ""
                    self.begin_anew()
                else:
                    self._stopped.wait(PAUSE)
                continue
            except CUT:
                self._stopped.wait(PAUSE)
                continue
            for event in batch["events"]:
                self.apply(event["class"], event["ref"], event["operation"], event.get("snapshot"))
            token = batch["token"]
            for name in self.classes:
                assert batch["valid_ref_counts"][name] == len(self.of(name))
        with suppress(Failure, *CUT):
            caller.ask("session.logout")
        caller.close()


class Streamed(Mirror):
    """Over a connection that stays open: each notification is applied, and the token is that of the last one."""

    lasts: ClassVar[float] = 2.0  # seconds without a message, after which it connects again and resumes

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.token = ""
        self.connections = 0

    def run(self) -> None:
        caller = Caller(self._socket)
        while not self._stopped.is_set():
            try:
                caller.ask("pool.get_all")
                self.connections += 1
                self.follow(caller.session)
            except (Failure, *CUT):
                self._stopped.wait(PAUSE)
        caller.close()

    def follow(self, session: str) -> None:
        """Apply what comes over one connection, until it ends."""
        raise NotImplementedError

    def apply(self, name: str, ref: str, operation: str, record: Any) -> None:
        """Apply one event. After an interruption a deletion may be of an object that was not told."""
        if operation == "del" and (name, ref) not in self.objects:
            assert self.connections > 1
        else:
            super().apply(name, ref, operation, record)

    def notified(self, notification: Any) -> bool:
        """Apply a notification; false when the subscription has ended, or this client was stopped."""
        params = notification["params"]
        if notification["method"] != "events.changed":
            assert notification["method"] == "events.ended"
            return False
        if params.get("snapshot"):
            self.begin_anew()
        for event in params["events"]:
            self.apply(event["class"], event["ref"], event["operation"], event.get("snapshot"))
        self.token = params["token"]
        return not self._stopped.is_set()


class ServerSent(Streamed):
    """Over server-sent events."""

    def follow(self, session: str) -> None:
        connection = UnixConnection(self._socket)
        try:
            connection.connect()
            connection.sock.settimeout(self.lasts)
            query = "&".join(f"class={name}" for name in self.classes)
            headers = {"Cookie": f"session_id={session}", "Last-Event-ID": self.token}
            connection.request("GET", f"/jsonrpc/events?{query}", headers=headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise Failure(response.read().decode())
            last_id = ""
            while line := response.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    last_id = value
                elif name == "data":
                    if not self.notified(json.loads(value)):
                        return
                    assert self.token == last_id
        finally:
            connection.close()


class OverWebSocket(Streamed):
    """Over a WebSocket."""

    def follow(self, session: str) -> None:
        with WebSocketClient(self._socket, self.lasts) as client:
            client.send("events.subscribe", session, [*self.classes], self.token)
            answer = client.receive()
            if "error" in answer:
                raise Failure(answer["error"]["message"])
            while self.notified(client.receive()):
                pass


class WebSocketClient:
    """A JSON-RPC client over a WebSocket, by wsproto's client side; raises OSError when the connection ends."""

    def __init__(self, where: Path | tuple[str, int], seconds: float = TIMEOUT, path: str = "/jsonrpc") -> None:
        family = socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.settimeout(seconds)
        self._frames = WSConnection(ConnectionType.CLIENT)
        self._parts: list[str] = []
        self.closed: CloseConnection | None = None
        try:
            self._socket.connect(str(where) if isinstance(where, Path) else where)
            self.write(Request(host="gateway", target=path))
            assert isinstance(self.event(), AcceptConnection)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def write(self, event: Event) -> None:
        """Send a frame."""
        self._socket.sendall(self._frames.send(event))

    def event(self) -> Event:
        """The next frame."""
        while True:
            for event in self._frames.events():
                return event
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the gateway has closed the connection")
            self._frames.receive_data(data)

    def send(self, method: str, *params: Any, id: int | None = 1) -> None:  # noqa: A002 - JSON-RPC's name
        """Send a call, or without an id a notification."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.text(json.dumps(message if id is None else {**message, "id": id}))

    def text(self, message: str) -> None:
        self.write(TextMessage(message))

    def receive(self) -> Any:
        """The next message; raises ConnectionError when the gateway closes the connection."""
        while True:
            event = self.event()
            if isinstance(event, CloseConnection):
                self.closed = event
                raise ConnectionError(f"closed: {event.code} {event.reason}")
            if isinstance(event, TextMessage):
                self._parts.append(event.data)
                if event.message_finished:
                    parts, self._parts = self._parts, []
                    return json.loads("".join(parts))

    def call(self, method: str, *params: Any) -> Any:
        """Make a call; the answer is the value, or of an error the list."""
        self.send(method, *params)
        answer = self.receive()
        return answer["result"] if "result" in answer else [answer["error"]["message"], *answer["error"]["data"]]
