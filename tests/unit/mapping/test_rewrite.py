"""Setting modes in the text of a mapping file, without any other change."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest
from ruamel.yaml import YAML

from gateway.core.migration.modes import Mode, Setting, Side
from gateway.mapping.rewrite import RewriteError, WantedMode, rewrite
from tests.kit.cases import each_case

LEGACY, DBUS, SHADOW = Setting(Mode.LEGACY), Setting(Mode.DBUS), Setting(Mode.SHADOW)
HALF = Setting(Mode.CANARY, 50_000)


def rewritten(methods: str, now: Setting, then: Setting, *, head: str = "", has_key: bool = True) -> str:
    """The entries of a file after `a` is given another setting."""
    start = f"{head}methods:\n"
    text = rewrite(start + methods, {"a": WantedMode(now, then, has_key)})
    assert text.startswith(start)
    return text.removeprefix(start)


BLOCK = "b: {params: [&p x]}\na:\n  params:\n    - y\n    - *p  # x\n%sc: {}"
ERRORS = "b: {errors: &e {x: y}}\na:\n  errors: *e # those of b\n%s\nc: {}"
LIST = "a:\n  params:\n    - b  # last\n  # after"
MODE = "  mode: shadow\n"


@each_case(
    ("before", "after"),
    [
        ("a: {member: X}  # why", "a: {member: X, mode: shadow}  # why"),
        ("a: {member: X, }", "a: {member: X, mode: shadow, }"),
        ("a: {member: X, mode: legacy, params: [b]}", "a: {member: X, mode: shadow, params: [b]}"),
        ("a: {params: [b,\n  c]}  # end", "a: {params: [b,\n  c], mode: shadow}  # end"),
        ("a:\n  mode: legacy  # old\n  member: X", "a:\n  mode: shadow  # old\n  member: X"),
        ("a:\n  member: X  # x\n\n# of b\nb: {}", f"a:\n  member: X  # x\n{MODE}\n# of b\nb: {{}}"),
        (LIST, LIST.replace("  # after", f"{MODE}  # after")),
        (ERRORS % "", ERRORS % MODE),
        ("b: {errors: &e {x: y}}\na: {errors: *e}", "b: {errors: &e {x: y}}\na: {errors: *e, mode: shadow}"),
        ("b: {x: &s [y]}\na: {z: {struct: *s} }", "b: {x: &s [y]}\na: {z: {struct: *s}, mode: shadow }"),
        (BLOCK % "", BLOCK % MODE),
        ("'a': {member: \"X}\"}", "'a': {member: \"X}\", mode: shadow}"),
        ("ä: {member: ü}\na: {member: 'ö'}", "ä: {member: ü}\na: {member: 'ö', mode: shadow}"),
    ],
)
def test_only_the_mode_changes(before: str, after: str) -> None:
    for newline in ("\n", "\r\n"):
        old, new = (indent(text, "  ").replace("\n", newline) + newline for text in (before, after))
        assert rewritten(old, LEGACY, SHADOW) == new


SAMPLES = sorted((Path(__file__).parents[3] / "mappings").glob("*.yaml"))


@each_case("file", SAMPLES)
def test_every_method_of_the_sample_mappings_can_be_given_another_mode(file: Path) -> None:
    text, read = file.read_text(), YAML(typ="safe", pure=True).load
    wanted = read(text)
    wanted["methods"] = {name: {**entry, "mode": "off"} for name, entry in wanted["methods"].items()}
    off = WantedMode(DBUS, Setting(Mode.OFF), has_key=False)
    assert read(rewrite(text, dict.fromkeys(wanted["methods"], off))) == wanted


ONE = Setting(Mode.CANARY, 1000)
OBSERVED = Setting(Mode.DBUS, observe=True)
KEPT = "  a:\n    mode:\n      canary: 1%  # careful\n      key: vm\n    member: X\n"
BEHIND = "  a:\n    mode:\n      canary: 1%\n      key: vm  # why\n    member: X\n"


@each_case(
    ("before", "now", "then", "after"),
    [
        ("  a:\n    member: X", LEGACY, SHADOW, "  a:\n    member: X\n    mode: shadow"),  # no line break at the end
        ("  a: {member: X}   # odd   spacing\n", LEGACY, LEGACY, "  a: {member: X}   # odd   spacing\n"),
        ("  a: {observe: true, mode: dbus}\n", OBSERVED, DBUS, "  a: {observe: false, mode: dbus}\n"),
        ("  a: {mode: dbus}\n", OBSERVED, DBUS, "  a: {mode: dbus, observe: false}\n"),
        # of a canary only the share changes
        ("  a: {mode: {canary: 1%, key: vm}}\n", ONE, HALF, "  a: {mode: {canary: 50%, key: vm}}\n"),
        (KEPT, ONE, HALF, KEPT.replace("1%", "50%")),
        # a key inside the mode is kept
        ("  a: {mode: {canary: 1%, key: vm}}\n", ONE, DBUS, "  a: {mode: dbus, key: vm}\n"),
        ("  a: {key: x, mode: {canary: 1%, key: vm}}\n", ONE, DBUS, "  a: {key: vm, mode: dbus}\n"),
        (KEPT, ONE, DBUS, "  a:\n    mode:\n      dbus\n    member: X\n    key: vm\n"),
        (BEHIND, ONE, DBUS, "  a:\n    mode:\n      dbus  # why\n    member: X\n    key: vm\n"),
    ],
)
def test_what_a_setting_needs_is_written_and_the_rest_is_kept(
    before: str, now: Setting, then: Setting, after: str
) -> None:
    assert rewritten(before, now, then) == after


@each_case(
    ("then", "says"),
    [
        (DBUS, "dbus"),
        (Setting(Mode.OFF), "off"),
        (HALF, "{canary: 50%}"),
        (Setting(Mode.CANARY, 1), "{canary: 0.001%}"),
        (Setting(Mode.SHADOW, control=Side.DBUS), "{shadow: dbus}"),
        (OBSERVED, "dbus, observe: true"),
        (Setting(Mode.SHADOW, noise=True), "shadow, noise: true"),
    ],
)
def test_every_setting_can_be_written(then: Setting, says: str) -> None:
    assert rewritten("  a: {member: X, mode: legacy}\n", LEGACY, then) == f"  a: {{member: X, mode: {says}}}\n"


def test_a_key_inside_the_mode_of_defaults_is_kept() -> None:
    head = "defaults: {mode: {canary: 1%, key: vm}}\n"
    assert rewritten("  a: {member: X}\n", ONE, HALF, head=head) == "  a: {member: X, mode: {canary: 50%}, key: vm}\n"
    assert rewritten("  a: {member: X}\n", ONE, DBUS, head=head, has_key=False) == "  a: {member: X, mode: dbus}\n"


def test_several_methods_are_rewritten_at_once() -> None:
    text = "methods:\n  a: {member: X}\n  b: {mode: legacy}\n  c: {member: Z}\n"
    wanted = {name: WantedMode(LEGACY, SHADOW, has_key=False) for name in ("c", "a", "b")}
    assert rewrite(text, wanted) == (
        "methods:\n  a: {member: X, mode: shadow}\n  b: {mode: shadow}\n  c: {member: Z, mode: shadow}\n"
    )


@each_case(
    ("methods", "head", "says"),
    [
        ("  a: &x {member: X}\n  b: *x\n", "", "a shares its entry with other methods"),
        ("  a: {}\n", "", "a is an empty entry"),
        ("  a: {member: X, mode: *m}\n", "x: &m legacy\n", r"^a\.mode is a YAML alias: write its value here$"),
    ],
)
def test_what_cannot_be_edited_is_rejected(methods: str, head: str, says: str) -> None:
    with pytest.raises(RewriteError, match=says):
        rewritten(methods, LEGACY, SHADOW, head=head)


VM = "classes:\n  VM:\n    interface: X"
STOP = "    messages:\n      stop: {mode: dbus}  # why"
KEYED = f"{VM}\n    defaults: {{mode: {{canary: 5%, key: vm}}}}"


@each_case(
    ("before", "after"),
    [
        (f"{VM}\n  host: {{}}", f"{VM}\n    messages: {{start: {{mode: shadow}}}}\n  host: {{}}"),
        ("classes:\n  VM: {interface: X}", "classes:\n  VM: {interface: X, messages: {start: {mode: shadow}}}"),
        (f"{VM}\n{STOP}\nx: {{}}", f"{VM}\n{STOP}\n      start: {{mode: shadow}}\nx: {{}}"),
        (f"{VM}\n    messages: {{stop: {{}}}}", f"{VM}\n    messages: {{stop: {{}}, start: {{mode: shadow}}}}"),
        (
            f"{VM}\n    messages:\n      start: {{mode: legacy, timeout: 1m}}",
            f"{VM}\n    messages:\n      start: {{mode: shadow, timeout: 1m}}",
        ),
        (KEYED, f"{KEYED}\n    messages: {{start: {{mode: shadow, key: vm}}}}"),
    ],
)
def test_the_mode_of_a_method_that_follows_from_a_class_is_in_its_messages(before: str, after: str) -> None:
    text = rewrite(f"methods: {{}}\n{before}\n", {"VM.start": WantedMode(LEGACY, SHADOW, has_key=True)})
    assert text == f"methods: {{}}\n{after}\n"


def test_a_class_that_shares_its_messages_is_not_edited() -> None:
    text = "methods: {}\nclasses:\n  VM: {messages: &m {stop: {}}}\n  host: {messages: *m}\n"
    with pytest.raises(RewriteError, match="shares its entries"):
        rewrite(text, {"host.start": WantedMode(LEGACY, SHADOW, has_key=False)})
