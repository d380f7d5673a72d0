"""Services that hang, die, start late or not at all: a caller gets the right fault, in time, and no call twice."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.dbus.backend import Backend, BusSettings, Dependencies
from gateway.core.admin.status import BreakerState
from gateway.core.dbus import results
from gateway.core.dbus.marshal import Variant, from_dbus
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import MethodCall
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.waiting import Deadline
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import BROKERS, PrivateBus, broker, private_bus
from tests.kit.cases import each_case, expect
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toy_service import toy_service
from tests.kit.upstreams import Scripted

_ERROR = "org.freedesktop.DBus.Error."
LABEL = toy_route("Label", "", "s")
ANYTHING = toy_call()


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


def one(address: str, **changes: object) -> BusSettings:
    plain = BusSettings("one", address, ("*",), connections=1, breaker_failures=0)
    return replace(plain, **changes)


async def ask(backend: Backend, route: Route, *params: object, seconds: float = TIMEOUT) -> Outcome:
    """Return the answer to a client, within the dispatcher's deadline."""
    dispatcher = Dispatcher(backend, lambda *_: None, upstreams=Scripted({}))
    async with asyncio.timeout(TIMEOUT):
        return await dispatcher.answer(replace(route, timeout=seconds), toy_call(*params))


def told(outcome: Outcome) -> tuple[FaultCode, str]:
    """The fault's code and error name."""
    assert isinstance(outcome, Fault), outcome
    return outcome.code, outcome.name


# Writes


@pytest.mark.parametrize(
    ("ending", "code", "says"),
    [
        ("hang", FaultCode.TIMEOUT, "it may have been executed"),
        ("leave", FaultCode.NO_REPLY, "it is unknown whether the call was executed"),
        ("broker dies", FaultCode.NO_REPLY, "it is unknown whether the call was executed"),
    ],
)
async def test_a_write_whose_outcome_is_unknown_says_so_and_is_never_made_again(
    bus: PrivateBus, tmp_path: Path, ending: str, code: FaultCode, says: str
) -> None:
    journal = tmp_path / "journal"
    route = toy_route("Write", "ss")
    with toy_service(bus.address, TOY):
        async with dbus_backend(one(bus.address)) as backend:
            how = "hang" if ending == "broker dies" else ending
            seconds = 0.3 if ending == "hang" else TIMEOUT
            writing = asyncio.ensure_future(ask(backend, route, str(journal), how, seconds=seconds))
            while not journal.exists():  # until the write is executed  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if ending == "broker dies":
                bus.restart()
            got = expect(Fault, await writing)
            assert (got.code, got.message[-len(says) :]) == (code, says)
            await asyncio.wait_for(backend.connected(), TIMEOUT)
            with toy_service(bus.address, TOY):
                assert await ask(backend, LABEL) == Reply("toy")
                assert journal.read_text() == "x"
                assert await ask(backend, route, str(journal), "answer") == Reply(None)
    assert journal.read_text() == "xx"


async def test_thousands_of_calls_that_time_out_leave_nothing(bus: PrivateBus) -> None:
    """No reply handler, call, deadline or task stays; the next call is answered."""
    hang = toy_route("Echo", "s", "s", bind=lambda call: Traced(TOY, "/", "org.example.Toy1", "Hang", "s", ["x" * 999]))
    wide = one(bus.address, connections=2, per_destination=200)
    with toy_service(bus.address, TOY):
        async with dbus_backend(wide) as backend:
            while backend.status()[0].connections < 2:
                assert await ask(backend, LABEL) == Reply("toy")
            tasks = len(asyncio.all_tasks())
            codes: Counter[FaultCode] = Counter()
            while codes[FaultCode.TIMEOUT] < 3_000:
                outcomes = await asyncio.gather(*(ask(backend, hang, seconds=0.001) for _ in range(180)))
                codes.update(told(outcome)[0] for outcome in outcomes)
            assert codes.keys() <= {FaultCode.TIMEOUT, FaultCode.BUSY}
            assert await ask(backend, LABEL) == Reply("toy")
            (pool,) = backend._pools.values()
            while len(pool._open) > 2:  # those that were renewed close by themselves
                await asyncio.wait(list(pool._open.values()), return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT)
            async with asyncio.timeout(TIMEOUT):
                while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - a task that ends tells nobody
                    await asyncio.sleep(0)
            for connection in pool._open:
                assert not connection._waiting
                assert not connection._bus._method_return_handlers
            assert backend.status()[0].in_flight == 0
            assert left(Traced) == left(Deadline) == 0


class Traced(MethodCall, frozen=True):
    """A method call of which we can tell how many there are."""


def left(kind: type) -> int:
    gc.collect()
    return sum(isinstance(each, kind) for each in gc.get_objects())


# Owners that change


