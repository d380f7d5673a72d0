"""Methods that follow from a class, through a real gateway: queries, and references that are none."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from demo.environment import Environment
from tests.kit.cases import each_case

pytestmark = pytest.mark.bus

NULL = "OpaqueRef:NULL"
DEAD = "OpaqueRef:00000000-0000-4000-8000-00000000dead"
Ask: TypeAlias = Callable[..., Any]


@pytest.fixture
def ask(running: Environment) -> Iterator[Ask]:
    """Call with a session; the answer is the value, or the list of the error."""
    with xmlrpc.client.ServerProxy(running.url) as proxy:
        api: Any = proxy
        session = api.session.login_with_password("root", "xenroot")["Value"]

        def call(method: str, *params: Any) -> Any:
            answer = getattr(api, method)(session, *params)
            return answer["Value"] if answer["Status"] == "Success" else answer["ErrorDescription"]

        yield call


@pytest.fixture
def vm(ask: Ask) -> str:
    [web] = ask("VM.get_by_name_label", "web")
    return str(web)


def test_records_are_selected_by_a_query(ask: Ask, vm: str) -> None:
    everything = ask("VM.get_all_records")
    assert ask("VM.get_all_records_where", "true") == everything
    web = everything[vm]
    query = f'field "uuid" = "{web["uuid"]}" and not field "is_a_template" = "true"'
    assert ask("VM.get_all_records_where", query) == {vm: web}
    names = {record["name_label"] for record in everything.values()}
    assert len(names) > 1
    for name in names:
        found = ask("VM.get_all_records_where", f'field "name__label" = "{name}"')
        assert found == {ref: record for ref, record in everything.items() if record["name_label"] == name}
    assert ask("VM.get_all_records_where", 'field "nothing" = "x"') == [
        "INVALID_VALUE",
        'field "nothing" = "x"',
        "unknown field 'nothing'",
    ]


@each_case("name", ["VM", "host", "pool", "VM_metrics"])
def test_a_reference_that_is_none_is_refused_with_its_class(ask: Ask, vm: str, name: str) -> None:
    host = ask("host.get_all")[0]
    others = [ref for ref in (vm, host) if ref not in ask(f"{name}.get_all")]
    for ref in (NULL, DEAD, "", "nonsense", *others):
        assert ask(f"{name}.get_record", ref) == ["HANDLE_INVALID", name, ref]
        assert ask(f"{name}.get_uuid", ref) == ["HANDLE_INVALID", name, ref]
    assert ask(f"{name}.get_by_uuid", "no-uuid") == ["UUID_INVALID", name, "no-uuid"]
