"""The sample toolstack's legacy services: the state of the D-Bus services, in the bytes of the legacy protocols."""

from __future__ import annotations

import http.client
import json
import xmlrpc.client
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from demo.environment import Environment
from tests.kit.clients import UnixConnection
from tests.kit.programs import TIMEOUT
from tests.kit.toolstack import Twin, twin

pytestmark = pytest.mark.bus

WEB = "11111111-aaaa-4aaa-8aaa-000000000001"
HOST = "b7c0a1de-51f4-4c7b-8e0a-5b5a7a6d1001"
POOL = "2c1f9c56-9a53-4d6e-9b0e-7a51f0e0c0de"
SR, VDI = "6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001", "0b9e4c1a-3f5d-4c52-8a76-d2e1f0a43001"
DBG = {"debug_info": "dbg"}


@pytest.fixture(scope="module")
def twins(running: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Twin]]:
    folder = tmp_path_factory.mktemp("twins")
    with (
        twin("xapi", running.bus, folder, tcp=True) as xapi,
        twin("xenopsd", running.bus, folder) as xenopsd,
        twin("storage", running.bus, folder) as storage,
        twin("squeezed", running.bus, folder, json=True) as squeezed,
    ):
        yield {"xapi": xapi, "xenopsd": xenopsd, "storage": storage, "squeezed": squeezed}


def request(url: str, verb: str, path: str, body: bytes | None = None) -> tuple[HTTPResponse, bytes]:
    kind, _, where = url.partition("://")
    connection = UnixConnection(where) if kind == "http+unix" else http.client.HTTPConnection(where, timeout=TIMEOUT)
    try:
        connection.request(verb, path, body)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def ask(url: str, path: str, method: str, *params: Any) -> Any:
    """The value of an XML-RPC answer; a moment as the text it is."""
    _, answer = request(url, "POST", path, xmlrpc.client.dumps(params, method, allow_none=True).encode())
    [found], _ = xmlrpc.client.loads(answer)
    return found


def ask_json(url: str, path: str, method: str, *params: Any) -> Any:
    body = json.dumps({"method": method, "params": params, "id": 7}).encode()
    return json.loads(request(url, "POST", path, body)[1])


@pytest.fixture(scope="module")
def session(running: Environment) -> str:
    return str(ask(running.url, "/RPC2", "session.login_with_password", "root", "xenroot")["Value"])


# One state, two ways


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("pool.get_all_records", []),
        ("pool.get_record", [f"OpaqueRef:{POOL}"]),
        ("host.get_all", []),
        ("host.get_record", [f"OpaqueRef:{HOST}"]),
        ("host.compute_free_memory", [f"OpaqueRef:{HOST}"]),
        ("VM.get_all", []),
        ("VM.get_all_records", []),
        ("VM.get_record", [f"OpaqueRef:{WEB}"]),
        ("VM.get_by_uuid", [WEB]),
        ("VM.get_by_uuid", ["nobody"]),
        ("VM.get_by_name_label", ["web"]),
        ("VM.get_name_label", ["../../pool"]),
        ("VM.get_memory_static_max", [f"OpaqueRef:{WEB}"]),
        ("VM.get_data_sources", [f"OpaqueRef:{WEB}"]),
        ("VM.pause", [f"OpaqueRef:{WEB}"]),
        ("VM.get_record", []),
        ("Foo.bar", []),
    ],
)
def test_old_xapi_answers_as_the_gateway_does(
    running: Environment, twins: dict[str, Twin], session: str, method: str, params: list[Any]
) -> None:
    assert ask(twins["xapi"].url, "/", method, session, *params) == ask(running.url, "/RPC2", method, session, *params)


@pytest.mark.parametrize(
    ("service", "method", "params"),
    [
        ("xenopsd", "query", [{**DBG, "unit": None}]),
        ("xenopsd", "HOST.stat", [DBG]),
        ("xenopsd", "VM.list", [DBG]),
        ("xenopsd", "VM.exists", [{**DBG, "id": WEB}]),
        ("xenopsd", "VM.stat", [{**DBG, "id": "nobody"}]),
        ("storage", "SR.list", [{"dbg": "dbg"}]),
        ("storage", "SR.stat", [{"dbg": "dbg", "sr": SR}]),
        ("storage", "SR.stat", [{"dbg": "dbg", "sr": "none"}]),
        ("storage", "SR.scan", [{"dbg": "dbg", "sr": SR}]),
        ("storage", "VDI.stat", [{"dbg": "dbg", "sr": SR, "vdi": VDI}]),
        ("storage", "VDI.stat", [{"dbg": "dbg", "sr": SR, "vdi": "none"}]),
    ],
)
def test_old_xapi_idl_services_answer_as_the_gateway_does(
    running: Environment, twins: dict[str, Twin], service: str, method: str, params: list[Any]
) -> None:
    assert ask(twins[service].url, "/", method, *params) == ask(running.url, f"/{service}", method, *params)