async def test_a_call_is_answered_by_the_owner_who_got_it_or_by_nobody_when_that_one_ends(bus: PrivateBus) -> None:
    with toy_service(bus.address, TOY, "old") as old:
        async with dbus_backend(one(bus.address)) as backend:
            (service,) = await backend.services([TOY], TIMEOUT)
            held, hanging = (asyncio.ensure_future(ask(backend, toy_route(name, "", "s"))) for name in ("Hold", "Hang"))
            assert await ask(backend, toy_route("Held", "", "u")) == Reply(1)
            with toy_service(bus.address, TOY, "new"):  # it takes the name over
                assert await ask(backend, LABEL) == Reply("new")
                assert await ask(backend, toy_route("Release", "", "u")) == Reply(0)
                assert not held.done()
                assert await ask(backend, toy_route("Release", "", "u", bus_name=service.owner)) == Reply(1)
                assert await held == Reply("released")
                old.kill()
                assert told(await hanging) == (FaultCode.NO_REPLY, _ERROR + "NoReply")
                assert await ask(backend, LABEL) == Reply("new")


# Activation


def startable(folder: Path, command: str) -> Path:
    """A folder with a .service file that starts the toy by this command."""
    (folder / "toy.service").write_text(f"[D-BUS Service]\nName={TOY}\nExec={command}\n")
    return folder


def late(seconds: float) -> str:
    """A program that takes its time before it owns its name."""
    toy = f'{sys.executable} -W ignore -m tests.kit.toy_service "$DBUS_STARTER_ADDRESS" {TOY} late'
    return f"/bin/sh -c 'cd {ROOT}; exec >/dev/null 2>&1; sleep {seconds}; exec {toy}'"


@each_case(
    ("command", "error"),
    [
        ("/bin/false", "Spawn.ChildExited"),
        ("/nowhere/at/all", "Spawn.ExecFailed"),
        ("/bin/sh -c 'kill -9 $$'", "Spawn.ChildSignaled"),
    ],
)
async def test_activation_that_fails_is_unavailable_at_once(tmp_path: Path, command: str, error: str) -> None:
    with private_bus(activation=startable(tmp_path, command)) as bus:
        async with dbus_backend(one(bus.address)) as backend:
            assert told(await ask(backend, LABEL)) == (FaultCode.UNAVAILABLE, _ERROR + error)


async def test_a_call_that_is_only_observed_starts_no_service(tmp_path: Path) -> None:
    with private_bus(activation=startable(tmp_path, late(0))) as bus:
        async with dbus_backend(one(bus.address).observing()) as observer, dbus_backend(one(bus.address)) as backend:
            assert told(await ask(observer, LABEL)) == (FaultCode.UNAVAILABLE, _ERROR + "NameHasNoOwner")
            assert await ask(backend, LABEL) == Reply("late")
            assert await ask(observer, LABEL) == Reply("late")
            assert observer.status()[0].connections == 1


async def test_activation_past_the_deadline_is_a_timeout_and_the_call_may_still_be_executed(tmp_path: Path) -> None:
    """The broker keeps the call for the service, as it does for any: so the call must not be made again."""
    echo, echoes = toy_route("Echo", "s", "s"), toy_route("Echoes", "", "u")
    with private_bus(activation=startable(tmp_path, late(0.5))) as bus:
        async with dbus_backend(one(bus.address)) as backend:
            got = expect(Fault, await ask(backend, echo, "a", seconds=0.1))
            text = f"no answer from {TOY} within 0.1 s; it may have been executed"
            assert (got.code, got.message) == (FaultCode.TIMEOUT, text)
            assert await ask(backend, echoes) == Reply(1)


async def test_a_broker_that_gives_activation_up_says_so(tmp_path: Path) -> None:
    limits = {"service_start_timeout": 200}  # milliseconds; 25 s unless told otherwise
    with private_bus(activation=startable(tmp_path, late(3)), limits=limits) as bus:
        async with dbus_backend(one(bus.address)) as backend:
            assert told(await ask(backend, LABEL)) == (FaultCode.TIMEOUT, _ERROR + "TimedOut")


# A reply that nobody can be told


@pytest.mark.parametrize("name", BROKERS)
async def test_on_either_broker_a_reply_with_a_file_descriptor_costs_its_own_call_and_nothing_else(name: str) -> None:
    kind = parse_one("v")
    shape = results.struct({"file": results.Item(0, from_dbus(kind), "file")})
    with_descriptor = replace(toy_route("Descriptor", "", "v"), decode_result=shape)
    with broker(name) as address, toy_service(address, TOY):
        async with dbus_backend(one(address, breaker_failures=2, breaker_pause=3600.0)) as backend:
            before = len(list(Path("/proc/self/fd").iterdir()))
            neighbour = asyncio.ensure_future(ask(backend, toy_route("Hold", "", "s")))
            for _ in range(5):
                got = await ask(backend, with_descriptor)
                text = "$.file: expected anything but h (file descriptors cannot be carried), got 0"
                assert got == Fault(FaultCode.UNREPRESENTABLE, text)
            assert await ask(backend, LABEL) == Reply("toy")
            assert isinstance(await ask(backend, toy_route("Release", "", "u")), Reply)
            assert await neighbour == Reply("released")
            (service,) = await backend.services([TOY], TIMEOUT)
            assert service.breaker is BreakerState.CLOSED
            assert len(list(Path("/proc/self/fd").iterdir())) == before


