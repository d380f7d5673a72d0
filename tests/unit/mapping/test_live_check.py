from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.core.rpc.model import Fault, FaultCode
from gateway.mapping.live_check import Introspect, compare, differences
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table
from tests.kit.mappings import HEAD, IDL, build_methods

PATH = HEAD.replace("object_path: /org/example", "object_path: '/org/example/vm/{vm}'")


def _services(objects: Mapping[str, str]) -> Introspect:
    """Objects of one service; there are no others."""

    async def introspect(bus_name: str, object_path: str) -> str | Fault:
        xml = objects.get(object_path)
        return Fault(FaultCode.NOT_FOUND, f"{bus_name} has no object {object_path}") if xml is None else xml

    return introspect


async def seen(table: Table, introspect: Introspect) -> tuple[list[Problem], list[str]]:
    compared = await differences(table, introspect)
    assert compared.contracts == len(table.contracts)
    return sorted(compared.problems), list(compared.notes)


def at(folder: Path) -> str:
    return f"{folder}/x.yaml:13:3: methods.m"


async def test_contracts_that_cannot_be_checked_are_counted(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}\nn: {property: Tags}").table
    assert (await differences(table, _services({}))).unseen == len(table.contracts) > 0
    table = build_methods(tmp_path, "m: {all_properties: true, with_interfaces: [org.example.Session1]}").table
    compared = await differences(table, _services({}))
    note = f"{at(tmp_path)}: not checked: org.example has no object /org/example (2 uses)"
    assert (list(compared.notes), compared.unseen) == ([note], 2)
    assert (await differences(table, _services({"/org/example": IDL}))).unseen == 0


async def test_a_service_that_implements_the_idl_has_no_differences(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}\nn: {property: Tags}\no: {all_properties: true}").table
    assert await seen(table, _services({"/org/example": IDL})) == ([], [])


@pytest.mark.parametrize(
    ("text", "instead", "difference"),
    [
        (
            '"Stat"',
            '"Stats"',
            "org.example.VM1.Stat: the IDL has a method '' -> 'st', the running service has no such member",
        ),
        (
            'type="t" direction="out"',
            'type="u" direction="out"',
            "org.example.VM1.Stat: the IDL has a method '' -> 'st', the running service has a method '' -> 'su'",
        ),
        (
            "org.example.VM1",
            "org.example.VM2",
            (
                "the object of the running org.example does not implement org.example.VM1; "
                "it has org.example.VM2, org.example.Session1"
            ),
        ),
        ("</node>", "", "introspection data of org.example: invalid XML: no element found"),
    ],
)
def test_a_difference_is_reported_with_the_place_of_the_method(
    tmp_path: Path, text: str, instead: str, difference: str
) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}").table
    problems = compare(table.contracts[0], IDL.replace(text, instead))
    assert [str(problem) for problem in problems] == [f"{tmp_path}/x.yaml:13:3: methods.m: {difference}"]
    assert problems[0].level == "live"


