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


async def test_what_could_not_be_looked_at_is_counted(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}\nn: {property: Tags}").table
    assert (await differences(table, _services({}))).unseen == len(table.contracts) > 0
    assert (await differences(table, _services({"/org/example": IDL}))).unseen == 0


async def test_a_service_that_is_as_the_idl_says_has_no_differences(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}\nn: {property: Tags}\no: {all_properties: true}").table
    assert await seen(table, _services({"/org/example": IDL})) == ([], [])


@pytest.mark.parametrize(
    ("said", "instead", "difference"),
    [
        (
            '"Stat"',
            '"Stats"',
            "org.example.VM1.Stat: expected a method '' -> 'st', the running service has nothing of this name",
        ),
        (
            'type="t" direction="out"',
            'type="u" direction="out"',
            "org.example.VM1.Stat: expected a method '' -> 'st', the running service has a method '' -> 'su'",
        ),
        (
            "org.example.VM1",
            "org.example.VM2",
            "the running org.example has no org.example.VM1 here (it has: org.example.VM2, org.example.Session1)",
        ),
        ("</node>", "", "the introspection XML of org.example is no XML: no element found"),
    ],
)
def test_a_difference_is_told_with_the_place_of_the_method(
    tmp_path: Path, said: str, instead: str, difference: str
) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}").table
    problems = compare(table.contracts[0], IDL.replace(said, instead))
    assert [str(problem) for problem in problems] == [f"{tmp_path}/x.yaml:13:3: methods.m: {difference}"]
    assert problems[0].level == "live"


async def test_a_property_of_another_type_is_a_difference(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {property: Tags}").table
    problems, _ = await seen(table, _services({"/org/example": IDL.replace('type="as"', 'type="s"')}))
    expected = "org.example.VM1.Tags: expected a property 'as', read, the running service has a property 's', read"
    assert [problem.message for problem in problems] == [expected]


async def test_a_session_check_is_held_against_the_service_too(tmp_path: Path) -> None:
    session = "session: {parameter: s, interface: org.example.Session1, member: Check}\nmethods:\n"
    table = build_methods(tmp_path, "m: {member: Stat, params: [s]}", HEAD.replace("methods:\n", session)).table
    problems, _ = await seen(table, _services({"/org/example": IDL.replace('"Check"', '"Look"')}))
    assert [problem.place for problem in problems] == ["session"]


async def test_a_service_that_cannot_be_asked_is_a_note(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat}").table
    assert await seen(table, _services({})) == ([], ["methods.m: org.example has no object /org/example"])


async def test_a_path_with_a_parameter_is_any_object_there(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat, params: [vm]}", PATH).table
    objects = {
        "/org/example/vm": "<node><node name='gone'/><node name='v1'/></node>",
        "/org/example/vm/v1": IDL.replace('"Stat"', '"Stats"'),
    }
    problems, notes = await seen(table, _services(objects))
    assert (len(problems), notes) == (1, [])


async def test_that_there_is_no_such_object_now_is_a_note(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {member: Stat, params: [vm]}", PATH).table
    note = "methods.m: no object of org.example below /org/example/vm has org.example.VM1 now"
    assert await seen(table, _services({"/org/example/vm": "<node/>"})) == ([], [note])


async def test_managed_objects_are_looked_for_below_their_manager(tmp_path: Path) -> None:
    table = build_methods(tmp_path, "m: {managed_objects: true}").table
    objects = {
        "/org/example": "<node><node name='vm'/></node>",
        "/org/example/vm": "<node><node name='v1'/></node>",
        "/org/example/vm/v1": IDL.replace('"Memory"', '"Remembrance"'),
    }
    problems, _ = await seen(table, _services(objects))
    assert [problem.message.partition(":")[0] for problem in problems] == ["org.example.VM1.Memory"]
