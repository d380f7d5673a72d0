"""The demo's clients in a xenstore: the nodes that they write, the D-Bus calls that follow, the nodes of the answers.

`Squeezed` is squeezed's client of 2009, in the steps of xen-api's squeezed_rpc.ml before 815c1c9339: a request is one
transaction; its answer is watched for, read, and removed together with the request.
"""

from __future__ import annotations

import os
import queue
import subprocess
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pyxs

from demo.environment import Environment
from demo.report import CallCheck, equals

TIMEOUT = 60.0  # seconds for an answer
MEMORY = str(2 * 2**20)  # KiB that `web` has


class RpcError(Exception):
    """An answer with both a code and a description."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


class Squeezed:
    """A client with one connection to the store."""

    def __init__(self, path: str, service: str = "squeezed") -> None:
        self._client: Any = pyxs.Client(unix_socket_path=path)
        self._root = f"/{service}"

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def pid(self) -> int:
        """Return the process id that the server has written."""
        return int(self._client[f"{self._root}/pid".encode()])

    def call(self, function: str, **arguments: str) -> dict[str, str]:
        """Make a call and return its answer; raises RpcError and TimeoutError."""
        key = str(uuid.uuid4())
        self.ask(function, key, **arguments)
        result = self.wait(function, key)
        self.remove(function, key)
        if result.keys() >= {"code", "description"}:
            raise RpcError(int(result["code"]), result["description"])
        return result

    def ask(self, function: str, key: str, **arguments: str) -> None:
        """Write a request in one transaction."""
        request = f"{self._root}/rpc/request/{function}/{key}"
        while True:
            self._client.transaction()
            self._client.mkdir(request.encode())
            for name, value in arguments.items():
                self._client.write(f"{request}/{name}".encode(), value.encode())
            if self._client.commit():
                return

    def wait(self, function: str, key: str) -> dict[str, str]:
        """Watch until the answer exists, and read it."""
        response = f"{self._root}/rpc/response/{function}/{key}".encode()
        monitor = self._client.monitor()
        monitor.watch(response, key.encode())
        end = time.monotonic() + TIMEOUT
        while not self._client.exists(response):
            try:
                monitor.events.get(timeout=max(0.0, end - time.monotonic()))  # its own `wait` has no timeout
            except queue.Empty:
                raise TimeoutError(f"no answer to {function} within {TIMEOUT:g} s") from None
        monitor.unwatch(response, key.encode())
        return {
            name.decode(): self._client.read(response + b"/" + name).decode() for name in self._client.list(response)
        }

    def remove(self, function: str, key: str) -> None:
        """Remove the request and then the answer, in the order of the old client."""
        for kind in ("request", "response"):
            self._client.delete(f"{self._root}/rpc/{kind}/{function}/{key}".encode())


def squeezed(environment: Environment, check: CallCheck) -> None:
    """squeezed's client of 2009, on PyPI's pyxs: a request in a transaction, a watch, the answer, both removed."""
    client = "pyxs"

    def call(function: str, **arguments: str) -> Callable[[], object]:
        def make_call() -> object:
            with Squeezed(str(environment.store)) as squeezed_client:
                try:
                    return squeezed_client.call(function, **arguments)
                except RpcError as error:
                    return f"code {error.code}: {error.description}"

        return make_call

    session = {"session_id": "demo"}
    check(
        client, "/squeezed/rpc/request/login/ID: service_name=demo", "Memory1.Login",
        call("login", service_name="demo"), equals(session),
    )  # fmt: skip
    reserved = check(
        client, "/squeezed/rpc/request/reserve-memory/ID: session_id=demo kib=262144", "Memory1.ReserveMemory",
        call("reserve-memory", kib="262144", **session), lambda answer: list(answer) == ["reservation_id"],
    )  # fmt: skip
    given = {**session, "domid": "7", **(reserved if isinstance(reserved, dict) else {})}
    check(
        client, "/squeezed/rpc/request/transfer-reservation-to-domain/ID: session_id=demo reservation_id=... domid=7",
        "Memory1.TransferReservationToDomain", call("transfer-reservation-to-domain", **given), equals({}),
    )  # fmt: skip
    check(
        client, "/squeezed/rpc/request/reserve-memory/ID: session_id=demo", "", call("reserve-memory", **session),
        equals("code 3: kib"),
    )  # fmt: skip


def tools(environment: Environment, check: CallCheck) -> None:
    """Debian's xenstore-write and xenstore-watch: mailboxes of a device model and of a guest, a node of squeezed."""
    client = "xenstore-write"
    model = "/local/domain/0/device-model/1"
    write(environment, f"{model}/state", "running")
    for command, state, member in (("save", "paused", "Save"), ("continue", "running", "Continue")):
        check(
            client, f"{model}/command {command}", f"DeviceModel1.{member}",
            mailbox(environment, f"{model}/command", command, f"{model}/state", state), equals(state),
        )  # fmt: skip
    # The toolstack writes this for each domain; squeezed publishes nothing for a domain without it.
    write(environment, "/local/domain/1/name", "web")
    target = "/local/domain/1/memory/target"
    check(
        client, f"{target} 1, too little: squeezed refuses it and restores the node", "Properties.Set",
        mailbox(environment, target, "1", target, MEMORY), equals(MEMORY),
    )  # fmt: skip
    shutdown = "/local/domain/1/control/shutdown"
    check(
        client,
        f"{shutdown} poweroff",
        "Control1.Shutdown",
        mailbox(environment, shutdown, "poweroff", shutdown, ""),
        equals(""),
    )


def write(environment: Environment, path: str, value: str) -> None:
    """Run Debian's xenstore-write."""
    subprocess.run(["xenstore-write", path, value], env=tool_environment(environment), check=True, capture_output=True)


def read(environment: Environment, path: str) -> str | None:
    """Run Debian's xenstore-read; None when there is no such node."""
    done = subprocess.run(
        ["xenstore-read", path], env=tool_environment(environment), check=False, capture_output=True, text=True
    )
    return done.stdout.removesuffix("\n") if done.returncode == 0 else None


def mailbox(environment: Environment, path: str, word: str, answer: str, wanted: str) -> Callable[[], str | None]:
    """Write a word, and read the node of the answer at each event of xenstore-watch, until it is as wanted."""

    def make_call() -> str | None:
        # The events: the watch itself, our own word where it is the same node, then the answer.
        watch = ["timeout", f"{TIMEOUT:g}", "xenstore-watch", answer]
        with subprocess.Popen(watch, env=tool_environment(environment), stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            watching.stdout.readline()
            write(environment, path, word)
            found = None
            while found != wanted and watching.stdout.readline():
                found = read(environment, answer)
            watching.terminate()
        return found

    return make_call


def tool_environment(environment: Environment) -> dict[str, Any]:
    """Return the environment in which the tools find the store."""
    return {**os.environ, "XENSTORED_PATH": str(environment.store)}


XENSTORE_CLIENTS = (squeezed, tools)
