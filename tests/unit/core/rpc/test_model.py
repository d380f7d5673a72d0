"""The values that pass between the parts, and the identity of a peer."""

from __future__ import annotations

import struct

import pytest
from msgspec import Struct, structs

from gateway.core.rpc.model import (
    ABANDONED,
    CREDENTIALS_SIZE,
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
    caller,
    charset_of,
    credentials,
    ended,
    is_loopback,
    share_owner,
)

VALUES = [
    Call("a"),
    Reply(5),
    Fault(FaultCode.BUSY, "busy"),
    Envelope(()),
    Answer(None, "text/xml"),
    MessageLimits(),
    Peer(),
    RequestMetadata(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_cannot_be_changed_and_is_equal_by_its_fields(value: Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], None)
    assert not hasattr(value, "__dict__")
    assert structs.replace(value) == value


def test_two_calls_share_nothing() -> None:
    one, other = Call("a"), Call("b")
    assert one.named is not other.named
    assert one.extensions is not other.extensions


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


# The identity of a peer


@pytest.mark.parametrize(
    ("peer", "word"),
    [
        (Peer("tcp:127.0.0.1:4711"), "tcp:127.0.0.1"),
        (Peer("tcp:[::1]:4711"), "tcp:[::1]"),
        (Peer("unix:/run/rpc", uid=1000, gid=5, pid=7), "uid 1000"),
        (Peer("xenstore:/run/socket", domid=0), "domid 0"),
        (Peer("control"), "control"),
        (Peer(), ""),
    ],
)
def test_a_caller_has_one_word_for_all_its_connections(peer: Peer, word: str) -> None:
    assert caller(peer) == word


@pytest.mark.parametrize(
    ("peer", "owner"),
    [
        (Peer("tcp:192.0.2.1:4711"), "tcp:192.0.2.1"),
        (Peer("tcp:[2001:db8:0:1:2:3:4:5]:4711"), "tcp:[2001:db8:0:1::/64]"),
        (Peer("tcp:[2001:db8:0:1:ffff::]:1"), "tcp:[2001:db8:0:1::/64]"),
        (Peer("tcp:[::ffff:192.0.2.1]:1"), "tcp:192.0.2.1"),
        (Peer("tcp:[fe80::1%eth0]:1"), "tcp:[fe80::/64]"),
        (Peer("tcp:[::1]:1"), "tcp:[::1]"),
        (Peer("unix:/run/rpc", uid=1000), "uid 1000"),
        (Peer("tcp:unknown:0"), "tcp:unknown"),
    ],
)
def test_one_user_one_address_and_one_ipv6_network_share_a_quota(peer: Peer, owner: str) -> None:
    assert share_owner(peer) == owner


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp:127.0.0.1:1", True),
        ("tcp:127.9.9.9:1", True),
        ("tcp:[::1]:1", True),
        ("tcp:[::ffff:127.0.0.1]:1", True),
        ("tcp:192.0.2.1:1", False),
        ("tcp:unknown:0", False),
        ("unix:/run/rpc", False),
    ],
)
def test_loopback_is_told(address: str, local: bool) -> None:
    assert is_loopback(Peer(address)) is local


def test_users_have_no_sign() -> None:
    told = struct.pack("iII", 7, 2**32 - 2, 2**31)
    assert len(told) == CREDENTIALS_SIZE
    assert credentials(told) == (7, 2**32 - 2, 2**31)
