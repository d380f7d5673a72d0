"""Every type, out through our backend and a real broker to a service of another library, and back: equal, or refused.

The brokers are dbus-daemon and dbus-broker. The legacy side is here as the type gate sees it; through the codecs and
a mapping it is in test_types_over_the_wire.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from msgspec.structs import replace

from adapters.dbus import backend as dbus
from gateway.core.dbus.marshal import MAX_DEPTH, MarshalError, from_dbus, to_dbus
from gateway.core.dbus.signature import MAX_LENGTH, Type, parse_one
from gateway.core.dbus.target import MethodCall, Variants
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import BROKERS, broker
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import INTERFACE, OBJECT_PATH, toy_service
from tests.kit.values import anything, exactly, fitting, nested, typed_variants, types

MIB = 1024**2
VARIANTS = st.sampled_from(("plain", "typed"))
LAW = settings(max_examples=50, deadline=None)


class Echo:
    """The toy service behind a broker, spoken to through one connection: what harms it harms all that follows."""

    def __init__(self, runner: asyncio.Runner, backend: dbus.Backend) -> None:
        self._run = runner.run
        self._backend = backend

    def call(self, kinds: Sequence[Type], variants: Variants, *params: Value) -> Outcome:
        """Out and back."""
        return self._ask(_route(kinds, variants), Call("echo", params))

    def count(self) -> int:
        """How many calls of Echo the service has seen."""
        outcome = expect(Reply, self._ask(toy_route("Echoes", "", "u"), toy_call()))
        assert isinstance(outcome.value, int)
        return outcome.value

    def still_the_same(self) -> bool:
        """Whether the connection that was opened first still lives."""
        (status,) = self._backend.status()
        return status.connected and status.last_error == ""

    def _ask(self, route: Route, call: Call) -> Outcome:
        return self._run(asyncio.wait_for(self._backend.call(route, call), TIMEOUT))


def _route(kinds: Sequence[Type], variants: Variants) -> Route:
    """As the mapping compiler would make it."""
    signature = "".join(map(str, kinds))
    encode = [to_dbus(kind, variants=variants) for kind in kinds]
    decode = [from_dbus(kind, variants=variants) for kind in kinds]

    def bind(call: Call) -> MethodCall:
        body = [convert(value) for convert, value in zip(encode, call.params, strict=True)]
        return MethodCall(TOY, OBJECT_PATH, INTERFACE, "Echo", signature, body)

    def shape(body: Sequence[object]) -> Value:
        return [convert(value) for convert, value in zip(decode, body, strict=True)]

    return replace(toy_route("Echo", signature, signature, bind=bind), decode_result=shape)


@pytest.fixture(scope="module", params=BROKERS)
def echo(request: pytest.FixtureRequest) -> Iterator[Echo]:
    with broker(request.param) as address, toy_service(address, TOY), asyncio.Runner() as runner:
        backend = dbus_backend(dbus.BusSettings("one", address, ("org.example.*",), connections=1))
        echo = Echo(runner, runner.run(backend.__aenter__()))
        yield echo
        runner.run(backend.__aexit__(None, None, None))


@LAW
@given(data=st.data(), kinds=st.lists(types(), min_size=1, max_size=3), variants=VARIANTS)
def test_what_fits_comes_back_equal(echo: Echo, data: DataObject, kinds: list[Type], variants: Variants) -> None:
    assume(len("".join(map(str, kinds))) <= MAX_LENGTH)
    values = [data.draw(fitting(kind, variants)) for kind in kinds]
    outcome = echo.call(kinds, variants, *values)
    assert exactly(outcome) == exactly(Reply(values))
    assert echo.still_the_same()


@LAW
@given(data=st.data(), kind=types(), variants=VARIANTS)
def test_what_nearly_fits_comes_back_as_it_went_out_or_never_leaves(
    echo: Echo, data: DataObject, kind: Type, variants: Variants
) -> None:
    value = data.draw(st.one_of(fitting(kind, variants, nearly=True), anything()))
    before = echo.count()
    expected, calls = _expected(kind, variants, value)
    assert exactly(echo.call([kind], variants, value)) == exactly(expected)
    assert echo.count() == before + calls
    assert echo.still_the_same()


def _expected(kind: Type, variants: Variants, value: Value) -> tuple[Outcome, int]:
    """What the gate alone makes of it, and how many calls the service sees."""
    try:
        sent = to_dbus(kind, variants=variants)(value)
    except MarshalError as error:
        return Fault(FaultCode.INVALID_PARAMS, str(error)), 0
    return Reply([from_dbus(kind, variants=variants)(sent)]), 1


# At the very edge of what D-Bus can carry: a broker that thought otherwise would cut the connection.
CARRIED: list[tuple[str, Variants, Value]] = [
    ("v", "plain", nested(MAX_DEPTH // 2, "x")),  # a variant and an array for each, and one more variant
    ("v", "typed", typed_variants(MAX_DEPTH)),
    ("a" * 32 + "(" * 31 + "y" + ")" * 31, "plain", nested(MAX_DEPTH, 1)),
    ("(" * 31 + "a" * 32 + "s" + ")" * 31, "plain", nested(MAX_DEPTH, "x")),
    ("a" * 32 + "(" * 32 + "y" + ")" * 32, "plain", nested(10, [])),
    ("a{ya{y" * 15 + "a{yas}" + "}}" * 15, "plain", {}),
    ("(" + "yt" * 126 + ")", "plain", [1, 2**64 - 1] * 126),
    ("g", "plain", "y" * 255),
    ("s", "plain", "x" * (32 * MIB - 4096)),
    ("ay", "plain", bytes(32 * MIB - 4096)),
    ("s", "plain", "\U0010ffff\ufffe\uffff\x01\x7f\u0080"),
    ("s", "plain", ""),
    ("o", "plain", "/" + "x" * 10_000),
    ("ad", "plain", [0.0, -0.0, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")]),
    ("(yat)", "plain", [1, []]),
    ("(ya(t))", "plain", [1, []]),
    ("(ya{tt}y)", "plain", [1, {}, 1]),
    ("a{dv}", "plain", {"-0.0": 1, "nan": 2, "inf": 3}),
    ("aav", "plain", [[], [2**64 - 1, -(2**63), True, 1.0, b"", {"": []}]]),
]


def test_what_is_at_the_edge_comes_back_equal(echo: Echo) -> None:
    for signature, variants, value in CARRIED:
        assert exactly(echo.call([parse_one(signature)], variants, value)) == exactly(Reply([value])), signature
        assert echo.still_the_same(), signature
