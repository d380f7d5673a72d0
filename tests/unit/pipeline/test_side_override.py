"""A client that says which side is to answer."""

from __future__ import annotations

import pytest

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import NO_METADATA, Call, RequestMetadata
from gateway.pipeline.side_override import SideOverride, side_override

HERE = SideOverride(b"x-gateway-side", "gateway_side")


def with_header(text: bytes) -> RequestMetadata:
    return RequestMetadata(headers=((b"Host", b"x"), (b"X-Gateway-Side", text)))


@pytest.mark.parametrize(
    ("text", "side"), [(b"dbus", Side.DBUS), (b" LEGACY ", Side.LEGACY), (b"both", None), (b"", None)]
)
def test_a_header_names_a_side_and_leaves_the_call_alone(text: bytes, side: Side | None) -> None:
    call = Call("VM.stat", ("a",))
    assert HERE.extract(call, with_header(text)) == (side, call)
    assert not HERE.was_extracted(call)


def test_a_parameter_names_a_side_and_is_taken_out() -> None:
    side, call = HERE.extract(Call("VM.stat", (), {"vm": "a", "gateway_side": "dbus"}), NO_METADATA)
    assert side is Side.DBUS
    assert call.named == {"vm": "a"}
    assert HERE.was_extracted(call)


def test_a_parameter_that_names_no_side_is_taken_out_all_the_same() -> None:
    side, call = HERE.extract(Call("VM.stat", (), {"gateway_side": 5}), NO_METADATA)
    assert side is None
    assert call.named == {}


def test_where_a_listener_does_not_let_it_nothing_is_read() -> None:
    assert side_override("", "") is None
    assert side_override("X-Gateway-Side", "") == SideOverride(b"x-gateway-side")
