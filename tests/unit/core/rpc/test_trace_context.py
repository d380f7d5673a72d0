"""Which trace a call belongs to: the table of W3C Trace Context section 3.2.2, and xapi's debug line."""

from __future__ import annotations

import json
import re
import time

import pytest

from gateway.core.rpc.model import Headers
from gateway.core.rpc.trace_context import TraceContext, begun, observed, received
from tests.kit.cases import each_case, present

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def read(*values: str, texts: tuple[object, ...] = (), state: tuple[str, ...] = ()) -> TraceContext | None:
    headers: Headers = tuple((b"TraceParent", value.encode()) for value in values)
    return received((*headers, *((b"tracestate", each.encode()) for each in state)), texts, 1.5)


@each_case(
    ("value", "flags"),
    [
        (VALID, 1),
        (f" {VALID} ", 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 3),  # flags of later levels are not passed on
        (f"cc-{TRACE}-{PARENT}-01", 1),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", 1),
    ],
)
def test_a_valid_header_names_trace_caller_and_flags(value: str, flags: int) -> None:
    found = present(read(value, state=("a=1", "b=2")))
    assert (found.trace, found.parent, found.flags, found.state) == (TRACE, PARENT, flags, "a=1,b=2")
    assert (found.is_sampled, found.arrived) == (bool(flags & 1), 1.5)
    parent, state = found.headers()
    assert parent == (b"traceparent", f"00-{TRACE}-{found.below}-{flags:02x}".encode())
    assert state == (b"tracestate", b"a=1,b=2")
    assert len({found.span, found.below, found.parent}) == 3


@each_case(
    "value",
    [
        "", "00", VALID.upper(), f"{VALID}-more", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{PARENT}-1", f"00-{TRACE[:-1]}-{PARENT}-01", f"0-{TRACE}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01", f"cc-{TRACE}-{PARENT}-01.more",
    ],
)  # fmt: skip
def test_another_header_is_as_none(value: str) -> None:
    assert read(value, state=("a=1",)) is None


def test_two_headers_are_as_none_and_a_long_state_is_left_out() -> None:
    assert read(VALID, VALID) is None
    assert present(read(VALID, state=("a" * 513,))).state == ""


@each_case(
    "text",
    [
        f"VM.start R:1\n{VALID}",
        "VM.start R:1\n" + json.dumps({"traceparent": VALID}),
        "VM.start R:1\n" + json.dumps({"baggage": [["a", "b"]], "traceparent": VALID, "more": 1}),
        "\n" + json.dumps({"traceparent": VALID}, separators=(",", ":")),
    ],
)
def test_xapis_debug_line_names_a_trace_where_no_header_does(text: str) -> None:
    found = present(read(texts=(text,)))
    assert (found.trace, found.parent, found.flags) == (TRACE, PARENT, 1)
    other = f"00-{'1' * 32}-{PARENT}-01"
    assert present(read(other, texts=(text,))).trace == "1" * 32


def test_a_hostile_debug_argument_costs_no_time() -> None:
    """Twenty thousand traces in a text that ends wrongly: to try each of them to its end takes minutes."""
    hostile = "VM.start R:1\n{" + f'"traceparent":"{VALID}"' * 20_000 + "\n"
    started = time.process_time()
    assert read(texts=(hostile,)) is None
    assert time.process_time() - started < 10
    assert read(texts=("x" * 5000 + f"\n{VALID}",)) is None


@pytest.mark.parametrize(
    "text", [VALID, f"a\nb\n{VALID}", "a\n{}", "a\n{]", f"a\n{VALID}x", "\ud800\n", None, 7, "a\n" + "{" * 100_000]
)
def test_another_parameter_names_none(text: object) -> None:
    assert read(texts=(text,)) is None


def test_a_trace_that_begins_here_has_no_parent_and_an_observed_call_a_trace_of_its_own() -> None:
    mine = begun(1, 0.0)
    assert re.fullmatch(r"[0-9a-f]{32} [0-9a-f]{16}", f"{mine.trace} {mine.span}")
    assert mine.parent == ""
    apart = observed(mine)
    assert (apart.beside, apart.trace != mine.trace, apart.is_sampled) == ((mine.trace, mine.span), True, True)
