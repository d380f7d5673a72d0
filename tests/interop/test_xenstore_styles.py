"""The styles that no sample service is mapped with, on the real store, driven by Debian's tools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.ledger import BUS_NAME, ledger
from tests.kit.stores import BOTH, Tools
from tests.soak import service

pytestmark = pytest.mark.bus

MAPPING = f"""\
mapping: 1
service: more
dbus: {{bus_name: {BUS_NAME}, object_path: {service.OBJECT_PATH}, interface: {service.INTERFACE}, idl: ledger.xml}}
expose:
  - {{listener: store, codec: xenstore, style: chunked, path: "/local/domain/0/RPC/fe/{{domid}}", methods: [run]}}
  - listener: store
    codec: xenstore
    style: directory
    path: /local/domain/{{domid}}/control/batcmd
    methods: [script]
    method: script
    states: {{commit: READY, in_progress: IN PROGRESS, done: SUCCESS, failed: FAILURE,
      truncated: TRUNCATED, limit: 1024}}
defaults: {{timeout: 20s, coerce: legacy, effect: read}}
methods:
  run: {{member: Read, params: [{{name: domid, drop: true}}, {{name: data, to: text}}]}}
  script:
    member: Read
    params: [{{name: domid, drop: true}}, {{name: script, to: text}}]
    result: {{stdout: same}}
"""


@pytest.fixture(scope="module", params=BOTH)
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    with ledger(tmp_path_factory.mktemp("styles"), MAPPING, request.param) as world:
        yield Tools(world.store.path)


def test_a_chunked_query_is_answered_when_it_is_submitted(tools: Tools) -> None:
    channel = "/local/domain/0/RPC/fe/5"
    with tools.watching(f"{channel}/reply/0/submit") as wait:
        tools.run("write", f"{channel}/query/0/cmd", "run", f"{channel}/query/0/data00", "x" * 512)
        tools.put(f"{channel}/query/0/data01", "y")
        assert tools.read(f"{channel}/reply/0/submit") is None
        tools.put(f"{channel}/query/0/submit", "2")
        assert wait(lambda value: value is not None) == "2"
    assert tools.read(f"{channel}/reply/0/status") == "success"
    text = "ledger:" + "x" * 512 + "y"
    assert (tools.read(f"{channel}/reply/0/data00"), tools.read(f"{channel}/reply/0/data01")) == (
        text[:512],
        text[512:],
    )
    for kind in ("query", "reply"):
        tools.run("rm", f"{channel}/{kind}/0")
    with tools.watching(f"{channel}/reply/0/submit") as wait:  # the same id, once more
        tools.run("write", f"{channel}/query/0/cmd", "walk", f"{channel}/query/0/submit", "0")
        wait(lambda value: value is not None)
    assert tools.read(f"{channel}/reply/0/status") == "error"


def test_a_directory_is_taken_when_its_state_is_ready(tools: Tools) -> None:
    folder = "/local/domain/5/control/batcmd"
    with tools.watching(f"{folder}/state") as wait:
        tools.run("write", f"{folder}/script", "ls", f"{folder}/state", "READY")
        wait(lambda value: value == "SUCCESS")
    assert tools.read(f"{folder}/stdout") == "ledger:ls"
    with tools.watching(f"{folder}/state") as wait:
        tools.run("rm", folder)
        tools.run("write", f"{folder}/script", "x" * 2000, f"{folder}/state", "READY")
        wait(lambda value: value == "TRUNCATED")
    assert tools.read(f"{folder}/stdout") == "ledger:" + "x" * 1017
    tools.run("rm", folder)
    with tools.watching(f"{folder}/state") as wait:
        tools.run("write", f"{folder}/other", "ls", f"{folder}/state", "READY")
        wait(lambda value: value == "FAILURE")
    assert "no parameter of this name" in str(tools.read(f"{folder}/description"))
