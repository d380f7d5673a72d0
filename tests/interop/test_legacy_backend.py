"""Legacy services behind a real gateway: whatever the client speaks, each is asked in its own protocol, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.clients import json_call, tcp_post, xml_call
from tests.kit.gateway import RPC, TOOLSTACK, configured, ship
from tests.kit.programs import free_port
from tests.kit.toolstack import Twin, twin

pytestmark = pytest.mark.bus

WEB = "11111111-aaaa-4aaa-8aaa-000000000001"
VM = f"OpaqueRef:{WEB}"

CONFIG = f"""\
{RPC}{TOOLSTACK}\
[upstream.xapi]
url = "{{xapi}}"
dialect = "xenapi"
speaks = ["jsonrpc"]
[upstream.xenopsd]
url = "{{xenopsd}}"
dialect = "xapi_idl"
keepalive = false
arguments = "named"
[upstream.squeezed]
url = "{{squeezed}}"
codec = "jsonrpc1"
dialect = "xapi_idl"
keepalive = false
"""


class Old:
    """A gateway whose every method a legacy service answers."""

    def __init__(self, folder: Path, port: int, twins: dict[str, Twin]) -> None:
        self.folder = folder
        self.twins = twins
        self.port = port
        self.session = str(self.xml("/RPC2", "session.login_with_password", "root", "xenroot")["Value"])

    def post(self, path: str, body: str) -> bytes:
        return tcp_post(self.port, path, body)

    def xml(self, path: str, method: str, *params: Any) -> Any:
        return xml_call(self.port, path, method, *params)

    def json(self, path: str, method: str, params: Any) -> Any:
        return json_call(self.port, path, method, params)


@pytest.fixture
def old(toolstack_bus: str, tmp_path: Path) -> Iterator[Old]:
    ship(tmp_path, "xapi", "xenopsd", "squeezed", defaults="mode: legacy")
    with (
        twin("xapi", toolstack_bus, tmp_path, tcp=True, port=free_port()) as xapi,
        twin("xenopsd", toolstack_bus, tmp_path) as xenopsd,
        twin("squeezed", toolstack_bus, tmp_path, json=True) as squeezed,
    ):
        twins = {"xapi": xapi, "xenopsd": xenopsd, "squeezed": squeezed}
        urls = {name: each.url for name, each in twins.items()}
        with configured(tmp_path, CONFIG, bus=toolstack_bus, **urls) as process:
            yield Old(tmp_path, process.port, twins)


# Who is asked, and how


def test_each_legacy_service_is_asked_in_its_own_protocol(old: Old) -> None:
    """xapi as the client wrote it, a socket of xapi_idl, and a service that knows JSON-RPC 1.0 only."""
    spaced = f'{{ "method":"VM.get_power_state",  "params":["{old.session}","{VM}"], "id":"x" }}'
    assert old.post("/jsonrpc", spaced) == b'{"result":"Halted","error":null,"id":"x"}'
    assert old.xml("/RPC2", "VM.get_power_state", old.session, VM) == {"Status": "Success", "Value": "Halted"}
    record = old.xml("/RPC2", "VM.get_record", old.session, VM)["Value"]
    assert (record["memory_static_max"], record["tags"]) == ("2147483648", [])

    by_name = old.json("/xenopsd/jsonrpc", "VM.exists", {"debug_info": "dbg", "id": WEB})
    by_position = old.json("/xenopsd/jsonrpc", "VM.exists", ["dbg", WEB])
    assert by_name == by_position
    assert by_name in (True, False)
    unknown = old.json("/xenopsd/jsonrpc", "VM.stat", ["dbg", "nobody"])
    assert unknown["message"] == "Does_not_exist"
    assert unknown["data"] == ["VM", "nobody"]

    policy = old.xml("/memory", "get_domain_zero_policy", "dbg")
    assert policy == {"Status": "Success", "Value": ["Fixed_size", "1048576"]}
    refused = old.xml("/memory", "reserve_memory", "dbg", "me", "99999999999")
    assert refused["ErrorDescription"][0] == "Cannot_free_this_much_memory"
    assert refused["ErrorDescription"][1][0] == "99999999999"
    assert old.json("/memory/jsonrpc", "get_host_reserved_memory", ["dbg"]) == 262144


# What can go wrong


def test_a_legacy_service_that_is_silent_gone_or_back(old: Old, toolstack_bus: str) -> None:
    xapi, xenopsd = old.twins["xapi"], old.twins["xenopsd"]
    xenopsd.switch(**{"VM.list": {"silent": True}})
    [reason] = old.json("/xenopsd/jsonrpc", "VM.list", ["dbg"])["data"]
    assert "closed the connection before it had answered; whether the call was executed is unknown" in reason
    xenopsd.kill()
    answer = old.json("/xenopsd/jsonrpc", "VM.list", ["dbg"])
    reason = "the legacy service 'xenopsd' cannot be reached: connection refused; nothing was executed"
    assert (answer["message"], answer["data"]) == ("Internal_error", [reason])
    for _ in range(3):
        assert old.xml("/RPC2", "VM.get_name_label", old.session, VM)["Value"] == "web"
    xapi.kill()
    with twin("xapi", toolstack_bus, old.folder, tcp=True, port=int(xapi.url.rpartition(":")[2])):
        assert old.xml("/RPC2", "VM.get_name_label", old.session, VM)["Value"] == "web"
