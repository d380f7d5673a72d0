"""Bodies become results, errors become faults."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.core.dbus import results
from gateway.core.dbus.formats import show_text
from gateway.core.dbus.marshal import MarshalError, Variant, from_dbus
from gateway.core.dbus.results import ErrorEntry, Item, Record, coerce_numbers
from gateway.core.dbus.signature import parse_one
from gateway.core.rpc.model import Call, Fault, FaultCode, Value
from tests.kit.cases import each_case

CALL = Call("m")


def _fails(_value: object) -> Value:
    raise MarshalError("something better", 5)


def test_a_bad_out_argument_is_named() -> None:
    bad = Item(0, _fails, "state")
    for shape in (results.array([bad]), results.struct({"s": bad})):
        with pytest.raises(MarshalError, match=r"^\$\.state: expected something better, got 5$"):
            shape([5])


NAMED = {"a": ("A", show_text)}


@each_case(
    ("form", "signature", "value", "shown"),
    [
        ("named", "a(su)", [["a", 1]], [{"x": "a", "y": 1}]),
        ("named", "a{sa(su)}", {"k": [["a", 1]]}, {"k": [{"x": "a", "y": 1}]}),
        ("picked", "a{sv}", {"B": 2}, {}),
        ("picked", "aa{sv}", [{"A": 1}], [{"a": "1"}]),
        ("picked", "a{oa{su}}", {"/x": {"A": 1, "B": 2}}, {"/x": {"a": "1"}}),
    ],
)
def test_structs_are_named_and_members_are_picked(form: str, signature: str, value: Value, shown: Value) -> None:
    kind = parse_one(signature)
    show = results.struct_of_fields(kind, ["x", "y"]) if form == "named" else results.picked(kind, NAMED)
    assert show(value) == shown


@each_case(
    ("signature", "holds"),
    [("a{sv}", True), ("aaa{su}", True), ("a{oa{su}}", True), ("as", False), ("a{us}", False), ("v", False)],
)
def test_only_dictionaries_with_text_keys_have_members(signature: str, holds: bool) -> None:
    assert results.holds_dict(parse_one(signature)) is holds


def test_a_record_has_what_was_picked_and_all_others_and_a_property_of_another_type_is_named() -> None:
    everything = Record({"A": ("A", lambda variant: str(variant.value))}, from_dbus(parse_one("v")))
    assert everything({"A": Variant("u", 1), "B": Variant("s", "x")}) == {"A": "1", "B": "x"}
    record = Record({"b": ("B", results.property_decoder(parse_one("u"), "plain"))})
    with pytest.raises(MarshalError, match=r"^\$\.b: expected u from the service"):
        record({"A": Variant("u", 1), "B": Variant("s", "x")})


ID_OF = results.property_decoder(parse_one("u"), "plain")
BY_ID = results.property_key("Id", ID_OF)


# Two that share a key, one that has none, one that is well.
SHARED = {
    "/a": {"I": {"Id": Variant("u", 1)}},
    "/b": {"I": {"Id": Variant("u", 1)}},
    "/c": {"I": {}},
    "/d": {"I": {"Id": Variant("u", 4)}},
}


def test_objects_without_a_key_of_their_own_are_refused_or_their_paths_are_the_keys() -> None:
    decode = results.records("I", BY_ID, Record({}), refuse=True)
    with pytest.raises(MarshalError, match="expected a key for the record, got nothing"):
        decode({path: SHARED[path] for path in ("/c", "/d")})
    decode = results.records("I", BY_ID, Record({"id": ("Id", ID_OF)}))
    assert decode(SHARED) == {"/a": {"id": 1}, "/b": {"id": 1}, "/c": {}, "4": {"id": 4}}
    as_path = results.property_key("Id", results.property_decoder(parse_one("s"), "plain"))
    other = {"/a": {"I": {}}, "/b": {"I": {"Id": Variant("s", "/a")}}}  # a key that is another object's path
    assert results.records("I", as_path, Record({}))(other) == {"/a": {}, "/b": {}}


# Errors


def _told(text: str, *args: Value, parameters: dict[str, Value] | None = None, message: str = "text") -> Value:
    found = {name: (lambda _, value=value: value) for name, value in (parameters or {}).items()}
    translate = results.error_mapper({"a.B": ErrorEntry("CODE", (results.template(text, found),))})
    told = translate(Fault(FaultCode.REMOTE, message, name="a.B", data=list(args)), CALL)
    assert (told.code, told.name) == (FaultCode.APPLICATION, "CODE")
    assert isinstance(told.data, list)
    return told.data[0]


@each_case(
    ("text", "args", "told"),
    [
        ("VM", [], "VM"),
        ("{0}", [5], 5),
        ("{0}", [[1, "a"]], [1, "a"]),
        ("{1}", [5], ""),
        ("<{0}>", [5], "<5>"),
        ("<{0}>", [True], "<true>"),
        ("<{0}>", [None], "<null>"),
        ("<{0}>", [{"a": [1, "ä"]}], '<{"a":[1,"ä"]}>'),
        ("<{0}>", [[b"ab", datetime(2026, 1, 2, tzinfo=UTC)]], '<["YWI=","2026-01-02T00:00:00+00:00"]>'),
        ("{0}{1}", ["a", "b"], "ab"),
        ("{name}: {message}", ["first"], "a.B: first"),
        ("{message}", [5], "text"),
        ("{vm}", [], "v1"),
        ("{absent}{nobody}", [], ""),
    ],
)
def test_a_template_is_filled(text: str, args: list[Value], told: Value) -> None:
    assert _told(text, *args, parameters={"vm": "v1", "absent": None}) == told


def test_the_message_is_a_template_or_the_text_of_the_error() -> None:
    fault = Fault(FaultCode.REMOTE, "text", name="a.B", data=["first"])
    plain = results.error_mapper({"a.B": ErrorEntry("CODE", (results.constant(7),))})
    assert plain(fault, CALL) == Fault(FaultCode.APPLICATION, "first", name="CODE", data=[7])
    told = results.error_mapper({"*": ErrorEntry("CODE", message=results.template("{0}!", {}))})
    assert told(fault, CALL).message == "first!"
    for other in (Fault(FaultCode.REMOTE, "", name="a.C"), Fault(FaultCode.TIMEOUT, "")):
        assert plain(other, CALL) is other
    assert results.template_names("{vm} is {0}, not {x y}") == ["vm", "0", "x y"]


@each_case(
    ("signature", "value", "expected"),
    [
        ("x", "42", 42),
        ("t", "18446744073709551615", 2**64 - 1),
        ("i", "-1", -1),
        ("u", 42, 42),
        ("u", "forty", "forty"),
        ("u", "", ""),
        ("d", "1.5", 1.5),
        ("d", "1e3", 1000.0),
        ("d", "nan", "nan"),
        ("s", "42", "42"),
        ("v", "42", "42"),
        ("b", "1", "1"),
        ("au", ["1", "2"], [1, 2]),
        ("a{sx}", {"a": "1"}, {"a": 1}),
        ("a{sv}", {"a": "1"}, {"a": "1"}),
        ("(sx)", ["1", "2"], ["1", 2]),
        ("(sx)", ["1"], ["1"]),
        ("x", ["1"], ["1"]),
        ("au", {"a": "1"}, {"a": "1"}),
        ("aa{su}", [{"a": "1"}, None], [{"a": 1}, None]),
    ],
)
def test_a_text_is_a_number_where_its_type_says_so(signature: str, value: Value, expected: Value) -> None:
    got = coerce_numbers(value, parse_one(signature))
    assert got == expected
    assert type(got) is type(expected)
