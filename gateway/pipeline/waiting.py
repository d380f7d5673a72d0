"""Calls that wait for something to happen: they give back their slot, so that calls that work have it."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.rpc.model import Call, Fault, FaultCode

BATCHED = "batched"  # an extension of calls that share their message, and so their slot, with others

TOO_MANY = Fault(FaultCode.BUSY, "too many calls wait (limit max_waiting of the listener); nothing was executed")


class slot_freed:  # noqa: N801 - it is used like a function; a generator would hold three times the memory
    """Give back the slot of a call while the block runs; false: too many calls wait, and it has its slot.

    `on_wait` gets 1 when the call begins to wait, and -1 when it goes on. In a batch a call keeps its slot.
    """

    __slots__ = ("_call", "_is_waiting", "_on_wait", "_resume")

    def __init__(self, call: Call, on_wait: Callable[[int], object]) -> None:
        self._call = call
        self._on_wait = on_wait
        self._is_waiting = False
        self._resume: Callable[[], object] | None = None

    def __enter__(self) -> bool:
        connection = self._call.peer.connection
        if connection is not None and connection.on_wait is not None and not self._call.extensions.get(BATCHED):
            self._resume = connection.on_wait()
            if self._resume is None:
                return False
        self._is_waiting = True
        self._on_wait(1)
        return True

    def __exit__(self, *_: object) -> None:
        if self._is_waiting:
            self._on_wait(-1)
        if self._resume is not None:
            self._resume()
