"""The daemon's TOML: what it holds, what it refuses and with which words."""

import re
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway import config
from gateway.config.toml import TomlDocument, parse
from tests.kit.cases import each_case
from tests.kit.programs import ROOT

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
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_units_are_read_and_relative_paths_begin_at_the_config(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    rpc = settings.listener["rpc"]
    assert (rpc.max_body, rpc.header_timeout, settings.grace) == (1024, 0.5, 10.0)
    assert [bus.max_message for bus in settings.bus.values()] == [2**25, 2**20]
    assert settings.mapping_paths() == (tmp_path / "mappings.d", Path("/etc/xcp"))
    assert (settings.state_path(), settings.socket_path()) == (None, Path("/run/xcp-gateway/admin"))
    paths = '[admin]\nsocket = "admin"\n[state]\nfile = "{}"\n'
    relative = load(tmp_path, GOOD + paths.format("state.db"))
    assert (relative.state_path(), relative.socket_path()) == (tmp_path / "state.db", tmp_path / "admin")
    assert load(tmp_path, GOOD + paths.format("/var/x.db")).state_path() == Path("/var/x.db")


UNIT = "a duration such as 500ms, 30s, 10m or 1h"


@each_case(
    ("old", "new", "says"),
    [
        ('header_timeout = "500ms"', 'header_timeout = "5x"',
         f'14:18: listener.rpc.header_timeout: expected {UNIT}, got "5x"'),
        ('header_timeout = "500ms"', "header_timeout = 5",
         f"14:18: listener.rpc.header_timeout: expected {UNIT}, got 5"),
        ('max_body = "1KiB"', 'maxbody = "1KiB"',
         "13:1: listener.rpc.maxbody: unknown key 'maxbody' (did you mean 'max_body'?)"),
        ('"tcp:127.0.0.1:8080"', '"127.0.0.1"',
         '12:9: listener.rpc.bind[0]: expected tcp:HOST:PORT, unix:/PATH, '),
        ('["org.xen.xcp.storage"]', "[]", "8:12: bus.storage-domain.services: must not be empty"),
        ("unix:path=/run/xcp/bus", "/run/xcp/bus",
         '3:12: bus.toolstack.address: expected a D-Bus address: unix:path=/run/x, '),
        ("[bus.toolstack]", 'file = "/"\n[bus.toolstack]', "2:1: file: unknown key 'file'"),
        ("[bus.toolstack]", "[bus.'tool stack']",
         '2:6: bus.tool stack: expected a name of letters, digits, - and _, such as rpc, got "tool stack"'),
        ("[listener.rpc]", "[listener.rpc]\nmax_calls = true",
         "12:13: listener.rpc.max_calls: expected a whole number, at least 1, got true"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert refusal(tmp_path, GOOD.replace(old, new)).startswith(f"gateway.toml:{says}")


def test_all_problems_are_told_at_once_those_between_sections_too(tmp_path: Path) -> None:
    text = GOOD.replace("address  =", "adress  =", 1).replace('"tcp:127.0.0.1:8080"', "8080")
    text = f'{text}[listener.other]\nbind = ["tcp:127.0.0.1:1"]\nupstream = "xpai"\n{UPSTREAM}[mapings]\n'
    text = text.replace('["org.xen.xcp.storage"]', '["org.xen.xcp.*"]')
    places = [line.split(": ")[1] for line in refusal(tmp_path, text).splitlines()]
    assert places == [
        "bus.toolstack", "bus.toolstack.adress", "bus.storage-domain.services[0]", "listener.rpc.bind[0]",
        "listener.other.upstream", "mapings",
    ]  # fmt: skip


def test_a_file_that_cannot_be_used_at_all_is_refused_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "").splitlines() == [
        "gateway.toml:1:1: 'listener' is missing",
        "gateway.toml:1:1: 'mappings' is missing",
    ]
    expected = "gateway.toml:2:5: invalid TOML: Expected ']' at the end of a table declaration"
    assert refusal(tmp_path, "\n[bus\n") == expected
    assert refusal(tmp_path, "a = [").startswith("gateway.toml:1:6: invalid TOML: ")
    (tmp_path / "gateway.toml").write_bytes(b"a = 1\nb = '\xff'")
    with pytest.raises(config.ConfigError, match=r"gateway\.toml:2:6: invalid UTF-8"):
        config.load(tmp_path / "gateway.toml")
    says = r"missing.toml:1:1: cannot be read: No such file or directory; `--config` names another file"
    with pytest.raises(config.ConfigError, match=says):
        config.load(tmp_path / "missing.toml")


UPSTREAM = """
[upstream.xapi]
url = "http+unix:///var/lib/xcp/xapi"
dialect = "xenapi"
speaks = ["jsonrpc"]
max_answer = "1MiB"
"""


def test_a_gateway_has_a_bus_or_an_old_service(tmp_path: Path) -> None:
    bare = "[listener" + GOOD.partition("[listener")[2]
    assert load(tmp_path, bare + UPSTREAM).bus == {}
    assert "no service could answer a call" in refusal(tmp_path, bare)


TAKEN = "storage-domain.services[0]: 'org.xen.xcp.*' is already on bus 'toolstack'"
PORT = "expected a port from 1 to 65535"
OWN = "expected an address of its own, got"
WEB = "expected a loopback address such as tcp:127.0.0.1:8081, got tcp:0.0.0.0:8081"


@each_case(
    ("old", "new", "says"),
    [
        ("max_body", 'unmapped = "passthrough"\nmax_body',
         "13:12: listener.rpc.unmapped: 'passthrough' needs an 'upstream'"),
        ("max_body", 'upstream = "xpai"\nmax_body',
         "13:12: listener.rpc.upstream: unknown upstream 'xpai' (did you mean 'xapi'?)"),
        ("max_body", 'upstream = "old"\nmax_body',
         "13:12: listener.rpc.upstream: unknown upstream 'old'; expected xapi"),
        ("max_body", 'tunnels = ["/console"]\nmax_body',
         "13:11: listener.rpc.tunnels: a tunnel needs unmapped = 'passthrough' and an 'upstream'"),
        ('["org.xen.xcp.storage"]', '["org.xen.xcp.*"]', f"8:13: bus.{TAKEN}"),
        ("[mappings]", '[admin]\nbus = "stack"\n[mappings]',
         "17:7: admin.bus: unknown bus 'stack' (did you mean 'toolstack'?)"),
        ("[mappings]", '[admin]\nweb = "tcp:0.0.0.0:8081"\n[mappings]', f"17:7: admin.web: {WEB}"),
        ("[mappings]", '[state]\nfile = ""\n[mappings]', "17:8: state.file: "),
        ("127.0.0.1:8080", "127.0.0.1:80990",
         f"12:9: listener.rpc.bind[0]: {PORT}, or 0 for any free one, got tcp:127.0.0.1:80990"),
        ("127.0.0.1:8080", f"127.0.0.1:{'1' * 5000}", f"12:9: listener.rpc.bind[0]: {PORT}, or 0"),
        ("[mappings]", '[admin]\nmetrics = "tcp:[::1]:65536"\n[mappings]', f"17:11: admin.metrics: {PORT}, or 0"),
        ("[mappings]", '[admin]\nweb = "tcp:[::1]:65536"\n[mappings]', f"17:7: admin.web: {PORT}, or 0"),
        ("http+unix:///var/lib/xcp/xapi", "http://[::1]:0/RPC2", f"20:7: upstream.xapi.url: {PORT}, got http://[::1]:0"),
        ("port=5701", "port=570100", f"7:12: bus.storage-domain.address: {PORT}, got tcp:host=192.0.2.7,port=570100"),
        ("[mappings]", '[traces]\nurl = "http://a:70000"\n[mappings]', f"17:7: traces.url: {PORT}, got http://a:70000"),
        ("unix:/run/xcp-gateway/rpc", "tcp:0.0.0.0:8080",
         f"12:31: listener.rpc.bind[1]: {OWN} tcp:0.0.0.0:8080, which listener.rpc.bind[0] (tcp:127.0.0.1:8080) has"),
        ("[mappings]", '[listener.x]\nbind = ["unix:/run//xcp-gateway/rpc"]\n[mappings]',
         f"17:9: listener.x.bind[0]: {OWN} unix:/run//xcp-gateway/rpc, which listener.rpc.bind[1] (unix:/run/xcp"),
        ("[mappings]", '[admin]\nmetrics = "tcp:localhost:8080"\n[mappings]',
         f"17:11: admin.metrics: {OWN} tcp:localhost:8080, which listener.rpc.bind[0] (tcp:127.0.0.1:8080) has"),
        ("[mappings]", '[admin]\nweb = "tcp:127.0.0.1:8080"\n[mappings]',
         f"17:7: admin.web: {OWN} tcp:127.0.0.1:8080, which listener.rpc.bind[0] has"),
        ("xcp-gateway/rpc", "xcp-gateway/admin",
         f"12:31: listener.rpc.bind[1]: {OWN} unix:/run/xcp-gateway/admin, which admin.socket has"),
        ("http+unix:///var", "gopher:///var", "20:7: upstream.xapi.url: expected http://HOST:PORT, "),
        ("max_body", 'origins = ["a.example"]\nmax_body', "13:12: listener.rpc.origins[0]: expected SCHEME://HOST "),
        ("max_body", 'origins = ["https://a.example/"]\nmax_body', "13:12: listener.rpc.origins[0]: expected SCHEME://"),
    ],
)  # fmt: skip
def test_names_between_sections_are_checked(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert refusal(tmp_path, (GOOD + UPSTREAM).replace(old, new, 1)).startswith(f"gateway.toml:{says}")


def test_what_is_no_problem(tmp_path: Path) -> None:
    several = ["tcp:127.0.0.1:8080", "tcp:[::]:8080", "tcp:127.0.0.2:8080", "tcp:127.0.0.1:0"]
    text = GOOD.replace('["tcp:127.0.0.1:8080", ', f"{several}"[:-1] + ", ")
    load(tmp_path, text.replace("max_body", 'origins = ["https://a.example:8443", "null"]\nmax_body'))


def test_operators_are_not_heard_through_a_program(tmp_path: Path) -> None:
    through = GOOD.replace("tcp:host=192.0.2.7,port=5701", "unixexec:path=/bin/ssh")
    assert refusal(tmp_path, through + '[admin]\nbus = "storage-domain"\n') == (
        "gateway.toml:19:7: admin.bus: the bus 'storage-domain' is reached through a program (unixexec), "
        "over which no operator can call"
    )


def test_a_xenstore_is_a_listener_that_stands_alone(tmp_path: Path) -> None:
    store = '\n[listener.store]\nbind = ["xenstore:"]\nmax_body_per_domain = "1KiB"\n'
    listener = load(tmp_path, GOOD + store).listener
    assert {name: each.is_store for name, each in listener.items()} == {"rpc": False, "store": True}
    assert (listener["store"].max_calls_per_domain, listener["store"].max_body_per_domain) == (16, 1024)
    both = store.replace('"xenstore:"', '"xenstore:/run/x", "tcp:127.0.0.1:0"')
    assert "listener.store.bind: a xenstore needs a listener of its own" in refusal(tmp_path, GOOD + both)
    assert "listener.store.bind[0]" in refusal(tmp_path, GOOD + store.replace("xenstore:", "xenstore:x"))


def held(place: str, calls: int, by: str, places: str) -> str:
    """One service that hangs."""
    return (
        f"{place}: one service that hangs can hold {calls} calls ({by}), more than half of the {places}: "
        "calls to other services would be refused; lower the one or raise the other"
    )


OLD = '[upstream.old]\nurl = "https://old"\n'
BOTH = '"tcp:127.0.0.1:8080", "unix:/run/xcp-gateway/rpc"'
REACHED = "other hosts can reach tcp:0.0.0.0:8080; every client that connects may call"
ROOT_ALONE = "it has no effect on tcp:127.0.0.1:8080: only a Unix socket shows that its peer is root"


@each_case(
    ("old", "new", "doubts"),
    [
        ("", "", []),
        ('services = ["org.xen.xcp.*"]', 'services = ["org.xen.xcp.*"]\nper_destination = 256', [
            held("2:6: bus.toolstack", 256, "per_destination 256", "400 of bus.toolstack.connections times in_flight"),
            held("2:6: bus.toolstack", 384, "per_destination 256, waiting 128", "512 of listener.rpc.max_calls"),
        ]),
        ("[mappings]", f"{OLD}waiting = 400\n[limits]\nmax_calls = 400\n[mappings]", [
            held("16:11: upstream.old", 464, "connections 64, waiting 400", "400 of limits.max_calls")
        ]),
        ('max_message = "1MiB"', "connections = 1\nin_flight = 100", []),  # of a bus with one service
        ('storage"]\nmax_message = "1MiB"', 'storage*"]\nconnections = 1\nin_flight = 100', [
            held("6:6: bus.storage-domain", 64, "per_destination 64",
                 "100 of bus.storage-domain.connections times in_flight")
        ]),
        (f"[listener.rpc]\nbind = [{BOTH}]", '[limits]\nmax_calls = 1\n[listener.x]\nbind = ["xenstore:"]', []),
        ("127.0.0.1", "0.0.0.0", [f"12:9: listener.rpc.bind[0]: {REACHED}"]),
        ("max_body", "trust_root = true\nmax_body", [f"13:14: listener.rpc.trust_root: {ROOT_ALONE}"]),
        (f"[{BOTH}]", '["unix:/run/xcp-gateway/rpc"]\ntrust_root = true', []),
        ("[mappings]", f"{OLD}verify = false\n[mappings]", [
            "18:10: upstream.old.verify: TLS certificate verification is disabled for this upstream"
        ]),
    ],
)  # fmt: skip
def test_what_is_valid_and_perhaps_not_meant_is_doubted(tmp_path: Path, old: str, new: str, doubts: list[str]) -> None:
    notes = config.notes(load(tmp_path, GOOD.replace(old, new, 1)))
    assert notes == [f"{tmp_path}/gateway.toml:{each}" for each in doubts]


@each_case("file", ["docker/gateway.toml", "docker/dom0.toml", "docker/demo/gateway.toml"])
def test_shipped_configs_match_the_schema_and_nothing_is_doubtful(file: str) -> None:
    if (ROOT / file).exists():
        Draft202012Validator.check_schema(config.schema())
        Draft202012Validator(config.schema()).validate(tomllib.loads((ROOT / file).read_text()))
        assert config.notes(config.load(ROOT / file)) == []


@each_case(
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


# Places


PLACES = """# a comment with = and [x]
top = "a"\t# = no
"quoted key" . 'b'.c = 1979-05-27 07:32:00
list = [ 1, "two, ]", # three ]
  [3, 4], {a = 5, b.c = 6}, '''7
8''', ]
text = \"\"\"
a = "quoted"" \"\"\"
[ table . sub ]
x = { y = [true, -inf], z = {} }
[[many.of]]
n = 1
[[many.of]]
n = 0x2
[many.of.below]
m = 1_000
"""


def test_each_node_of_toml_has_the_place_where_it_is_written() -> None:
    document = parse(Path("x.toml"), PLACES)
    assert isinstance(document, TomlDocument)
    lines = PLACES.splitlines()
    for path, value in _leaves(document.data, ()):
        problem = document.problem(path, "")
        text = lines[problem.line - 1][problem.column - 1 :]
        if not isinstance(value, str) and value not in ([], {}):
            read = text if isinstance(value, datetime) else re.split(r"[ ,\]}]", text)[0]
            assert tomllib.loads(f"v = {read}")["v"] == value, path
        else:
            assert text[0] in "\"'{[", path
        if isinstance(path[-1], str):
            key = document.problem(path, "", key=True)
            assert lines[key.line - 1][key.column - 1 :].lstrip("\"'").startswith(path[-1]), path
    assert str(document.problem(("many", "of", 1, "n"), "no")) == "x.toml:14:5: many.of[1].n: no"
    assert document.problem(("table", "sub", "missing"), "no").line == 9


def _leaves(data: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = [leaf for key, value in entries for leaf in _leaves(value, (*path, key))]
    yield from found or [(path, data)]
