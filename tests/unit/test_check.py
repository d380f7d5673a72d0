"""`check` as a function: which level is reached, what is counted, what a live check says of buses and services."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway import check, config, wiring
from tests.kit.buses import private_bus
from tests.kit.gateway import TOY_IDL, TOY_MAPPING, Folder
from tests.kit.programs import ROOT
from tests.kit.toy_service import toy_service


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    return folder


def checked(folder: Folder, *, live: bool = False) -> check.CheckReport:
    return check.check([], folder.config, live=live)


def configure(folder: Folder, old: str, new: str, more: str = "") -> None:
    folder.config.write_text(folder.config.read_text().replace(old, new) + more)


OLD = '\n[upstream.old]\nurl = "http://127.0.0.1:9"\n'
PASSING = 'unmapped = "passthrough"\nupstream = "old"\n[mappings]'


def test_files_alone_need_no_config_with_one_names_of_listeners_and_upstreams_are_checked_too(folder: Folder) -> None:
    found = check.check([folder.mappings], None, live=False)
    assert (found.problems, found.methods, found.files) == ([], 7, 1)
    folder.mapping(TOY_MAPPING.replace("listener: rpc, path: /RPC2", "listener: rcp, path: /RPC2"))
    (problem,) = checked(folder).problems
    assert ("toy.yaml:5" in str(problem), "rcp" in problem.message) == (True, True)
    good = folder.config.read_text()
    configure(folder, "", "", OLD + 'codec = "xmlrcp"\n')
    with pytest.raises(config.ConfigError, match=r":16:9: upstream.old.codec: unknown codec 'xmlrcp' \(did"):
        checked(folder)
    folder.config.write_text(good + OLD)
    folder.mapping(TOY_MAPPING.replace("expose:", "legacy: {upstream: odl}\nexpose:"))
    (problem,) = checked(folder).problems
    assert problem.message == "unknown upstream 'odl' (did you mean 'old'?)"


OPEN = ":6:9: listener.rpc.bind[0]: other hosts can reach tcp:0.0.0.0:0; every client that connects may call"
UNKNOWN = "rpc: requests to unknown paths are passed to 'old' unchanged"
HANGS = "toml:1:6: bus.toolstack: one service that hangs can hold 192 calls"


@pytest.mark.parametrize(
    ("old", "new", "more", "note"),
    [
        ("tcp:127.0.0.1:0", "tcp:0.0.0.0:0", "", OPEN),
        ("[mappings]", PASSING, OLD, UNKNOWN),
        ("", "", "[limits]\nmax_calls = 10\n", HANGS),
    ],
)
def test_what_is_perhaps_not_meant_is_noted(folder: Folder, old: str, new: str, more: str, note: str) -> None:
    assert checked(folder).notes == []
    configure(folder, old, new, more)
    found = checked(folder)
    assert (found.problems, len(found.notes), note in found.notes[0]) == ([], 1, True)


def test_an_empty_directory_is_well_where_a_listener_forwards_everything(folder: Folder) -> None:
    (folder.mappings / "toy.yaml").unlink()
    assert len(checked(folder).problems) == 1
    configure(folder, "[mappings]", PASSING, OLD)
    assert checked(folder).problems == []


def test_a_live_check_needs_files_that_can_be_used(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="cannot be read"):
        check.check([tmp_path], tmp_path / "none.toml", live=True)
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    assert {problem.level for problem in checked(folder, live=True).problems} == {"idl"}, "before any service is asked"


def test_a_bus_that_cannot_be_reached_is_a_problem_at_its_place_in_the_config(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BUS_TIMEOUT", 0.05)
    folder.buses({"toolstack": (f"unix:path={folder.path}/none", "org.example.*")})
    (problem,) = checked(folder, live=True).problems
    says = f"{folder.config}:2:11: bus.toolstack.address: unix:path={folder.path}/none cannot be reached"
    assert (str(problem), problem.level) == (says, "live")


def test_a_service_without_the_interface_is_found_live_and_one_that_is_not_there_counted(folder: Folder) -> None:
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        found = checked(folder, live=True)
        assert (found.problems, found.unseen, found.contracts > 0) == ([], found.contracts, True)
        with toy_service(bus.address, "org.example.toy"):
            problems = checked(folder, live=True).problems
    assert problems, "the toy service answers calls by hand: it introspects as nothing"
    assert {problem.level for problem in problems} == {"live"}
    assert "org.example.Toy1" in str(problems[0])


def test_check_and_run_agree_on_what_is_a_store(folder: Folder) -> None:
    """The demo's config and mappings, with the store that its comments show."""
    shipped = (ROOT / "docker" / "gateway.toml").read_text()
    store = "# [listener.store]"
    assert store in shipped
    text = shipped.replace(store, store[2:]).replace('# bind = ["xenstore:"]', 'bind = ["xenstore:"]')
    text = text.replace('"org.xen.xcp.*"', '"org.xen.xcp.*", "org.example.*"')
    folder.config.write_text(re.sub(r"directories *= *\[.*?\]", f'directories = ["{ROOT}/mappings", "extra"]', text))
    (folder.path / "extra").mkdir()
    store = "expose:\n  - {listener: store, path: /toy, codec: xenstore, dialect: plain, style: tree}\n"
    (folder.path / "extra" / "toy.xml").write_text(TOY_IDL)
    (folder.path / "extra" / "toy.yaml").write_text(re.sub(r"expose:\n(  - .*\n)+", store, TOY_MAPPING))
    assert checked(folder).problems == []
    assert wiring.compile_mappings(config.load(folder.config))[1] == []


def test_a_bus_name_that_no_bus_has_is_a_problem_once_for_each_file(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.other.*")})
    (problem,) = checked(folder).problems
    expected = f"no bus of {folder.config} has org.example.toy: add it to `services` of a [bus.NAME] section"
    assert (problem.level, problem.place, problem.message) == ("idl", "methods.echo", expected)
    assert wiring.compile_mappings(config.load(folder.config))[1] == [problem]  # so start and reload refuse it too
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.t?y")})
    assert checked(folder).problems == []


def test_a_legacy_service_that_cannot_be_reached_is_a_problem_where_a_method_needs_it_else_a_note(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BUS_TIMEOUT", 0.5)
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        folder.config.write_text(folder.config.read_text() + OLD)
        noted = checked(folder, live=True)
        mapping = TOY_MAPPING.replace("expose:", "legacy: {upstream: old}\nexpose:")
        folder.mapping(mapping.replace("effect: read", "effect: read, mode: legacy"))
        needed = checked(folder, live=True)
    why = f"{folder.config}:15:7: upstream.old.url: http://127.0.0.1:9 cannot be reached: connection refused"
    assert (noted.problems, f"{why}; no method has a mode that needs it" in noted.notes) == ([], True)
    assert [(str(problem), problem.level) for problem in needed.problems] == [(why, "live")]
