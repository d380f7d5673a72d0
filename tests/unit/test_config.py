"""The daemon's TOML: what it holds, what it refuses and with which words."""

from pathlib import Path

import pytest

from gateway import config
from tests.kit.gateway import ROOT

GOOD = """
[bus.toolstack]
address  = "unix:path=/run/xcp/bus"
services = ["org.xen.xcp.*"]

[bus.storage-domain]
address  = "tcp:host=192.0.2.7,port=5701"
services = ["org.xen.xcp.storage"]
max_message = "1MiB"

[listener.rpc]
bind = ["tcp:127.0.0.1:8080", "unix:/run/xcp-gateway/rpc"]
max_body = "1KiB"
header_timeout = "500ms"

[mappings]
directories = ["mappings.d", "/etc/xcp"]
"""


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    return config.load(file)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(config.ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value).removeprefix(f"{tmp_path}/")


def test_units_are_read_and_the_rest_has_its_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    assert settings.listener["rpc"].max_body == 1024
    assert settings.listener["rpc"].header_timeout == 0.5
    assert settings.listener["rpc"].batch == "sequential"
    assert settings.bus["storage-domain"].max_message == 2**20
    assert settings.bus["toolstack"].max_message == 2**25
    assert settings.grace == 10.0


def test_limits_user_and_sockets_of_systemd_may_be_named(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    assert (settings.limits.max_calls, settings.limits.max_buffered, settings.user) == (1024, 2**28, None)
    text = GOOD.replace('"tcp:127.0.0.1:8080"', '"systemd:rpc"')
    settings = load(tmp_path, f'user = "xcp-gateway"\n{text}[limits]\nmax_calls = 7\nmax_buffered = "1GiB"\n')
    assert (settings.limits.max_calls, settings.limits.max_buffered, settings.user) == (7, 2**30, "xcp-gateway")
    assert settings.listener["rpc"].bind[0] == "systemd:rpc"


def test_the_state_file_stands_beside_the_config_or_where_an_absolute_name_says(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).state_path() is None
    assert load(tmp_path, f'{GOOD}[state]\nfile = "state.db"\n').state_path() == tmp_path / "state.db"
    assert load(tmp_path, f'{GOOD}[state]\nfile = "/var/lib/x/state.db"\n').state_path() == Path("/var/lib/x/state.db")
    assert "$.state.file" in refusal(tmp_path, f'{GOOD}[state]\nfile = ""\n')


def test_breakers_and_a_second_address_for_metrics_may_be_named(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    assert (settings.bus["toolstack"].breaker_failures, settings.bus["toolstack"].breaker_pause) == (5, 1.0)
    assert settings.admin.metrics is None
    text = GOOD.replace("[listener.rpc]", 'breaker_failures = 0\nbreaker_pause = "500ms"\n[listener.rpc]')
    settings = load(tmp_path, f'{text}[admin]\nmetrics = "tcp:127.0.0.1:9100"\n')
    assert (settings.bus["storage-domain"].breaker_failures, settings.bus["storage-domain"].breaker_pause) == (0, 0.5)
    assert settings.admin.metrics == "tcp:127.0.0.1:9100"


def test_mapping_directories_start_where_the_config_stands(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).mapping_paths() == (tmp_path / "mappings.d", Path("/etc/xcp"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('header_timeout = "500ms"', 'header_timeout = "5x"',
         "$.listener.rpc.header_timeout: expected a duration such as 500ms, 30s, 10m or 1h, got '5x'"),
        ('header_timeout = "500ms"', "header_timeout = 5",
         "$.listener.rpc.header_timeout: expected a string with a unit, such as '30s' or '32MiB', got 5"),
        ('max_body = "1KiB"', 'maxbody = "1KiB"', "$.listener.rpc: Object contains unknown field `maxbody`"),
        ('"tcp:127.0.0.1:8080"', '"127.0.0.1"', "$.listener.rpc.bind[0]: Expected `str` matching regex"),
        ('["org.xen.xcp.storage"]', "[]", "$.bus.storage-domain.services: Expected `array` of length >= 1"),
        ("unix:path=/run/xcp/bus", "/run/xcp/bus", "$.bus.toolstack.address: Expected `str` matching regex"),
        ("[mappings]", "[mapping]", "$: Object contains unknown field `mapping`"),
        ("[bus.toolstack]", 'file = "/"\n[bus.toolstack]', "$: unknown key 'file'"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert refusal(tmp_path, GOOD.replace(old, new)).startswith(f"gateway.toml: {says}")


def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    says = refusal(tmp_path, "[bus\n")
    assert says.startswith("gateway.toml: is not valid TOML: ")
    assert "at line 1" in says


def test_one_pattern_on_two_buses_is_refused(tmp_path: Path) -> None:
    twice = GOOD.replace('["org.xen.xcp.storage"]', '["org.xen.xcp.*"]')
    assert refusal(tmp_path, twice) == (
        "gateway.toml: $.bus.storage-domain.services: 'org.xen.xcp.*' is already on bus 'toolstack'"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"missing.toml: cannot be read: No such file or directory"):
        config.load(tmp_path / "missing.toml")


UPSTREAM = """
[upstream.xapi]
url = "http+unix:///var/lib/xcp/xapi"
dialect = "xenapi"
speaks = ["jsonrpc"]
max_answer = "1MiB"
"""


def test_an_old_service_is_an_upstream(tmp_path: Path) -> None:
    upstream = load(tmp_path, GOOD + UPSTREAM).upstream["xapi"]
    assert (upstream.url, upstream.codec, upstream.dialect) == ("http+unix:///var/lib/xcp/xapi", "xmlrpc", "xenapi")
    assert (upstream.speaks, upstream.max_answer) == (("jsonrpc",), 2**20)
    assert (upstream.keepalive, upstream.verify) == (None, True)


def test_a_gateway_may_have_old_services_and_no_bus(tmp_path: Path) -> None:
    bare = "[listener" + GOOD.partition("[listener")[2]
    assert load(tmp_path, bare + UPSTREAM).bus == {}
    assert "no service could answer a call" in refusal(tmp_path, bare)


@pytest.mark.parametrize(
    ("listener", "problem"),
    [
        ('unmapped = "passthrough"', "gateway.toml: $.listener.rpc.unmapped: 'passthrough' needs an 'upstream'"),
        ('upstream = "xpai"', "gateway.toml: $.listener.rpc.upstream: unknown upstream 'xpai' (did you mean 'xapi'?)"),
        ('upstream = "old"', "gateway.toml: $.listener.rpc.upstream: unknown upstream 'old' (there are: xapi)"),
        (
            'tunnels = ["/console"]',
            "gateway.toml: $.listener.rpc.tunnels: a tunnel needs unmapped = 'passthrough' and an 'upstream'",
        ),
    ],
)
def test_a_listener_forwards_to_an_upstream_that_is_there(tmp_path: Path, listener: str, problem: str) -> None:
    text = GOOD.replace("[listener.rpc]", f"[listener.rpc]\n{listener}") + UPSTREAM
    assert refusal(tmp_path, text) == problem


def test_an_upstream_has_a_url_that_can_be_reached(tmp_path: Path) -> None:
    assert "$.upstream.xapi.url" in refusal(tmp_path, GOOD + UPSTREAM.replace("http+unix", "gopher"))


def test_a_xenstore_is_a_listener_that_stands_alone(tmp_path: Path) -> None:
    store = '\n[listener.store]\nbind = ["xenstore:"]\nmax_body_per_domain = "1KiB"\n'
    listener = load(tmp_path, GOOD + store).listener
    assert {name: each.is_store for name, each in listener.items()} == {"rpc": False, "store": True}
    assert (listener["store"].max_calls_per_domain, listener["store"].max_body_per_domain) == (16, 1024)
    both = store.replace('"xenstore:"', '"xenstore:/run/x", "tcp:127.0.0.1:0"')
    assert "$.listener.store.bind: a xenstore needs a listener of its own" in refusal(tmp_path, GOOD + both)
    assert "$.listener.store.bind" in refusal(tmp_path, GOOD + store.replace("xenstore:", "xenstore:x"))


def test_operators_are_heard_on_a_bus_that_is_there_and_can_carry_them(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD + '[admin]\nbus = "toolstack"\n').admin.bus == "toolstack"
    assert refusal(tmp_path, GOOD + '[admin]\nbus = "stack"\n') == (
        "gateway.toml: $.admin.bus: unknown bus 'stack' (there are: toolstack, storage-domain)"
    )
    through = (
        GOOD.replace("tcp:host=192.0.2.7,port=5701", "unixexec:path=/bin/ssh") + '[admin]\nbus = "storage-domain"\n'
    )
    assert refusal(tmp_path, through) == (
        "gateway.toml: $.admin.bus: the bus 'storage-domain' is reached through a program (unixexec), "
        "over which no operator can call"
    )


def test_a_service_that_could_take_the_places_of_all_others_is_named(tmp_path: Path) -> None:
    old = '[upstream.xapi]\nurl = "http://127.0.0.1:9"\n'
    assert config.capacity_warnings(load(tmp_path, GOOD + old)) == []
    wide = GOOD.replace('services = ["org.xen.xcp.*"]', 'services = ["org.xen.xcp.*"]\nper_destination = 256')
    in_bus, crowded = config.capacity_warnings(load(tmp_path, wide + old))
    assert "more than half of the 400 of $.bus.toolstack.connections times in_flight" in in_bus
    assert crowded == (
        f"{tmp_path}/gateway.toml: $.bus.toolstack: one service that hangs can hold 384 calls (per_destination 256, "
        "waiting 128), more than half of the 512 of $.listener.rpc.max_calls: calls to other services would be "
        "refused; lower the one or raise the other"
    )
    few = config.capacity_warnings(load(tmp_path, f"{GOOD}{old}waiting = 400\n[limits]\nmax_calls = 400\n"))
    assert [line.partition("$.")[2].partition(":")[0] for line in few] == ["upstream.xapi"]
    assert "400 of $.limits.max_calls" in few[0]


def test_a_bus_with_one_service_has_no_others_to_be_harmed(tmp_path: Path) -> None:
    few = GOOD.replace('max_message = "1MiB"', "connections = 1\nin_flight = 100")
    assert config.capacity_warnings(load(tmp_path, few)) == []
    several = few.replace('["org.xen.xcp.storage"]', '["org.xen.xcp.storage*"]')
    assert len(config.capacity_warnings(load(tmp_path, several))) == 1


@pytest.mark.parametrize("file", ["docker/gateway.toml"])
def test_no_service_of_a_shipped_config_can_take_all_places(file: str) -> None:
    assert config.capacity_warnings(config.load(ROOT / file)) == []


def test_a_xenstore_alone_has_no_places_to_take(tmp_path: Path) -> None:
    store = GOOD.replace('"tcp:127.0.0.1:8080", "unix:/run/xcp-gateway/rpc"', '"xenstore:"')
    assert config.capacity_warnings(load(tmp_path, f"{store}[limits]\nmax_calls = 1\n")) == []


def test_web_pages_hosts_and_shares_of_a_listener_may_be_named(tmp_path: Path) -> None:
    listener = load(tmp_path, GOOD).listener["rpc"]
    assert (listener.origins, listener.hosts, listener.missing_host) == ((), (), "refuse")
    assert (listener.max_calls_per_peer, listener.max_connections_per_peer) == (None, None)
    more = """
origins = ["https://a.example:8443", "null"]
hosts = ["gateway"]
missing_host = "accept"
max_calls_per_peer = 3
max_connections_per_peer = 4
[limits]
max_buffered_per_peer = "1MiB"
"""
    settings = load(tmp_path, GOOD.replace('header_timeout = "500ms"\n', more))
    listener = settings.listener["rpc"]
    assert (listener.origins, listener.hosts) == (("https://a.example:8443", "null"), ("gateway",))
    assert (listener.max_calls_per_peer, listener.max_connections_per_peer) == (3, 4)
    assert settings.limits.max_buffered_per_peer == 2**20


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/", "https://a.example/x", ""])
def test_an_origin_is_a_scheme_and_an_authority(tmp_path: Path, origin: str) -> None:
    says = refusal(tmp_path, GOOD.replace("max_body", f'origins = ["{origin}"]\nmax_body'))
    assert "$.listener.rpc.origins[0]" in says


@pytest.mark.parametrize(
    ("address", "mode", "who"),
    [
        ("tcp:127.0.0.1:8080", "0660", None),
        ("tcp:127.1.2.3:8080", "0660", None),
        ("tcp:[::1]:8080", "0660", None),
        ("tcp:localhost:8080", "0660", None),
        ("tcp:0.0.0.0:8080", "0660", "other hosts"),
        ("tcp:[::]:8080", "0660", "other hosts"),
        ("tcp:gateway.example:80", "0660", "other hosts"),
        ("tcp:192.0.2.1:80", "0660", "other hosts"),
        ("unix:/run/rpc", "0660", None),
        ("unix:/run/rpc", "666", "every user of this host"),
        ("systemd:rpc", "0666", None),
        ("xenstore:", "0666", None),
    ],
)
def test_a_listener_that_others_can_reach_is_told(address: str, mode: str, who: str | None) -> None:
    assert config.reached_by_others(address, mode) == who


def test_each_address_that_others_can_reach_is_named_with_its_place(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD.replace("127.0.0.1", "0.0.0.0"))
    (says,) = config.open_listeners(settings)
    assert says == (
        f"{tmp_path}/gateway.toml: $.listener.rpc.bind[0]: other hosts can reach tcp:0.0.0.0:8080; "
        "every client that connects may call"
    )
