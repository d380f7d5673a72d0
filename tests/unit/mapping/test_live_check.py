"""`check --live`: what a running service lacks, what it has beyond the IDL, and what could not be checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.core.rpc.model import Fault, FaultCode
from gateway.mapping.live_check import differences
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, IDL, build_methods

HERE, PATH = "/org/example", HEAD.replace("object_path: /org/example", "object_path: '/org/example/vm/{vm}'")
FURTHER = "m: {all_properties: true, with_interfaces: [org.example.Session1]}"
M = "x.yaml:13:3: methods.m: "


async def seen(
    directory: Path, methods: str, objects: Mapping[str, str], head: str = HEAD
) -> tuple[list[str], list[str], int]:
    """Problems, notes, and the number of contracts that were not checked. `objects`: all of one service, with XML."""

    async def introspect(bus_name: str, object_path: str) -> str | Fault:
        no_object = Fault(FaultCode.NOT_FOUND, f"{bus_name} has no object {object_path}")
        return objects.get(object_path, no_object)

    built = build_methods(directory, methods, head)
    assert built.problems == []
    compared = await differences(built.table, introspect)
    assert {problem.level for problem in compared.problems} <= {"live"}
    problems, notes = (
        [str(each).replace(f"{directory}/", "") for each in found]
        for found in (sorted(compared.problems), compared.notes)
    )
    return problems, notes, compared.unseen


async def test_a_service_that_implements_the_idl_has_no_differences(tmp_path: Path) -> None:
    methods = "m: {member: Stat}\nn: {property: Tags}\no: {all_properties: true}"
    assert await seen(tmp_path, methods, {HERE: IDL}) == ([], [], 0)
    assert await seen(tmp_path, FURTHER, {HERE: IDL}) == ([], [], 0)


VM1 = "org.example.VM1"
STAT = f"{VM1}.Stat: the IDL has a method '' -> 'st', the running service has "
TAGS = f"{VM1}.Tags: the IDL has a property 'as', read, the running service has a property 's', read"
LACKS = f"the object of the running org.example does not implement {VM1}; it has org.example.VM2, org.example.Session1"


@each_case(
    ("entry", "text", "instead", "difference"),
    [
        ("{member: Stat}", '"Stat"', '"Stats"', f"{STAT}no such member"),
        ("{member: Stat}", 'type="t" direction="out"', 'type="u" direction="out"', f"{STAT}a method '' -> 'su'"),
        ("{member: Stat}", VM1, "org.example.VM2", LACKS),
        ("{member: Stat}", "</node>", "", "introspection data of org.example: invalid XML: no element found"),
        ("{property: Tags}", 'type="as"', 'type="s"', TAGS),
    ],
)
async def test_a_difference_is_reported_with_the_place_of_the_method(
    tmp_path: Path, entry: str, text: str, instead: str, difference: str
) -> None:
    problems, _, _ = await seen(tmp_path, f"m: {entry}", {HERE: IDL.replace(text, instead)})
    assert problems == [M + difference]


async def test_the_session_check_is_compared_too(tmp_path: Path) -> None:
    session = "session: {parameter: s, interface: org.example.Session1, member: Check}\nmethods:\n"
    objects = {HERE: IDL.replace('"Check"', '"Look"')}
    (problem,), _, _ = await seen(
        tmp_path, "m: {member: Stat, params: [s]}", objects, HEAD.replace("methods:\n", session)
    )
    assert problem.startswith("x.yaml:12:1: session: ")


async def test_what_does_not_answer_is_a_note_and_counted(tmp_path: Path) -> None:
    note = f"{M}not checked: org.example has no object /org/example"
    assert await seen(tmp_path, "m: {member: Stat}", {}) == ([], [note], 1)
    assert await seen(tmp_path, FURTHER, {}) == ([], [f"{note} (2 uses)"], 2)
    lacking = {HERE: IDL.replace("org.example.Session1", "org.example.Session2")}
    lacks = f"{M}not checked: /org/example of org.example lacks org.example.Session1"
    assert await seen(tmp_path, FURTHER, lacking) == ([], [lacks], 1)


async def test_any_object_below_serves_for_a_path_with_a_parameter(tmp_path: Path) -> None:
    folder = {f"{HERE}/vm": "<node><node name='gone'/><node name='v1'/></node>"}
    stats = {f"{HERE}/vm/v1": IDL.replace('"Stat"', '"Stats"')}
    problems, notes, _ = await seen(tmp_path, "m: {member: Stat, params: [vm]}", {**folder, **stats}, PATH)
    more = "org.example: org.example.VM1 of the running service has more than the IDL: Stats"
    assert (problems, notes) == ([f"{M}{STAT}no such member"], [more])
    missing = "not checked: no object of org.example below /org/example/vm implements org.example.VM1 at the moment"
    assert await seen(tmp_path, "m: {member: Stat, params: [vm]}", folder, PATH) == ([], [M + missing], 1)
    entry = "{listener: store, object_path: '/org/example/vm/{vm}', node: '/vm/{vm}', property: Memory}"
    published = HEAD.replace("methods:", f"publish:\n  - {entry}\nmethods:")
    objects = {HERE: IDL, **folder, f"{HERE}/vm/v1": IDL}
    assert await seen(tmp_path, "m: {member: Stat}", objects, published) == ([], [], 0)
    note = f"x.yaml:13:5: publish[0]: {missing}"
    assert await seen(tmp_path, "m: {member: Stat}", {HERE: IDL, **folder}, published) == ([], [note], 1)


async def test_managed_objects_are_searched_below_their_manager(tmp_path: Path) -> None:
    folders = {HERE: "<node><node name='vm'/></node>", f"{HERE}/vm": "<node><node name='v1'/></node>"}
    objects = {**folders, f"{HERE}/vm/v1": IDL.replace('"Memory"', '"Remembrance"')}
    (problem,), _, _ = await seen(tmp_path, "m: {managed_objects: true}", objects)
    assert problem.startswith(f"{M}org.example.VM1.Memory: ")


async def test_what_the_service_offers_beyond_the_idl_is_a_note(tmp_path: Path) -> None:
    text = IDL.replace('"Memory" type="t" access="read"', '"Memory" type="t" access="readwrite"')
    objects = {HERE: text.replace('<method name="Stat">', '<method name="New"/><method name="Stat">')}
    more = "org.example: org.example.VM1 of the running service has more than the IDL: New, write access to Memory"
    assert await seen(tmp_path, "m: {member: Stat}\nn: {property: Memory}", objects) == ([], [more], 0)


HCI0 = "object_path: '/org/hci0/dev_{a}', "


@each_case(
    ("entry", "number", "missed"),
    [
        (f"{HCI0}params: [a]", 2, "/org/hci0/dev_{a}: /org/hci0/dev_2_3, /org/hci1/d"),
        (f"{HCI0}params: [{{name: a, escape: dashes}}]", 1, "/org/hci0/dev_{a}: /org/hci1/d"),
        ("params: [{name: d, object: /org/hci0}]", 1, "/org/hci0/...: /org/hci1/d"),
        ("params: [{name: d, object: [/org/hci0, /org/hci1]}]", 0, ""),
    ],
)
async def test_objects_that_the_path_cannot_reach_are_found(
    tmp_path: Path, entry: str, number: int, missed: str
) -> None:
    objects = {
        "/": "<node><node name='org'/></node>",
        "/org": "<node><node name='hci0'/><node name='hci1'/></node>",
        "/org/hci0": "<node><node name='dev_11'/><node name='dev_2_3'/></node>",
        "/org/hci1": "<node><node name='d'/></node>",
        **dict.fromkeys(("/org/hci0/dev_11", "/org/hci0/dev_2_3", "/org/hci1/d"), IDL),
    }
    note = f"{M}{number} of the objects with org.example.VM1 are not reached by {missed}"
    assert await seen(tmp_path, f"m: {{member: Stat, {entry}}}", objects) == ([], [note] if number else [], 0)
