"""A poison call costs itself and nothing else: every hostile message there is, while other calls are in flight."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from adapters.codecs import CODECS
from gateway.core.dbus.signature import parse_one
from gateway.core.interfaces import Codec
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.buses import private_bus
from tests.kit.cases import expect
from tests.kit.clients import HttpReply, Wire, connect, post
from tests.kit.gateway import TOY_IDL, TOY_MAPPING, Folder, gateway_process
from tests.kit.mappings import echo_of, write_type_methods
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service
from tests.kit.values import REFUSED
from tests.unit.codecs import corpus, hostile_jsonrpc, hostile_xmlrpc

HELD = 40  # calls that wait for their answer while poison is sent
POISONERS = 4  # connections that it comes over
MIB = 1024**2
PATHS = {"xmlrpc": "/RPC2", "jsonrpc": "/jsonrpc"}
TYPE_PATHS = {"xmlrpc": "/types.xml", "jsonrpc": "/types.json"}
CORPORA = {"xmlrpc": corpus.XMLRPC, "jsonrpc": corpus.JSONRPC}

# The limits that the corpora were made for, and a listener whose limits leave the type gate something to refuse.
assert hostile_xmlrpc.LIMITS == hostile_jsonrpc.LIMITS
LISTENERS = """\
max_body = "64KiB"
max_depth = 20
max_elements = 1000
max_batch = 5
[listener.wide]
bind = ["tcp:127.0.0.1:0"]
max_body = "40MiB"
max_depth = 100
[mappings]
"""
LABEL_AT = '  at: {member: Label, object_path: "/org/example/toy/{vm}", params: [vm]}\n'

# Texts that want to be something else than a method, or than one element of an object path.
NAMES = (
    *("", " ", "echo ", "Echo", "ECHO", "ech\u043e", "echo\u200b", "\u202eohce", "e\u0301cho", "org.example.Toy1.Echo"),
    *("__class__", "__proto__", "constructor", "toString", "system.", "system.listMethods.x", "rpc.", "*"),
    *("<unmapped>", "../echo", "/echo", "echo/..", "..", "/", "//", "_", "_2f", "echo;ls", "$(id)", "`id`"),
    *("a'b", 'a"b', "{0}", "{vm}", "%s%n", "%00", "\\", "\u2028", "\U0001f600", "\ufdd0"),
    *("9" * 300, "\u00e9" * 20_000, "a." * 10_000),
)
# These only JSON can say.
CONTROLS = ("\0", "echo\0", "\n", "\x1b[2J", "\ufffe")


class Client:
    """A gateway's address, and a codec as a client speaks it."""

    def __init__(self, wire: Wire, name: str, path: str) -> None:
        self._wire = wire
        self.codec: Codec = CODECS[name]()
        self._path = path

    async def call(self, method: str, *params: Value) -> Outcome:
        """A call that is well formed, whatever it holds; ValueError when this protocol cannot say it."""
        return self.outcome(await self.send(self.codec.encode_call(Call(method, params))))

    async def send(self, body: bytes) -> HttpReply:
        await self._wire.send(post(body, self._path))
        return await self._wire.reply()

    def outcome(self, reply: HttpReply) -> Outcome:
        """What an answer says; the only one of a batch is as good as one alone."""
        body = reply.body
        if body.startswith(b"["):
            body = json.dumps(json.loads(body)[0]).encode()
        return self.codec.decode_outcome(body)


class Siege:
    """A gateway with calls in flight. `good` counts the calls that had to be answered right in between, and were."""

    def __init__(self, stack: AsyncExitStack, addresses: dict[str, str]) -> None:
        self._stack = stack
        self._addresses = addresses
        self._held: list[asyncio.Task[Outcome]] = []
        self.good = 0

    async def client(self, name: str, path: str = "", listener: str = "rpc") -> Client:
        """A client on a connection of its own."""
        wire = await self._stack.enter_async_context(connect(self._addresses[listener]))
        return Client(wire, name, path or PATHS[name])

    async def begin(self) -> None:
        """Hold calls of both protocols, each on its own connection, until the service has them all."""
        self._friend = await self.client("jsonrpc")
        for number in range(HELD):
            client = await self.client(sorted(PATHS)[number % 2])
            self._held.append(asyncio.ensure_future(client.call("hold")))
        async with asyncio.timeout(TIMEOUT):
            while await self._friend.call("held") != Reply(HELD):
                pass

    async def stands(self) -> None:
        """The next good call is answered right, and no held one has ended."""
        self.good += 1
        text = f"still here {self.good}"
        assert await self._friend.call("echo", text) == Reply(text)
        assert not any(held.done() for held in self._held)

    async def end(self) -> None:
        """Release the held calls: each is answered, and the service has seen the good calls alone."""
        assert await self._friend.call("echoes") == Reply(self.good)
        assert await self._friend.call("held") == Reply(HELD)
        assert await self._friend.call("release") == Reply(HELD)
        assert await asyncio.gather(*self._held) == [Reply("released")] * HELD


