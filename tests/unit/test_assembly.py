"""What a config becomes before anything runs, and what stands where after it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway import config, wiring
from gateway.mapping.table import EndpointKey
from gateway.pipeline.passthrough import Passthrough
from gateway.wiring import Assembly
from tests.kit.gateway import Folder

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
        "store": wiring.StoreTransport,
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = assembled(Folder(tmp_path))
    async with AsyncExitStack() as stack:
        await made.start_sides(stack)
    assert "TLS certificate verification is disabled for this upstream" in "".join(capsys.readouterr())
