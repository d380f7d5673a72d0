"""A large message that is read in pieces is the message that the library reads at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.errors import InvalidMessageError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from adapters.dbus import large_message
from adapters.dbus.large_message import LargeMessage
from gateway.core.dbus.marshal import to_dbus
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case
from tests.kit.values import fitting, types
from tests.property.test_marshal import for_library

LAW = settings(max_examples=100, deadline=None)
PIECES = st.sampled_from((8, 16, 64))


def marshalled(signature: str, *body: object) -> bytearray:
    message = Message(
        message_type=MessageType.METHOD_RETURN, reply_serial=7, signature=signature, body=list(body), serial=3
    )
    message.sender = ":1.9"
    return bytearray(message._marshall(False))


def assert_same(data: bytearray, piece: int) -> None:
    large = LargeMessage(data, asyncio.Semaphore(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_message, "PIECE", piece)
        assert repr(large.read_in_pieces()) == repr(large.read_at_once())


@LAW
@given(st.data(), types(), st.sampled_from(("", "y", "u", "x")), PIECES)
def test_pieces_make_the_whole(data: DataObject, kind: Type, ahead: str, piece: int) -> None:
    """The values ahead shift the place of the one that counts."""
    value = for_library(to_dbus(kind, variants="typed")(data.draw(fitting(kind, "typed"))))
    assert_same(marshalled(ahead + str(kind), *([1] * len(ahead)), value), piece)


TEXTS: list[Any] = ["x" * (at % 11) for at in range(50)]
VALUES: list[Value] = [TEXTS, 1, "a", {"a": TEXTS}, b"x" * 9]
VARIANTS: list[Any] = [for_library(to_dbus(parse_one("v"))(each)) for each in VALUES]
LONG: dict[str, Any] = {
    "as": TEXTS,
    "ao": ["/" + "a" * (at % 5) for at in range(50)],
    "ag": ["s" * (at % 6) for at in range(50)],
    "an": [*range(50)],
    "ax": [*range(50)],
    "ab": [at % 2 == 0 for at in range(50)],
    "aas": [TEXTS, [], TEXTS[:5]],
    "aay": [bytes(70), b"", b"abc"] * 5,
    "a{sas}": {"a": TEXTS, "": [], "b": ["c"]},
    "a{ya{sas}}": {1: {"a": TEXTS}, 2: {}},
    "a(ysas)": [(1, "", TEXTS), (2, "a", [])] * 5,
    "(sa(yas))": ("a", [(1, TEXTS), (2, TEXTS)]),
    "av": VARIANTS * 3,
    "a{sv}": {f"{at}": VARIANTS[at % 5] for at in range(20)},
}
HEADER = 48  # bytes of a piece that are not of the message
LONGEST = 70  # bytes of a value above that cannot be cut


@each_case(("signature", "ahead"), [(each, ahead) for each in LONG for ahead in ("", "y", "u", "yyyyy", "x")])
def test_long_arrays_and_long_elements_are_cut(signature: str, ahead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array begins at another place modulo 8, and its pieces end in every way."""
    data = marshalled(ahead + signature, *([1] * len(ahead)), LONG[signature])
    for piece in (8, 32, 256):
        assert_same(data, piece)
    sizes: list[int] = []
    unmarshalled = large_message._unmarshalled

    def counted(data: bytes | bytearray) -> Message | None:
        sizes.append(len(data))
        return unmarshalled(data)

    large = LargeMessage(data, asyncio.Semaphore(1))
    monkeypatch.setattr(large_message, "PIECE", 32)
    monkeypatch.setattr(large_message, "_unmarshalled", counted)
    large.read_in_pieces()
    assert max(sizes) <= 32 + LONGEST + HEADER


@each_case(("at", "change"), [(0, 5), (0, -3), (0, 10**6), (4, 7), (4, 2**31)])
def test_a_damaged_message_is_refused(at: int, change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that do not fit are found before the library reads behind the message. `at`: of a length in the body."""
    data = marshalled("as", TEXTS)
    at += len(data) - int.from_bytes(data[4:8], "little")
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + change).to_bytes(4, "little")
    monkeypatch.setattr(large_message, "PIECE", 32)
    with pytest.raises(InvalidMessageError, match=f"malformed message of {len(data)} bytes: "):
        LargeMessage(data, asyncio.Semaphore(1)).read_in_pieces()
