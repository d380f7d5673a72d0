"""Path elements, templates, exposure, values as text, netstrings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.core.dbus.scalars import MarshalError
from gateway.core.xenstore import paths
from gateway.core.xenstore.paths import Domains, node_text, unpack
from tests.kit.cases import each_case, present


@each_case(
    ("text", "written"),
    [
        ("reserve-memory", "reserve-memory"),
        ("session_id", "session_id"),
        ("VM.start", "VM@2estart"),
        ("org.xen.xcp:1", "org@2exen@2excp@3a1"),
        ("", "@"),
        ("@", "@40"),
        ("..", "@2e@2e"),
        ("a/b", "a@2fb"),
        ("\0", "@00"),
        ("é", "@c3@a9"),
    ],
)
def test_what_a_path_cannot_hold_is_written_by_its_bytes(text: str, written: str) -> None:
    assert paths.element(text) == written


def test_a_member_that_begins_with_a_digit_is_no_number_of_an_array() -> None:
    assert paths.member("10") == "@310"
    assert paths.index_of(paths.member("10")) is None
    assert [paths.index_of(text) for text in ("0", "10", "01", "-1", "", "x")] == [0, 10, None, None, None, None]


@each_case("written", ["", "a.b", "@2E", "@2", "a@", "@ff", "@61", "a b", "@@", "a/b", "@c3"])
def test_what_nobody_would_write_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="expected a name as an element of a path"):
        paths.text_of(written)
    with pytest.raises(ValueError, match="without lone surrogates"):
        paths.element("\ud800")


@each_case(
    ("path", "good"),
    [
        ("/a", True),
        ("/local/domain/0/a-b_c@", True),
        ("/", False),
        ("a", False),
        ("/a/", False),
        ("//a", False),
        ("/a.b", False),
        ("/a\0", False),
        ("/" + "a" * 3071, True),
        ("/" + "a" * 3072, False),
    ],
)
def test_a_path_is_one_that_a_store_can_have(path: str, good: bool) -> None:
    assert paths.is_path(path) is good


CHANNEL = paths.template("/local/domain/{server}/RPC/fe/{domid}")


def test_a_template_takes_a_path_apart_and_knows_its_parameters() -> None:
    match = present(CHANNEL.match("/local/domain/0/RPC/fe/7/query/1/submit"))
    assert match.node == "/local/domain/0/RPC/fe/7"
    assert match.parameters == {"server": "0", "domid": "7"}
    assert match.rest == ("query", "1", "submit")
    for other in ("/local/domain/0", "/local/domain/0/RPC/other/7", "/squeezed", ""):
        assert CHANNEL.match(other) is None
    assert CHANNEL.parameters == ("server", "domid")
    assert CHANNEL.root == "/local/domain"
    assert paths.template("/squeezed").root == "/squeezed"
    assert str(CHANNEL.below("query", "{id}")) == "/local/domain/{server}/RPC/fe/{domid}/query/{id}"


@each_case(
    ("text", "why"),
    [
        ("squeezed", "expected a path"),
        ("/", "expected a path"),
        ("/a/", "expected a path"),
        ("/a/{b}c", "expected a path"),
        ("/a.b", "expected a path"),
        ("/{a}/{a}", "each parameter once"),
    ],
)
def test_a_bad_template_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        paths.template(text)


# Exposure


@each_case(
    ("domains", "allowed"),
    [
        (Domains(), {0}),
        (Domains(frozenset({5, 9})), {0, 5, 9}),
        (Domains(named=frozenset({"domid"})), {0, 7}),
        (Domains(frozenset({5}), frozenset({"domid"})), {0, 5, 7}),
        (Domains(named=frozenset({"other"})), {0}),
        (Domains(everyone=True), {0, 5, 7, 9}),
    ],
)
def test_domain_0_may_always_call_and_others_as_is_said(domains: Domains, allowed: set[int]) -> None:
    assert {domid for domid in (0, 5, 7, 9) if domains.allow(domid, {"domid": "7", "kib": "5"})} == allowed


def test_what_is_exposed_without_domains_is_of_domain_0_alone() -> None:
    assert paths.Exposure("tree", paths.template("/svc")).domains == Domains()


# Values as text


@each_case(
    ("value", "text"),
    [
        ("zoë", "zoë".encode()),
        ("", b""),
        (True, b"1"),
        (-(2**63), b"-9223372036854775808"),
        (2**64 - 1, b"18446744073709551615"),
        (0.1, b"0.1"),
        (1e300, b"1e+300"),
        (b"\0", b"AA=="),
        (datetime(2026, 1, 31, 9, 5, tzinfo=UTC), b"20260131T09:05:00Z"),
        (datetime.fromisoformat("2026-01-31T09:05:00"), b"20260131T09:05:00"),
        (datetime.fromisoformat("2026-01-31T09:05:00.25-05:00"), b"20260131T09:05:00.250000-05:00"),
    ],
)
def test_a_value_has_one_text(value: object, text: bytes) -> None:
    assert node_text(value) == text


@each_case(
    ("value", "why"),
    [
        (None, "cannot hold nil"),
        ([], "which a node can hold"),
        ({"a": 1}, "which a node can hold"),
        ("a\0", "without NUL"),
        ("\ud800", "without lone surrogates"),
        (float("-inf"), "a finite number"),
        (2**64, "an integer of 64 bits"),
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1))), "whole minutes"),
    ],
)
def test_what_a_node_cannot_say_is_refused(value: object, why: str) -> None:
    with pytest.raises(MarshalError, match=why):
        node_text(value)


# Netstrings


@each_case(
    ("packed", "why"),
    [
        (b"x", "a length and a colon at byte 0"),
        (b":a,", "a length and a colon at byte 0"),
        (b"01:a,", "a length and a colon at byte 0"),
        (b"1:a,2", "a length and a colon at byte 4"),
        (b"-1:a,", "a length and a colon at byte 0"),
        (b"9999999999:a,", "a length and a colon at byte 0"),
        (b"2:a,", "a comma at byte 4"),
        (b"1:ab", "a comma at byte 3"),
    ],
)
def test_junk_is_refused_with_its_place(packed: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^expected {why}$"):
        unpack(packed)
