"""Servers of others as upstreams: passed through unchanged, translated, and shadowed by D-Bus without a mismatch."""

from __future__ import annotations

import time
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kit.buses import private_bus
from tests.kit.clients import json_call, tcp_post
from tests.kit.gateway import RPC, TOOLSTACK, Process, configured
from tests.kit.other_servers import METHODS, OTHER_SERVERS, other_server
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

pytestmark = pytest.mark.bus

CONFIG = TOOLSTACK + RPC + '[upstream.old]\nurl = "{url}/RPC2"\n'

# The method, its D-Bus type, and a value that a client sends
VALUES: Mapping[str, tuple[str, Any]] = {
    "echo_text": ("s", 'Süd & <Nord> "42" \N{MUSICAL SYMBOL G CLEF}'),
    "echo_integer": ("i", -(2**31)),
    "echo_ratio": ("d", 0.5),
    "echo_flag": ("b", True),
    "echo_bytes": ("ay", bytes(range(256))),
    "echo_date": ("s", datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001 - XML-RPC's dates have no zone
    "echo_list": ("as", ["a", "", "ü"]),
    "echo_record": ("a{sv}", {"name": "ü", "count": 7, "ratio": 1.5, "parts": ["x", "y"]}),
}
REFUSAL = "no <way> ü"

ECHO_IDL = """\
<node><interface name="org.example.Toy1">
  <method name="Echo">
    <arg name="value" type="{0}" direction="in"/><arg name="same" type="{0}" direction="out"/>
  </method>
</interface></node>
"""
FAIL_IDL = """\
<node><interface name="org.example.Toy1">
  <method name="Fail"><arg name="name" type="s" direction="in"/><arg name="body" type="v" direction="in"/></method>
</interface></node>
"""
MAPPING = """\
mapping: 1
service: {name}
dbus: {{bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: {name}.xml}}
legacy: {{upstream: old}}
expose:
  - {{listener: rpc, path: /RPC2, codec: xmlrpc, dialect: plain}}
  - {{listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: plain}}
defaults: {{timeout: 60s, effect: read, mode: shadow}}
errors: {{org.example.Error.Refused: {{code: 7}}}}
methods:
  {name}: {method}
"""


class Front:
    """A running gateway before one of the servers."""

    def __init__(self, process: Process, server: str) -> None:
        self.ask = process.ask
        self._ports = [process.port, int(server.rpartition(":")[2])]

    def xml(self, method: str, *params: Any, direct: bool = False) -> bytes:
        """The bytes that answer a call over XML-RPC."""
        body = xmlrpc.client.dumps(params, method).encode()
        return tcp_post(self._ports[direct], "/RPC2", body, {"Content-Type": "text/xml"})

    def json(self, method: str, *params: Any) -> Any:
        """The result over JSON-RPC, or the error."""
        return json_call(self._ports[0], "/jsonrpc", method, params)

    def comparisons(self) -> dict[str, dict[str, int]]:
        """The comparisons of each method, by what they came to."""
        verdicts = ("equal", "ignored", "different", "error_different", "dropped")
        return {
            row["method"]: {name: row[name] for name in verdicts if row[name]} | row["not_compared"]
            for row in self.ask("GET", "/v1/methods")
        }


@contextmanager
def front(folder: Path, name: str) -> Iterator[Front]:
    with other_server(name, folder) as server, private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        files = {}
        for method in METHODS:
            files[f"{method}.xml"] = ECHO_IDL.format(VALUES[method][0])
            text = "{member: Echo, params: [value]}"
            if method == "echo_date":
                value, same = "name: value, format: datetime", "from: same, format: datetime_without_zone"
                text = f"{{member: Echo, params: [{{{value}}}], result: {{{same}}}}}"
            files[f"{method}.yaml"] = MAPPING.format(name=method, method=text)
        files["fail.xml"] = FAIL_IDL
        files["fail.yaml"] = MAPPING.format(name="fail", method="{member: Fail, params: [name, body]}")
        with configured(folder, CONFIG, files, bus=bus.address, url=server) as process:
            yield Front(process, server)


def call_all(gateway: Front) -> None:
    """Call each method in both protocols; the answers are those of the server."""
    for method, (_, value) in VALUES.items():
        assert gateway.xml(method, value) == gateway.xml(method, value, direct=True)
        if not isinstance(value, (bytes, datetime)):  # JSON has neither
            assert gateway.json(method, value) == value
    refusal = ("org.example.Error.Refused", REFUSAL)
    assert gateway.xml("fail", *refusal) == gateway.xml("fail", *refusal, direct=True)
    error = gateway.json("fail", *refusal)
    assert (error["code"], error["message"]) == (7, REFUSAL)


@pytest.mark.parametrize("name", OTHER_SERVERS)
def test_a_server_of_others_is_passed_through_translated_and_shadowed(tmp_path: Path, name: str) -> None:
    with front(tmp_path, name) as gateway:
        deadline = time.monotonic() + 2 * TIMEOUT
        while any(each.get("equal", 0) < 2 for each in gateway.comparisons().values()):
            assert time.monotonic() < deadline, gateway.comparisons()
            call_all(gateway)
        assert gateway.ask("GET", "/v1/diff") == []
        # On a busy machine the two sides may have run too far apart, or there was no capacity to observe
        assert {name for each in gateway.comparisons().values() for name in each} <= {"equal", "apart", "dropped"}

        gateway.ask("POST", "/v1/mode", {"pattern": "*", "mode": "dbus"})
        for method, (_, value) in VALUES.items():
            assert xmlrpc.client.loads(gateway.xml(method, value), use_builtin_types=True)[0][0] == value
