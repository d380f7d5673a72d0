from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from gateway.core.dbus.target import MethodCall, Target
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Fault, Value

TARGET = Target("org.xen.xcp.xenopsd", "/org/xen/xcp/vm/{vm}", "org.xen.xcp.xenopsd.VM1", "Start", "sb", "")


def _bind(call: Call) -> MethodCall:
    return MethodCall(TARGET.bus_name, "/vm", TARGET.interface, TARGET.member, "s", list(call.params))


def _shape(body: Sequence[object]) -> Value:
    return len(body)


def _translate(fault: Fault, call: Call) -> Fault:
    return dataclasses.replace(fault, name=call.method)


ROUTE = Route(
    "xenopsd", "VM.start", TARGET, (), None, encode_arguments=_bind, decode_result=_shape, map_error=_translate
)


def test_a_target_reads_like_the_arguments_of_busctl_call() -> None:
    assert str(TARGET) == "org.xen.xcp.xenopsd /org/xen/xcp/vm/{vm} org.xen.xcp.xenopsd.VM1.Start"


@pytest.mark.parametrize("value", [TARGET, ROUTE], ids=lambda value: type(value).__name__)
def test_a_compiled_mapping_cannot_be_changed(value: Route) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_a_route_is_taken_to_write_unless_the_mapping_says_otherwise() -> None:
    assert ROUTE.effect is Effect.WRITE
    assert ROUTE.migration.setting.mode is Mode.DBUS
    assert ROUTE.session_check is None


def test_the_words_of_the_mapping_are_the_values_of_effect_and_mode() -> None:
    assert [Effect("read"), Effect("idempotent"), Effect("write")] == list(Effect)
    assert [Mode(name) for name in ("legacy", "shadow", "canary", "dbus", "off")] == list(Mode)
