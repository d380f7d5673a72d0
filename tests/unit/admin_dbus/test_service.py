"""What operators call and hear, over a real broker; what it does is tested in tests/unit/admin/test_api.py."""

from __future__ import annotations

import asyncio
import math
import os
import pwd
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_fast import Message, MessageFlag, Variant
from msgspec.structs import fields

from adapters.admin_dbus import objects
from adapters.admin_dbus.objects import BUS_NAME, CONTROL, METHOD, METHOD_PROPERTIES, ROOT, SERVICE
from adapters.admin_dbus.service import DENIED, FAILED, INVALID, LIMITS, READ_ONLY, REFUSED, UNKNOWN, Callers
from gateway.admin.peer_credentials import user_name
from gateway.core.admin.access import AccessRules, Caller, Principals, Right
from gateway.core.admin.records import Counts, CountsBatch, MethodId
from gateway.core.admin.views import Explanation
from gateway.core.dbus import introspection_xml
from tests.kit.admin import (
    GET_STATE,
    START,
    STATE,
    DBusAdmin,
    DBusAdminClient,
    dbus_admin,
    dbus_admin_client,
    mode_options,
)
from tests.kit.buses import ANONYMOUS, PrivateBus, private_bus
from tests.kit.cases import present

pytestmark = pytest.mark.bus

PROPERTIES = "org.freedesktop.DBus.Properties"
SET = f"{CONTROL}.SetMode"
NONE: dict[str, Variant] = {}
START_PATH = f"{ROOT}/method/xenopsd_2fVM_2estart"
NAME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
async def both() -> AsyncIterator[tuple[DBusAdmin, DBusAdminClient]]:
    with private_bus() as bus:
        async with dbus_admin(bus.address) as made, dbus_admin_client(bus.address) as caller:
            await caller.until_there()
            yield made, caller


async def get(caller: DBusAdminClient, name: str) -> Any:
    (variant,) = await caller.call(GET_STATE, f"{PROPERTIES}.Get", "ss", METHOD, name)
    return variant.value


async def test_a_mode_is_set_told_and_taken_back(both: tuple[DBusAdmin, DBusAdminClient]) -> None:
    made, caller = both
    await caller.listen()
    given = mode_options(
        percent=("d", 12.5), control=("s", ""), observe=("b", True), noise=("b", False), seconds=("u", 60)
    )
    told = "canary 12.5% observed"
    moved = await caller.call(ROOT, SET, "ssa{sv}s", "VM.get_state", "canary", given, "try")
    assert moved == [[("xenopsd", "VM.get_state", "legacy", told, "")]]
    (override,) = made.state.overrides
    assert (override.who, override.why, override.until is None) == (NAME, "try", False)
    assert await caller.signal() == (ROOT, "ModeChanged", ["xenopsd", "VM.get_state", "legacy", told, NAME])
    path, member, (interface, changed, _) = await caller.signal()
    assert (path, member, interface) == (GET_STATE, "PropertiesChanged", METHOD)
    assert (changed["Mode"].value, changed["Percent"].value, changed["SetBy"].value) == ("canary", 12.5, NAME)
    assert changed.keys() == {name for name, known in METHOD_PROPERTIES.items() if known.emits == "true"}
    moved = await caller.call(ROOT, f"{CONTROL}.ClearMode", "ss", "VM.get_state", "enough")
    assert moved == [[("xenopsd", "VM.get_state", told, "legacy", "")]]
    assert (await caller.signal())[2][3:] == ["legacy", "mapping"]
    await caller.signal()
    moved, held = await caller.call(ROOT, f"{CONTROL}.RollbackAll", "s", "smoke")
    assert (len(moved), held) == (2, "")
    assert await caller.signal() == (ROOT, "RolledBack", ["*", NAME, "smoke"])


@pytest.mark.parametrize(
    ("member", "signature", "body", "name", "says"),
    [
        ("SetMode", "ssa{sv}s", ("VM.start", "shadow", NONE, ""), REFUSED, "shadow is refused:"),
        ("SetMode", "s", ("VM.start",), INVALID, "SetMode: expected signature 'ssa{sv}s', got 's'"),
        ("SetMode", "ssa{sv}s", ("VM.start", "dbus", mode_options(procent=("d", 1.0)), ""), INVALID,
         "unknown option 'procent'; expected one of percent, control, observe, noise, seconds, guarded"),
        ("SetMode", "ssa{sv}s", ("VM.start", "dbus", mode_options(observe=("s", "yes")), ""), INVALID,
         "option 'observe': unexpected type 's'"),
        ("SetMode", "ssa{sv}s", ("VM.start", "dbus", mode_options(seconds=("b", True)), ""), INVALID,
         "option 'seconds': unexpected type 'b'"),
        ("SetMode", "ssa{sv}s", ("VM.start", "dbus", mode_options(seconds=("d", math.inf)), ""), REFUSED,
         "seconds: expected more than 0 and at most 315,360,000, got inf"),  # which JSON does not have
        ("ClearMode", "ss", ("VM.start", ""), REFUSED, ""),
        ("Explain", "savs", ("VM.nope", [], ""), REFUSED, ""),
    ],
)  # fmt: skip
async def test_a_wish_that_makes_no_sense_is_refused_in_words(
    both: tuple[DBusAdmin, DBusAdminClient], member: str, signature: str, body: tuple[Any, ...], name: str, says: str
) -> None:
    found, text = await both[1].error(ROOT, f"{CONTROL}.{member}", signature, *body)
    assert (found, text[: len(says)]) == (name, says)