# Breakers, as a client meets them


@pytest.mark.parametrize("name", BROKERS)
async def test_on_either_broker_a_service_that_is_away_is_not_asked_until_it_is_back(name: str) -> None:
    with broker(name) as address:
        async with dbus_backend(one(address, breaker_failures=3, breaker_pause=3600.0)) as backend:
            with toy_service(address, TOY):
                assert told(await ask(backend, toy_route("Leave"))) == (FaultCode.NO_REPLY, _ERROR + "NoReply")
            for _ in range(2):
                assert told(await ask(backend, LABEL)) == (FaultCode.UNAVAILABLE, _ERROR + "ServiceUnknown")
            got = await ask(backend, LABEL)
            assert told(got) == (FaultCode.UNAVAILABLE, "")
            assert "open after 3 failures in a row; next probe in 3" in str(got)
            with toy_service(address, TOY, "back"):
                assert [each.presence.value for each in await backend.services([TOY], TIMEOUT)] == ["owned"]
                assert await ask(backend, LABEL) == Reply("back")


async def test_a_service_that_starts_on_demand_is_started_by_the_probe(tmp_path: Path) -> None:
    """It failed to start; what was wrong is put right; the first call after the pause finds out."""
    with private_bus(activation=startable(tmp_path, "/bin/false")) as bus:
        around = Dependencies(monotonic=itertools.count().__next__)  # each look at the clock is a second later
        async with dbus_backend(one(bus.address, breaker_failures=1), around=around) as backend:
            assert told(await ask(backend, LABEL)) == (FaultCode.UNAVAILABLE, _ERROR + "Spawn.ChildExited")
            startable(tmp_path, late(0))
            reload = toy_route("ReloadConfig", bus_name="org.freedesktop.DBus", bind=lambda _: RELOAD)
            assert await ask(backend, reload) == Reply(None)
            assert await ask(backend, LABEL) == Reply("late")


RELOAD = MethodCall("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig", "")


# Answers that are no D-Bus: their callers get a fault, and no other call on the connection is harmed


OTHER = "org.example.Other"
# Signature and value of the answer, the bytes that are changed in it, what they become.
DAMAGE: list[tuple[str, object, bytes, bytes]] = [
    ("s", "abcd", b"abcd", b"\xff\xfe\xff\xfe"),
    ("s", "abcd", b"abcd", b"a\0cd"),
    ("s", "abcd", b"\4\0\0\0abcd", b"\xff\0\0\0abcd"),
    ("s", "abcd", b"abcd\0", b"abcde"),
    ("o", "/abc", b"/abc", b"/ab/"),
    ("g", "a{sv}", b"a{sv}", b"a{vs}"),
    ("(yb)", (7, True), b"\7\0\0\0\1\0\0\0", b"\7\0\0\0\2\0\0\0"),
    ("(yb)", (7, True), b"\7\0\0\0\1\0\0\0", b"\7\7\7\7\1\0\0\0"),
    ("au", [9, 9], b"\x08\0\0\0\x09", b"\7\0\0\0\x09"),
    ("au", [9, 9], b"\x08\0\0\0\x09", b"\0\0\0\x08\x09"),
    ("v", Variant("y", 7), b"\1y\0\7", b"\1!\0\7"),
    ("v", Variant("y", 7), b"\1y\0\7", b"\1s\0\7"),
]


@pytest.mark.parametrize("name", BROKERS)
async def test_an_answer_that_is_no_d_bus_costs_its_own_call_and_no_other(name: str) -> None:
    with broker(name) as address, toy_service(address, OTHER):
        async with dbus_backend(BusSettings("one", address, ("org.example.*",), connections=1)) as backend:
            held = asyncio.ensure_future(backend.call(toy_route("Hold", "", "s", bus_name=OTHER), toy_call()))
            assert await backend.call(toy_route("Held", "", "u", bus_name=OTHER), toy_call()) == Reply(1)
            for number, (signature, value, good, bad) in enumerate(DAMAGE):
                damager = f"org.example.Damager{number}"  # or its breaker would open
                with toy_service(address, damager):
                    route = toy_route("Damaged", "vayay", signature, bus_name=damager)
                    call = toy_call(Variant(signature, value), good, bad)
                    outcome = await asyncio.wait_for(backend.call(route, call), TIMEOUT)
                assert (expect(Fault, outcome).code, held.done()) == (FaultCode.NO_REPLY, False), (signature, bad)
            assert await backend.call(toy_route("Release", "", "u", bus_name=OTHER), toy_call()) == Reply(1)
            assert await held == Reply("released")