def test_what_one_way_changes_the_other_way_sees(running: Environment, twins: dict[str, Twin], session: str) -> None:
    vm = f"OpaqueRef:{WEB}"
    assert ask(twins["xapi"].url, "/", "VM.set_name_description", session, vm, "the old way")["Value"] == ""
    assert ask(running.url, "/RPC2", "VM.get_name_description", session, vm)["Value"] == "the old way"
    login = ask(twins["xapi"].url, "/", "session.login_with_password", "root", "xenroot")["Value"]
    assert ask(running.url, "/RPC2", "session.get_auth_user_name", session, login)["Value"] == "root"


# The bytes


def test_old_xapi_speaks_json_in_both_versions(twins: dict[str, Twin], session: str) -> None:
    url = twins["xapi"].url
    one = b'{"method":"pool.get_all","params":["%b"],"id":"q"}' % session.encode()
    response, body = request(url, "POST", "/jsonrpc", one)
    assert body == b'{"result":["OpaqueRef:%b"],"error":null,"id":"q"}' % POOL.encode()
    assert response.headers["content-type"] == "application/json"
    two = b'{"jsonrpc":"2.0","method":"pool.get_all","params":["dead"],"id":0}'
    error = b'{"jsonrpc":"2.0","error":{"code":1,"message":"SESSION_INVALID","data":["dead"]},"id":0}'
    assert request(url, "POST", "/jsonrpc", two)[1] == error


def test_old_xapi_writes_as_ocaml_rpc_does(twins: dict[str, Twin]) -> None:
    params = b"<params><param><value>&lt;</value></param></params>"
    body = b"<methodCall><methodName>pool.get_all</methodName>%b</methodCall>" % params
    response, answer = request(twins["xapi"].url, "POST", "/anything", body)
    assert answer == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
        b"<value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>"
        b"<value>SESSION_INVALID</value><value>&lt;</value></data></array></value></member></struct></value></param>"
        b"</params></methodResponse>"
    )
    assert response.headers["content-type"] == "text/xml"
    assert response.headers["connection"] == "keep-alive"


@pytest.mark.parametrize("body", [b"<x", b"<methodCall><methodName>a</methodName></methodCall>"])
def test_what_old_xapi_cannot_read_is_a_page_and_the_end(twins: dict[str, Twin], body: bytes) -> None:
    response, page = request(twins["xapi"].url, "POST", "/", body)
    assert (response.status, response.reason, response.headers["connection"]) == (500, "Internal Error", "close")
    assert page.startswith(b"<html>")


def test_an_old_socket_tells_no_content_type_and_the_id_is_always_0(twins: dict[str, Twin]) -> None:
    call = b'{"method":"get_domain_zero_policy","params":["dbg"],"id":31}'
    response, body = request(twins["squeezed"].url, "POST", "/x", call)
    assert body == b'{"result":["Fixed_size",1048576],"error":null,"id":0}'
    assert [name for name, _ in response.getheaders()] == ["user-agent", "content-length"]
    failed = ask_json(twins["squeezed"].url, "/", "delete_reservation", "dbg", "me", "none")
    assert failed == {"result": None, "error": ["Unknown_reservation", "none"], "id": 0}


def test_an_old_socket_closes_without_a_word_where_it_has_none(twins: dict[str, Twin]) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        ask(twins["xenopsd"].url, "/", "no.such.method")
    assert request(twins["xenopsd"].url, "GET", "/")[0].status == 404


# Misbehaving


def test_a_twin_can_be_wrong_noisy_failing_and_silent_while_it_runs(twins: dict[str, Twin], session: str) -> None:
    xapi, vm = twins["xapi"], f"OpaqueRef:{WEB}"

    def name() -> Any:
        return ask(xapi.url, "/", "VM.get_name_label", session, vm)

    good = name()
    xapi.switch(**{"VM.get_name_label": {"wrong": {"": "another"}}})
    assert name()["Value"] == "another"
    xapi.switch(**{"VM.*": {"noisy": ["", "name_label"]}})
    assert name() != name()
    xapi.switch(**{"VM.get_name_label": {"fail": 0.5}})
    assert sorted(name()["Status"] for _ in range(4)) == ["Failure", "Failure", "Success", "Success"]
    xapi.switch(**{"*": {"silent": True}})
    with pytest.raises(http.client.RemoteDisconnected):
        name()
    xapi.switch(**{"VM.get_record": {"wrong": {"name_label": "x", "other_config.a": "y"}}})
    assert ask(xapi.url, "/", "VM.get_record", session, vm)["Value"]["name_label"] == "x"
    xapi.switch()
    assert name() == good
