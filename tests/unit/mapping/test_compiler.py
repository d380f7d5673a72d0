from __future__ import annotations

from pathlib import Path

import pytest

from gateway.mapping.compiler import build
from gateway.mapping.table import EndpointKey
from tests.kit.mappings import HEAD, IDL, build_files, build_methods

STAT = "  m: {member: Stat}\n"
EXPOSE = "  - {listener: rpc, path: /rpc, codec: xmlrpc}\n"
RPC = EndpointKey("rpc", "/rpc")


def test_two_files_share_an_endpoint(tmp_path: Path) -> None:
    built = build_files(tmp_path, a=HEAD + STAT, b=HEAD + STAT.replace("m:", "n:"))
    assert built.problems == []
    assert list(built.table.endpoints) == [RPC]
    assert list(built.table.endpoints[RPC].routes) == ["m", "n"]


def test_a_file_is_exposed_at_several_endpoints_with_the_same_routes(tmp_path: Path) -> None:
    other = EXPOSE + "  - {listener: rpc, path: /json, codec: jsonrpc, dialect: xenapi}\n"
    table = build_files(tmp_path, a=HEAD.replace(EXPOSE, other) + STAT).table
    json = table.endpoints[EndpointKey("rpc", "/json")]
    assert (json.codec, json.dialect) == ("jsonrpc", "xenapi")
    assert json.routes["m"] is table.endpoints[RPC].routes["m"]
    assert len(table.routes()) == 1


def test_two_methods_of_one_name_at_one_endpoint_collide(tmp_path: Path) -> None:
    problem = "b.yaml:13:3: methods.m: 'm' at rpc /rpc is mapped already, in a.yaml:13: methods.m"
    built = build_files(tmp_path, a=HEAD + STAT, b=HEAD + STAT)
    assert [text.replace(f"{tmp_path}/", "") for text in built.problems] == [problem]


def test_a_collision_at_two_endpoints_is_said_once(tmp_path: Path) -> None:
    twice = HEAD.replace(EXPOSE, EXPOSE + EXPOSE.replace("/rpc", "/other")) + STAT
    assert len(build_files(tmp_path, a=twice, b=twice).problems) == 1


def test_an_alias_collides_like_any_name(tmp_path: Path) -> None:
    problem = "x.yaml:14:31: methods.n.aliases[0]: 'm' at rpc /rpc is mapped already, in x.yaml:13: methods.m"
    methods = "m: {member: Stat}\nn: {member: Stat, aliases: [m]}"
    assert build_methods(tmp_path, methods).problems == [problem]


def test_methods_collide_even_when_one_of_them_is_bad(tmp_path: Path) -> None:
    problems = build_files(tmp_path, a=HEAD + STAT.replace("Stat", "Begin"), b=HEAD + STAT).problems
    assert [problem.split(": ")[0] for problem in problems] == ["a.yaml:13:15", "b.yaml:13:3"]


@pytest.mark.parametrize(
    ("expose", "problem"),
    [
        (
            "codec: jsonrpc",
            "b.yaml:11:5: expose[0]: rpc /rpc speaks xmlrpc/plain (a.yaml:11), it cannot speak jsonrpc/plain too",
        ),
        (
            "codec: xmlrpc, dialect: xenapi",
            "b.yaml:11:5: expose[0]: rpc /rpc speaks xmlrpc/plain (a.yaml:11), it cannot speak xmlrpc/xenapi too",
        ),
        ("codec: xmlrcp", "b.yaml:11:40: expose[0].codec: 'xmlrcp' is no codec (did you mean 'xmlrpc'?)"),
        (
            "codec: xmlrpc, dialect: odd",
            "b.yaml:11:57: expose[0].dialect: 'odd' is no dialect (there are: plain, xenapi)",
        ),
    ],
)
def test_an_endpoint_speaks_one_language(tmp_path: Path, expose: str, problem: str) -> None:
    other = HEAD.replace("codec: xmlrpc", expose) + STAT.replace("m:", "n:")
    built = build_files(tmp_path, a=HEAD + STAT, b=other)
    assert [text.replace(f"{tmp_path}/", "") for text in built.problems] == [problem]


