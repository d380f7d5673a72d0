"""Commands for modes and rollouts, against an API that serves a real state."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from gateway.cli.diff import places, summary
from gateway.cli.mode import MAX_LINES, moved_lines
from gateway.core.admin.records import Change, CountsBatch, MethodId, MismatchRecord
from gateway.core.admin.status import UpstreamStatus
from gateway.core.comparison.rules import Sampling
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import Override
from tests.kit.admin import Served

DOCUMENT: Any = {
    "call": {"method": "VM.get_state", "params": ["vm-1"], "named": {}}, "caller": "uid 0", "protocol": "xmlrpc",
    "verdict": "different", "more": False, "ignored": [], "noisy": [],
    "control": {"side": "legacy", "ms": 1.0, "reply": "Halted"},
    "candidate": {"side": "dbus", "ms": 2.0, "reply": "Running"},
    "differences": [{"path": "$", "control": "Halted", "candidate": "Running", "why": ""}],
}  # fmt: skip


def out(api: Served, *words: str) -> str:
    ended = api.run(*words)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_a_mode_is_set_shown_and_taken_back(api: Served) -> None:
    assert out(api, "mode") == "no modes are set at run time; every method has the mode of its mapping\n"
    assert out(api, "mode", "set", "VM.get_state", "shadow", "--noise", "--duration", "10m", "--why", "try") == (
        "xenopsd/VM.get_state: legacy -> shadow noise\n"
    )
    assert "try" in out(api, "mode")
    assert "set by" in out(api, "mode", "VM.get_state")
    assert out(api, "mode", "clear", "VM.get_state") == "xenopsd/VM.get_state: shadow noise -> legacy\n"


def test_a_legacy_service_that_will_serve_and_cannot_be_reached_is_named(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = UpstreamStatus("old", "http://old:1", 0, 0, 0, "", unreachable="connection refused")
    api.api.toy.upstreams = [old, replace(old, name="other")]
    warning = (
        "the legacy service 'old' (http://old:1), which serves calls now, cannot be reached: connection refused; "
        "start it, or choose another mode\n"
    )
    assert out(api, "mode", "set", "VM.get_state", "dbus") == "xenopsd/VM.get_state: legacy -> dbus\n"
    assert out(api, "mode", "set", "VM.get_state", "legacy") == f"xenopsd/VM.get_state: dbus -> legacy\n{warning}"
    assert out(api, "rollback", "--all").endswith(warning)
    assert json.loads(out(api, "mode", "clear", "*", "--json"))["notes"] == [warning.rstrip()]
    monkeypatch.delattr(api.api.toy, "upstreams")
    assert "\nthe legacy service" not in out(api, "rollback", "--all")  # which does not depend on it


def test_a_guarded_mode_needs_a_rollout_and_is_shown_as_such(api: Served) -> None:
    refused = api.run("mode", "VM.get_state", "dbus", "--guarded")
    assert (refused.exit_code, refused.stdout) == (2, "")
    needed = "guarded: expected a rollout of xenopsd/VM.get_state under way; it is not started: start it with"
    assert needed in refused.stderr
    out(api, "rollout", "start", "VM.get_state")
    assert out(api, "mode", "VM.get_state", "dbus", "--guarded").endswith(" -> dbus\n")
    assert "dbus guarded" in out(api, "mode")
    assert ", guarded (the mapping says legacy)" in out(api, "mode", "VM.get_state")
    assert json.loads(out(api, "audit", "--json"))[0]["numbers"] == {"mode": "dbus", "guarded": True}


def test_a_pattern_changes_what_it_can_and_says_what_stays(api: Served) -> None:
    out(api, "mode", "VM.start", "dbus")
    assert out(api, "mode", "VM.*", "canary", "--percent", "0.5") == (
        "xenopsd/VM.get_state: legacy -> canary 0.5%\n"
        "xenopsd/VM.start: dbus, since 'xenopsd/VM.start' is set to dbus by root\n"
    )
    assert out(api, "mode", "VM.get_state", "canary", "--percent", "0.5") == (
        "xenopsd/VM.get_state: canary 0.5% as before, now by root until it is cleared\n"
    )


def test_what_changes_nothing_says_so_and_does_not_succeed(api: Served) -> None:
    for _ in range(2):
        ended = api.run("mode", "VM.get_state", "dbus", "--duration", "1h")
        assert ended.exit_code == 0
    assert re.fullmatch(r"xenopsd/VM.get_state: dbus as before, now by root until .*\n", ended.stdout)
    out(api, "mode", "VM.get_state", "dbus")
    ended = api.run("mode", "VM.get_state", "dbus")
    assert (ended.exit_code, ended.stdout) == (1, "1 method unchanged\nnothing has changed\n")
    ended = api.run("mode", "VM.get_state", "dbus", "--json")
    assert (ended.exit_code, [each["changed"] for each in json.loads(ended.stdout)["methods"]]) == (1, [False])
    out(api, "mode", "VM.get_state", "legacy")
    assert out(api, "mode", "clear", "VM.get_state") == "xenopsd/VM.get_state: legacy as before, now by the mapping\n"
    out(api, "rollback", "--all")
    ended = api.run("rollback", "--all")
    assert (ended.exit_code, ended.stdout) == (1, "2 methods unchanged\nnothing has changed\n")
    ended = api.run("promote", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["written"]) == (1, False)


def test_a_rollback_after_a_rollback_is_undone_to_the_modes_before_both(api: Served) -> None:
    out(api, "mode", "VM.get_state", "canary", "--percent", "10")
    out(api, "rollback", "--all")
    out(api, "mode", "VM.start", "dbus")
    out(api, "rollback", "--all")
    assert out(api, "rollback", "--undo") == (
        "xenopsd/VM.get_state: legacy -> canary 10%\nxenopsd/VM.start: legacy -> dbus\n"
    )
    modes = {each["pattern"]: each["mode"] for each in json.loads(out(api, "mode", "--json"))}
    assert modes == {"xenopsd/VM.get_state": "canary 10%", "xenopsd/VM.start": "dbus"}


def test_an_explanation_says_who_would_answer_and_why(api: Served) -> None:
    out(api, "mode", "VM.get_state", "canary", "--percent", "50", "--observe")
    told = out(api, "explain", "VM.get_state", "vm-1")
    assert told.startswith("xenopsd/VM.get_state: served by ")
    for fact in ("canary at 50%: vm is in bucket", "of 100000; D-Bus serves those below 50000",
                 "legacy runs the call too, and",
                 "upstream old", "vm: vm-1", "toy.yaml:1"):  # fmt: skip
        assert fact in told
    assert "vm: this call has none" in out(api, "explain", "VM.get_state")
    migration = api.api.routes[0].migration
    api.api.routes[0] = replace(api.api.routes[0], migration=replace(migration, sampling=Sampling(0.1, 200.0)))
    assert "D-Bus runs a sample of the calls (10%, at most 200/s) too" in out(api, "explain", "VM.get_state")
    assert json.loads(out(api, "explain", "VM.get_state", "--key", "vm-2", "--json"))[0]["value"] == "vm-2"


def test_differences_are_shown_exported_and_forgotten(api: Served) -> None:
    assert out(api, "diff") == "no mismatches\n"
    pair = MismatchRecord(1.0, MethodId("xenopsd", "VM.get_state"), DOCUMENT)
    api.do(api.api.state.flush(CountsBatch(pairs=[pair, replace(pair, when=2.0)])))
    assert "Halted" in out(api, "diff", "VM.get_state")
    assert out(api, "diff", "VM.start") == "no mismatches\n"
    lines = [json.loads(line) for line in out(api, "diff", "--json-lines", "--limit", "1").splitlines()]
    assert lines == [{"when": 2.0, "method": ["xenopsd", "VM.get_state"], **DOCUMENT}], "the newest"
    shown = [" ".join(line.split()) for line in out(api, "diff").splitlines()]
    assert shown[:3] == [
        "the newest 2 mismatches, by place",
        "METHOD PLACE TIMES CONTROL CANDIDATE",
        'xenopsd/VM.get_state $ 2 "Halted" "Running"',
    ]
    document = json.loads(out(api, "diff", "VM.get_state", "--json"))
    assert [(row["path"], row["count"]) for row in document["places"]] == [("$", 2)]
    assert [each["when"] for each in document["mismatches"]] == [2.0, 1.0]
    assert out(api, "diff", "VM.get_state", "--reset") == "deleted mismatches and call statistics of 1 method\n"
    assert out(api, "diff") == "no mismatches\n"


def test_a_rollback_is_undone_once(api: Served) -> None:
    out(api, "mode", "VM.get_state", "canary", "--percent", "10", "--observe", "--duration", "2h", "--why", "try")
    out(api, "mode", "VM.start", "off")
    assert out(api, "rollback", "--all", "--why", "smoke") == (
        "xenopsd/VM.get_state: canary 10% observed -> legacy\n"
        "xenopsd/VM.start: off, since 'xenopsd/VM.start' is set to off by root\n"
    )
    told = [(each["what"], each["why"]) for each in json.loads(out(api, "audit", "*", "--json"))]
    assert told == [("modes before rollback", ""), ("rollback", "smoke")]
    assert out(api, "rollback", "--undo", "--why", "false alarm") == (
        "xenopsd/VM.get_state: legacy -> canary 10% observed\n1 method unchanged\n"
    )
    modes = {each["pattern"]: each for each in json.loads(out(api, "mode", "--json"))}
    assert {pattern: each["mode"] for pattern, each in modes.items()} == {
        "xenopsd/VM.get_state": "canary 10% observed", "xenopsd/VM.start": "off"
    }  # fmt: skip
    restored = modes["xenopsd/VM.get_state"]
    assert restored["why"] == "try"
    assert 3600 < restored["until"] - restored["when"] <= 7200  # its time has gone on
    assert "false alarm" in out(api, "audit", "--limit", "1")
    ended = api.run("rollback", "--undo")
    assert (ended.exit_code, ended.stderr) == (2, "there is nothing to undo: no rollback of everything is in force\n")


def test_a_mode_that_no_rollout_watches_after_the_undo_is_named(api: Served) -> None:
    name = "xenopsd/VM.get_state"
    out(api, "rollout", "start", name)
    step = Override(name, Setting(Mode.SHADOW), "rollout default", time.time(), by="rollout")
    assert api.do(api.api.state.decide(Change((), put=(step,)))) is None  # as the controller does, which is not here
    out(api, "mode", "VM.start", "off")
    out(api, "rollback", "--all")
    out(api, "mode", "VM.start", "legacy")  # what a person sets after the rollback is kept
    assert out(api, "rollback", "--undo").splitlines()[-1] == (
        f"the rollout of {name} stays ended, and nothing watches its mode shadow: "
        f"`xcp-gateway mode clear {name}`, then `rollout start`, begins it again"
    )
    assert "xenopsd/VM.start      legacy" in out(api, "mode")
    out(api, "mode", "clear", name)
    assert "running at step 1" in out(api, "rollout", "start", name)


def test_the_audit_is_that_of_one_subject_or_of_a_time(api: Served) -> None:
    out(api, "mode", "VM.get_state", "dbus")
    out(api, "mode", "group:life", "dbus")
    assert len(out(api, "audit").splitlines()) == 3
    assert len(out(api, "audit", "group:life", "--since", "1h").splitlines()) == 2
    assert len(out(api, "audit", "--limit", "1").splitlines()) == 2
    assert out(api, "audit", "VM.nope", "--since", "1h") == "no decisions about VM.nope within 1h\n"
    assert out(api, "audit", "--since", "1ms") == "no decisions within 1ms\n"


def test_of_very_many_moved_methods_only_the_numbers_are_told() -> None:
    moved = [{"service": "xapi", "method": f"m{at}", "before": "dbus", "after": "legacy"} for at in range(MAX_LINES)]
    assert len(moved_lines(moved)) == MAX_LINES
    one_more = {**moved[0], "service": "xenopsd", "before": "shadow"}
    assert moved_lines([*moved, one_more]) == [
        f"xapi: {MAX_LINES} methods dbus -> legacy",
        "xenopsd: 1 method shadow -> legacy",
    ]


def test_a_rollout_is_started_held_and_ended(api: Served) -> None:
    assert out(api, "rollout", "list") == "no rollouts\n"
    assert out(api, "rollout", "start", "VM.get_state", "--why", "try") == (
        "xenopsd/VM.get_state: running at step 1 of 5, shadow (plan default)\n  waits: 0 of 1000 comparisons\n"
    )
    assert "paused" in out(api, "rollout", "pause", "VM.get_state")
    assert json.loads(out(api, "rollout", "resume", "VM.get_state", "--json"))["state"] == "running"
    listed = out(api, "rollout", "list").splitlines()
    assert listed[1].startswith("xenopsd/VM.get_state  default  running  1 of 5: shadow")
    assert "aborted" in out(api, "rollout", "abort", "VM.get_state")
    (view,) = json.loads(out(api, "rollout", "list", "--json"))
    assert (view["state"], view["methods"]) == ("aborted", ["xenopsd/VM.get_state"])
    assert len(json.loads(out(api, "audit", "--json"))) == 4


def test_places_are_counted_once_a_mismatch_whatever_their_index_and_the_most_frequent_is_first() -> None:
    def mismatch(*paths: str) -> dict[str, Any]:
        differences = [{"path": path, "control": f"{'x' * 50} {path}", "candidate": f"{'x' * 50}y"} for path in paths]
        return {"method": ["xapi", "VM.get_all"], "document": {"differences": differences}}

    rows = places([mismatch("$.b"), mismatch("$.a[1].n", "$.a[7].n", "$.b"), mismatch("$.b", "$.a[2].n")])
    assert [(row["path"], row["count"], row["example"]["path"]) for row in rows] == [
        ("$.b", 3, "$.b"),
        ("$.a[*].n", 2, "$.a[1].n"),
    ]
    console = Console(width=200)
    with console.capture() as shown:
        console.print(summary(rows))
    assert "...xxxxxxxxxxxxxxxxxxx" in shown.get(), "of long values the place where they differ"
