"""A client that says which side is to answer."""

from __future__ import annotations

import pytest

from gateway.core.migration import Side
from gateway.core.model import BARE, Call, Carried
from gateway.forcing import NO_FORCING, Forcing

HERE = Forcing(b"x-gateway-side", "gateway_side")


def with_header(text: bytes) -> Carried:
    return Carried(headers=((b"Host", b"x"), (b"X-Gateway-Side", text)))


@pytest.mark.parametrize(
    ("text", "side"), [(b"dbus", Side.DBUS), (b" LEGACY ", Side.LEGACY), (b"both", None), (b"", None)]
)
def test_a_header_names_a_side_and_leaves_the_call_alone(text: bytes, side: Side | None) -> None:
    call = Call("VM.stat", ("a",))
    assert HERE.of(call, with_header(text)) == (side, call)
    assert not HERE.changed(call)


def test_a_parameter_names_a_side_and_is_taken_out() -> None:
    side, call = HERE.of(Call("VM.stat", (), {"vm": "a", "gateway_side": "dbus"}), BARE)
    assert side is Side.DBUS
    assert call.named == {"vm": "a"}
    assert HERE.changed(call)


def test_a_parameter_that_names_no_side_is_taken_out_all_the_same() -> None:
    side, call = HERE.of(Call("VM.stat", (), {"gateway_side": 5}), BARE)
    assert side is None
    assert call.named == {}


def test_where_a_listener_does_not_let_it_nothing_is_read() -> None:
    call = Call("VM.stat", (), {"gateway_side": "dbus"})
    assert NO_FORCING.of(call, with_header(b"dbus")) == (None, call)
