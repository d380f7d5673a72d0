"""Paths: what they mean, how places are written, and what is said of a bad one."""

from __future__ import annotations

import pytest

from gateway.core.comparison import json_path
from gateway.core.comparison.json_path import Pattern, Place
from tests.kit.cases import each_case


def matches(path: Pattern, place: Place) -> bool:
    cursor = json_path.start_cursor([(path, True)])
    for step in place:
        cursor = json_path.advance_cursor(cursor, step)
    return json_path.cursor_value(cursor) is not None


@each_case(
    ("text", "places", "others"),
    [
        ("$", [()], [("name",)]),
        ("$.name", [("name",)], [(), ("name", "x")]),
        ("$.other-config", [("other-config",)], []),
        ("$.vms[2].name", [("vms", 2, "name")], []),
        ('$["a b"].c', [("a b", "c")], []),
        (r"$['it\'s']", [("it's",)], []),
        (r"$['\u00e9\n']", [("é\n",)], []),
        ("$[0]", [(0,)], [("0",)]),
        ("$[1]", [(1,)], [(True,)]),
        ("$['0']", [("0",)], [(0,)]),
        ("$.3d", [("3d",)], []),
        ("$[*]", [(7,), ("name",)], [(), (7, 7)]),
        ("$.*", [("name",), (7,)], []),
        ("$.vms[*].name", [("vms", 12, "name")], [("vms", "name")]),
        ("$..uuid", [("uuid",), ("vms", 2, "disks", 0, "uuid")], [("vms", 2, "uuid", "x"), ()]),
        ("$..disks..uuid", [("vms", 2, "disks", 0, "uuid")], [("uuid", "disks")]),
        ("$..['a b']", [(1, "a b")], []),
        ("$..a.b", [("a", "a", "b")], [("a", "c", "b")]),
    ],
)
def test_a_path_means_its_places_and_no_others(text: str, places: list[Place], others: list[Place]) -> None:
    path = json_path.parse(text)
    assert [place for place in (*places, *others) if matches(path, place)] == places


@each_case(
    ("text", "words"),
    [
        ("", "expected a path such as $.name or $.list[*].name, got ''"),
        ("name", "expected a path such as $.name or $.list[*].name, got 'name'"),
        ("$name", "path '$name', character 2: expected a step such as .name, ['name'], [3], [*], .* or ..name, got"),
        ("$.", "path '$.', character 3: expected a name (with quotation marks and brackets around it when it is no"),
        ("$.a b", "path '$.a b', character 4: expected a step such as"),
        ("$.a[", "path '$.a[', character 4: expected [3], [*] or ['name'], got '['"),
        ("$.a[-1]", "path '$.a[-1]', character 4: expected [3], [*] or ['name'], got '[-1]'"),
        ("$.a[01]", "character 4: expected [3], [*] or ['name'], got '[01]'"),
        ("$.a['b]", "character 4: expected [3], [*] or ['name'], got \"['b]\""),
        ("$..", "path '$..', character 4: expected a name"),
        ("$..[3]", "path '$..[3]', character 4: expected a name after '..', got '[3]'"),
        ("$..*", "path '$..*', character 4: expected a name"),
        (r"$['\q']", r"character 2: expected an escape such as \', \\, \n or \u00e9, got"),
        (r"$['\U00110000']", "character 2: expected an escape such as"),
        ("$" + ".a" * 600, "expected a path of at most 1000 characters, got 1201"),
    ],
)
def test_a_bad_path_is_told_with_its_character(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        json_path.parse(text)
    assert words in str(refused.value)


@each_case(
    ("place", "text"),
    [
        ((), "$"),
        (("vms", 2, "name"), "$.vms[2].name"),
        (("a b",), "$['a b']"),
        (("",), "$['']"),
        (("it's", "\\"), r"$['it\'s']['\\']"),
        (("\n\ud800",), r"$['\n\ud800']"),
        (("größe",), "$['größe']"),
        (("3",), "$['3']"),
    ],
)
def test_a_place_is_written_so_that_it_can_be_read(place: Place, text: str) -> None:
    assert json_path.show(place) == text
    assert matches(json_path.parse(text), place)


def test_another_root_is_read_and_the_first_of_several_paths_that_arrive_is_the_one() -> None:
    pattern = json_path.parse("fault.data[1]", roots=("$", "fault"))
    assert (pattern.root, pattern.steps, str(pattern)) == ("fault", ("data", 1), "fault.data[1]")
    assert json_path.show(("data", 1), "fault") == "fault.data[1]"
    going = json_path.start_cursor(
        [(json_path.parse("$..a"), "first"), (json_path.parse("$.a"), "second"), (json_path.parse("$.a.b"), "third")]
    )
    assert json_path.cursor_value(going) is None
    going = json_path.advance_cursor(going, "a")
    assert json_path.cursor_value(going) == "first"
    assert json_path.cursor_value(json_path.advance_cursor(going, "b")) == "third"


def test_paths_that_arrive_in_many_ways_are_followed_once() -> None:
    going = json_path.start_cursor([(json_path.parse("$" + "..a" * 20), "owner")])
    for _ in range(200):
        going = json_path.advance_cursor(going, "a")
        assert len(going) <= 21
    assert json_path.cursor_value(going) == "owner"
