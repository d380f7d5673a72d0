"""The trace that a call belongs to: the headers of W3C Trace Context, and xapi's debug line. It makes random numbers.

`traceparent` is VERSION-TRACE-PARENT-FLAGS in lower case hexadecimal (w3.org/TR/trace-context section 3.2). A header
that is not so, or that is there twice, is as none. A later version is read like this one. `tracestate` is passed on as
it is, and only with a valid `traceparent` (section 3.3).

A program of xapi has no header where it calls by xapi-idl. It writes the trace into the second line of the debug
argument: a JSON object with `traceparent`, or a bare one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import msgspec

from gateway.core.rpc.model import Headers

KEY = "trace"  # in a call's extensions
SAMPLED = 1  # the flag of a caller that records its part
_KNOWN_FLAGS = 3  # sampled; random, of level 2
_PARENT = rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
_HEADER = re.compile(_PARENT + rb"(-.*)?")
_DEBUG = re.compile(
    rb"[^\n]*+\n(?:\{[^\n]*\"traceparent\" *+: *+\"|)(" + _PARENT.replace(b"(", b"(?:") + rb")(?:\"[^\n]*+|)"
)
MOST_DEBUG = 4096  # characters of a debug argument; a longer one names no trace, as reading it takes the square of them
MOST_STATE = 512  # characters of tracestate, which is left out beyond (section 3.3.1.5)


class TraceContext(msgspec.Struct, frozen=True):
    """The trace of one call, and the spans that it has here."""

    trace: str  # 32 hexadecimal digits
    parent: str  # the caller's span, 16 digits; empty if the trace begins here
    flags: int
    state: str = ""  # tracestate
    span: str = ""  # of the call in the gateway
    below: str = ""  # of the call to the side that answers
    arrived: float = 0.0  # by perf_counter, before the message is decoded
    beside: tuple[str, str] = ("", "")  # of an observed call: trace and span of the client's

    @property
    def is_sampled(self) -> bool:
        """Whether its spans are kept."""
        return bool(self.flags & SAMPLED)

    def headers(self) -> Headers:
        """The headers for the side that is called."""
        parent = f"00-{self.trace}-{self.below}-{self.flags:02x}".encode()
        state = ((b"tracestate", self.state.encode("latin-1")),) if self.state else ()
        return ((b"traceparent", parent), *state)


def begun(flags: int, arrived: float) -> TraceContext:
    """A trace that begins here."""
    return TraceContext(f"{_random.getrandbits(128):032x}", "", flags, "", new_span(), new_span(), arrived)


def observed(client: TraceContext) -> TraceContext:
    """The trace of an observed call: one of its own, linked to the client's, which it must not make longer."""
    fresh = begun(client.flags, 0.0)
    return msgspec.structs.replace(fresh, beside=(client.trace, client.span))


def received(headers: Headers, texts: Iterable[object], arrived: float) -> TraceContext | None:
    """The trace of a call by its headers, or by one of these parameters; None if neither names one."""
    found = [value for name, value in headers if name.lower() == b"traceparent"]
    read = _read(found[0].strip()) if len(found) == 1 else None
    state = ""
    if read is not None:
        state = b",".join(value for name, value in headers if name.lower() == b"tracestate").decode("latin-1")
    else:
        debug = (text for text in texts if isinstance(text, str) and len(text) <= MOST_DEBUG and "\n" in text)
        lines = (_DEBUG.fullmatch(text.encode(errors="replace")) for text in debug)
        read = next((_read(line[1]) for line in lines if line is not None), None)
    if read is None:
        return None
    trace, parent, flags = read
    return TraceContext(
        trace, parent, flags, state if len(state) <= MOST_STATE else "", new_span(), new_span(), arrived
    )


def _read(text: bytes) -> tuple[str, str, int] | None:
    match = _HEADER.fullmatch(text)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return None
    trace, parent = match[2].decode(), match[3].decode()
    return None if int(trace, 16) == 0 or int(parent, 16) == 0 else (trace, parent, int(match[4], 16) & _KNOWN_FLAGS)


def new_span() -> str:
    """The number of a span: 16 digits. It is unlikely to be there twice, and hides nothing."""
    return f"{_random.getrandbits(64):016x}"


_random = random.Random()  # noqa: S311 - see new_span
