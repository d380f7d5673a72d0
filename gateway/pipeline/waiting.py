"""Calls that wait for something to happen: they give back their slot, so that calls that work have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.core.rpc.model import Call, Fault, FaultCode

BATCHED = "batched"  # an extension of calls that share their message, and so their slot, with others

TOO_MANY = Fault(FaultCode.BUSY, "too many calls wait (limit max_waiting of the listener); nothing was executed")


@contextmanager
def slot_freed(call: Call, on_wait: Callable[[int], object]) -> Iterator[bool]:
    """Give back the slot of a call while the block runs; false: too many calls wait, and it has its slot.

    `on_wait` gets 1 when the call begins to wait, and -1 when it goes on. In a batch a call keeps its slot.
    """
    connection = call.peer.connection
    resume: Callable[[], object] | None = None
    if connection is not None and connection.on_wait is not None and not call.extensions.get(BATCHED):
        resume = connection.on_wait()
        if resume is None:
            yield False
            return
    on_wait(1)
    try:
        yield True
    finally:
        on_wait(-1)
        if resume is not None:
            resume()