def test_a_listener_must_be_one_of_the_configs(tmp_path: Path) -> None:
    built = build_files(tmp_path, a=HEAD.replace("listener: rpc", "listener: web") + STAT)
    assert built.problems == ["a.yaml:11:16: expose[0].listener: 'web' is no listener (there are: rpc, store)"]


def test_without_a_config_any_listener_will_do(tmp_path: Path) -> None:
    (tmp_path / "example.xml").write_text(IDL)
    (tmp_path / "a.yaml").write_text(HEAD.replace("listener: rpc", "listener: web") + STAT)
    _, problems = build([tmp_path / "a.yaml"], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert problems == []


def test_a_file_that_exposes_nothing_cannot_be_reached(tmp_path: Path) -> None:
    text = "expose: no method of this file can be reached: say where it is exposed"
    assert build_files(tmp_path, a=HEAD.replace(EXPOSE, "  []\n") + STAT).problems == [f"a.yaml:10:1: {text}"]
    assert build_files(tmp_path, a=HEAD.replace("expose:\n" + EXPOSE, "") + STAT).problems == [f"a.yaml:1:1: {text}"]


def test_a_file_is_exposed_at_a_place_once(tmp_path: Path) -> None:
    built = build_files(tmp_path, a=HEAD.replace(EXPOSE, EXPOSE + EXPOSE) + STAT)
    assert built.problems == ["a.yaml:12:5: expose[1]: this file is exposed at rpc /rpc twice"]


def test_all_problems_of_all_files_are_found_in_one_run_and_what_is_good_is_kept(tmp_path: Path) -> None:
    built = build_files(
        tmp_path,
        a="mapping: 2\n",
        b=HEAD + STAT.replace("Stat", "Begin") + "  good: {member: Stat}\n",
        c="{",
    )
    assert [problem.split(":")[0] for problem in built.problems] == ["a.yaml", "a.yaml", "a.yaml", "b.yaml", "c.yaml"]
    assert [route.method for route in built.table.routes()] == ["good"]


def test_a_method_of_bad_shape_hides_no_problem_of_another(tmp_path: Path) -> None:
    session = "session: {parameter: s, interface: org.example.Session1, member: Check}\n"
    head = HEAD.replace("methods:\n", f"{session}errors: {{'*': {{code: A, args: ['{{s}}']}}}}\nmethods:\n")
    problems = build_methods(tmp_path, "m: {member: Stat, params: [s], effect: x}\nn: {member: Begin}", head).problems
    assert [problem.split(": ")[1] for problem in problems] == ["methods.m.effect", "methods.n.member"]


def test_problems_say_their_level(tmp_path: Path) -> None:
    (tmp_path / "example.xml").write_text(IDL)
    (tmp_path / "a.yaml").write_text(HEAD + "  m: {member: Begin, effect: none}\n")
    (tmp_path / "b.yaml").write_text(HEAD + "  m: {member: Begin}\n")
    _, problems = build([tmp_path], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert [problem.level for problem in problems] == ["schema", "idl"]


def test_the_revision_is_that_of_the_contents(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    first = build_files(here, a=HEAD + STAT).table.revision
    assert build_files(there, a=HEAD + STAT).table.revision == first
    assert build_files(there, a=HEAD + STAT + "# more\n").table.revision != first
    (here / "example.xml").write_text(IDL + "<!-- more -->")
    table, _ = build([here], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert table.revision != first


def test_a_path_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    _, problems = build([tmp_path / "none.yaml"], codecs=(), dialects=(), listeners=None)
    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/none.yaml:1:1: cannot be read: No such file or directory"
    ]
