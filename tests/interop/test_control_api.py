"""The admin API of a real gateway: every answer looks like its OpenAPI document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kit.admin import DOCUMENT, ask, check_response
from tests.kit.buses import private_bus
from tests.kit.cases import each_case
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process
from tests.kit.toy_service import toy_service

pytestmark = pytest.mark.bus

OLD = TOY_MAPPING.replace("defaults: {", "legacy: {upstream: old}\ndefaults: {mode: legacy, ")
WORDS = {"why": "test"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/call": {"method": "system.listMethods"},
    "/v1/mode": {"pattern": "echo", "mode": "shadow", "noise": True, **WORDS},
    "/v1/mode/clear": {"pattern": "echo", **WORDS},
    "/v1/rollback": WORDS,
    "/v1/explain": {"method": "echo", "params": ["x"]},
    "/v1/promoted": {"pattern": "*", **WORDS},
    "/v1/statistics/reset": {"pattern": "echo", **WORDS},
    "/v1/rollouts/start": {"name": "label"},
    "/v1/reload": {},
}
NOT_HERE = {"/metrics", "/v1/record", "/v1/replay"}  # no JSON; tested where recordings are


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    folder.mapping(OLD)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        folder.config.write_text('[upstream.old]\nurl = "http://127.0.0.1:1"\n' + folder.config.read_text())
        with gateway_process(folder.config):
            yield folder


async def test_every_answer_is_what_the_document_says(folder: Folder) -> None:
    operations = [(verb, path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs]
    for verb, path in operations * 2:  # what the second round is told, the first has done
        if path not in NOT_HERE:
            body = msgspec.json.encode(BODIES.get(path, {"name": "echo", **WORDS})) if verb == "post" else None
            status, answer = await ask(folder.control, verb, path, body)
            check_response(verb, path, status, answer)


HERE, POST = "http://127.0.0.1:8080", ("POST", "/v1/mode", msgspec.json.encode(BODIES["/v1/mode"]))


@each_case(
    "headers",
    [
        {"host": "127.0.0.1:8080", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8080", "origin": "null"},
        {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8081"},
        {"host": "127.0.0.1:8080", "sec_fetch_site": "cross-site"},
        {"host": "127.0.0.1:8080", "sec_fetch_site": "same-site", "origin": HERE},
        {"host": "evil.example:8080", "sec_fetch_site": "same-origin", "origin": "http://evil.example:8080"},
        {"host": "127.evil.example"},
    ],
)
async def test_a_web_page_can_neither_change_nor_read_over_a_socket_that_is_forwarded_to_a_port(
    folder: Folder, headers: dict[str, str]
) -> None:
    for request in (POST, ("GET", "/v1/methods"), ("GET", "/v1/status")):
        status, answer = await ask(folder.control, *request, **headers)
        check_response(request[0], request[1], status, answer)
        assert status == 403, answer
        assert "host" in answer["error"] if "evil" in headers["host"] else "other sites" in answer["error"]
    assert (await ask(folder.control, "GET", "/v1/audit"))[1] == []


@each_case("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "gateway"])
async def test_its_own_names_and_probes_by_any_name_are_served(folder: Folder, host: str) -> None:
    assert (await ask(folder.control, *POST, host=host))[0] == 200
    assert (await ask(folder.control, "GET", "/healthz", host="node-7.example:9100"))[0] == 200
