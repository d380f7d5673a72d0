"""The old memory service over xenstore, as it was from 2009 to 2012: a node for each request, one for each answer.

Single-threaded, it removes nothing, and what is asked while it is away is answered when it is back. Knows no bus.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pyxs
from legacy_wire import Failure

# Function -> the method of the later service, its arguments, and the nodes of its answer.
FUNCTIONS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "login": ("login", ("service_name",), ("session_id",)),
    "reserve-memory": ("reserve_memory", ("session_id", "kib"), ("reservation_id",)),
    "reserve-memory-range": ("reserve_memory_range", ("session_id", "min", "max"), ("reservation_id", "kib")),
    "transfer-reservation-to-domain": (
        "transfer_reservation_to_domain",
        ("session_id", "reservation_id", "domid"),
        (),
    ),
    "delete-reservation": ("delete_reservation", ("session_id", "reservation_id"), ()),
    "balance-memory": ("balance_memory", (), ()),
}
# Errors of the later service as the old numbers; an error without one is an exception.
CODES: dict[str, int] = {
    "Cannot_free_this_much_memory": 1000,
    "Domains_refused_to_cooperate": 1001,
    "Unknown_reservation": 1002,
    "Invalid_memory_value": 1003,
}
UNKNOWN_FUNCTION, EXCEPTION, MISSING_ARGUMENT = 1, 2, 3

Call = Callable[[str, list[Any]], Any]  # method and parameters -> result; raises Failure


def serve(path: str, root: str, call: Call, ready: Callable[[], None]) -> None:
    """Answer requests until the store goes away."""
    with pyxs.Client(unix_socket_path=path) as store:
        server = _Server(store, root, call)
        store[f"{root}/pid".encode()] = str(os.getpid()).encode()
        monitor = store.monitor()
        monitor.watch(server.requests.encode(), b"X")
        ready()
        for _ in monitor.wait():
            server.scan()


class _Server:
    def __init__(self, store: Any, root: str, call: Call) -> None:
        self._store = store
        self._call = call
        self.requests = f"{root}/rpc/request"
        self._responses = f"{root}/rpc/response"
        store.mkdir(self.requests.encode())

    def scan(self) -> None:
        """Answer each request that has no answer yet."""
        for function in self._names(self.requests):
            done = set(self._names(f"{self._responses}/{function}"))
            for identity in self._names(f"{self.requests}/{function}"):
                if identity not in done:
                    self._answer(function, identity)

    def _answer(self, function: str, identity: str) -> None:
        request = f"{self.requests}/{function}/{identity}"
        arguments = {name: self._store.read(f"{request}/{name}".encode()).decode() for name in self._names(request)}
        nodes = self._nodes(function, arguments)
        response = f"{self._responses}/{function}/{identity}"
        while True:
            self._store.transaction()
            self._store.mkdir(response.encode())
            for name, value in nodes.items():
                self._store.write(f"{response}/{name}".encode(), value.encode())
            if self._store.commit():
                return

    def _nodes(self, function: str, arguments: dict[str, str]) -> dict[str, str]:
        if function == "echo":
            return arguments
        if function not in FUNCTIONS:
            return _error(UNKNOWN_FUNCTION, function)
        method, expected, names = FUNCTIONS[function]
        for name in expected:
            if name not in arguments:
                return _error(MISSING_ARGUMENT, name)
        try:
            result = self._call(method, ["xenstore", *(arguments[name] for name in expected)])
        except Failure as failure:
            tag, details = failure.error if isinstance(failure.error, list) else (failure.error, "")
            texts = details if isinstance(details, list) else [details]
            return _error(CODES.get(tag, EXCEPTION), ",".join(map(str, texts)) or str(tag))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an exception to the client
            return _error(EXCEPTION, str(error) or type(error).__name__)
        values = result if isinstance(result, list) else [result]
        return {name: str(value) for name, value in zip(names, values, strict=False)}

    def _names(self, path: str) -> list[str]:
        try:
            return [name.decode() for name in self._store.list(path.encode()) if name]
        except pyxs.PyXSError:
            return []  # there is no such node


def _error(code: int, description: str) -> dict[str, str]:
    return {"code": str(code), "description": description}
