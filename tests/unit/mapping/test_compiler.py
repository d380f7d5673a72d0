from __future__ import annotations

from pathlib import Path

from gateway.mapping.compiler import build
from gateway.mapping.table import EndpointKey
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, IDL, build_files, build_methods

STAT = "  m: {member: Stat}\n"
EXPOSE = "  - {listener: rpc, path: /rpc, codec: xmlrpc}\n"
RPC = EndpointKey("rpc", "/rpc")
SPEAKS = "b.yaml:11:5: expose[0]: endpoint rpc /rpc already speaks xmlrpc/plain (a.yaml:11)"


def test_two_files_share_an_endpoint_and_one_file_has_several_with_the_same_routes(tmp_path: Path) -> None:
    other = EXPOSE + "  - {listener: rpc, path: /json, codec: jsonrpc, dialect: xenapi}\n"
    built = build_files(tmp_path, a=HEAD.replace(EXPOSE, other) + STAT, b=HEAD + STAT.replace("m:", "n:"))
    assert (built.problems, len(built.table.routes())) == ([], 2)
    assert list(built.table.endpoints[RPC].routes) == ["m", "n"]
    json = built.table.endpoints[EndpointKey("rpc", "/json")]
    assert (json.codec, json.dialect, list(json.routes)) == ("jsonrpc", "xenapi", ["m"])
    assert json.routes["m"] is built.table.endpoints[RPC].routes["m"]


TWICE = HEAD.replace(EXPOSE, EXPOSE + EXPOSE.replace("/rpc", "/other")) + STAT
OTHER = HEAD + STAT.replace("m:", "n:")
MAPPED = "b.yaml:13:3: methods.m: method 'm' is already mapped at endpoint rpc /rpc, in a.yaml:13: methods.m"


@each_case(
    ("first", "second", "problems"),
    [
        (HEAD + STAT, HEAD + STAT, [MAPPED]),
        (TWICE, TWICE, [MAPPED.replace("13", "14")]),  # at two endpoints, reported once
        (
            HEAD + STAT.replace("Stat", "Begin"),
            HEAD + STAT,
            ["a.yaml:13:15: methods.m.member: unknown method 'Begin' of org.example.VM1", MAPPED],
        ),
        (HEAD + STAT, OTHER.replace("xmlrpc", "jsonrpc"), [f"{SPEAKS}, got jsonrpc/plain: use another path"]),
        (
            HEAD + STAT,
            OTHER.replace("xmlrpc", "xmlrpc, dialect: xenapi"),
            [f"{SPEAKS}, got xmlrpc/xenapi: use another path"],
        ),
    ],
)
def test_files_that_share_an_endpoint_agree(tmp_path: Path, first: str, second: str, problems: list[str]) -> None:
    built = build_files(tmp_path, a=first, b=second)
    assert [text.replace(f"{tmp_path}/", "").partition(";")[0] for text in built.problems] == problems


def test_without_a_config_any_listener_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "example.xml").write_text(IDL)
    (tmp_path / "a.yaml").write_text(HEAD.replace("listener: rpc", "listener: web") + STAT)
    table, problems = build([tmp_path / "a.yaml"], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert (problems, len(table.routes())) == ([], 1)


def test_all_problems_of_all_files_are_found_in_one_run_and_what_is_good_is_kept(tmp_path: Path) -> None:
    files = {"a": "mapping: 2\n", "b": f"{HEAD}{STAT.replace('Stat', 'Begin')}  good: {{member: Stat}}\n", "c": "{"}
    built = build_files(tmp_path, **files)
    assert [problem.split(":")[0] for problem in built.problems] == ["a.yaml", "a.yaml", "a.yaml", "b.yaml", "c.yaml"]
    assert [route.method for route in built.table.routes()] == ["good"]
    _, problems = build([tmp_path], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert [problem.level for problem in problems] == ["schema", "schema", "schema", "idl", "schema"]


def test_a_schema_problem_of_a_method_hides_no_problem_of_another(tmp_path: Path) -> None:
    session = "session: {parameter: s, interface: org.example.Session1, member: Check}\n"
    head = HEAD.replace("methods:\n", f"{session}errors: {{'*': {{code: A, args: ['{{s}}']}}}}\nmethods:\n")
    problems = build_methods(tmp_path, "m: {member: Stat, params: [s], effect: x}\nn: {member: Begin}", head).problems
    assert [problem.split(": ")[1] for problem in problems] == ["methods.m.effect", "methods.n.member"]


def test_the_revision_depends_on_the_content_only(tmp_path: Path) -> None:
    def revision(folder: str, more: str = "") -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        return build_files(tmp_path / folder, a=HEAD + STAT + more).table.revision

    assert revision("here") == revision("there") != revision("here", "# more\n")
    (tmp_path / "there/example.xml").write_text(IDL + "<!-- more -->")
    table, _ = build([tmp_path / "there"], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert table.revision != revision("here")


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    _, problems = build([tmp_path / "none.yaml"], codecs=(), dialects=(), listeners=None)
    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/none.yaml:1:1: cannot be read: No such file or directory"
    ]
