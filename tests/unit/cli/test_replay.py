"""The command that replays a recording, against an API with a toy endpoint of two sides."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from gateway.cli.replay import BATCH, LONGEST, batches, load, quantile
from gateway.core.migration.modes import Side
from gateway.core.rpc.model import Fault, FaultCode, Reply
from tests.kit.admin import Served
from tests.kit.traffic import SESSION, line

FIRST = {"recording": 1, "version": "1.0", "revision": "r1", "when": 1.0, "methods": [], "writes": False}
LAST = {"end": "3 calls", "calls": 3, "seconds": 1.0, "no_room": 0, "too_large": 0}
GIVEN = ("--value", f"session={SESSION}")


def replayed(api: Served, documents: list[Any], *words: str, rate: str = "100000") -> Result:
    file = Path(api.socket).parent / "calls.jsonl"
    lines = [each if isinstance(each, str) else json.dumps(each) for each in documents]
    file.write_text("\n".join(lines) + "\n")
    return api.run("replay", str(file), "--rate", rate, *words)


def verdict(ended: Result) -> tuple[int, str]:
    """The exit status, and the last line."""
    return ended.exit_code, ended.stdout.splitlines()[-1]


def named(name: str, **changes: Any) -> dict[str, Any]:
    return line(params=[{"$redacted": "text"}, name], **changes)


def test_calls_that_agree_are_a_proof(api: Served) -> None:
    ended = replayed(api, [FIRST, named("a"), named("b"), LAST], *GIVEN)
    head, row, _ = ended.stdout.splitlines()
    assert head.split() == ["METHOD", "CALLS", "EQUAL", "DIFFERENT", "P50", "P99"]
    assert row.split()[:4] == ["xapi/VM.get_name", "2", "2", "0"]
    assert (ended.stderr, verdict(ended)) == ("", (0, "2 of 2 calls compared, nothing differs"))


def test_calls_that_differ_are_shown_and_end_with_status_1(api: Served) -> None:
    api.api.sides.new = lambda call: Reply(f"new {call.params[1]!r}")
    ended = replayed(api, [FIRST, *(named(name) for name in "abcdefg"), LAST], *GIVEN, "--max-diffs", "2")
    assert ended.stdout.count('(<redacted text>, "') == 2
    assert """+ "new 'a'\"""" in ended.stdout
    assert "xapi/VM.get_name: more mismatches; --max-diffs shows more, --json-lines all" in ended.stdout
    assert verdict(ended) == (1, "7 of 7 calls compared, 7 differ")
    assert SESSION not in ended.output


def test_a_side_that_says_nothing_is_no_proof(api: Served) -> None:
    api.api.sides.old = lambda call: Fault(FaultCode.UNAVAILABLE, "away") if call.params[1] == "b" else Reply("a")
    ended = replayed(api, [FIRST, named("a"), named("b"), LAST], *GIVEN)
    assert "1 unanswered: legacy: away: xapi/VM.get_name" in ended.stdout
    assert verdict(ended) == (1, "1 of 2 calls compared, nothing differs, 1 not answered")


def test_what_is_missing_is_named_with_what_to_say(api: Served) -> None:
    ended = replayed(api, [FIRST, named("a"), named("b", named={"config": {"password": {"$redacted": "text"}}}), LAST])
    assert "1 skipped: redacted, and not given: session, config.password: xapi/VM.get_name" in ended.stdout
    assert "give redacted values with: --value config.password=VALUE --value session=VALUE" in ended.stdout
    assert verdict(ended) == (1, "0 of 2 calls compared, no result")
    assert ended.stdout.splitlines()[0].split() == ["METHOD", "CALLS", "EQUAL", "DIFFERENT", "SKIPPED"]
    assert api.api.sides.asked == []
    strangers = [line(f"VM.x{number}") for number in range(7)]
    names = ", ".join(f"xapi/VM.x{number}" for number in range(5))
    assert f"7 skipped: not mapped at rpc /RPC2: {names} and 2 more" in replayed(api, [FIRST, *strangers, LAST]).stdout


def test_a_write_is_skipped_and_runs_twice_only_with_a_loud_word(api: Served) -> None:
    writes = [FIRST, line("VM.set_name", effect="write"), named("a"), LAST]
    ended = replayed(api, writes, *GIVEN)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "1 skipped: its effect is write: it would run twice: xapi/VM.set_name" in ended.stdout
    assert {call.method for _, call in api.api.sides.asked} == {"VM.get_name"}
    ended = replayed(api, writes, *GIVEN, "--writes")
    assert ended.stderr == "WARNING: --writes: calls that write RUN TWICE, once on each side: xapi/VM.set_name (1)\n"
    assert [side for side, call in api.api.sides.asked if call.method == "VM.set_name"] == [Side.LEGACY, Side.DBUS]


