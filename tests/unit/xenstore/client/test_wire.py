from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from pyxs import PyXSError

from adapters.xenstore.client.wire import (
    MAX_PATH,
    MAX_PAYLOAD,
    MAX_RESPONSE,
    Operation,
    Permissions,
    ProtocolError,
    Reader,
    Received,
    StoreError,
    children,
    event,
    part,
    path_argument,
    request,
    transaction_id,
)
from tests.kit.cases import each_case
from tests.kit.fake_stores import HEADER, packed

WIRE = packed(2, 7, 0, b"") + packed(16, 8, 3, b"ENOENT\0") + packed(15, 0, 0, b"/a\0t\0")
PACKETS = [Received(2, 7, 0, b""), Received(16, 8, 3, b"ENOENT\0"), Received(15, 0, 0, b"/a\0t\0")]


def test_garbage_after_good_packets_is_refused_after_they_are_read() -> None:
    packets = Reader().feed(WIRE + HEADER.pack(99, 1, 0, 0))
    assert [next(packets) for _ in PACKETS] == PACKETS
    with pytest.raises(ProtocolError, match=r"^a packet of the unknown type 99$"):
        next(packets)
    (packet,) = Reader().feed(packed(1, 1, 0, b"x" * 100_000))  # it may be longer than a request
    assert len(packet.payload) == 100_000


def test_a_length_that_no_store_sends_is_junk_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match=f"a packet of {MAX_RESPONSE + 1} bytes"):
        list(Reader().feed(HEADER.pack(2, 1, 0, MAX_RESPONSE + 1)))


def test_a_request_the_store_would_hang_up_on_is_refused_here() -> None:
    assert request(Operation.WRITE, b"/a\0b", 2**32 - 1, 9) == packed(11, 2**32 - 1, 9, b"/a\0b")
    assert request(Operation.WRITE, b"x" * MAX_PAYLOAD, 1)
    with pytest.raises(StoreError) as caught:
        request(Operation.WRITE, b"x" * (MAX_PAYLOAD + 1), 1, path="/a")
    assert caught.value.name == "E2BIG"
    assert str(caught.value) == "/a: expected a request of at most 4096 bytes, got 4097"


@each_case(
    "path",
    ["", "a", "a/b", "/a/", "//", "/a//b", "/a\0b", "/a\n", "/a.b", "/a:b", "/ä", "/a b", "@", "/" + "x" * MAX_PATH],
)
def test_what_is_no_path_is_refused_here(path: str) -> None:
    for good in ("/", "/a", "/local/domain/0/a-b_c@D", "@introduceDomain", "/" + "x" * (MAX_PATH - 1)):
        assert path_argument(good) == good.encode() + b"\0"
    with pytest.raises(StoreError) as caught:
        path_argument(path)
    assert caught.value.name == "EINVAL"
    assert len(str(caught.value)) < 200


@each_case(("name", "number"), [("EACCES", errno.EACCES), ("EQUOTA", 0)])
def test_an_error_of_the_store_is_one_of_pyxs_too_and_keeps_its_name(name: str, number: int) -> None:
    error = StoreError(name, "/a")
    assert isinstance(error, PyXSError)
    assert (error.name, error.args, str(error)) == (name, (number, f"/a: {name}"), f"/a: {name}")


@each_case(
    ("read", "payload"),
    [
        *(
            (Permissions.decode, each)
            for each in (b"", b"\0", b"x0\0", b"n\0", b"n-1\0", b"n0\0r\xff\0", b"n0\0junk\0", b"n" + b"1" * 5000)
        ),
        *((part, each) for each in (b"", b"24", b"24\0", b"24\0a")),
        (lambda payload, _: transaction_id(payload), b"OK\0"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_of_the_store(
    read: Callable[[bytes, str], object], payload: bytes
) -> None:
    with pytest.raises(StoreError, match="expected ") as caught:
        read(payload, "/a")
    assert caught.value.name == "EBADMSG"


@each_case("permissions", [Permissions(-1), Permissions(0, "x"), Permissions(0, "n", ((1, "rw"),))])
def test_what_is_no_permission_is_a_bug(permissions: Permissions) -> None:
    with pytest.raises(ValueError, match="expected a permission"):
        permissions.encode()


@each_case(
    ("read", "payload", "found"),
    [
        (children, b"", []),
        (children, b"a\0b\0", ["a", "b"]),
        (children, b"\xc3\xa4\0", [r"\xc3\xa4"]),  # not ASCII
        (transaction_id, b"17\0", 17),
        (event, b"/a/b\0token\0", ("/a/b", b"token")),
        (event, b"@releaseDomain\0token\0", ("@releaseDomain", b"token")),
        # The last part of a directory ends with an empty name.
        (part, b"24\0a\0b\0", (b"24", b"a\0b\0", False)),
        (part, b"24\0c\0\0", (b"24", b"c\0", True)),
        (part, b"24\0\0", (b"24", b"", True)),
    ],
)
def test_what_an_answer_says(read: Callable[[bytes], object], payload: bytes, found: object) -> None:
    assert read(payload) == found


@each_case("payload", [b"", b"\0", b"/a", b"/a\0", b"/a\0t", b"/a\0t\0junk", b"/a\0t\0more\0"])
def test_an_event_that_makes_no_sense_is_junk(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="without path and token"):
        event(payload)
