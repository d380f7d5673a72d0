"""Every method of memory, network, storage and xenops, as xapi calls it: over the socket of the service, by its type.

`CALLS` has one call for each method, with the form of the result that its interface declares. A form is a type in the
language of mapping files' `types`, as far as a test needs it: `text`, `number`, `real`, `flag`, `nil`, `record`,
`pair`, `variant`, `list`, `dict`; or the tag of the error.
"""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from demo.environment import Environment
from tests.kit.clients import unix_post
from tests.kit.programs import ROOT

pytestmark = pytest.mark.bus

DB = "22222222-bbbb-4bbb-8bbb-000000000002"
SR, VDI = "6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001", "0b9e4c1a-3f5d-4c52-8a76-d2e1f0a43001"

FORMS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, str) and value.lstrip("-").isdecimal(),  # XML has integers as text
    "flag": lambda value: isinstance(value, bool),
    "nil": lambda value: value is None,
    "record": lambda value: isinstance(value, dict) and bool(value),
    "dict": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "pair": lambda value: isinstance(value, list) and len(value) == 2,
    "triple": lambda value: isinstance(value, list) and len(value) == 3,
    "variant": lambda value: isinstance(value, str) or (len(value) == 2 and isinstance(value[0], str)),
    "option": lambda value: isinstance(value, list) and len(value) <= 1,
}


def ask(running: Environment, socket: str, method: str, *params: Any) -> Any:
    """One call over the Unix socket of a service, at a path of no meaning."""
    body = xmlrpc.client.dumps(params, method, allow_none=True).encode()
    [answer], _ = xmlrpc.client.loads(unix_post(running.directory / socket, "/any/path", body))
    return answer


def named(service: str) -> Mapping[str, Any]:
    calls: Mapping[str, Any] = YAML(typ="safe", pure=True).load(Path(__file__).with_name("xapi_idl_calls.yaml"))[
        service
    ]
    return calls


@pytest.mark.parametrize(("service", "count"), [("memory", 11), ("networkd", 42), ("storage", 81), ("xenopsd", 90)])
def test_every_method_answers_by_its_type_over_the_socket_of_its_service(
    running: Environment, service: str, count: int
) -> None:
    calls = named(service)
    assert len({name.partition(" ")[0] for name in calls}) == count
    wrong = {}
    kept: dict[str, Any] = {}
    for name, (params, form) in calls.items():
        answer = ask(running, service, name.partition(" ")[0], *_filled(params, kept))
        if answer["Status"] == "Success" and form in FORMS and FORMS[form](answer["Value"]):
            kept[name] = answer["Value"]
            continue
        error = answer.get("ErrorDescription")
        if (error[0] if isinstance(error, list) else error) != form:
            wrong[name] = answer
    assert not wrong


def _filled(params: Any, kept: Mapping[str, Any]) -> Any:
    """The parameters with `=NAME` replaced by the result of that call."""
    if isinstance(params, str):
        known = {"=SR": SR, "=VDI": VDI, "=DB": DB}
        return known.get(params, kept.get(params[1:], params)) if params.startswith("=") else params
    if isinstance(params, list):
        return [_filled(item, kept) for item in params]
    if isinstance(params, dict):
        return {_filled(key, kept): _filled(item, kept) for key, item in params.items()}
    return params


def test_root_logs_in_without_a_password_on_xapis_own_socket_and_nowhere_else(running: Environment) -> None:
    opened = ask(running, "xapi", "session.login_with_password", "anybody", "anything", "1.0", "dom0", "surplus")
    assert opened["Status"] == "Success"
    session = opened["Value"]
    assert ask(running, "xapi", "pool.get_all", session)["Status"] == "Success"
    refused = ask(running, "rpc", "session.login_with_password", "anybody", "anything")
    assert refused["ErrorDescription"][0] == "SESSION_AUTHENTICATION_FAILED"
    assert ask(running, "rpc", "session.login_with_password", "root", "xenroot", "1.0", "a", "b")["Status"] == "Success"
    assert ask(running, "xapi", "session.logout", session)["Status"] == "Success"
    assert ask(running, "xapi", "pool.get_all", session)["ErrorDescription"] == ["SESSION_INVALID", session]


def test_the_mappings_have_a_listener_for_each_socket_of_the_shipped_config() -> None:
    text = (ROOT / "docker/dom0.toml").read_text()
    for listener in ("xapi", "xenopsd", "storage", "networkd", "memory"):
        assert f"[listener.{listener}]" in text
