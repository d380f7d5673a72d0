from __future__ import annotations

import pytest

from gateway.core.rpc.model import (
    ABANDONED,
    WITHDRAWN,
    Answer,
    Call,
    Envelope,
    Fault,
    FaultCode,
    MessageLimits,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
    charset_of,
    ended,
)

VALUES = [
    Call("a"),
    Reply(5),
    Fault(FaultCode.BUSY, "busy"),
    Envelope(()),
    Answer(None, "text/xml"),
    MessageLimits(),
    Peer(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_flows_between_the_parts_takes_no_further_attributes(value: Call) -> None:
    assert not hasattr(value, "__dict__")


def test_two_calls_share_nothing() -> None:
    one, other = Call("a"), Call("b")
    assert one.named is not other.named
    assert one.extensions is not other.extensions


def test_calls_and_outcomes_are_equal_by_value() -> None:
    assert Call("a", (1, [2])) == Call("a", (1, [2]))
    assert Reply([1]) == Reply([1])
    assert Fault(FaultCode.TIMEOUT, "late") != Fault(FaultCode.NO_REPLY, "late")


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        (Reply(1), "ok"),
        (Fault(FaultCode.NO_REPLY, "cut"), "no_reply"),
        (ABANDONED, "unknown"),
        (WITHDRAWN, "withdrawn"),
    ],
)
def test_how_a_call_ended_is_a_word(outcome: Outcome, how: str) -> None:
    assert ended(outcome) == how


def test_a_reply_without_a_value_is_void() -> None:
    assert Reply().value is None


def test_the_text_of_a_fault_code_is_its_name_in_small_letters() -> None:
    assert {code.value for code in FaultCode} == {code.name.lower() for code in FaultCode}


@pytest.mark.parametrize(
    ("written", "charset"),
    [
        ("", ""),
        ("text/xml", ""),
        ("text/xml; charset=utf-8", "utf-8"),
        ('text/xml;CharSet = "ISO-8859-1"; x=y', "ISO-8859-1"),
        ("text/xml; charset='utf8'", "utf8"),
        ("multipart/mixed; boundary=charset", ""),
        ("text/xml; charset=", ""),
    ],
)
def test_the_charset_of_a_content_type_is_found(written: str, charset: str) -> None:
    assert charset_of(written) == charset
    assert RequestMetadata(headers=((b"A", b"b"), (b"content-TYPE", written.encode()))).charset == charset
    assert RequestMetadata().charset == ""
