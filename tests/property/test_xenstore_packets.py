"""xenstore's packets are the same in whatever pieces they arrive, and junk is never more than a JunkError."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from adapters.xenstore.client.wire import (
    Operation,
    Permissions,
    ProtocolError,
    Reader,
    Received,
    StoreError,
    event,
    part,
)
from tests.kit.fake_stores import packed

IDS = st.integers(0, 2**32 - 1)
PACKETS = st.builds(Received, st.sampled_from([*map(int, Operation)]), IDS, IDS, st.binary(max_size=200))
GRANTS = st.tuples(st.integers(0, 0x7FF0), st.sampled_from("nrwb"))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(PACKETS, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_packets_do_not_depend_on_the_pieces(packets: list[Received], cuts: list[int]) -> None:
    reader = Reader()
    wire = b"".join(packed(*packet) for packet in packets)
    assert [packet for piece in pieces(wire, cuts) for packet in reader.feed(piece)] == packets
    assert not reader.is_inside_packet


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_any_bytes_are_packets_or_junk(data: list[bytes]) -> None:
    reader = Reader()
    with suppress(ProtocolError):
        for piece in data:
            for packet in reader.feed(piece):
                assert packet.operation in set(Operation)


@given(st.binary(max_size=60))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    with suppress(ProtocolError):
        event(payload)
    for read in (part, Permissions.decode):
        with suppress(StoreError):
            read(payload)


@given(GRANTS, st.lists(GRANTS, max_size=5))
def test_permissions_go_there_and_back(first: tuple[int, str], others: list[tuple[int, str]]) -> None:
    permissions = Permissions(*first, tuple(others))
    assert Permissions.decode(permissions.encode()) == permissions
