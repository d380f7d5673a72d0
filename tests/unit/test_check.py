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
    return Folder(tmp_path)


def test_files_alone_need_no_config(folder: Folder) -> None:
    checked = check.check([folder.mappings], None, live=False)
    assert (checked.problems, checked.methods, checked.files) == ([], 7, 1)


def test_with_a_config_the_names_of_listeners_are_checked_too(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    folder.mapping(TOY_MAPPING.replace("listener: rpc, path: /RPC2", "listener: rcp, path: /RPC2"))
    (problem,) = check.check([], folder.config, live=False).problems
    assert "toy.yaml:5" in str(problem)
    assert "rcp" in problem.message


def test_a_listener_that_others_can_reach_is_noted(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    assert check.check([], folder.config, live=False).notes == []
    folder.config.write_text(folder.config.read_text().replace("tcp:127.0.0.1:0", "tcp:0.0.0.0:0"))
    checked = check.check([], folder.config, live=False)
    assert checked.problems == []
    (note,) = checked.notes
    assert note.endswith(
        ":6:9: listener.rpc.bind[0]: other hosts can reach tcp:0.0.0.0:0; every client that connects may call"
    )


OLD = '\n[upstream.old]\nurl = "http://127.0.0.1:9"\n'


def test_with_a_config_old_services_are_checked_too(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    good = folder.config.read_text()
    folder.config.write_text(good + OLD + 'codec = "xmlrcp"\n')
    with pytest.raises(config.ConfigError, match=r":16:9: upstream.old.codec: unknown codec 'xmlrcp' \(did"):
        check.check([], folder.config, live=False)
    folder.config.write_text(good + OLD)
    folder.mapping(TOY_MAPPING.replace("expose:", "legacy: {upstream: odl}\nexpose:"))
    (problem,) = check.check([], folder.config, live=False).problems
    assert problem.message == "unknown upstream 'odl' (did you mean 'old'?)"


def test_what_no_mode_governs_is_noted(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    passing = 'unmapped = "passthrough"\nupstream = "old"\n[mappings]'
    folder.config.write_text(folder.config.read_text().replace("[mappings]", passing) + OLD)
    (note,) = check.check([], folder.config, live=False).notes
    assert note == "rpc: requests to unknown paths are passed to 'old' unchanged"


def test_numbers_by_which_one_service_takes_all_places_are_noted(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    assert check.check([], folder.config, live=False).notes == []
    folder.config.write_text(f"{folder.config.read_text()}[limits]\nmax_calls = 10\n")
    checked = check.check([], folder.config, live=False)
    (note,) = checked.notes
    assert "toml:1:6: bus.toolstack: one service that hangs can hold 192 calls" in note
    assert checked.problems == []


def test_an_empty_directory_is_well_where_a_listener_forwards_everything(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    (folder.mappings / "toy.yaml").unlink()
    assert len(check.check([], folder.config, live=False).problems) == 1
    forwards = '[listener.rpc]\nunmapped = "passthrough"\nupstream = "old"'
    folder.config.write_text(folder.config.read_text().replace("[listener.rpc]", forwards) + OLD)
    assert check.check([], folder.config, live=False).problems == []


def test_a_live_check_needs_a_config_that_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="cannot be read"):
        check.check([tmp_path], tmp_path / "none.toml", live=True)


def test_what_is_wrong_in_the_files_is_said_before_any_service_is_asked(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    assert {problem.level for problem in check.check([], folder.config, live=True).problems} == {"idl"}


def test_a_bus_that_cannot_be_reached_is_a_problem_at_its_place_in_the_config(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BUS_TIMEOUT", 0.05)
    folder.buses({"toolstack": (f"unix:path={folder.path}/none", "org.example.*")})
    (problem,) = check.check([], folder.config, live=True).problems
    assert str(problem) == (
        f"{folder.config}:2:11: bus.toolstack.address: unix:path={folder.path}/none cannot be reached"
    )
    assert problem.level == "live"


def test_a_service_without_the_interface_is_found_live(folder: Folder) -> None:
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        problems = check.check([], folder.config, live=True).problems
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
    exposed = re.sub(
        r"expose:\n(  - .*\n)+",
        "expose:\n  - {listener: store, path: /toy, codec: xenstore, dialect: plain, style: tree}\n",
        TOY_MAPPING,
    )
    (folder.path / "extra" / "toy.xml").write_text(TOY_IDL)
    (folder.path / "extra" / "toy.yaml").write_text(exposed)
    assert check.check([], folder.config, live=False).problems == []
    assert wiring.compile_mappings(config.load(folder.config))[1] == []


def test_what_a_live_check_could_not_look_at_is_counted(folder: Folder) -> None:
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        checked = check.check([], folder.config, live=True)
    assert (checked.problems, checked.unseen) == ([], checked.contracts)
    assert checked.contracts > 0


def test_a_bus_name_that_no_bus_has_is_a_problem_once_for_each_file(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.other.*")})
    (problem,) = check.check([], folder.config, live=False).problems
    expected = f"no bus of {folder.config} has org.example.toy: add it to `services` of a [bus.NAME] section"
    assert (problem.level, problem.place, problem.message) == ("idl", "methods.echo", expected)
    assert wiring.compile_mappings(config.load(folder.config))[1] == [problem]  # so start and reload refuse it too
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.t?y")})
    assert check.check([], folder.config, live=False).problems == []


def test_a_legacy_service_that_cannot_be_reached_is_a_problem_where_a_method_needs_it_else_a_note(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BUS_TIMEOUT", 0.5)
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        folder.config.write_text(folder.config.read_text() + OLD)
        noted = check.check([], folder.config, live=True)
        folder.mapping(
            TOY_MAPPING.replace("expose:", "legacy: {upstream: old}\nexpose:").replace(
                "effect: read", "effect: read, mode: legacy"
            )
        )
        needed = check.check([], folder.config, live=True)
    why = f"{folder.config}:15:7: upstream.old.url: http://127.0.0.1:9 cannot be reached: connection refused"
    assert noted.problems == []
    assert f"{why}; no method has a mode that needs it" in noted.notes
    assert [str(problem) for problem in needed.problems] == [why]
    assert needed.problems[0].level == "live"
