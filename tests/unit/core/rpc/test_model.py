"""Calls, replies, faults; units; content encodings."""

from __future__ import annotations

import gzip
import struct
import zlib

import pytest

from gateway.core.rpc import units
from gateway.core.rpc.encodings import MOST_MEMBERS, EncodingError, InflatedTooLargeError, content, is_encoded
from gateway.core.rpc.model import (
    ABANDONED,
    CREDENTIALS_SIZE,
    WITHDRAWN,
    Answer,
    Fault,
    FaultCode,
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
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling, SpelledName
from tests.kit.cases import each_case


@each_case(
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


@each_case(
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


@each_case(
    ("peer", "word", "owner"),
    [
        (Peer("tcp:127.0.0.1:4711"), "tcp:127.0.0.1", "tcp:127.0.0.1"),
        (Peer("tcp:192.0.2.1:4711"), "tcp:192.0.2.1", "tcp:192.0.2.1"),
        (Peer("tcp:[::1]:4711"), "tcp:[::1]", "tcp:[::1]"),
        (Peer("tcp:[2001:db8:0:1:2:3:4:5]:47"), "tcp:[2001:db8:0:1:2:3:4:5]", "tcp:[2001:db8:0:1::/64]"),
        (Peer("tcp:[2001:db8:0:1:ffff::]:1"), "tcp:[2001:db8:0:1:ffff::]", "tcp:[2001:db8:0:1::/64]"),
        (Peer("tcp:[::ffff:192.0.2.1]:1"), "tcp:[::ffff:192.0.2.1]", "tcp:192.0.2.1"),
        (Peer("tcp:[fe80::1%eth0]:1"), "tcp:[fe80::1%eth0]", "tcp:[fe80::/64]"),
        (Peer("tcp:unknown:0"), "tcp:unknown", "tcp:unknown"),
        (Peer("unix:/run/rpc", uid=1000, gid=5, pid=7), "uid 1000", "uid 1000"),
        (Peer("xenstore:/run/socket", domid=0), "domid 0", "domid 0"),
        (Peer("control"), "control", "control"),
        (Peer(), "", ""),
    ],
)
def test_a_caller_is_a_word_and_one_user_address_or_ipv6_network_shares_a_quota(
    peer: Peer, word: str, owner: str
) -> None:
    assert (caller(peer), share_owner(peer)) == (word, owner)


def test_loopback_is_told_and_users_have_no_sign() -> None:
    for local in ("tcp:127.0.0.1:1", "tcp:127.9.9.9:1", "tcp:[::1]:1", "tcp:[::ffff:127.0.0.1]:1"):
        assert is_loopback(Peer(local))
    for other in ("tcp:192.0.2.1:1", "tcp:unknown:0", "unix:/run/rpc"):
        assert not is_loopback(Peer(other))
    told = struct.pack("iII", 7, 2**32 - 2, 2**31)
    assert len(told) == CREDENTIALS_SIZE
    assert credentials(told) == (7, 2**32 - 2, 2**31)


# Spellings and units


XENAPI = MethodSpelling("_", ("Async.", "InternalAsync."))


@each_case(
    ("method", "named"),
    [
        ("VM.start", SpelledName("VM.start")),
        ("Async.VM.start", SpelledName("VM.start", "Async.")),
        ("InternalAsync.VM.start", SpelledName("VM.start", "InternalAsync.")),
        ("Async.Async.VM.start", SpelledName("Async.VM.start", "Async.")),
        ("Asynchronous.start", SpelledName("Asynchronous.start")),
        ("", SpelledName("")),
    ],
)
def test_one_prefix_is_taken_off(method: str, named: SpelledName) -> None:
    assert XENAPI.read(method) == named
    assert AS_WRITTEN.read(method) == SpelledName(method)


def test_the_dot_may_be_an_underscore_where_there_is_one_dot() -> None:
    assert XENAPI.index(["VM_metrics.get_all", "reboot", "a.b.c"]) == {"VM_metrics_get_all": "VM_metrics.get_all"}
    assert AS_WRITTEN.index(["VM.start"]) == {}


def test_durations_and_sizes_are_read_with_their_unit() -> None:
    seconds = {"500ms": 0.5, "30s": 30.0, "10m": 600.0, "1h": 3600.0, "0.25s": 0.25, "0s": 0.0}
    assert {text: units.seconds(text) for text in seconds} == seconds
    sizes = {"512B": 512, "300KiB": 307_200, "32MiB": 2**25, "1GiB": 2**30}
    assert {text: units.size(text) for text in sizes} == sizes
    for text in ("", "5", "s", "5 s", "-5s", "5S", "5s\n", "1e3s", "٣s"):
        with pytest.raises(ValueError, match="expected a duration such as 500ms, 30s, 10m or 1h"):
            units.seconds(text)
    for text in ("", "5", "5kb", "1.5MiB", "-1B", "5KB"):
        with pytest.raises(ValueError, match="expected a size such as 512B, 300KiB or 32MiB"):
            units.size(text)


# Content encodings


BODY = b"<methodResponse>" + b"x" * 5000 + b"</methodResponse>"


def answer(body: bytes, *encodings: str) -> Answer:
    headers = tuple((b"content-ENCODING", encoding.encode()) for encoding in encodings)
    return Answer(body, "text/xml", None, 200, "OK", ((b"X-A", b"gzip"), *headers))


def raw(body: bytes) -> bytes:
    """What some servers call deflate."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@each_case(
    "encoded",
    [
        answer(BODY),
        answer(BODY, "identity"),
        answer(gzip.compress(BODY), "gzip"),
        answer(gzip.compress(BODY), "X-GZIP"),
        answer(gzip.compress(BODY) + bytes(9), "gzip"),
        answer(gzip.compress(BODY[:100]) + gzip.compress(BODY[100:]), "gzip"),
        answer(zlib.compress(BODY), "deflate"),
        answer(raw(BODY), "deflate"),
        answer(gzip.compress(zlib.compress(BODY)), "deflate, gzip"),
        answer(gzip.compress(zlib.compress(BODY)), "deflate", "gzip"),
    ],
)
def test_the_body_is_what_it_was_before(encoded: Answer) -> None:
    assert content(encoded, len(BODY)) == BODY


def test_what_is_encoded_is_seen_by_its_header() -> None:
    assert is_encoded(answer(b"x", "gzip"))
    assert not is_encoded(answer(b"", "gzip"))  # an answer to HEAD
    assert not is_encoded(answer(b"x", "identity"))
    assert not is_encoded(answer(b"x"))
    assert content(answer(b"", "gzip"), 10) == b""


@each_case(
    ("encoded", "says"),
    [
        (answer(BODY, "gzip"), "the body is not valid gzip"),
        (answer(BODY, "deflate"), "the body is not valid deflate"),
        (answer(BODY, "br"), "expected one of gzip, x-gzip, deflate, got 'br'"),
        (answer(gzip.compress(BODY)[:-9], "gzip"), "ends within its compressed stream"),
        (answer(zlib.compress(BODY) + b"more", "deflate"), "there are bytes after"),
        (answer(gzip.compress(b"") * (MOST_MEMBERS + 1), "gzip"), "more than 100 gzip members"),
        (answer(BODY, "gzip, gzip, gzip, gzip"), "at most 3 encodings, got 4"),
    ],
)
def test_a_body_that_is_not_what_is_said_of_it_is_refused(encoded: Answer, says: str) -> None:
    with pytest.raises(EncodingError, match=says):
        content(encoded, 10_000)


@each_case("pack", [gzip.compress, zlib.compress, raw])
def test_a_bomb_is_never_held(pack: object) -> None:
    assert callable(pack)
    encoding = "gzip" if pack is gzip.compress else "deflate"
    with pytest.raises(InflatedTooLargeError, match="over 1000 bytes"):
        content(answer(pack(bytes(2**24)), encoding), 1000)
    with pytest.raises(InflatedTooLargeError):
        content(answer(gzip.compress(gzip.compress(bytes(2**24))), "gzip, gzip"), 1000)
