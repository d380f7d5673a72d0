"""Subscriptions over both brokers, while services, brokers and the config change under them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from adapters.dbus import signals
from adapters.dbus.backend import BusSettings
from adapters.dbus.signals import SignalQueue
from gateway.core.dbus.marshal import Variant
from gateway.core.rpc.model import Event, EventsLost, Reply
from tests.kit.backends import CHANGED, SHOUTED, TOY, change, dbus_backend, missed, shout, shouted, toy_call, toy_route
from tests.kit.buses import BROKERS, broker, private_bus
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

LABEL = toy_route("Label", "", "s")


@pytest.fixture(params=BROKERS)
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with broker(request.param) as address:
        yield address


def one(address: str, **changes: object) -> BusSettings:
    return replace(BusSettings("one", address, ("org.example.*",)), **changes)


async def last_missed(feed: SignalQueue, *, owned: bool) -> None:
    """Wait until the subscriber gets EventsLost with such an owner."""
    while not (isinstance(news := await anext(feed), EventsLost) and bool(news.owner) is owned):
        pass


async def test_a_service_that_comes_goes_and_comes_again_is_followed(address: str) -> None:
    async with dbus_backend(one(address)) as backend, asyncio.timeout(TIMEOUT), backend.subscribe(SHOUTED) as feed:
        await missed(feed, owned=False)
        for text in ("first", "second"):
            with toy_service(address, TOY):
                await missed(feed)
                await shout(backend, text)
                assert await anext(feed) == shouted(text)
            await missed(feed, owned=False)


async def test_after_another_has_taken_the_name_only_he_is_heard(address: str) -> None:
    """The first owner is still there and emits the same signal; he is called by his unique name."""
    async with dbus_backend(one(address, services=("*",))) as backend, asyncio.timeout(TIMEOUT):
        with toy_service(address, TOY):
            async with backend.subscribe(SHOUTED) as feed:
                first = (await missed(feed)).owner
                with toy_service(address, TOY, "second"):
                    second = (await missed(feed)).owner
                    assert first != second
                    await shout(backend, "from the first", bus_name=first)
                    await shout(backend, "from the second")
                    assert await anext(feed) == shouted("from the second")


async def test_a_storm_disturbs_no_call_and_ends_with_a_reading(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "OVERFLOW_PAUSE", 0.05)
    other = toy_route("Label", "", "s", bus_name="org.example.Other")
    with toy_service(address, TOY), toy_service(address, "org.example.Other"):
        async with (
            asyncio.timeout(3 * TIMEOUT),
            dbus_backend(one(address)) as backend,
            backend.subscribe(SHOUTED, CHANGED) as feed,
            asyncio.TaskGroup() as group,
        ):
            await missed(feed)
            overflow = group.create_task(shout(backend, "x" * 100, times=20_000))
            while not overflow.done():
                assert isinstance(await backend.call(other, toy_call()), Reply)
            told = 0
            while not isinstance(await anext(feed), EventsLost):
                told += 1
            assert told < 20_000
            await change(backend, Volume=Variant("u", 11))
            while not (isinstance(news := await anext(feed), Event) and not news.member):
                if isinstance(news, EventsLost):  # one more pause, and the change may have been in it
                    await change(backend, Volume=Variant("u", 11))
            assert news.properties == {"Volume": 11}
            assert backend.status()[0].overflows >= 1


async def test_a_service_that_moves_to_another_bus_is_heard_there_and_on_none_it_is_told(address: str) -> None:
    with private_bus() as other, toy_service(address, TOY), toy_service(other.address, TOY):
        here, there = one(address), BusSettings("two", other.address, ("org.example.Toy",))
        async with dbus_backend(here) as backend, asyncio.timeout(TIMEOUT), backend.subscribe(SHOUTED) as feed:
            before = (await missed(feed)).owner
            await backend.reconfigure({"one": here, "two": there})
            await missed(feed)
            await shout(backend, "there")
            assert await anext(feed) == shouted("there")
            await backend.reconfigure({"one": here})
            assert (await missed(feed)).owner == before
            await shout(backend, "here again")
            assert await anext(feed) == shouted("here again")
            await backend.reconfigure({})
            assert (await missed(feed, owned=False)).why == "no bus of the config has this service"


async def test_a_broker_that_is_mute_is_left_and_one_that_dies_and_comes_back_is_found() -> None:
    with private_bus() as bus:
        async with (
            asyncio.timeout(TIMEOUT),
            dbus_backend(one(bus.address, connections=1)) as backend,
            backend.subscribe(SHOUTED) as feed,
        ):
            for text in ("first", "second", "third"):
                with toy_service(bus.address, TOY):
                    await last_missed(feed, owned=True)
                    await backend.connected()
                    await shout(backend, text)
                    assert await anext(feed) == shouted(text)
                    if text == "first":
                        os.kill(bus.pid, signal.SIGSTOP)
                        assert not await backend.is_alive(0.05)
                        os.kill(bus.pid, signal.SIGCONT)
                        continue
                    bus.kill()
                    await last_missed(feed, owned=False)
                bus.start()
