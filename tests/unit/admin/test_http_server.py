"""The operator's API as a whole: its socket, who may open it, its errors, and the document that describes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gateway.admin import handlers, traffic
from gateway.admin.http_server import AdminServer, paths
from gateway.core.admin.access import AccessRules, Principals, Right
from tests.kit.control import Api, ask, serving
from tests.kit.openapi import DOCUMENT, operation

OURS = AccessRules(os.geteuid())
BODIES = {
    "ModeRequest": handlers.ModeBody,
    "PatternRequest": handlers.PatternRequest,
    "WhyRequest": handlers.WhyRequest,
    "ExplainRequest": handlers.ExplainRequest,
    "OrderRequest": handlers.RolloutCommandBody,
    "CallRequest": handlers.CallBody,
    "RecordRequest": traffic.RecordBody,
    "ReplayRequest": traffic.ReplayBody,
}
QUERIES = {
    "/v1/methods": handlers.MethodsQuery,
    "/v1/promotion": handlers.MethodsQuery,
    "/v1/audit": handlers.AuditQuery,
    "/v1/diff": handlers.DiffQuery,
    "/v1/clients": traffic.ClientsQuery,
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    folder = tmp_path / "deep"
    async with serving(folder) as api:
        yield api


def server(path: Path, api: Api, rights: AccessRules = OURS) -> AdminServer:
    return AdminServer(path, api.toy, api.steering, api.traffic, rights)


async def test_only_the_owner_can_open_the_socket(api: Api) -> None:
    assert stat.S_IMODE(api.socket.stat().st_mode) == 0o600


async def test_its_group_can_open_it_too_once_the_config_names_others_and_nobody_else_ever(
    api: Api, tmp_path: Path
) -> None:
    shared = server(tmp_path / "shared", api, AccessRules(0, read=Principals(uids=frozenset({1234}))))
    shared.bind()
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o660
    await shared.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
async def test_it_is_given_to_the_group_of_the_config(api: Api, tmp_path: Path) -> None:
    given = AdminServer(tmp_path / "given", api.toy, api.steering, api.traffic, OURS, group=54_321)
    given.bind()
    found = (tmp_path / "given").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 54_321)
    await given.stop()


async def test_what_machines_ask_is_answered_here_too(api: Api) -> None:
    assert await api.ask("GET", "/healthz") == (200, {"alive": True})
    assert await api.ask("GET", "/readyz") == (200, {"ready": True, "reasons": [], "warnings": []})
    api.toy.ready = False
    assert await api.ask("GET", "/readyz") == (503, {"ready": False, "reasons": ["no bus"], "warnings": []})


async def test_an_unknown_path_is_a_404_in_json(api: Api) -> None:
    assert await ask(api.socket, "GET", "/v1/nope") == (404, {"error": "Not Found"})


async def test_a_socket_that_another_gateway_answers_on_is_not_taken_over(api: Api) -> None:
    with pytest.raises(OSError, match="another gateway answers on this admin socket"):
        await server(api.socket, api).start()
    assert (await api.ask("GET", "/healthz"))[0] == 200


async def test_a_socket_left_behind_by_a_dead_gateway_is_replaced(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with sockets.socket(sockets.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    second = server(path, api)
    await second.start()
    assert (await ask(path, "GET", "/healthz"))[0] == 200
    await second.stop()
    assert not path.exists()


async def test_a_socket_that_is_bound_answers_once_it_is_started_and_is_nobody_elses_before(
    api: Api, tmp_path: Path
) -> None:
    path = tmp_path / "deeper" / "control"
    second = server(path, api)
    second.bind()
    assert second.made == (path.parent, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another gateway answers on this admin socket"):
        server(path, api).bind()
    asking = asyncio.ensure_future(ask(path, "GET", "/healthz"))
    await second.start()
    assert (await asking)[0] == 200
    await second.stop()
    await second.stop()
    assert not path.exists()


async def test_a_socket_whose_queue_is_full_is_in_use_and_asking_does_not_wait(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "busy"
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(sockets.socket(sockets.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(sockets.socket(sockets.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with pytest.raises(OSError, match="another gateway answers on this admin socket"):
            server(path, api).bind()
        assert path.is_socket()


async def test_a_socket_that_cannot_be_asked_is_left_alone(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "other"
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match=r"cannot tell whether .* is in use: Protocol wrong type for socket"):
            server(path, api).bind()
    assert path.is_socket()


async def test_stop_leaves_the_socket_of_another_gateway_that_has_taken_the_place(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "control"
    first = server(path, api)
    first.bind()
    path.unlink()
    with sockets.socket(sockets.AF_UNIX) as other:
        other.bind(str(path))
        await first.stop()
        assert path.is_socket()


# The document


async def test_every_path_of_the_application_is_described_and_the_reverse(api: Api) -> None:
    served = {(path.verb.lower(), path.path): path.right.value for path in paths(api.toy, api.steering, api.traffic)}
    machines = dict.fromkeys((("get", path) for path in ("/healthz", "/readyz", "/metrics")), "none")
    described = {
        (verb, path): what["x-right"] for path, verbs in DOCUMENT["paths"].items() for verb, what in verbs.items()
    }
    assert described == {**served, **machines}


async def test_the_document_is_served_to_who_may_read(api: Api) -> None:
    assert await api.ask("GET", "/v1/openapi.json") == (200, DOCUMENT)


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    referred = {text.partition('"')[0] for text in str(DOCUMENT).replace("'", '"').split("#/components/schemas/")[1:]}
    assert referred == DOCUMENT["components"]["schemas"].keys()


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_described_as_it_is_read(name: str) -> None:
    described = DOCUMENT["components"]["schemas"][name]
    fields = BODIES[name].__struct_fields__
    assert (set(described["properties"]), described["additionalProperties"]) == (set(fields), False)
    with_defaults = len(BODIES[name].__struct_defaults__)
    assert described["required"] == list(fields[: len(fields) - with_defaults])


def test_every_body_and_query_is_held_against_its_description() -> None:
    described = [what for verbs in DOCUMENT["paths"].values() for what in verbs.values()]
    bodies = {what["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
              for what in described if "requestBody" in what}  # fmt: skip
    assert bodies == BODIES.keys()
    asked = {path for path, verbs in DOCUMENT["paths"].items() for what in verbs.values() if "parameters" in what}
    assert asked == QUERIES.keys()


@pytest.mark.parametrize("path", QUERIES)
def test_a_query_is_described_as_it_is_read(path: str) -> None:
    described = {each["name"]: each["schema"].get("default") for each in operation("GET", path)["parameters"]}
    assert described == dict(zip(QUERIES[path].__struct_fields__, QUERIES[path].__struct_defaults__, strict=True))


async def test_whoever_may_not_change_may_change_nothing(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user sees it; tests/interop/test_access.py is another user."""

    def reader(self: AccessRules, caller: object, right: Right) -> bool:
        return right is Right.READ

    monkeypatch.setattr(AccessRules, "have", reader)
    for path in paths(api.toy, api.steering, api.traffic):
        status, answer = await ask(api.socket, path.verb, path.path, b"{}")
        if path.right is Right.CHANGE:
            assert status == 403, path.path
            assert "may not change anything here" in answer["error"]
        else:
            assert status in (200, 422), path.path
    assert api.state.overrides == ()
