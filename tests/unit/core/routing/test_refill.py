"""What was redacted is given again by its place, or named."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.routing.call_record import ReadRecord, recorded, substitute_secrets
from gateway.core.rpc.model import Call, Value
from tests.kit.traffic import line

NAMES = ("session", "self", "config")
HOLE: Any = {"$redacted": "text"}


def one(*params: Any, **named: Any) -> ReadRecord:
    return recorded(line("VM.get_name", params=list(params), named=named))


def test_a_call_without_secrets_is_as_it_was() -> None:
    assert substitute_secrets(one("a", {"b": [1]}, config=2.5), NAMES, {}) == (
        Call("VM.get_name", ("a", {"b": [1]}), {"config": 2.5}),
        (),
    )


def test_a_parameter_is_given_by_its_name_however_it_came() -> None:
    assert substitute_secrets(one(HOLE, "vm"), NAMES, {"session": "S"}) == (Call("VM.get_name", ("S", "vm")), ())
    assert substitute_secrets(one("vm", session=HOLE), NAMES, {"session": "S"})[0] == Call(
        "VM.get_name", ("vm",), {"session": "S"}
    )


def test_positions_count_only_what_is_not_given_by_name() -> None:
    assert substitute_secrets(one("vm", HOLE, session="S"), NAMES, {}) == (
        Call("VM.get_name", ("vm", HOLE), {"session": "S"}), ("config",),
    )  # fmt: skip


def test_what_is_missing_is_named_by_its_place() -> None:
    _, missing = substitute_secrets(one(HOLE, [1, HOLE], {"pass word": HOLE}, HOLE, odd=HOLE), NAMES, {})
    assert missing == ("session", "self[1]", "config['pass word']", "params[3]", "odd")


def test_what_leads_into_a_parameter_names_its_parts() -> None:
    call, missing = substitute_secrets(one("S", "vm", {"password": HOLE}), NAMES, {"config.password": "p"})
    assert (call.params[2], missing) == ({"password": "p"}, ())


def test_a_method_may_be_given_something_of_its_own() -> None:
    given = {"session": "S", "VM.get_name:session": "mine", "VM.start:session": "yours"}
    assert substitute_secrets(one(HOLE, "vm"), NAMES, given)[0].params[0] == "mine"


def test_a_text_that_held_a_secret_is_given_whole() -> None:
    assert substitute_secrets(one("S", "see (redacted)"), NAMES, {}) == (
        Call("VM.get_name", ("S", "see (redacted)")),
        ("self",),
    )
    assert substitute_secrets(one("S", "see (redacted)"), NAMES, {"self": "see it"})[0].params[1] == "see it"


def test_a_struct_whose_names_held_a_secret_is_given_whole() -> None:
    struct = {"(redacted)": 1}
    assert substitute_secrets(one("S", struct), NAMES, {})[1] == ("self",)
    assert substitute_secrets(one("S", struct), NAMES, {"self": '{"a": 1}'})[0].params[1] == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "1234", "1234"),
        ("integer", "1234", 1234),
        ("boolean", "true", True),
        ("struct", '{"a": {"$bytes": "aGk="}}', {"a": b"hi"}),
        ("bytes", '{"$bytes": "aGk="}', b"hi"),
        ("integer", "many", "many"),
        ("bytes", '{"$bytes": 5}', '{"$bytes": 5}'),
    ],
)
def test_what_is_given_has_the_type_of_what_was_masked(kind: str, text: str, value: Value) -> None:
    assert substitute_secrets(one({"$redacted": kind}), NAMES, {"session": text})[0].params == (value,)
