"""What a config becomes: backends, upstreams, endpoints, transports."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from adapters.http.client.upstream import ConnectionPoolLimits
from adapters.xenstore.server.state import ExposedEndpoint
from gateway import config, wiring
from gateway.assembly import Assembly
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Fault, FaultCode, Reply
from gateway.core.xenstore.paths import Exposure, pack, template
from gateway.mapping.problem import format_place
from gateway.mapping.table import EndpointKey, EndpointTable
from tests.kit.cases import each_case, expect, present
from tests.kit.gateway import Folder
from tests.kit.listeners import Echo
from tests.kit.mappings import route

BUS = {"address": "unix:path=/run/b", "services": ["org.x.*"], "connections": 2, "max_message": "1MiB", "waiting": 7}
BUS |= {"in_flight": 9, "per_destination": 3, "breaker_failures": 2, "breaker_pause": "3s"}
SETTINGS = config.parse(
    {
        "bus": {"b": BUS},
        "listener": {"rpc": {"bind": ["tcp:127.0.0.1:0"], "max_depth": 4, "long_integers": "text", "max_calls": 3}},
        "mappings": {"directories": ["m"]},
    },
    Path("/etc/gateway.toml"),
)
LISTENER = SETTINGS.listener["rpc"]


@each_case("name", sorted(wiring.CODECS))
def test_a_codec_has_the_limits_of_its_listener_and_far_larger_ones_for_answers(name: str) -> None:
    codec = wiring.codec(name, LISTENER)
    bodies = {
        "jsonrpc": b'{"jsonrpc":"2.0","id":1,"method":"a","params":[[[[[[]]]]]]}',
        "xmlrpc": b"<methodCall><methodName>a</methodName><params><param>%s%s</param></params></methodCall>"
        % (b"<value><array><data>" * 6, b"</data></array></value>" * 6),
        "xenstore": pack([b"a", b"0/0/0/0/0/0", b""]),
    }
    entry = expect(Fault, *codec.decode(bodies[name]).entries)
    assert entry.code is FaultCode.TOO_LARGE
    reply, client = Reply(["x" * 1000] * 1000), wiring.client_codec(name)
    requests = {
        "jsonrpc": b'{"jsonrpc":"2.0","id":1,"method":"a"}',
        "xmlrpc": b"<methodCall><methodName>a</methodName></methodCall>",
        "xenstore": pack([b"a"]),
    }
    assert client.decode_outcome(present(client.encode(client.decode(requests[name]), [reply]))) == reply


def test_keys_of_a_section_become_settings_of_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(section: msgspec.Struct, made: msgspec.Struct) -> set[str]:
        """The settings that no key has."""
        same = {*section.__struct_fields__} & {*made.__struct_fields__}
        assert {name: getattr(made, name) for name in same} == {name: getattr(section, name) for name in same}
        return {*made.__struct_fields__} - same

    (bus,) = wiring.buses(SETTINGS).values()
    section = replace(SETTINGS.bus["b"], waiting=bus.waiting)  # here of all services together
    assert kept(section, bus) == {"name", "wait_timeout", "waiting_each", "starts_services", "use"}
    assert bus.waiting_each == SETTINGS.bus["b"].waiting
    room = wiring.Quota(10, 2**20)
    http = wiring.transport("rpc", LISTENER, lambda _path: None, room, wiring.inherited(), lambda _why: None)
    assert kept(LISTENER, http.limits) == {"body", "header_bytes", "poll_interval", "probe_after"}
    assert http.limits.body == LISTENER.max_body
    given: list[ConnectionPoolLimits] = []
    monkeypatch.setattr(wiring, "HttpUpstreamConnection", lambda _name, _url, limits, **_: given.append(limits))
    old = with_upstream(connections=3, waiting=4, keepalive=False, idle="5s", connect_timeout="6s", max_answer="7B")
    wiring.upstreams(old, room)
    assert kept(old.upstream["xapi"], given[0]) == {"answer", "half_closed_timeout", "probe_interval"}
    assert given[0].answer == 7
    codec = wiring.codec("jsonrpc", LISTENER)
    envelope = codec.decode(b'{"jsonrpc":"2.0","id":1,"method":"a"}')
    assert codec.encode(envelope, [Reply(2**60)]) == b'{"jsonrpc":"2.0","result":"1152921504606846976","id":1}'


# Legacy services


def with_upstream(**changes: object) -> config.Config:
    document = {
        "listener": {"rpc": {"bind": ["tcp:127.0.0.1:0"]}},
        "mappings": {"directories": ["m"]},
        "upstream": {"xapi": {"url": "http://127.0.0.1:80", "dialect": "xenapi", "speaks": ["jsonrpc"], **changes}},
    }
    return config.parse(document, Path("/etc/gateway.toml"))


XENSTORE = {"url": "xenstore:/squeezed", "codec": "xenstore", "dialect": "plain", "speaks": [], "store": "/x"}


@each_case(
    ("changes", "codec", "also", "understood"),
    [
        ({}, "xmlrpc", ["jsonrpc"], {"xmlrpc/xenapi", "jsonrpc/xenapi"}),
        ({"codec": "jsonrpc1", "speaks": []}, "jsonrpc", [], set()),
        (XENSTORE, "xenstore", [], {"xenstore/plain"}),
    ],
)
def test_an_upstream_understands_its_codecs_in_its_dialect(
    changes: dict[str, object], codec: str, also: list[str], understood: set[str]
) -> None:
    settings = with_upstream(**changes)
    made = wiring.upstreams(settings, wiring.Quota())["xapi"]
    assert (made.codec.name, [*made.also]) == (codec, also)
    assert {each.dialect.name for each in (made, *expect(dict, made.also).values())} == {
        settings.upstream["xapi"].dialect
    }
    assert wiring.spoken(settings) == {"xapi": understood}


def test_an_upstream_that_is_only_observed_has_few_connections_and_each_the_key_of_its_section() -> None:
    room = wiring.Quota(10, 1000)
    made = [wiring.upstreams(with_upstream(connections=each), room)["xapi"] for each in (40, 40, 41)]
    assert made[0].key == made[1].key != made[2].key
    observed = wiring.observed_upstreams(with_upstream(connections=40), room)["xapi"]
    section = expect(config.UpstreamConfig, observed.key)
    assert (section.connections, section.waiting) == (wiring.OBSERVING, 1)


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


# What no endpoint takes


def test_only_where_the_listener_says_so_it_goes_to_the_old_service(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.buses({"toolstack": (f"unix:path={tmp_path}/bus", "org.example.*")})
    settings = config.load(folder.config)
    made = Assembly(settings, wiring.compile_mappings(settings)[0])
    rejects = config.ListenerConfig(bind=("tcp:127.0.0.1:0",), upstream="old")
    assert made._passthrough(rejects) is None
    assert made._passthrough(replace(rejects, unmapped="passthrough")) is not None
