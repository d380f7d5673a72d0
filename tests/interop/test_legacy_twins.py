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
POOL = "2c1f9c56-9a53-4d6e-9b0e-7a51f0e0c0de"


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
