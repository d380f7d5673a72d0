"""What the config's words become: limits of codecs, buses, sockets; every name it may use is one that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import config, parts
from gateway.core.model import Fault, FaultCode, Reply
from gateway.core.netstrings import pack

SETTINGS = config.parse(
    {
        "bus": {"b": {"address": "unix:path=/run/b", "services": ["org.x.*"], "connections": 2, "max_message": "1MiB"}},
        "listener": {"rpc": {"bind": ["tcp:127.0.0.1:0"], "max_depth": 4, "long_integers": "text", "max_calls": 3}},
        "mappings": {"directories": ["m"]},
    },
    Path("/etc/gateway.toml"),
)
LISTENER = SETTINGS.listener["rpc"]


@pytest.mark.parametrize("name", sorted(parts.CODECS))
def test_a_codec_has_the_limits_of_its_listener(name: str) -> None:
    codec = parts.codec(name, LISTENER)
    assert codec.name == name
    bodies = {
        "jsonrpc": b'{"jsonrpc":"2.0","id":1,"method":"a","params":[[[[[[]]]]]]}',
        "xmlrpc": b"<methodCall><methodName>a</methodName><params><param>%s%s</param></params></methodCall>"
        % (b"<value><array><data>" * 6, b"</data></array></value>" * 6),
        "xenstore": pack([b"a", b"0/0/0/0/0/0", b""]),
    }
    (entry,) = codec.decode(bodies[name]).entries
    assert isinstance(entry, Fault)
    assert entry.code is FaultCode.TOO_LARGE


def test_long_integers_are_written_as_the_listener_says() -> None:
    codec = parts.codec("jsonrpc", LISTENER)
    envelope = codec.decode(b'{"jsonrpc":"2.0","id":1,"method":"a"}')
    assert codec.encode(envelope, [Reply(2**60)]) == b'{"jsonrpc":"2.0","result":"1152921504606846976","id":1}'


@pytest.mark.parametrize("name", sorted(parts.CODECS))
def test_answers_may_be_far_larger_than_requests(name: str) -> None:
    reply = Reply(["x" * 1000] * 1000)
    codec = parts.client_codec(name)
    bodies = {
        "jsonrpc": b'{"jsonrpc":"2.0","id":1,"method":"a"}',
        "xmlrpc": b"<methodCall><methodName>a</methodName></methodCall>",
        "xenstore": pack([b"a"]),
    }
    answer = codec.encode(codec.decode(bodies[name]), [reply])
    assert answer is not None
    assert codec.decode_outcome(answer) == reply


@pytest.mark.parametrize("dialect", sorted(parts.DIALECTS))
def test_a_dialect_is_made_for_each_codec(dialect: str) -> None:
    assert [parts.dialect(dialect, codec).name for codec in parts.CODECS] == [dialect] * len(parts.CODECS)


def test_a_bus_section_becomes_a_bus() -> None:
    (bus,) = parts.buses(SETTINGS).values()
    assert (bus.name, bus.address, bus.services) == ("b", "unix:path=/run/b", ("org.x.*",))
    assert (bus.connections, bus.max_message) == (2, 2**20)
    assert (bus.in_flight, bus.per_destination) == (100, 256)
    assert (bus.breaker_failures, bus.breaker_pause) == (5, 1.0)


def test_the_backend_knows_every_bus() -> None:
    assert [bus.name for bus in parts.backend(SETTINGS).status()] == ["b"]


def test_a_listener_has_its_limits() -> None:
    room = parts.Room(10, 2**20)
    transport = parts.transport("rpc", LISTENER, lambda _path: None, room, parts.inherited(), lambda _why: None)
    assert (transport.name, transport.limits.max_calls) == ("rpc", 3)
    assert transport.limits.body == LISTENER.max_body