async def test_a_call_is_explained_without_nulls(both: tuple[DBusAdmin, DBusAdminClient]) -> None:
    _, caller = both

    async def explained(params: list[Variant], key: str = "") -> dict[str, Any]:
        ((told,),) = await caller.call(ROOT, f"{CONTROL}.Explain", "savs", "VM.get_state", params, key)
        assert told.keys() == {field.name for field in fields(Explanation)}
        return {name: variant.value for name, variant in told.items()}

    told = await explained([])
    assert (told["value"], told["bucket"], told["service"]) == ("", -1, "xenopsd")
    await caller.call(ROOT, SET, "ssa{sv}s", "VM.get_state", "canary", mode_options(percent=("s", "50%")), "")
    nested = Variant("a{sv}", {"a": Variant("av", [Variant("a{ii}", {1: 2})]), "b": Variant("(ib)", [1, True])})
    told = await explained([Variant("s", "vm-1"), nested])
    assert (told["value"], told["buckets"]) == ("vm-1", 50_000)
    assert (await explained([], "vm-2"))["value"] == "vm-2"


async def test_a_methods_object_has_what_is_set_and_what_was_counted(both: tuple[DBusAdmin, DBusAdminClient]) -> None:
    made, caller = both
    counts = Counts({"equal": 3, "different": 1, "calls_dbus": 4})
    await made.state.flush(CountsBatch({MethodId("xenopsd", "VM.get_state"): counts}))
    assert (await get(caller, "Comparisons"), await get(caller, "EqualShare")) == (4, 0.75)
    assert (await get(caller, "Verdict"), await get(caller, "SetBy")) == ("differs", "mapping")
    (managed,) = await caller.call(ROOT, "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
    assert len(managed) == 2
    assert managed[GET_STATE][METHOD]["DbusCalls"].value == 4
    for path in managed:  # nothing was counted of the other, and each property has its type
        (every,) = await caller.call(path, f"{PROPERTIES}.GetAll", "s", METHOD)
        types = {name: known.type for name, known in METHOD_PROPERTIES.items()}
        assert {name: variant.signature for name, variant in every.items()} == types


async def test_the_service_says_who_it_is_as_every_service_does(both: tuple[DBusAdmin, DBusAdminClient]) -> None:
    _, caller = both
    (who,) = await caller.call(ROOT, f"{PROPERTIES}.GetAll", "s", SERVICE)
    assert (who["Name"].value, who["Version"].value) == ("gateway", "1.2.3")
    (text,) = await caller.call(ROOT, f"{SERVICE}.GetDiagnostics")
    assert text.startswith("xenopsd/VM.get_state: legacy (the mapping), no evidence\n")
    assert (await caller.call(ROOT, "GetDiagnostics")) == [text]  # the interface may be left out
    await caller.call(ROOT, "org.freedesktop.DBus.Peer.Ping")
    assert (await caller.call(ROOT, f"{PROPERTIES}.GetAll", "s", CONTROL)) == [{}]


@pytest.mark.parametrize(
    ("path", "member", "body", "name"),
    [
        ("/x", f"{PROPERTIES}.GetAll", ("s", METHOD), f"{UNKNOWN}Object"),
        (ROOT, f"{CONTROL}.Nope", (), f"{UNKNOWN}Method"),
        (ROOT, "Nope", (), f"{UNKNOWN}Method"),
        (ROOT, "org.example.Other.Nope", (), f"{UNKNOWN}Method"),
        (GET_STATE, SET, ("ssa{sv}s", "*", "dbus", NONE, ""), f"{UNKNOWN}Method"),
        (GET_STATE, f"{PROPERTIES}.Get", ("ss", METHOD, "Nope"), f"{UNKNOWN}Property"),
        (GET_STATE, f"{PROPERTIES}.GetAll", ("s", CONTROL), f"{UNKNOWN}Interface"),
        (GET_STATE, f"{PROPERTIES}.Set", ("ssv", METHOD, "Mode", Variant("s", "dbus")), READ_ONLY),
    ],
)
async def test_what_is_not_there_is_said_to_be_unknown(
    both: tuple[DBusAdmin, DBusAdminClient], path: str, member: str, body: tuple[Any, ...], name: str
) -> None:
    assert (await both[1].error(path, member, *body))[0] == name


async def test_the_whole_tree_can_be_found_from_its_root(both: tuple[DBusAdmin, DBusAdminClient]) -> None:
    _, caller = both
    tree = {"/": ["org"], "/org/xen": ["xcp"], ROOT: ["method"], START_PATH: []}
    tree |= {f"{ROOT}/method": ["xenopsd_2fVM_2eget_5fstate", "xenopsd_2fVM_2estart"]}
    for path, children in tree.items():
        (xml,) = await caller.call(path, "org.freedesktop.DBus.Introspectable.Introspect")
        assert [node.get("name") for node in ElementTree.fromstring(xml).findall("node")] == children


async def test_who_may_only_read_changes_nothing_and_a_stranger_does_not_even_read() -> None:
    me = frozenset({os.geteuid()})

    class Others(AccessRules, frozen=True):
        """Treat root like any user: root may run the test."""

        def have(self, caller: Any, right: Right) -> bool:
            return right is Right.READ and caller in self.read

    with private_bus() as bus:
        async with (
            dbus_admin(bus.address, Others(0, read=Principals(me))) as made,
            dbus_admin_client(bus.address) as caller,
        ):
            await caller.until_there()
            assert await get(caller, "Mode") == "legacy"
            name, text = await caller.error(ROOT, SET, "ssa{sv}s", "*", "dbus", NONE, "")
            assert (name, "may not change anything here" in text) == (DENIED, True)
            assert made.state.overrides == ()
        async with dbus_admin(bus.address, Others(0)), dbus_admin_client(bus.address) as caller:
            await caller.until_there()
            assert (await caller.error(GET_STATE, f"{PROPERTIES}.GetAll", "s", METHOD))[0] == DENIED
            (xml,) = await caller.call(ROOT, "org.freedesktop.DBus.Introspectable.Introspect")
            assert (CONTROL in xml, "<node name" in xml) == (True, False)


async def test_who_is_not_admitted_costs_no_look_at_the_methods_and_no_place_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everybody may call over a system bus, and there may be thousands of methods."""
    nobody, held = AccessRules(0), asyncio.Event()
    monkeypatch.setattr(AccessRules, "have", lambda *_: False)
    with private_bus() as bus:
        async with (
            dbus_admin(bus.address, nobody) as made,
            dbus_admin_client(bus.address) as flooder,
            dbus_admin_client(bus.address) as other,
        ):
            await other.until_there()

            def names() -> None:
                raise AssertionError("a stranger had the methods listed")

            monkeypatch.setattr(made.admin_service, "names", names)
            for member, signature, body in (("RollbackAll", "s", [""]), ("ClearMode", "ss", ["*", ""])):
                assert (await flooder.error(ROOT, f"{CONTROL}.{member}", signature, *body))[0] == DENIED
            await flooder.call(ROOT, "org.freedesktop.DBus.Introspectable.Introspect")
            known = Callers.of

            async def slow(self: Callers, unique_name: str) -> Caller | None:
                if unique_name == flooder.bus.unique_name:
                    await held.wait()
                return await known(self, unique_name)

            monkeypatch.setattr(Callers, "of", slow)
            calls = [
                asyncio.ensure_future(flooder.error(ROOT, SET, "ssa{sv}s", "*", "dbus", NONE, "")) for _ in range(65)
            ]
            assert (await calls[-1])[0] == LIMITS
            assert (await other.error(ROOT, SET, "ssa{sv}s", "*", "dbus", NONE, ""))[0] == DENIED
            held.set()
            assert {name for name, _ in await asyncio.gather(*calls)} == {DENIED, LIMITS}


async def test_methods_that_a_reload_brings_and_takes_are_told(both: tuple[DBusAdmin, DBusAdminClient]) -> None:
    made, caller = both
    await caller.listen()
    made.routes = [STATE]
    made.admin_service.notifier.update()
    assert await caller.signal() == (ROOT, "InterfacesRemoved", [START_PATH, [METHOD]])
    assert (await caller.error(START_PATH, f"{PROPERTIES}.GetAll", "s", METHOD))[0] == f"{UNKNOWN}Object"
    made.routes = [STATE, START]
    made.admin_service.notifier.update()
    assert await caller.signal() == (ROOT, "InterfacesAdded", [START_PATH, {METHOD: {}}])


async def test_a_bug_costs_one_call_and_who_wants_no_answer_gets_none(
    both: tuple[DBusAdmin, DBusAdminClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, caller = both

    def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(made.admin_service, "explain", broken)
    assert await caller.error(ROOT, f"{CONTROL}.Explain", "savs", "VM.get_state", [], "") == (FAILED, "internal error")
    flags, body = MessageFlag.NO_REPLY_EXPECTED, ["VM.get_state", "dbus", NONE, ""]
    await caller.listen()
    await caller.bus.send(Message(BUS_NAME, ROOT, CONTROL, "SetMode", signature="ssa{sv}s", body=body, flags=flags))
    assert (await caller.signal())[1] == "ModeChanged"
    assert await get(caller, "Mode") == "dbus"


# The name on the bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


async def test_it_comes_back_with_the_bus(bus: PrivateBus) -> None:
    async with dbus_admin(bus.address) as made:
        await made.service.here.wait()
        bus.kill()
        await made.service.away.wait()
        bus.start()
        await made.service.here.wait()
        async with dbus_admin_client(bus.address) as anybody:
            await anybody.until_there()
            await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")


async def test_a_bus_that_is_not_there_keeps_nobody_from_starting_or_stopping() -> None:
    async with dbus_admin("unix:path=/nowhere/bus") as made:
        assert not made.service.connected
        await made.service.away.wait()
        assert "No such file" in made.service.last_error


async def test_it_owns_its_name_and_a_second_gateway_stands_in_line_and_takes_over(bus: PrivateBus) -> None:
    async with dbus_admin_client(bus.address) as anybody:
        async with dbus_admin(bus.address) as second:
            await second.service.here.wait()
            assert second.service.status() == {"address": bus.address, "connected": True, "last_error": ""}
            first_owner = await anybody.owner()
            async with dbus_admin(bus.address) as third:
                await third.service.here.wait()
                assert await anybody.owner() == first_owner
                await second.service.stop()
                await anybody.until_owner(lambda owner: owner not in (None, first_owner))
                await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")
        await anybody.until_owner(lambda owner: owner is None)


# Calls


async def test_a_caller_is_who_its_process_is_and_nobody_without_credentials_or_when_it_has_left(
    bus: PrivateBus,
) -> None:
    async with dbus_admin_client(bus.address) as one, dbus_admin_client(bus.address) as other:
        callers = Callers(one.bus, user_name)
        caller = present(await callers.of(str(other.bus.unique_name)))
        assert (caller.uid, caller.name) == (os.geteuid(), user_name(os.geteuid()))
        assert os.getegid() in caller.gids
        assert await callers.of(str(other.bus.unique_name)) is caller
        assert await callers.of(":1.4711") is None
    with private_bus(listen="tcp:host=127.0.0.1,port=0", auth=ANONYMOUS) as anonymous:
        async with dbus_admin_client(anonymous.address) as one, dbus_admin_client(anonymous.address) as other:
            assert await Callers(one.bus, user_name).of(str(other.bus.unique_name)) is None


# Objects


IDL = Path(__file__).parents[3] / "mappings/idl/org.xen.xcp.gateway.xml"


def shape(interface: introspection_xml.Interface) -> dict[str, Any]:
    """All that the wire shows of an interface."""
    methods = {
        name: ([str(each) for each in method.ins], [str(each) for each in method.outs])
        for name, method in interface.methods.items()
    }
    properties = {f"{name} property": (str(each.type), each.access) for name, each in interface.properties.items()}
    signals = {f"{name} signal": [str(each) for each in signal.args] for name, signal in interface.signals.items()}
    return {**methods, **properties, **signals}


def test_what_is_introspected_is_what_the_idl_says() -> None:
    promised = introspection_xml.parse(IDL.read_bytes()).interfaces
    seen = {
        name: interface
        for path in (ROOT, START_PATH)
        for name, interface in introspection_xml.parse(objects.introspection(path, [START_PATH])).interfaces.items()
        if name.startswith("org.xen.")
    }
    assert {name: shape(each) for name, each in seen.items()} == {name: shape(each) for name, each in promised.items()}


def test_the_idl_documents_everything_and_says_which_changes_are_told() -> None:
    emits = "org.freedesktop.DBus.Property.EmitsChangedSignal"
    told = {}
    for element in ElementTree.parse(IDL).getroot().iter():
        if element.tag in ("interface", "method", "property", "signal", "arg"):
            notes = {note.get("name"): note.get("value") for note in element.findall("annotation")}
            assert notes.get("org.gtk.GDBus.DocString"), ElementTree.tostring(element)
            if element.tag == "interface":
                interface = element.get("name")
                assert str(notes["org.xen.xcp.ObjectPath"]).startswith(ROOT)
            if element.tag == "property" and interface == objects.METHOD:
                told[str(element.get("name"))] = notes.get(emits, "true")
    assert told == {name: known.emits for name, known in objects.METHOD_PROPERTIES.items()}
