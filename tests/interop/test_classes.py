"""Methods that follow from a class, through a real gateway: queries, references that are none, forms, the commands."""

from __future__ import annotations

import functools
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from demo.environment import Environment
from tests.kit.cases import each_case
from tests.kit.command import succeed

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


REMOVED_FIELDS = {"VM.is_snapshot_from_vmpp", "VM_metrics.VCPUs_utilisation"}


def test_every_field_of_a_record_has_a_getter_with_the_same_value(ask: Ask, vm: str) -> None:
    """But the getters of fields that XenAPI has removed, which records keep."""
    removed: set[str] = set()
    host, pool = ask("host.get_all")[0], ask("pool.get_all")[0]
    for name, ref in (("VM", vm), ("host", host), ("pool", pool), ("VM_metrics", ask("VM.get_metrics", vm))):
        record = ask(f"{name}.get_record", ref)
        assert record == ask(f"{name}.get_all_records")[ref]
        got = {field: ask(f"{name}.get_{field}", ref) for field in record}
        gone = {field for field, value in got.items() if value == ["MESSAGE_REMOVED"]}
        removed |= {f"{name}.{field}" for field in gone}
        assert got == {field: ["MESSAGE_REMOVED"] if field in gone else value for field, value in record.items()}
        assert ask(f"{name}.get_by_uuid", record["uuid"]) == ref
        assert set(ask(f"{name}.get_all")) == ask(f"{name}.get_all_records").keys()
    assert removed == REMOVED_FIELDS


@each_case("name", ["VM", "host", "pool", "VM_metrics"])
def test_a_reference_that_is_none_is_refused_with_its_class(ask: Ask, vm: str, name: str) -> None:
    host = ask("host.get_all")[0]
    others = [ref for ref in (vm, host) if ref not in ask(f"{name}.get_all")]
    for ref in (NULL, DEAD, "", "nonsense", *others):
        assert ask(f"{name}.get_record", ref) == ["HANDLE_INVALID", name, ref]
        assert ask(f"{name}.get_uuid", ref) == ["HANDLE_INVALID", name, ref]
    assert ask(f"{name}.get_by_uuid", "no-uuid") == ["UUID_INVALID", name, "no-uuid"]


def test_a_field_is_set_and_changed_under_every_form_of_a_name(ask: Ask, vm: str) -> None:
    before = ask("VM.get_other_config", vm)
    ask("VM_add_to_other_config", vm, "key", "value")
    assert ask("VM.get_other_config", vm) == {**before, "key": "value"}
    assert ask("VM.add_to_other_config", vm, "key", "again")[:3] == ["MAP_DUPLICATE_KEY", "VM", "other_config"]
    ask("VM.remove_from_other_config", vm, "key")
    ask("VM.remove_from_other_config", vm, "key")
    assert ask("VM_get_other_config", vm) == before
    ask("VM.set_tags", vm, ["a", "b"])
    assert ask("VM.get_tags", vm) == ["a", "b"]


@each_case("form", ["VM.start", "VM_start", "Async.VM.start", "InternalAsync.VM.start"])
def test_the_commands_take_any_form_of_a_name(running: Environment, form: str) -> None:
    run = functools.partial(succeed, socket=running.admin)
    assert run("explain", form).startswith("xapi/VM.start")
    assert "xapi/VM.start" in run("mode", form, "off")
    assert "off" in run("explain", "VM.start")
    assert "xapi/VM.start: off -> dbus" in run("mode", "clear", form)
