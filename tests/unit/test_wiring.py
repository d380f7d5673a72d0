"""What a config becomes: backends, upstreams, endpoints, transports."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from adapters.http.client.upstream import ConnectionPoolLimits
from adapters.http.quotas import HttpLimits
from adapters.xenstore.server.listener import XenstoreTransport
from adapters.xenstore.server.state import ExposedEndpoint
from gateway import config, wiring
from gateway.assembly import Assembly
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Fault, FaultCode, Reply
from gateway.core.xenstore.paths import Exposure, pack, template
from gateway.mapping.problem import format_place
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.pipeline.passthrough import Passthrough
from tests.kit.cases import each_case, expect, present
from tests.kit.gateway import Folder
from tests.kit.listeners import Echo
from tests.kit.mappings import route

SETTINGS = config.parse(
    {
        "bus": {"b": {"address": "unix:path=/run/b", "services": ["org.x.*"], "connections": 2, "max_message": "1MiB"}},
        "listener": {"rpc": {"bind": ["tcp:127.0.0.1:0"], "max_depth": 4, "long_integers": "text", "max_calls": 3}},
        "mappings": {"directories": ["m"]},
    },
    Path("/etc/gateway.toml"),
)
LISTENER = SETTINGS.listener["rpc"]


@each_case("name", sorted(wiring.CODECS))
def test_a_codec_has_the_limits_of_its_listener(name: str) -> None:
    codec = wiring.codec(name, LISTENER)
    assert codec.name == name
    bodies = {
        "jsonrpc": b'{"jsonrpc":"2.0","id":1,"method":"a","params":[[[[[[]]]]]]}',
        "xmlrpc": b"<methodCall><methodName>a</methodName><params><param>%s%s</param></params></methodCall>"
        % (b"<value><array><data>" * 6, b"</data></array></value>" * 6),
        "xenstore": pack([b"a", b"0/0/0/0/0/0", b""]),
    }
    entry = expect(Fault, *codec.decode(bodies[name]).entries)
    assert entry.code is FaultCode.TOO_LARGE


def test_long_integers_are_written_as_the_listener_says() -> None:
    codec = wiring.codec("jsonrpc", LISTENER)
    envelope = codec.decode(b'{"jsonrpc":"2.0","id":1,"method":"a"}')
    assert codec.encode(envelope, [Reply(2**60)]) == b'{"jsonrpc":"2.0","result":"1152921504606846976","id":1}'


@each_case("name", sorted(wiring.CODECS))
def test_answers_may_be_far_larger_than_requests(name: str) -> None:
    reply = Reply(["x" * 1000] * 1000)
    codec = wiring.client_codec(name)
    bodies = {
        "jsonrpc": b'{"jsonrpc":"2.0","id":1,"method":"a"}',
        "xmlrpc": b"<methodCall><methodName>a</methodName></methodCall>",
        "xenstore": pack([b"a"]),
    }
    answer = present(codec.encode(codec.decode(bodies[name]), [reply]))
    assert codec.decode_outcome(answer) == reply


def test_a_bus_section_becomes_a_bus() -> None:
    (bus,) = wiring.buses(SETTINGS).values()
    assert (bus.name, bus.address, bus.services) == ("b", "unix:path=/run/b", ("org.x.*",))
    assert (bus.connections, bus.max_message) == (2, 2**20)
    assert (bus.in_flight, bus.per_destination, bus.waiting_each) == (100, 64, 128)
    assert (bus.breaker_failures, bus.breaker_pause) == (5, 1.0)
    assert [bus.name for bus in wiring.Backend(wiring.buses(SETTINGS)).status()] == ["b"]


def test_a_listener_has_its_limits() -> None:
    room = wiring.Quota(10, 2**20)
    transport = wiring.transport("rpc", LISTENER, lambda _path: None, room, wiring.inherited(), lambda _why: None)
    assert (transport.name, transport.limits.max_calls) == ("rpc", 3)
    assert transport.limits.body == LISTENER.max_body
    limits = {name: getattr(LISTENER, name) for name in HttpLimits.__struct_fields__ if hasattr(LISTENER, name)}
    assert {name: getattr(transport.limits, name) for name in limits} == limits
    assert {*HttpLimits.__struct_fields__} - limits.keys() == {"body", "header_bytes", "poll_interval", "probe_after"}
    listener = config.ListenerConfig(bind=("xenstore:/run/x",), max_calls=3, max_calls_per_domain=2, max_elements=10)
    store = wiring.store_transport("store", listener, wiring.Quota(), lambda _: None)
    assert (store.name, store.addresses) == ("store", ("xenstore:/run/x",))


# Legacy services

UPSTREAM = {"url": "http://127.0.0.1:80", "dialect": "xenapi", "speaks": ["jsonrpc"]}


def with_upstream(**changes: object) -> config.Config:
    document = {
        "listener": {"rpc": {"bind": ["tcp:127.0.0.1:0"]}},
        "mappings": {"directories": ["m"]},
        "upstream": {"xapi": {**UPSTREAM, **changes}},
    }
    return config.parse(document, Path("/etc/gateway.toml"))


def test_the_connections_to_an_upstream_have_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ConnectionPoolLimits] = []
    monkeypatch.setattr(wiring, "HttpUpstreamConnection", lambda _name, _url, limits, **_: given.append(limits))
    changes = {"connections": 3, "waiting": 4, "keepalive": False, "idle": "5s", "connect_timeout": "6s"}
    wiring.upstreams(with_upstream(**changes, max_answer="7B"), wiring.Quota())
    assert given == [ConnectionPoolLimits(3, 4, keepalive=False, idle=5.0, connect_timeout=6.0, answer=7)]


def test_an_upstream_becomes_a_line_a_codec_and_a_dialect() -> None:
    settings = with_upstream()
    made = wiring.upstreams(settings, wiring.Quota())["xapi"]
    assert (made.codec.name, made.dialect.name, made.speaks) == ("xmlrpc", "xenapi", frozenset({"xmlrpc", "jsonrpc"}))
    assert [(each.codec.name, each.dialect.name) for each in made.also.values()] == [("jsonrpc", "xenapi")]
    assert made.connection.status().url == "http://127.0.0.1:80"
    assert wiring.spoken(settings) == {"xapi": {"xmlrpc/xenapi", "jsonrpc/xenapi"}}


@each_case(
    ("changes", "codec", "spoken"),
    [
        ({"codec": "jsonrpc1"}, "jsonrpc", set()),
        (
            {"url": "xenstore:/squeezed", "codec": "xenstore", "dialect": "plain", "store": "/x"},
            "xenstore",
            {"xenstore/plain"},
        ),
    ],
)
def test_what_an_upstream_of_another_codec_understands_as_it_comes(
    changes: dict[str, object], codec: str, spoken: set[str]
) -> None:
    settings = with_upstream(speaks=[], **changes)
    assert wiring.upstreams(settings, wiring.Quota())["xapi"].codec.name == codec
    assert wiring.spoken(settings) == {"xapi": spoken}


def test_an_upstream_is_the_same_after_a_reload_when_nothing_about_it_has_changed() -> None:
    changes: list[dict[str, object]] = [{}, {}, {"connections": 3}]
    keys = [wiring.upstreams(with_upstream(**each), wiring.Quota())["xapi"].key for each in changes]
    assert keys[0] == keys[1]
    assert keys[1] != keys[2]


@each_case(
    ("changes", "problem"),
    [
        ({"codec": "xmrpc"}, "codec: unknown codec 'xmrpc' (did you mean 'xmlrpc'?)"),
        ({"dialect": "ocaml"}, "dialect: unknown dialect 'ocaml'; expected one of plain, xapi_idl, xenapi"),
        ({"speaks": ["soap"]}, "speaks[0]: unknown codec 'soap'; expected one of jsonrpc, "),
        ({"url": "http://me@x"}, "url: expected http://HOST"),
        ({"url": "xenstore:/squeezed"}, "codec: 'xmlrpc' does not go over xenstore:/squeezed"),
        ({"codec": "xenstore"}, "codec: 'xenstore' does not go over http://127.0.0.1:80"),
        ({"url": "https://x", "ca_file": "/nowhere.pem"}, "ca_file: No such file or directory"),
    ],
)
def test_what_is_wrong_with_an_upstream_is_told_with_its_place(changes: dict[str, object], problem: str) -> None:
    (found,) = wiring.upstream_problems(with_upstream(**changes))
    assert f"{format_place(found[0])}: {found[1]}".startswith(f"upstream.xapi.{problem}")


def test_what_an_endpoint_offers_in_a_store_names_its_writes_as_nodes() -> None:
    exposure = Exposure("tree", template("/svc"))
    routes = {"VM.start": route("VM.start", effect=Effect.WRITE), "VM.stat": route("VM.stat", effect=Effect.READ)}
    table = EndpointTable(EndpointKey("store", "/svc"), "xenstore", "plain", routes, exposure=exposure)
    endpoint = Echo()
    assert wiring.offer(table, endpoint) == ExposedEndpoint(exposure, endpoint, frozenset({"VM@2estart"}))


def test_old_services_that_are_only_observed_have_few_connections_of_their_own() -> None:
    settings, room = with_upstream(connections=40), wiring.Quota(10, 1000)
    (for_calls,) = wiring.upstreams(settings, room).values()
    (for_looks,) = wiring.observed_upstreams(settings, room).values()
    assert for_calls.connection is not for_looks.connection
    assert isinstance(for_looks.key, config.UpstreamConfig)
    assert (for_looks.key.connections, for_looks.key.waiting) == (wiring.OBSERVING, 1)
    assert (for_calls.codec.name, for_calls.speaks) == (for_looks.codec.name, for_looks.speaks)


# Before anything runs


STORE = '[listener.store]\nbind = ["xenstore:{folder}/store"]\n'
FORWARD = '[upstream.old]\nurl = "https://127.0.0.1:1"\nverify = false\n'


def assembled(folder: Folder, more: str = "") -> Assembly:
    folder.buses({"toolstack": (f"unix:path={folder.path}/bus", "org.example.*")})
    text = folder.config.read_text().replace(
        "[listener.rpc]", '[listener.rpc]\nunmapped = "passthrough"\nupstream = "old"'
    )
    folder.config.write_text(text + FORWARD + more.format(folder=folder.path))
    settings = config.load(folder.config)
    table, problems = wiring.compile_mappings(settings)
    assert problems == []
    return Assembly(settings, table)


def test_nothing_runs_and_every_listener_has_its_kind_of_transport(tmp_path: Path) -> None:
    made = assembled(Folder(tmp_path), STORE)
    assert {name: type(each) for name, each in made.transports.items()} == {
        "rpc": wiring.HttpServer,
        "store": XenstoreTransport,
    }
    assert [store.name for store in made.stores] == list(made.publishers) == ["store"]
    assert made.endpoints.exchanges.keys() == {EndpointKey("rpc", "/RPC2"), EndpointKey("rpc", "/jsonrpc")}
    assert {route.method for route in made.live_routes()} >= {"echo", "label"}
    assert list(tmp_path.glob("*.sock")) == []


def test_what_no_endpoint_takes_has_a_way_only_where_the_listener_says_so(tmp_path: Path) -> None:
    made = assembled(Folder(tmp_path))
    assert isinstance(made._passthrough(made.settings.listener["rpc"]), Passthrough)
    closed = config.ListenerConfig(bind=("tcp:127.0.0.1:0",), upstream="old")
    assert made._passthrough(closed) is None


async def test_an_old_service_that_anybody_could_pose_as_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = assembled(Folder(tmp_path))
    async with AsyncExitStack() as stack:
        await made.start_sides(stack)
    assert "TLS certificate verification is disabled for this upstream" in caplog.text
