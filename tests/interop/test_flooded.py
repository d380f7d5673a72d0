"""Half requests on the operator's sockets, more than the process has descriptors: clients and operators go on."""

from __future__ import annotations

import socket
import xmlrpc.client
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from gateway.cli import client
from tests.kit.gateway import Folder, Process, gateway_process

DESCRIPTORS, FLOOD = 600, 700
HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: "


@pytest.fixture
def folder(tmp_path: Path, empty_bus: str) -> Folder:
    folder = Folder(tmp_path)
    folder.buses({"toolstack": (empty_bus, "org.example.*")})
    folder.config.write_text(folder.config.read_text().replace("[admin]\n", '[admin]\nmetrics = "tcp:127.0.0.1:0"\n'))
    return folder


@pytest.fixture
def running(folder: Folder) -> Iterator[Process]:
    with gateway_process(folder.config, through=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")) as process:
        yield process


def connected(kind: str, folder: Folder, metrics: str) -> socket.socket:
    if kind == "control":
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(folder.control))
        return made
    host, _, port = metrics.removeprefix("tcp:").rpartition(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize("kind", ["metrics", "control"])
def test_a_flood_of_half_requests_takes_no_descriptor_from_clients(folder: Folder, running: Process, kind: str) -> None:
    (address, _) = running.wait_for("ready")["listening"]
    running.wait_for("too few file descriptors")
    metrics = client.ask(folder.control, "GET", "/v1/status")["metrics"]
    with ExitStack() as stack:
        for _ in range(FLOOD):
            made = stack.enter_context(connected(kind, folder, metrics))
            made.setblocking(False)
            with suppress(ConnectionError):  # it was turned away already
                made.send(HALF)
        running.wait_for("turned away")
        with xmlrpc.client.ServerProxy(f"http://{address.removeprefix('tcp:')}/RPC2") as proxy:
            assert "echo" in proxy.system.listMethods()  # type: ignore[operator]
        assert client.ask(folder.control, "GET", "/v1/status")["in_flight"] == 0
