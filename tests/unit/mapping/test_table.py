from __future__ import annotations

from pathlib import Path

from gateway.mapping.table import Table, changes, describe_routes, ungoverned
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, IDL, build_methods

METHODS = "m: {member: Stat}\nn: {member: Stat, aliases: [old]}\n"


def _table(directory: Path, methods: str = METHODS, head: str = HEAD) -> Table:
    directory.mkdir(exist_ok=True)
    return build_methods(directory, methods, head).table


@each_case(
    ("methods", "head", "expected"),
    [
        (METHODS, HEAD, ([], [], [])),  # the same files elsewhere
        ("m: {member: Stat, result: void}\np: {member: Stat}\n", HEAD, (["p"], ["n", "old"], ["m"])),
        (METHODS, HEAD.replace("methods:\n", "defaults: {timeout: 5s}\nmethods:\n"), ([], [], ["m", "n", "old"])),
        (METHODS, HEAD.replace("codec: xmlrpc", "codec: jsonrpc"), ([], [], ["m", "n", "old"])),
    ],
)
def test_added_removed_and_changed_methods_are_named(
    tmp_path: Path, methods: str, head: str, expected: tuple[list[str], list[str], list[str]]
) -> None:
    before, after = _table(tmp_path / "a"), _table(tmp_path / "b", methods, head)
    assert [route.method for route in before.routes()] == ["m", "n"]
    assert changes(before, after) == expected


def test_a_change_of_the_idl_changes_the_methods_that_use_it(tmp_path: Path) -> None:
    methods = "m: {member: Stat}\nn: {member: Disks, idl: other.xml}"
    tables = []
    for name, idl in (("a", IDL), ("b", IDL.replace('type="a(st)"', 'type="a(sx)"'))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other.xml").write_text(idl)
        tables.append(build_methods(tmp_path / name, methods).table)
    assert changes(*tables) == ([], [], ["n"])


def test_a_watch_trigger_is_described_with_its_method(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", "on_change: [{listener: store, node: /a, method: m}]\nmethods:\n")
    with_trigger = _table(tmp_path, head=head)
    triggered = [row for row in describe_routes(with_trigger) if row["codec"] == "on_change"]
    assert [(row["method"], row["listener"], row["path"]) for row in triggered] == [("m", "store", "/a")]
    assert changes(_table(tmp_path), with_trigger)[2] == ["m"]


XENAPI = HEAD.replace("codec: xmlrpc", "codec: xmlrpc, dialect: xenapi")


def test_a_method_is_found_by_each_spelling_of_its_name_that_the_dialect_has(tmp_path: Path) -> None:
    methods = "VM.stat: {member: Stat, aliases: [VM.look]}\n"
    (endpoint,) = _table(tmp_path / "a", methods, XENAPI).endpoints.values()
    route = endpoint.routes["VM.stat"]
    for name in ("VM.stat", "VM_stat", "VM.look", "VM_look"):
        assert endpoint.find(name) == (route, "")
    for name in ("Async.VM.stat", "Async.VM_stat", "Async.VM_look"):
        assert endpoint.find(name) == (route, "Async.")
    assert endpoint.find("InternalAsync.VM.stat") == (route, "InternalAsync.")
    for name in ("VM.sta", "Async.VM.sta", "Async.", "V_M.stat", "async.VM.stat", ""):
        assert endpoint.find(name) == (None, "")
    (plain,) = _table(tmp_path / "b", methods).endpoints.values()
    assert [plain.find(name).route is None for name in ("VM.stat", "VM_stat", "Async.VM.stat")] == [False, True, True]


def test_two_methods_that_share_a_spelling_are_refused(tmp_path: Path) -> None:
    methods = "VM.a_b: {member: Stat}\nVM_a.b: {member: Stat}\n"
    assert build_methods(tmp_path, methods).problems == []
    (problem,) = build_methods(tmp_path, methods, XENAPI).problems
    assert "methods.VM_a.b: 'VM_a.b' and 'VM.a_b' (" in problem
    (problem,) = build_methods(tmp_path, "VM.stat: {member: Stat}\nVM_stat: {member: Stat}\n", XENAPI).problems
    assert "share the spelling 'VM_stat' in dialect xenapi" in problem
    assert build_methods(tmp_path, "VM.stat: {member: Stat, aliases: [VM_stat]}\n", XENAPI).problems == []


def test_calls_that_no_mode_governs_are_listed(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", "legacy: {upstream: old}\nunmapped: passthrough\nmethods:\n")
    assert ungoverned(_table(tmp_path), {}) == []
    assert ungoverned(_table(tmp_path, head=head), {}) == []  # an unreadable message is governed too
    (other_paths,) = ungoverned(_table(tmp_path), {"rpc": "xapi", "elsewhere": "xapi"})
    assert other_paths == "rpc: requests to unknown paths are passed to 'xapi' unchanged"
    assert ungoverned(_table(tmp_path, head=HEAD.replace("path: /rpc", "path: /")), {"rpc": "xapi"}) == []
    staying = XENAPI.replace("methods:\n", "legacy: {upstream: other}\nmethods:\n")
    methods = "VM.stat: {member: Stat, async: legacy}\nVM.look: {member: Stat}\n"
    (tasks,) = ungoverned(_table(tmp_path, methods, staying), {})
    assert "'other' answers Async.VM.stat and InternalAsync.VM.stat in every mode except off" in tasks