def test_damaged_lines_are_named_and_cost_only_themselves(api: Served) -> None:
    ended = replayed(api, [FIRST, '{"when":', named("a"), "", {"listener": "rpc"}, LAST], *GIVEN)
    assert [line.partition("calls.jsonl")[2] for line in ended.stderr.splitlines()] == [
        ":2: is not JSON: Expecting value at character 9",
        ":5: 'path' is missing",
    ]
    assert verdict(ended) == (1, "1 of 1 call compared, nothing differs, 2 damaged lines left out")
    ended = replayed(api, [FIRST, *(["{"] * 50), named("a"), LAST], *GIVEN)
    assert ended.stderr.splitlines()[-1].endswith("calls.jsonl: and 30 more damaged lines")


def test_what_is_not_whole_is_noted_and_what_is_no_recording_refused(api: Served) -> None:
    ended = replayed(api, [{**FIRST, "revision": "r0"}, named("a")], *GIVEN)
    assert ended.exit_code == 0
    assert ended.stderr.splitlines()[0] == "note: recorded with revision r0 of the mapping; revision r1 is live"
    assert "has no end line" in ended.stderr
    assert "has no header line" in replayed(api, [named("a"), LAST], *GIVEN).stderr
    for words, says in {
        (): "calls.jsonl: the recording contains no calls",
        ("--value", "session"): "--value: expected PLACE=VALUE, such as session=OpaqueRef:1, got 'session'",
    }.items():
        ended = replayed(api, [FIRST, LAST], *words)
        assert (ended.exit_code, ended.stderr.splitlines()[-1].endswith(says)) == (2, True), ended.stderr


def test_machines_get_a_line_for_each_call_and_one_for_the_whole(api: Served) -> None:
    api.api.sides.new = lambda call: Reply(call.params[1] if call.params[1] == "a" else 5)
    ended = replayed(api, [FIRST, named("a"), "{", named("b"), LAST], *GIVEN, "--json-lines", "--noise")
    one, two, whole = map(json.loads, ended.stdout.splitlines())
    assert (one["line"], one["verdict"], one["pair"]) == (2, "equal", None)
    assert (two["line"], two["verdict"]) == (4, "different")
    assert two["pair"]["differences"] == [{"path": "$", "control": "b", "candidate": 5}]
    (method,) = whole["methods"]
    assert [(each["line"], each["why"][:13]) for each in whole["damaged"]] == [(3, "is not JSON: ")]
    assert (method["calls"], method["equal"], method["different"]) == (2, 1, 1)
    assert method["legacy"]["p50"] > 0
    assert [side.value for side, _ in api.api.sides.asked] == ["legacy", "dbus", "legacy"] * 2


def test_ctrl_c_shows_what_there_is(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter([None])

    def sleep(_: float) -> None:
        if next(pauses, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    ended = replayed(api, [FIRST, named("a"), named("b"), LAST], *GIVEN, rate="2")
    assert ended.stderr == "stopped after 1 of 2 calls\n"
    assert verdict(ended) == (1, "1 of 1 call compared, nothing differs")


def test_calls_are_sent_no_faster_than_the_rate(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    replayed(api, [FIRST, *(named(name) for name in "abcde"), LAST], *GIVEN, rate="10")
    assert slept == [pytest.approx(0.0), pytest.approx(0.2), pytest.approx(0.4)]


def test_batches_are_a_fifth_of_a_second_and_never_large() -> None:
    calls = [(number, named("x")) for number in range(50)]
    assert [len(batch) for batch in batches(calls, 50)] == [10] * 5
    assert [len(batch) for batch in batches(calls, 1)] == [1] * 50
    assert max(len(batch) for batch in batches(calls, 1e6)) == BATCH
    large = [(number, named("x" * 200_000)) for number in range(3)]
    assert [len(batch) for batch in batches(large, 50)] == [1, 1, 1]
    assert list(batches([], 50)) == []


def test_what_came_back_is_not_sent_and_a_line_of_any_length_costs_only_itself() -> None:
    ((_, call),) = next(batches([(1, {**named("x"), "reply": "y" * 1000, "side": "legacy"})], 50))
    assert call == named("x")
    text = json.dumps(named("x")).encode()
    recording = load(Path("f"), [text, b"x" * (LONGEST + 1), text])
    assert [number for number, _ in recording.calls] == [1, 3]
    assert recording.damaged == [(2, f"is longer than {LONGEST} bytes")]


def test_quantiles_are_those_of_what_was_seen() -> None:
    took = [float(number) for number in range(1, 101)]
    assert (quantile(took, 50), quantile(took, 99), quantile([7.0], 99), quantile([], 50)) == (50.0, 99.0, 7.0, None)
