"""What pyxs's own Client does on the real xenstored: why the gateway has one of its own (docs/decisions/0004), and what
a legacy client that is written with it can and cannot say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
import pyxs

from adapters.xenstore.client.client import XenstoreClient
from tests.kit.fake_stores import Client, Script, fake_store
from tests.kit.stores import TIMEOUT, Xenstored, xenstored

# In a process of its own, since nothing can end the thread that waits. Prints whether it still does.
CALLER = """
import os, sys, threading, pyxs
client = pyxs.Client(unix_socket_path=sys.argv[1])
client.connect()
caller = threading.Thread(target=client.list, args=(b"/a",), daemon=True)
caller.start()
client.router.thread.join()
caller.join(1)
print("waiting" if caller.is_alive() else "told", flush=True)
os._exit(0)
"""


@pytest.fixture
def store() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


@pytest.fixture
def client(store: Xenstored) -> Iterator[pyxs.Client]:
    with pyxs.Client(unix_socket_path=store.path) as client:
        yield client


async def dies(client: Client) -> None:
    await client.request()


async def answers_at_length(client: Client) -> None:
    client.answer(await client.request(), b"name\0" * 1000)  # as oxenstored does
    await client.gone()


@pytest.mark.parametrize("script", [dies, answers_at_length])
async def test_a_caller_waits_for_ever_when_the_store_dies_or_an_answer_is_long(script: Script) -> None:
    async with fake_store(script) as path:
        command = [sys.executable, "-c", CALLER, path]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    assert done.stdout == "waiting\n", done.stderr


@pytest.mark.parametrize("value", [b"", b"\t", b"a\nb", "ä".encode()])
def test_values_that_xenstore_takes_are_refused(client: pyxs.Client, value: bytes) -> None:
    with pytest.raises(ValueError, match="/a"):
        client.write(b"/a", value)


async def test_a_value_that_ends_with_nul_is_read_without_it(store: Xenstored, client: pyxs.Client) -> None:
    async with XenstoreClient(store.path) as ours:
        await ours.until_connected()
        await ours.write("/a", b"x\0")
        assert client.read(b"/a") == b"x"
        assert await ours.read("/a") == b"x\0"


async def test_an_error_that_has_no_number_loses_its_name() -> None:
    async def refuse(client: Client) -> None:
        client.refuse(await client.request(), "EQUOTA")
        await client.gone()

    def write(path: str) -> None:
        with pyxs.Client(unix_socket_path=path) as client:
            client.write(b"/a", b"x")

    async with fake_store(refuse) as path:
        with pytest.raises(pyxs.PyXSError) as caught:
            await asyncio.to_thread(write, path)
    assert caught.value.args == (0, "Success")
