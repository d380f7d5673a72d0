"""Fuzz targets for migration: stored values and rollouts, paths into values."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from gateway.core.comparison import json_path, serialization
from gateway.core.migration.rollout_plan import Progress, RolloutState
from gateway.migration import rollout_storage
from gateway.migration.rollout_storage import RolloutDocument
from tests.fuzz.target import Target, said, told, words
from tests.kit.migrations import PLAN, counts, side
from tests.kit.values import exactly
from tests.unit.core.comparison.test_json_path import matches


def _json(body: bytes) -> serialization.Json:
    """Read JSON as the state file and the admin socket do; raises ValueError."""
    read: serialization.Json = msgspec.json.decode(body)
    return read


# Values as JSON


def _portable(body: bytes) -> str:
    """A value that can be read survives writing and reading, and can be shortened."""
    try:
        written = _json(body)
    except (ValueError, RecursionError):
        return "no case"
    try:
        value = serialization.read(written)
    except ValueError as error:
        return said(str(error)[:80])  # it may be Python's own, of a whole moment
    again = serialization.write(value)
    assert exactly(serialization.read(_json(json.dumps(again).encode()))) == exactly(value)
    json.dumps(serialization.write(serialization.shorten(value)), allow_nan=False)
    return f"good {_kinds(again)}"


def _kinds(written: serialization.Json) -> str:
    if isinstance(written, dict) and len(written) == 1:
        return next((name for name in written if name.startswith("$")), "struct")
    return type(written).__name__


# Rollouts


def _document(body: bytes) -> str:
    """A rollout that can be read survives writing and reading, and has a current step."""
    try:
        written = _json(body)
    except (ValueError, RecursionError):
        return "no case"
    read = rollout_storage.read(written)
    if isinstance(read, str):
        return told(read)
    assert rollout_storage.read(rollout_storage.write(read)) == read
    return f"good {read.step.setting.mode} {read.over} {read.progress.state}"


# Places


def _paths(body: bytes) -> str:
    """A path is read or refused; one without a star is written as a path to the same place, and matches it."""
    text = body.decode("utf-8", "surrogateescape")
    try:
        pattern = json_path.parse(text, ("$", "params", "result"))
    except ValueError as error:
        return told(str(error))
    matches(pattern, DEEP)
    place = tuple(step for step in pattern.steps if isinstance(step, str | int))
    shown = json_path.show(place)
    assert shown.isprintable()
    if len(shown) <= json_path.LONGEST:
        assert json_path.parse(shown).steps == place
        assert matches(json_path.parse(shown), place)
    if len(place) == len(pattern.steps):
        assert matches(pattern, place)
    return f"path of {min(len(pattern.steps), 5)} steps, {len(place)} named"


DEEP: json_path.Place = ("a", 0) * 60

DOCUMENT = RolloutDocument(
    PLAN,
    Progress(RolloutState.WAITING, 1, 5.0, baseline=side(7, errors=1, seconds=0.1), why="so"),
    "alice",
    1.5,
    {"xenopsd/VM.start": counts(compared=3, different=1, calls=5, seconds=0.01)},
)
DOCUMENTS = (
    DOCUMENT,
    RolloutDocument(PLAN, Progress(), "alice", 1.0),
    replace(DOCUMENT, progress=Progress(RolloutState.DONE, 2)),
)
VALUES = (
    '{"a":[1,{"$bytes":"aGk="},{"$dateTime":"2026-01-31T09:05:00+00:00"},{"$double":"nan"}]}',
    '[{"$integer":"9007199254740993"},{"$integer":"0x10"},{"$text":"7aCA"},{"$struct":[["$text",1],[{"$text":"7aCA"},2]]}]',
)

JSON = (
    *words("""{ } [ ] , : " \\ "a" 0 -1 1e400 1.5 true null "" "inf" "1_0" " 1" -9223372036854775809"""),
    b"\0",
    b" ",
)

TARGETS: Mapping[str, Target] = {
    "portable": Target(
        [text.encode() for text in VALUES],
        (*JSON, *words("$bytes $dateTime $double $integer $text $struct $left_out aGk= 7aCA 2026-01-31T09:05:00Z 0x")),
        _portable,
    ),
    "document": Target(
        [json.dumps(rollout_storage.write(each)).encode() for each in DOCUMENTS],
        (*JSON, *words('"step":9 "step":-1 "steps":[] "running" "frozen" "canary" "ppm" "format":2 "limits":{}')),
        _document,
    ),
    "paths": Target(
        [b"$.vms[*].name", b"$..a['b c'][3]", b'params["\\u00e9"].*', b"result..['a']..a"],
        (
            *words("""$ . .. [ ] * [*] .* ' " \\ \\x41 \\ud800 \\U00110000 [0] [01] a 1 1a params result \u00e9"""),
            b"\0",
        ),
        _paths,
    ),
}
