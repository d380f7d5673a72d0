"""The running gateway, in this process: what it makes of a config, what it refuses, what a reload changes."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway import check, config
from gateway.admin.api import CallBody
from gateway.cli import client
from gateway.core.admin.access import Caller
from gateway.server import Gateway, reload_when_signalled
from gateway.start import MappingError
from tests.kit.buses import private_bus
from tests.kit.cases import each_case, expect
from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.logs import logged
from tests.kit.toy_service import toy_service

METHODS = {"echo", "label", "hold", "held", "release", "hang", "leave"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A gateway's files; its bus is down."""
    folder = Folder(tmp_path)
    folder.buses({"toolstack": (f"unix:path={tmp_path}/bus", "org.example.*")})
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BUS_TIMEOUT", 0.05)
    monkeypatch.setattr("adapters.dbus.backend.SWAP_PATIENCE", 0.05)


@pytest.fixture
async def running(folder: Folder) -> AsyncIterator[Gateway]:
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        async with Gateway(folder.config) as gateway:
            yield gateway


def change(folder: Folder, old: str, new: str) -> None:
    text = folder.config.read_text()
    assert old in text
    folder.config.write_text(text.replace(old, new))


# What is made of a config


def test_a_gateway_that_is_not_started_knows_its_methods_and_has_no_address(folder: Folder) -> None:
    gateway = Gateway(folder.config)
    assert (gateway.addresses(), folder.control.exists()) == ([], False)
    assert {route["method"] for route in gateway.routes()} == METHODS
    echo = next(route for route in gateway.routes() if route["method"] == "echo")
    assert {name: echo[name] for name in ("listener", "path", "codec", "dialect", "line")} == {
        "listener": "rpc", "path": "/RPC2", "codec": "xmlrpc", "dialect": "plain", "line": 9
    }  # fmt: skip
    target = ("org.example.toy", "/org/example/toy", "org.example.Toy1", "Echo")
    assert tuple(echo[name] for name in ("bus_name", "object_path", "interface", "member")) == target


