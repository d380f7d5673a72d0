"""What a node cannot say, what makes no sense, and the numbers that old clients know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from adapters.codecs.xenstore import FAULT_CODES, Codec
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Reply, Value
from gateway.core.xenstore.paths import pack, unpack
from tests.kit.cases import each_case, expect

CODEC = Codec()


def read(*items: bytes) -> Call | Fault:
    """A request of these items."""
    (entry,) = CODEC.decode(pack(items)).entries
    return entry


def answer(outcome: Reply | Fault, method: str = "f") -> dict[str, str]:
    items = [item.decode() for item in unpack(CODEC.encode(Envelope((Call(method),)), [outcome]))]
    return dict(zip(items[::2], items[1::2], strict=True))


def test_numbered_nodes_are_parameters_by_position_and_arrays() -> None:
    got = read(b"f", b"1", b"b", b"0", b"a", b"disks/0/size", b"5", b"disks/1/size", b"6", b"vm/name", b"x")
    assert got == Call("f", ("a", "b"), {"disks": [{"size": "5"}, {"size": "6"}], "vm": {"name": "x"}})


@each_case(
    ("items", "code", "why"),
    [
        ([b"f", b"a"], FaultCode.PARSE_ERROR, "a value for every node"),
        ([b"a.b"], FaultCode.INVALID_REQUEST, "a name as an element of a path"),
        ([b"@"], FaultCode.INVALID_REQUEST, "has no name"),
        ([b"f", b"a", b"1", b"a", b"2"], FaultCode.INVALID_REQUEST, "is there twice"),
        ([b"f", b"a", b"1", b"a/b", b"2"], FaultCode.INVALID_REQUEST, "has a value, and nodes below it"),
        ([b"f", b"a/b", b"1", b"a", b"2"], FaultCode.INVALID_REQUEST, "has a value and nodes below it"),
        ([b"f", b"", b"x"], FaultCode.INVALID_REQUEST, "own node has a value"),
        ([b"f", b"1", b"x"], FaultCode.INVALID_REQUEST, "numbered from 0 without a gap"),
        ([b"f", b"a/0", b"x", b"a/b", b"x"], FaultCode.INVALID_REQUEST, "got both"),
        ([b"f", b"a.b", b"x"], FaultCode.INVALID_REQUEST, "a name as an element of a path"),
        ([b"f", b"a//b", b"x"], FaultCode.INVALID_REQUEST, "without a name"),
        ([b"f", b"a", b"\xff"], FaultCode.INVALID_PARAMS, "UTF-8"),
    ],
)
def test_nodes_that_make_no_sense_say_why(items: list[bytes], code: FaultCode, why: str) -> None:
    got = expect(Fault, read(*items))
    assert got.code is code
    assert why in got.message


@each_case("items", [[b"f", b"a/b/c", b""], [b"f", b"a", b"", b"b", b"", b"c", b""]])
def test_too_many_nodes_or_levels_are_too_much(items: list[bytes]) -> None:
    entry = expect(Fault, *Codec(MessageLimits(depth=2, elements=2)).decode(pack(items)).entries)
    assert entry.code is FaultCode.TOO_LARGE


def test_a_value_of_the_requests_own_node_is_no_matter_when_it_is_empty() -> None:
    assert read(b"f", b"", b"") == Call("f")


@each_case(
    ("value", "nodes"),
    [
        (None, {}),
        ("", {"": ""}),
        (5, {"": "5"}),
        (True, {"": "1"}),
        (False, {"": "0"}),
        (1e16, {"": "1e+16"}),
        (b"\0\1", {"": "AAE="}),
        (datetime(2026, 1, 31, 9, 5, tzinfo=UTC), {"": "20260131T09:05:00Z"}),
        ({"code": 4}, {"code": "4"}),
        (["a", ["b"]], {"0": "a", "1/0": "b"}),
        ({"a.b": {"0": "x"}, "none": []}, {"a@2eb/@30": "x", "none": ""}),
    ],
)
def test_every_value_has_one_text(value: Value, nodes: dict[str, str]) -> None:
    assert answer(Reply(value)) == nodes


def endless(levels: int) -> Value:
    value: list[Value] = []
    for _ in range(levels):
        value = [value]
    return value


@each_case(
    ("value", "message"),
    [
        ([float("nan")], "$[0]: expected a finite number, got nan"),
        ({"a": [1, 2**64]}, "$.a[1]: expected an integer of 64 bits, got 18446744073709551616"),
        ("a\0b", '$: expected text without NUL, got "a\\u0000b"'),
        (["\ud800"], '$[0]: expected text without lone surrogates, got "\\ud800"'),
        ({"a": None, "\ud800": 1}, '$: expected the name of a member without lone surrogates, got "\\ud800"'),
        (
            datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
            '$: expected an offset of whole minutes from UTC, got "+00:00:01"',
        ),
        (endless(100_000), "$: nested too deeply"),
        (
            {"code": 1, "description": "x"},
            "$: expected a struct without the members code and description, which say an error, got a struct of 2",
        ),
    ],
)
def test_what_a_node_cannot_say_is_refused_with_its_place(value: Value, message: str) -> None:
    assert answer(Reply(value)) == {"code": str(FAULT_CODES[FaultCode.UNREPRESENTABLE]), "description": message}


@each_case(
    ("fault", "code", "description"),
    [
        (Fault(FaultCode.UNKNOWN_METHOD, "unknown method 'f'"), "1", "f"),
        (Fault(FaultCode.INTERNAL, "internal error"), "2", "internal error"),
        (Fault(FaultCode.INVALID_PARAMS, "$.params.kib: expected a parameter of this name, got nothing"), "3", "kib"),
        (Fault(FaultCode.PARAMETER_COUNT, "expected 2", data={"missing": "kib"}), "3", "kib"),
        (Fault(FaultCode.INVALID_PARAMS, "$.params.kib: expected x, got -"), "103", "$.params.kib: expected x, got -"),
        (Fault(FaultCode.APPLICATION, "no", name="1002"), "1002", "no"),
        (Fault(FaultCode.APPLICATION, "gone", name="HANDLE_INVALID", data=["VM", "x"]), "111", "HANDLE_INVALID: VM,x"),
        (Fault(FaultCode.REMOTE, "a\0\ud800", name="org.x.Odd"), "112", "org.x.Odd: a\\x00\\ud800"),
    ],
)
def test_an_error_has_the_number_and_the_words_that_old_clients_know(fault: Fault, code: str, description: str) -> None:
    assert answer(fault) == {"code": code, "description": description}


def test_a_client_reads_an_error_by_its_two_nodes_only_when_both_are_there() -> None:
    assert CODEC.decode_outcome(pack([b"code", b"1000"])) == Reply({"code": "1000"})
    told = CODEC.decode_outcome(pack([b"code", b"1000", b"description", b"4,1"]))
    assert told == Fault(FaultCode.REMOTE, "4,1", name="1000")
