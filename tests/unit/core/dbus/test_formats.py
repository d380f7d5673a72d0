from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dbus.formats import (
    MOMENTS,
    identity_of_class,
    moment_encoder,
    of_class,
    show_moment,
    show_moment_without_zone,
    show_text,
)
from gateway.core.dbus.marshal import MarshalError, to_dbus
from gateway.core.dbus.signature import parse_one
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case, expect

MINUTE = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


def _encode(code: str, value: Value) -> object:
    kind = parse_one(code)
    return moment_encoder(kind, to_dbus(kind))(value)


@each_case(
    "value",
    [
        MINUTE,
        MINUTE.replace(tzinfo=None),
        MINUTE.astimezone(timezone(timedelta(hours=2))),
        "19700101T00:01:00Z",
        "1970-01-01T00:01:00",
        "1970-01-01T01:01:00+01:00",
    ],
)
def test_a_moment_however_it_is_written_becomes_unix_seconds(value: Value) -> None:
    assert [_encode(code, value) for code in "xtui"] == [60, 60, 60, 60]
    assert _encode("d", value) == 60.0
    assert set(MOMENTS) == set("xtuids")
    assert _encode("s", "19700101T00:01:00") == "1970-01-01T00:01:00Z"
    assert _encode("s", MINUTE.astimezone(timezone(timedelta(hours=2)))) == "1970-01-01T02:01:00+02:00"


@each_case(
    ("code", "value", "text"),
    [
        ("x", "tomorrow", '$: expected a dateTime or ISO 8601 text, got "tomorrow"'),
        ("x", 60, "$: expected a dateTime or ISO 8601 text, got 60"),
        ("u", "19691231T00:00:00Z", "$: expected u, got -86400"),
        (
            "x",
            MINUTE.replace(microsecond=1),
            '$: expected a dateTime in whole seconds, got "1970-01-01T00:01:00.000001+00:00"',
        ),
    ],
)
def test_what_is_no_moment_is_refused(code: str, value: Value, text: str) -> None:
    with pytest.raises(MarshalError) as caught:
        _encode(code, value)
    assert str(caught.value) == text


def test_moments_numbers_and_text_are_shown_in_another_form_at_any_depth() -> None:
    assert show_moment(60.5) == MINUTE + timedelta(seconds=0.5)
    assert show_moment([60, {"a": "1970-01-01T00:01:00Z"}]) == [MINUTE, {"a": MINUTE}]
    naive = MINUTE.replace(tzinfo=None)
    assert show_moment_without_zone([60, {"a": "1970-01-01T02:01:00+02:00"}]) == [naive, {"a": naive}]
    assert show_text([2**63, {"a": 0.5, "b": "x", "c": True}]) == [str(2**63), {"a": "0.5", "b": "x", "c": True}]


@each_case("value", [2**63, float("nan"), float("inf"), "soon", True, None])
def test_what_says_no_moment_is_refused(value: Value) -> None:
    for show in (show_moment, show_moment_without_zone):
        with pytest.raises(MarshalError):
            show(value)


# One object that is several legacy classes


@given(
    st.uuids(version=4), st.sampled_from(["VM_metrics", "VM_guest_metrics", "x"]), st.sampled_from(["", "OpaqueRef:"])
)
def test_the_identity_as_another_class_is_a_uuid_of_its_own_and_leads_back(uuid: UUID, name: str, head: str) -> None:
    convert = of_class(name)
    other = expect(str, convert(f"{head}{uuid}"))
    assert other.startswith(head)
    assert other != f"{head}{uuid}"
    assert (UUID(other[-36:]).version, UUID(other[-36:]).variant) == (uuid.version, uuid.variant)
    assert convert(other) == f"{head}{uuid}"
    assert other != of_class("another")(f"{head}{uuid}")


def test_only_a_reference_with_a_uuid_can_be_that_of_two_classes() -> None:
    for text in ("OpaqueRef:NULL", "", "no reference"):
        assert of_class("VM_metrics")(text) == text
    assert [*map(identity_of_class("VM_metrics"), ("OpaqueRef:NULL", ""))] == ["OpaqueRef:NULL", ""]
    with pytest.raises(MarshalError, match="expected a reference with a UUID in it, to make that of VM_metrics"):
        identity_of_class("VM_metrics")("OpaqueRef:7")
