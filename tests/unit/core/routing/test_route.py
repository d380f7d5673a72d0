from __future__ import annotations

import dataclasses

import pytest

from gateway.core.dbus.target import PropertyTarget, Target
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Effect, LocalTarget, Route, local_route
from gateway.core.rpc.model import Call, Outcome, Reply
from tests.kit.mappings import route

TARGET = Target("org.xen.xcp.xenopsd", "/org/xen/xcp/vm/{vm}", "org.xen.xcp.xenopsd.VM1", "Start", "sb", "")
GET = ("org.example", "/vm", "org.freedesktop.DBus.Properties", "Get", "ss", "v")


async def _answer(call: Call) -> Outcome:
    return Reply(call.method)


def test_each_kind_of_target_reads_as_what_is_called() -> None:
    assert str(TARGET) == "org.xen.xcp.xenopsd /org/xen/xcp/vm/{vm} org.xen.xcp.xenopsd.VM1.Start"
    assert str(PropertyTarget(*GET, "org.example.VM1", "State")) == "org.example /vm org.example.VM1.State (get)"
    assert str(LocalTarget(_answer)) == "the gateway itself"


@pytest.mark.parametrize("value", [TARGET, route()], ids=lambda value: type(value).__name__)
def test_a_compiled_mapping_cannot_be_changed(value: Route) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_a_route_writes_unless_the_mapping_says_otherwise_and_a_local_one_reads() -> None:
    assert (route().effect, route().migration.setting.mode) == (Effect.WRITE, Mode.DBUS)
    local = local_route("system.listMethods", _answer)
    assert (local.effect, local.service) == (Effect.READ, "gateway")
    with pytest.raises(AssertionError, match="has no D-Bus target"):
        _ = local.bus_target
    with pytest.raises(AssertionError, match="has no D-Bus side"):
        local.encode_arguments(Call("system.listMethods"))
