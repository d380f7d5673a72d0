"""squeezed's client of 2009, in the steps of xen-api's squeezed_rpc.ml before 815c1c9339; knows pyxs and no gateway."""

from __future__ import annotations

import queue
import time
import uuid
from types import TracebackType
from typing import Any, Self

import pyxs

PATIENCE = 60.0  # seconds


class RpcError(Exception):
    """An answer with both a code and a description."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


class Squeezed:
    """One client with one connection; a request is a transaction, its answer is watched for, read, and removed."""

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
        """The server's process, as it says itself."""
        return int(self._client[f"{self._root}/pid".encode()])

    def call(self, function: str, **arguments: str) -> dict[str, str]:
        """Ask and wait; raises RpcError."""
        key = str(uuid.uuid4())
        self.ask(function, key, **arguments)
        result = self.wait(function, key)
        self.remove(function, key)
        if result.keys() >= {"code", "description"}:
            raise RpcError(int(result["code"]), result["description"])
        return result

    def ask(self, function: str, key: str, **arguments: str) -> None:
        """Write a request, in one transaction."""
        request = f"{self._root}/rpc/request/{function}/{key}"
        while True:
            self._client.transaction()
            self._client.mkdir(request.encode())
            for name, value in arguments.items():
                self._client.write(f"{request}/{name}".encode(), value.encode())
            if self._client.commit():
                return

    def wait(self, function: str, key: str) -> dict[str, str]:
        """Watch until the answer is there, and read it."""
        response = f"{self._root}/rpc/response/{function}/{key}".encode()
        monitor = self._client.monitor()
        monitor.watch(response, key.encode())
        end = time.monotonic() + PATIENCE
        while not self._client.exists(response):
            try:
                monitor.events.get(timeout=max(0.0, end - time.monotonic()))  # its own `wait` would for ever
            except queue.Empty:
                raise TimeoutError(f"nobody answered {function} within {PATIENCE:g} s") from None
        monitor.unwatch(response, key.encode())
        return {
            name.decode(): self._client.read(response + b"/" + name).decode() for name in self._client.list(response)
        }

    def remove(self, function: str, key: str) -> None:
        """Remove the request and then the answer, as the old client did."""
        for kind in ("request", "response"):
            self._client.delete(f"{self._root}/rpc/{kind}/{function}/{key}".encode())
