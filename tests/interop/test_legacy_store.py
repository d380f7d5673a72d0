"""A legacy service over xenstore behind a real gateway, in a real xenstored: squeezed as it was from 2009 to 2012."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.clients import json_call
from tests.kit.gateway import RPC, TOOLSTACK, configured, ship
from tests.kit.programs import until
from tests.kit.stores import Xenstored, xenstored
from tests.kit.toolstack import Twin, squeezed_over_xenstore

pytestmark = pytest.mark.bus

CONFIG = f"""\
{RPC}{TOOLSTACK}\
[upstream.squeezed]
url = "xenstore:/squeezed"
store = "{{store}}"
codec = "xenstore"
arguments = "named"
names = "dashes"
timeout = "{{timeout}}"
"""


@pytest.fixture
def store() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


@pytest.fixture
def old(toolstack_bus: str, store: Xenstored, tmp_path: Path) -> Iterator[Twin]:
    with squeezed_over_xenstore(toolstack_bus, Path(store.path), tmp_path) as twin:
        yield twin


@pytest.fixture
def port(request: pytest.FixtureRequest, toolstack_bus: str, store: Xenstored, tmp_path: Path) -> Iterator[int]:
    """Of a gateway; its parameter: how long the legacy service may take."""
    ship(tmp_path, "squeezed", defaults="mode: legacy")
    mapping = tmp_path / "mappings/squeezed.yaml"  # a client of today
    mapping.write_text(
        mapping.read_text().replace("codec: jsonrpc, dialect: xapi_idl", "codec: jsonrpc, dialect: plain", 1)
    )
    values = {"bus": toolstack_bus, "store": store.path, "timeout": getattr(request, "param", "60s")}
    with configured(tmp_path, CONFIG, **values) as process:
        yield process.port


def ask(port: int, method: str, *params: Any) -> Any:
    return json_call(port, "/memory/jsonrpc", method, params)


def assert_nothing_is_left(store: Xenstored, *functions: str) -> None:
    """The nodes are removed when the client has its answer already."""
    paths = [f"/squeezed/rpc/{kind}/{each}" for kind in ("request", "response") for each in functions]
    until(lambda: not "".join(store.tool("ls", path, check=False) for path in paths).strip())


def test_a_client_of_today_reaches_the_service_of_2009(port: int, old: Twin, store: Xenstored) -> None:
    for _ in range(3):
        assert ask(port, "login", "dbg", "tests") == {"session_id": "tests"}
    reservation = ask(port, "reserve_memory", "dbg", "tests", 4096)["reservation_id"]
    assert len(reservation) == 36
    assert ask(port, "delete_reservation", "dbg", "tests", reservation) is None
    assert ask(port, "balance_memory", "dbg") is None
    refused = ask(port, "reserve_memory", "dbg", "tests", 99999999999)
    assert (refused["code"], refused["message"].partition(",")[0]) == (1000, "99999999999"), "the numbers of old"
    unknown = ask(port, "get_host_reserved_memory", "dbg")
    assert (unknown["code"], unknown["message"]) == (-32601, "get-host-reserved-memory")
    assert_nothing_is_left(store, "login", "reserve-memory", "balance-memory")


@pytest.mark.parametrize("port", ["2s"], indirect=True)
def test_a_request_that_is_not_answered_in_time_is_taken_back(port: int, old: Twin, store: Xenstored) -> None:
    old.switch(balance_memory={"slow": 30})
    late = ask(port, "balance_memory", "dbg")
    assert late["code"] == -32006
    assert_nothing_is_left(store, "balance-memory")