@pytest.fixture
async def siege(tmp_path: Path) -> AsyncIterator[Siege]:
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder = _folder(tmp_path, bus.address)
        with gateway_process(folder.config) as process:
            addresses = dict(zip(("rpc", "wide"), process.wait_for("ready")["listening"][0::2], strict=True))
            async with AsyncExitStack() as stack:
                siege = Siege(stack, addresses)
                await siege.begin()
                yield siege
                await siege.end()
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            assert not [line for line in process.lines if line.get("level") not in ("info", "debug")]


def _folder(path: Path, address: str) -> Folder:
    folder = Folder(path)
    echoes = '<method name="Echoes"><arg name="count" type="u" direction="out"/></method>\n    <method name="Held">'
    (folder.mappings / "toy.xml").write_text(TOY_IDL.replace('<method name="Held">', echoes))
    folder.mapping(TOY_MAPPING.replace("timeout: 10s", "timeout: 10m") + "  echoes: {member: Echoes}\n" + LABEL_AT)
    write_type_methods(folder.mappings, sorted({signature for signature, *_ in _refused()}), listener="wide")
    folder.buses({"toolstack": (address, "org.example.*")})
    folder.config.write_text(folder.config.read_text().replace("[mappings]\n", LISTENERS))
    return folder


def _refused() -> Iterator[tuple[str, str, Value, str]]:
    """Without file descriptors, which no mapping can announce."""
    return (
        (signature, echo_of(signature, variants), value, words)
        for signature, variants, value, words in REFUSED
        if not parse_one(signature).has_file_descriptor
    )


@pytest.mark.parametrize("name", sorted(PATHS))
async def test_poison_of_every_kind_gets_its_fault_and_hurts_no_other_call(siege: Siege, name: str) -> None:
    await bodies(siege, name)
    await method_names(siege, name)
    await values(siege, name)
    await too_large_for_the_bus(siege, name)


async def bodies(siege: Siege, name: str) -> None:
    """Every hostile body gets its fault."""
    poisoners = [await siege.client(name) for _ in range(POISONERS)]
    for number, (title, body, code, words) in enumerate(CORPORA[name]):
        poisoner = poisoners[number % POISONERS]
        if len(body) > hostile_xmlrpc.LIMITS.body:  # the transport reads no further, and hangs up
            poisoner, words = await siege.client(name), "the body is larger than 65536 bytes"  # noqa: PLW2901
        outcome = expect(Fault, poisoner.outcome(await poisoner.send(body)))
        assert (outcome.code, words in outcome.message) == (code, True), (title, outcome)
        await siege.stands()
    assert siege.good == len(CORPORA[name]) >= 200


async def method_names(siege: Siege, name: str) -> None:
    """Every hostile name is unknown, in few words."""
    poisoner = await siege.client(name)
    for text in NAMES + (CONTROLS if name == "jsonrpc" else ()):
        if not (name == "xmlrpc" and text == ""):
            outcome = expect(Fault, await poisoner.call(text))
            assert outcome.code is FaultCode.UNKNOWN_METHOD
            assert outcome.message.isascii()
            assert outcome.message.isprintable()
            assert len(outcome.message) < 400
        assert await poisoner.call("at", text) == Reply("toy"), "as an element of a path it is escaped"
        await siege.stands()


async def values(siege: Siege, name: str) -> None:
    """Every value that no type takes is refused before the bus."""
    poisoner = await siege.client(name, TYPE_PATHS[name], "wide")
    sent = 0
    for _, method, value, words in _refused():
        try:
            outcome = await poisoner.call(method, value)
        except ValueError:
            continue  # this protocol cannot even say it: see the corpora
        sent += 1
        assert isinstance(outcome, Fault)
        where = words.replace("$", "$.params[0]")
        assert (outcome.code, where in outcome.message) == (FaultCode.INVALID_PARAMS, True), outcome
        await siege.stands()
    assert sent > 30


async def too_large_for_the_bus(siege: Siege, name: str) -> None:
    """A value that no bus takes is refused before the bus."""
    poisoner = await siege.client(name, TYPE_PATHS[name], "wide")
    for value in ("x" * (33 * MIB), "\u00e9" * (17 * MIB)):
        outcome = expect(Fault, await poisoner.call(echo_of("s", "plain"), value))
        assert outcome.code is FaultCode.TOO_LARGE
        assert "the bus takes at most 33554432" in outcome.message
        await siege.stands()