def test_all_problems_of_all_files_are_told_at_once(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    (folder.mappings / "other.yaml").write_text("mapping: 2\n")
    with pytest.raises(MappingError) as refused:
        Gateway(folder.config)
    assert {Path(problem.file).name for problem in refused.value.problems} == {"toy.yaml", "other.yaml"}
    assert str(refused.value).splitlines() == [str(problem) for problem in refused.value.problems]
    change(folder, "[admin]", "[contorl]")
    with pytest.raises(config.ConfigError, match=r"gateway\.toml:9:2: contorl: unknown key"):
        Gateway(folder.config)


# Files that are refused or damaged


@pytest.mark.usefixtures("impatient")
async def test_a_gateway_that_starts_with_a_damaged_state_file_warns(folder: Folder) -> None:
    change(folder, "[log]", '[state]\nfile = "state.db"\n[log]')
    (folder.path / "state.db").write_bytes(b"no database" * 1000)
    async with Gateway(folder.config) as gateway:
        (warning,) = gateway.warnings()
        assert "state.db is damaged" in warning


@pytest.mark.usefixtures("impatient")
async def test_a_gateway_whose_files_are_refused_starts_with_what_was_live_last_and_says_so(folder: Folder) -> None:
    change(folder, "[log]", '[state]\nfile = "state.db"\n[log]')
    async with Gateway(folder.config) as first:
        live = first.table.revision
        assert (first.warnings(), await sample(first, REFUSED)) == ([], 0.0)
        folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
        assert (await first.reload())["problems"]
        assert (len(first.warnings()), await sample(first, REFUSED)) == (1, 1.0)
    async with Gateway(folder.config) as second:
        assert (second.table.revision, await sample(second, REFUSED)) == (live, 1.0)
        (warning,) = second.warnings()
        assert warning.startswith(
            f"config or mapping files are refused, revision {live}, which was live before, stays (1"
        )
        assert (await second.status())["warnings"] == [warning]
        folder.mapping(TOY_MAPPING.replace("  leave: {member: Leave, effect: write}\n", ""))
        assert "problems" not in await second.reload()
        assert (second.warnings(), await sample(second, REFUSED)) == ([], 0.0)
        newer = second.table.revision
    folder.mapping("nonsense")
    assert Gateway(folder.config).table.revision == newer != live
    change(folder, "[listener.rpc]", "[listener.other]")  # which no longer fits it
    with pytest.raises(MappingError, match=r"toy\.yaml:1:1"):
        Gateway(folder.config)


async def sample(gateway: Gateway, name: str) -> float:
    (line,) = [each for each in (await gateway.metrics()).decode().splitlines() if each.startswith(f"{name} ")]
    return float(line.removeprefix(name))


REFUSED = "xcp_gateway_mapping_refused"


# Start and stop


@pytest.mark.usefixtures("impatient")
async def test_a_bus_that_is_down_keeps_nobody_from_starting_and_stop_removes_every_socket(folder: Folder) -> None:
    sockets = folder.control, folder.path / "rpc"
    async with Gateway(folder.config) as gateway:
        assert [each.is_socket() for each in sockets] == [True, True]
        (reason,) = await gateway.unready()
        assert reason.startswith("bus 'toolstack' is not connected: cannot connect to unix:path=")
        assert expect(dict, (await gateway.call(CallBody("echo", ["a"])))["fault"])["code"] == "unavailable"
        with pytest.raises(LookupError, match=r"there is no web page: set web = "):
            gateway.invite(Caller(0))
        for is_back in (0.0, 1.0):
            assert await sample(gateway, "xcp_gateway_rollback_in_force") == is_back
            await gateway.admin_service.rollback_all("root", "slow")
        assert await sample(gateway, 'xcp_gateway_rollouts{state="rolled back"}') == 0.0
    assert [each.exists() for each in sockets] == [False, False]


async def test_it_is_ready_once_its_bus_and_its_service_are_there(folder: Folder) -> None:
    """It tells so at an address of its own too, with its metrics and nothing else."""
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        change(folder, "[admin]", '[admin]\nmetrics = "tcp:127.0.0.1:0"')
        async with Gateway(folder.config) as gateway, aiohttp.ClientSession() as session:
            assert await gateway.unready() == ["org.example.toy is absent on bus 'toolstack'"]
            with toy_service(bus.address, "org.example.toy"):
                assert await gateway.unready() == []
                status = await asyncio.to_thread(client.ask, folder.control, "GET", "/v1/status")
                url = str(status["metrics"]).replace("tcp:", "http://")
                for path, expected in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/status", 404)):
                    async with session.get(url + path) as response:
                        assert response.status == expected, path
            assert (status["ready"], status["in_flight"], status["listening"]) == (True, 0, gateway.addresses())
    (service,) = status["services"]
    assert (service["name"], service["bus"], service["state"]) == ("org.example.toy", "toolstack", "owned")


async def test_a_call_is_answered_as_a_client_is_and_metrics_never_tell_a_clients_text(running: Gateway) -> None:
    answer = await running.call(CallBody("echo", ["a"]))
    assert (answer["value"], answer["endpoint"], answer["codec"]) == ("a", "rpc /RPC2", "xmlrpc")
    assert answer["steps"]
    answer = await running.call(CallBody("echo", [5]))
    fault = expect(dict, answer["fault"])
    assert (fault["code"], fault["message"]) == ("invalid_params", "$.params[0]: expected s, got 5")
    assert "value" not in answer
    await running.call(CallBody("made-up-by-a-client", ["a"]))
    text = (await running.metrics()).decode()
    assert 'xcp_gateway_calls_total{method="echo",outcome="ok",service="toy",side="dbus"} 1.0' in text
    unmapped = 'method="<unmapped>",outcome="unknown_method",service="<unmapped>",side=""'
    assert f"xcp_gateway_calls_total{{{unmapped}}} 1.0" in text
    assert 'xcp_gateway_service_available{bus="toolstack",bus_name="org.example.toy"} 1.0' in text
    assert "made-up" not in text


async def test_a_start_that_fails_half_way_leaves_nothing(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        change(folder, "tcp:127.0.0.1:0", address)
        with pytest.raises(OSError, match=address):
            async with Gateway(folder.config):
                pytest.fail("it started")
    assert not folder.control.exists()


# Reload


UNCHANGED: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
OTHER = "[upstream.b]\nurl = 'http+unix:///nowhere'\n"


@pytest.mark.usefixtures("impatient")
async def test_a_reload_says_what_changed(folder: Folder) -> None:
    folder.config.write_text(folder.config.read_text() + "[upstream.a]\nurl = 'http://127.0.0.1:1'\n" + OTHER)
    async with Gateway(folder.config) as gateway:
        before = gateway.table.revision
        folder.mapping(TOY_MAPPING.replace("  echo:", "  mirror:").replace("timeout: 100ms", "timeout: 200ms"))
        answer = {
            "revision": "",
            "before": before,
            "added": ["mirror"],
            "removed": ["echo"],
            "changed": ["hang"],
            "buses": UNCHANGED,
            "upstreams": UNCHANGED,
            "needs_restart": [],
            "notes": [],
        }
        assert await gateway.reload() == {**answer, "revision": gateway.table.revision}
        assert {route["method"] for route in gateway.routes()} == METHODS - {"echo"} | {"mirror"}
        text = folder.config.read_text().replace("127.0.0.1:1", "127.0.0.1:2").replace("upstream.b", "upstream.c")
        folder.config.write_text(text.replace("bus.toolstack", "bus.other"))
        assert await gateway.reload() == {
            **answer,
            **dict.fromkeys(("revision", "before"), gateway.table.revision),
            **{name: [] for name in ("added", "removed", "changed")},
            "buses": {"added": ["other"], "removed": ["toolstack"], "changed": []},
            "upstreams": {"added": ["c"], "removed": ["b"], "changed": ["a"]},
        }


@each_case(
    ("section", "old", "new"),
    [
        ("listener", "[mappings]", "max_calls = 5\n[mappings]"),
        ("admin", "/control", "/elsewhere"),
        ("log", '"json"', '"console"'),
        ("limits", "[log]", "[limits]\nmax_calls = 5\n[log]"),
        ("user", "[bus.toolstack]", 'user = "nobody"\n[bus.toolstack]'),
    ],
)
async def test_what_a_reload_cannot_apply_is_named_until_it_is_taken_back(
    folder: Folder, section: str, old: str, new: str
) -> None:
    gateway = Gateway(folder.config)
    change(folder, old, new)
    for _ in range(2):
        assert (await gateway.reload())["needs_restart"] == [section]
    change(folder, new, old)
    assert (await gateway.reload())["needs_restart"] == []


@each_case(
    ("file", "text", "problem"),
    [
        ("mappings/toy.yaml", "mapping: 1\n", "toy.yaml:1:1: "),
        ("mappings/toy.xml", "<node/>", "org.example.Toy1"),
        ("gateway.toml", "[bus", "gateway.toml:1:5: invalid TOML: "),
        ("gateway.toml", "grace = 5", "gateway.toml:1:9: grace: expected a duration"),
    ],
)
async def test_a_refused_reload_says_why_and_changes_nothing(
    folder: Folder, file: str, text: str, problem: str
) -> None:
    gateway = Gateway(folder.config)
    table, settings, endpoints = gateway.table, gateway.settings, gateway.endpoints
    before = (folder.path / file).read_text()
    (folder.path / file).write_text(text)
    answer = await gateway.reload()
    (folder.path / file).write_text(before)
    assert (answer["revision"], problem in str(answer["problems"])) == (table.revision, True)
    assert (gateway.table, gateway.settings, gateway.endpoints) == (table, settings, endpoints)


async def test_a_call_in_flight_keeps_its_route_and_two_reloads_at_once_do_not_mix(
    running: Gateway, folder: Folder
) -> None:
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(running.call(CallBody("hold")))
        assert (await running.call(CallBody("held")))["value"] == 1
        folder.mapping(TOY_MAPPING.replace("  hold: {member: Hold}\n", "  wait: {member: Hold}\n"))
        first, second = await asyncio.gather(running.reload(), running.reload())
        assert first["revision"] == second["revision"] == second["before"]
        assert (first["added"], first["removed"], second["added"]) == (["wait"], ["hold"], [])
        fault = expect(dict, (await running.call(CallBody("hold", listener="rpc", path="/RPC2")))["fault"])
        assert fault["message"] == "unknown method 'hold'"
        await running.call(CallBody("release"))
    assert held.result()["value"] == "released"


# The operator's call


async def test_a_call_goes_to_the_one_endpoint_that_it_names_or_that_knows_the_method(folder: Folder) -> None:
    second = f'[listener.second]\nbind = ["unix:{folder.path}/second"]\n'
    folder.config.write_text(folder.config.read_text() + second)
    line = "  - {listener: second, path: /RPC2, codec: xmlrpc, dialect: plain}\n"
    folder.mapping(TOY_MAPPING.replace("expose:\n", f"expose:\n{line}"))
    other = TOY_MAPPING.replace("path: /RPC2", "path: /other").replace("path: /jsonrpc", "path: /other/jsonrpc")
    other = other.replace("service: toy", "service: zoo").replace("  echo:", "  copy:")
    (folder.mappings / "other.yaml").write_text(other)
    gateway = Gateway(folder.config)
    for call, endpoint in (
        (CallBody("echo", [5], listener="rpc", codec="jsonrpc"), "rpc /jsonrpc"),
        (CallBody("echo", [5], path="/RPC2", listener="second"), "second /RPC2"),
        (CallBody("copy", [5]), "rpc /other"),
        (CallBody("system.listMethods", path="/other"), "rpc /other"),
    ):
        assert (await gateway.call(call))["endpoint"] == endpoint
    several = (
        "several endpoints take this call: second /RPC2, rpc /RPC2; "
        "choose one with --listener and --path, for example --listener second --path /RPC2"
    )
    for call, says in (
        (CallBody("echo", [5], path="/RPC2"), several),
        (CallBody("label", [5]), "several endpoints take this call"),  # of several services
        (CallBody("eco", [5], path="/RPC2"), r"no mapped method is named 'eco' \(did you mean 'echo'\?\), so any end"),
        (CallBody("system.listMethods"), r"no mapped method is named 'system\.listMethods'"),
        (CallBody("echo", path="/nope"), "no such endpoint; there are: rpc /other, rpc /other/jsonrpc, second /RPC2, "),
    ):
        with pytest.raises(LookupError, match=says):
            await gateway.call(call)


async def test_a_bug_in_a_reload_costs_the_reload_and_not_the_gateway(
    running: Gateway, folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = asyncio.Event()

    def bug(_settings: object) -> None:
        loop.call_soon_threadsafe(tried.set)
        raise RuntimeError("a bug")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr("gateway.wiring.compile_mappings", bug)
    signal_came = asyncio.Event()
    reloader = asyncio.ensure_future(reload_when_signalled(signal_came, running))
    for _ in range(2):  # the second shows that the first did not end it
        tried.clear()
        signal_came.set()
        async with asyncio.timeout(60):
            await tried.wait()
    monkeypatch.undo()
    assert "problems" not in await running.reload()
    assert not reloader.done()
    reloader.cancel()
    await asyncio.wait({reloader})
    assert "a bug ended this reload" in caplog.text


# Legacy services


@pytest.mark.usefixtures("impatient")
async def test_a_legacy_service_that_is_away_is_told_at_start_in_status_and_in_metrics(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"http://127.0.0.1:{there.getsockname()[1]}"
        folder.config.write_text(
            f"{folder.config.read_text()}[upstream.here]\nurl = '{url}'\n{OTHER}[limits]\nmax_calls = 300\n"
        )
        async with Gateway(folder.config) as gateway:
            status = await gateway.status()
            rows = expect(tuple, status["upstreams"])
            assert {row.name: row.unreachable for row in rows} == {"here": "", "b": "No such file or directory"}
            for name, is_there in (("here", 1.0), ("b", 0.0)):
                assert await sample(gateway, f'xcp_gateway_upstream_reachable{{upstream="{name}"}}') == is_there
    told = dict(logged(caplog))
    assert any("more than half of the 300 of limits.max_calls" in doubt for doubt in told)
    assert told["a legacy service cannot be reached"]["at"].startswith("http+unix:///nowhere")


# Memory


class Circle:
    """What refers to itself."""

    def __init__(self) -> None:
        self.itself = self


async def test_objects_that_refer_to_each_other_are_freed_between_two_large_messages(folder: Folder) -> None:
    gateway, freed = Gateway(folder.config), asyncio.Event()
    gc.disable()
    try:
        weakref.finalize(Circle(), freed.set)
        async with gateway.backend.large_messages:
            collecting = asyncio.ensure_future(gateway.collect_garbage(every=0.0, after=0))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not freed.is_set()
        async with asyncio.timeout(30):
            await freed.wait()
    finally:
        gc.enable()
    collecting.cancel()
