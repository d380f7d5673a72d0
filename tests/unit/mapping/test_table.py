from __future__ import annotations

from pathlib import Path

from gateway.mapping.table import EndpointKey, Table, changes, describe_routes
from tests.kit.mapping import HEAD, IDL, build_methods

METHODS = "m: {member: Stat}\nn: {member: Stat, aliases: [old]}\n"


def _table(directory: Path, methods: str = METHODS, head: str = HEAD) -> Table:
    directory.mkdir()
    return build_methods(directory, methods, head).table


def test_an_endpoint_is_named_by_listener_and_path() -> None:
    assert str(EndpointKey("rpc", "/RPC2")) == "rpc /RPC2"


def test_routes_are_each_there_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert [route.method for route in _table(tmp_path / "a").routes()] == ["m", "n"]


def test_the_same_files_elsewhere_change_nothing(tmp_path: Path) -> None:
    assert changes(_table(tmp_path / "a"), _table(tmp_path / "b")) == ([], [], [])


def test_added_removed_and_changed_methods_are_named(tmp_path: Path) -> None:
    other = "m: {member: Stat, result: void}\np: {member: Stat}\n"
    assert changes(_table(tmp_path / "a"), _table(tmp_path / "b", other)) == (["p"], ["n", "old"], ["m"])


def test_what_a_file_says_for_all_its_methods_changes_them_all(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", "defaults: {timeout: 5s}\nmethods:\n")
    assert changes(_table(tmp_path / "a"), _table(tmp_path / "b", head=head)) == ([], [], ["m", "n", "old"])


def test_where_a_method_is_exposed_is_part_of_it(tmp_path: Path) -> None:
    head = HEAD.replace("codec: xmlrpc", "codec: jsonrpc")
    assert changes(_table(tmp_path / "a"), _table(tmp_path / "b", head=head))[2] == ["m", "n", "old"]


def test_another_idl_changes_the_methods_that_it_says_something_else_of(tmp_path: Path) -> None:
    methods = "m: {member: Stat}\nn: {member: Disks, idl: other.xml}"
    tables = []
    for name, idl in (("a", IDL), ("b", IDL.replace('type="a(st)"', 'type="a(sx)"'))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other.xml").write_text(idl)
        tables.append(build_methods(tmp_path / name, methods).table)
    assert changes(*tables) == ([], [], ["n"])


def test_a_method_that_is_rung_is_described_with_its_doorbell(tmp_path: Path) -> None:
    bell = "doorbell: [{listener: store, node: /a, method: m}]\nmethods:\n"
    head = HEAD.replace("methods:\n", bell)
    with_bell = _table(tmp_path / "b", head=head)
    rung = [row for row in describe_routes(with_bell) if row["protocol"] == "doorbell"]
    assert [(row["method"], row["endpoint"]) for row in rung] == [("m", "store /a")]
    assert changes(_table(tmp_path / "a"), with_bell)[2] == ["m"]