async def test_a_property_of_another_type_is_a_difference(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {property: Tags}").table
    problems, _ = await seen(table, _services({"/org/example": IDL.replace('type="as"', 'type="s"')}))
    expected = "org.example.VM1.Tags: the IDL has a property 'as', read, the running service has a property 's', read"
    assert [problem.message for problem in problems] == [expected]


async def test_the_session_check_is_compared_too(tmp_path: Path) -> None:
    session = "session: {parameter: s, interface: org.example.Session1, member: Check}\nmethods:\n"
    table = build_methods(tmp_path, "m: {member: Stat, params: [s]}", HEAD.replace("methods:\n", session)).table
    problems, _ = await seen(table, _services({"/org/example": IDL.replace('"Check"', '"Look"')}))
    assert [problem.place for problem in problems] == ["session"]


async def test_a_service_that_does_not_answer_is_a_note(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}").table
    assert await seen(table, _services({})) == (
        [],
        [f"{at(tmp_path)}: not checked: org.example has no object /org/example"],
    )


async def test_any_object_serves_for_a_path_with_a_parameter(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat, params: [vm]}", PATH).table
    objects = {
        "/org/example/vm": "<node><node name='gone'/><node name='v1'/></node>",
        "/org/example/vm/v1": IDL.replace('"Stat"', '"Stats"'),
    }
    problems, notes = await seen(table, _services(objects))
    more = "org.example: org.example.VM1 of the running service has more than the IDL: Stats"
    assert (len(problems), notes) == (1, [more])


async def test_a_publication_is_compared_with_any_object_that_its_path_may_name(tmp_path: Path) -> None:
    entry = "{listener: store, object_path: '/org/example/vm/{vm}', node: '/vm/{vm}', property: Memory}"
    built = build_methods(tmp_path, "m: {member: Stat}", HEAD.replace("methods:", f"publish:\n  - {entry}\nmethods:"))
    assert built.problems == []
    objects = {"/org/example": IDL, "/org/example/vm": "<node><node name='v1'/></node>", "/org/example/vm/v1": IDL}
    assert await seen(built.table, _services(objects)) == ([], [])
    del objects["/org/example/vm/v1"]
    no_object = "no object of org.example below /org/example/vm implements org.example.VM1 at the moment"
    assert await seen(built.table, _services(objects)) == (
        [],
        [f"{tmp_path}/x.yaml:13:5: publish[0]: not checked: {no_object}"],
    )


async def test_what_the_service_offers_beyond_the_idl_is_a_note(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}\nn: {property: Memory}").table
    text = IDL.replace('"Memory" type="t" access="read"', '"Memory" type="t" access="readwrite"')
    text = text.replace('<method name="Stat">', '<method name="New"/><method name="Stat">')
    more = "org.example: org.example.VM1 of the running service has more than the IDL: New, write access to Memory"
    assert await seen(table, _services({"/org/example": text})) == ([], [more])


DEVICE = IDL.replace("<node>", "<node name='x'>")


async def test_objects_that_the_path_cannot_reach_are_found(tmp_path: Path) -> None:
    entry = "{member: Stat, object_path: '/org/hci0/dev_{a}', params: [%s]}"
    objects = {
        "/": "<node><node name='org'/></node>",
        "/org": "<node><node name='hci0'/><node name='hci1'/></node>",
        "/org/hci0": "<node><node name='dev_11'/><node name='dev_22_33_44'/></node>",
        "/org/hci1": "<node><node name='dev_55'/></node>",
        **dict.fromkeys(("/org/hci0/dev_11", "/org/hci0/dev_22_33_44", "/org/hci1/dev_55"), DEVICE),
    }
    table = build_methods(tmp_path, f"m: {entry % 'a'}").table
    missed = f"{at(tmp_path)}: 2 of the objects with org.example.VM1 are not reached by /org/hci0/dev_{{a}}: "
    assert await seen(table, _services(objects)) == ([], [missed + "/org/hci0/dev_22_33_44, /org/hci1/dev_55"])
    table = build_methods(tmp_path, f"m: {entry % '{name: a, escape: dashes}'}").table
    missed = f"{at(tmp_path)}: 1 of the objects with org.example.VM1 are not reached by /org/hci0/dev_{{a}}: "
    assert await seen(table, _services(objects)) == ([], [missed + "/org/hci1/dev_55"])
    table = build_methods(tmp_path, "m: {member: Stat, params: [{name: d, object: /org/hci0}]}").table
    missed = f"{at(tmp_path)}: 1 of the objects with org.example.VM1 are not reached by /org/hci0/...: /org/hci1/dev_55"
    assert await seen(table, _services(objects)) == ([], [missed])
    table = build_methods(tmp_path, "m: {member: Stat, params: [{name: d, object: [/org/hci0, /org/hci1]}]}").table
    assert await seen(table, _services(objects)) == ([], [])


async def test_a_further_interface_that_the_object_lacks_is_a_note(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {all_properties: true, with_interfaces: [org.example.Session1]}").table
    lacking = IDL.replace("org.example.Session1", "org.example.Session2")
    note = f"{at(tmp_path)}: not checked: /org/example of org.example lacks org.example.Session1"
    assert await seen(table, _services({"/org/example": lacking})) == ([], [note])


async def test_a_missing_object_is_a_note(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat, params: [vm]}", PATH).table
    missing = "no object of org.example below /org/example/vm implements org.example.VM1 at the moment"
    assert await seen(table, _services({"/org/example/vm": "<node/>"})) == (
        [],
        [f"{at(tmp_path)}: not checked: {missing}"],
    )


async def test_managed_objects_are_searched_below_their_manager(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {managed_objects: true}").table
    objects = {
        "/org/example": "<node><node name='vm'/></node>",
        "/org/example/vm": "<node><node name='v1'/></node>",
        "/org/example/vm/v1": IDL.replace('"Memory"', '"Remembrance"'),
    }
    problems, _ = await seen(table, _services(objects))
    assert [problem.message.partition(":")[0] for problem in problems] == ["org.example.VM1.Memory"]
