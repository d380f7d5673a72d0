from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.migration.modes import UNMOVED, Migration, Mode, Setting, Side
from gateway.core.rpc.model import Call, Peer
from gateway.mapping.table import EndpointKey
from tests.kit.mappings import FIRST, HEAD, Built, build_files, build_methods

RPC = EndpointKey("rpc", "/rpc")
READ = "member: Stat, effect: read"
START = "member: Start, params: [paused, force]"


def moved(directory: Path, methods: str, *lines: str, session: bool = False) -> Built:
    """A file with a legacy service behind it; `lines` are further keys of the file."""
    more = ["legacy: {upstream: old}", *lines]
    if session:
        more.append("session: {parameter: session, interface: org.example.Session1, member: Check}")
    return build_methods(directory, methods, HEAD.replace("methods:\n", "\n".join((*more, "methods:", ""))))


def migration(directory: Path, entry: str, *lines: str, session: bool = False) -> Migration:
    return moved(directory, f"m: {{{entry}}}", *lines, session=session).route("m").migration


def problems(directory: Path, entry: str, *lines: str) -> list[str]:
    """Without file and line."""
    return [text.split(": ", 1)[1] for text in moved(directory, f"m: {{{entry}}}", *lines).problems]


def test_a_method_of_which_nothing_is_said_stays_where_it_is(tmp_path: Path) -> None:
    assert build_methods(tmp_path, "m: {member: Stat}").route("m").migration == UNMOVED


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("legacy", Setting(Mode.LEGACY)),
        ("dbus", Setting(Mode.DBUS)),
        ("'off'", Setting(Mode.OFF)),
        ("shadow", Setting(Mode.SHADOW)),
        ("{shadow: legacy}", Setting(Mode.SHADOW)),
        ("{shadow: dbus}", Setting(Mode.SHADOW, control=Side.DBUS)),
        ("{canary: 0%}", Setting(Mode.CANARY)),
        ("{canary: 100}", Setting(Mode.CANARY, 100_000)),
        ("{canary: 0.001%, key: peer}", Setting(Mode.CANARY, 1)),
        ("legacy, observe: true, noise: true", Setting(Mode.LEGACY, observe=True, noise=True)),
    ],
)
def test_a_mode_is_a_word_or_says_more(tmp_path: Path, said: str, setting: Setting) -> None:
    found = migration(tmp_path, f"{READ}, mode: {said}")
    assert found.setting == setting
    assert found.upstream == "old"


def test_a_method_may_have_another_old_service_than_its_file(tmp_path: Path) -> None:
    built = moved(tmp_path, f"m: {{{READ}, legacy: {{upstream: other}}}}\nn: {{{READ}}}")
    assert [built.route(name).migration.upstream for name in "mn"] == ["other", "old"]


def test_what_a_method_does_not_say_its_file_says(tmp_path: Path) -> None:
    said = "mode: {canary: 5%}, key: peer, always: [a], never: [7], on_unavailable: legacy, effect: read"
    methods = "m: {member: Stat}\nn: {member: Stat, mode: dbus, always: [], on_unavailable: fault}"
    built = moved(tmp_path, methods, f"defaults: {{{said}}}")
    m, n = built.route("m").migration, built.route("n").migration
    assert (m.setting, m.always, m.never, m.fallback) == (
        Setting(Mode.CANARY, 5000),
        frozenset("a"),
        frozenset("7"),
        True,
    )
    assert (n.setting, n.always, n.never, n.fallback) == (Setting(Mode.DBUS), frozenset(), frozenset("7"), False)


# What may run twice


@pytest.mark.parametrize(
    ("entry", "may"),
    [
        ("member: Stat, effect: read", True),
        ("property: PowerState", True),
        ("member: Stat, effect: idempotent", False),
        ("member: Stat, effect: idempotent, shadow: true", True),
        ("member: Stat", False),
    ],
)
def test_a_read_may_run_twice_and_what_the_mapping_says(tmp_path: Path, entry: str, may: bool) -> None:
    assert migration(tmp_path, entry).may_shadow is may


TWICE = "effect is write, the call would run twice"
UNSAID = "effect is idempotent, and no 'shadow: true' says that the call may run twice"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("member: Stat, mode: shadow", f"methods.m.mode: shadow is refused: {TWICE}"),
        ("member: Stat, mode: {shadow: dbus}", f"methods.m.mode: shadow is refused: {TWICE}"),
        ("member: Stat, observe: true", f"methods.m.observe: observe is refused: {TWICE}"),
        ("member: Stat, effect: idempotent, mode: shadow", f"methods.m.mode: shadow is refused: {UNSAID}"),
        ("member: Stat, shadow: true", f"methods.m.shadow: {TWICE}"),
    ],
)
def test_a_call_that_would_run_twice_is_refused(tmp_path: Path, entry: str, problem: str) -> None:
    assert problems(tmp_path, entry) == [problem]


def test_a_shadow_that_all_methods_are_to_have_is_refused_where_a_method_may_not(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "member: Stat", "defaults: {mode: shadow}")
    place = "defaults.mode says shadow: give this method a mode of its own"
    assert problem == f"methods.m: shadow is refused: {TWICE}; {place}"


def test_observing_is_wished_for_all_and_done_where_it_may(tmp_path: Path) -> None:
    built = moved(tmp_path, f"m: {{{READ}}}\nn: {{member: Stat}}", "defaults: {observe: true}")
    assert [built.route(name).migration.setting.observe for name in "mn"] == [True, False]


# What is not there


NOWHERE = "no 'legacy: {upstream: NAME}' says where the legacy service is"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("mode: legacy", f"methods.m.mode: legacy is refused: {NOWHERE}"),
        ("mode: shadow", f"methods.m.mode: shadow is refused: {NOWHERE}"),
        ("mode: {canary: 100%}", f"methods.m.mode: canary is refused: {NOWHERE}"),
        ("observe: true", f"methods.m.observe: there is nothing to observe: {NOWHERE}"),
        ("on_unavailable: legacy", f"methods.m.on_unavailable: legacy is refused: {NOWHERE}"),
        ("async: legacy", f"methods.m.async: legacy is refused: {NOWHERE}"),
    ],
)
def test_without_an_old_service_nothing_leads_there(tmp_path: Path, entry: str, problem: str) -> None:
    found = build_methods(tmp_path, f"m: {{{READ}, {entry}}}").problems
    assert [text.split(": ", 1)[1] for text in found] == [problem]


SHARE = "expected a share from 0% to 100% with at most three decimals"
NONE = "is no upstream of the config"


def test_an_upstream_is_one_of_the_config(tmp_path: Path) -> None:
    found = moved(
        tmp_path, f"m: {{{READ}, legacy: {{upstream: othr}}}}\nn: {{{READ}, legacy: {{upstream: x}}}}"
    ).problems
    assert found == [
        f"x.yaml:{FIRST + 1}:54: methods.m.legacy.upstream: 'othr' {NONE} (did you mean 'other'?)",
        f"x.yaml:{FIRST + 2}:54: methods.n.legacy.upstream: 'x' {NONE} (there are: old, other)",
    ]


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("canary", 'methods.m.mode: expected legacy or shadow or dbus or off, got "canary"'),
        ("{canary: 101%}", f"methods.m.mode.canary: {SHARE}, got '101%'"),
        ("{canary: 5%, shadow: dbus}", "methods.m.mode: expected exactly one of shadow, canary, got shadow and canary"),
        ("{kanary: 5%}", "methods.m.mode.kanary: unknown key 'kanary' (did you mean 'canary'?)"),
        ("{shadow: both}", 'methods.m.mode.shadow: expected legacy or dbus, got "both"'),
        ("5", "methods.m.mode: expected text or a struct, got 5"),
    ],
)
def test_a_mode_that_is_none_is_refused(tmp_path: Path, mode: str, problem: str) -> None:
    assert problem in problems(tmp_path, f"{READ}, mode: {mode}")


# The key of a canary


NO_KEY = "is no parameter, and nothing that is known of a caller"


def taken(found: Migration, call: Call) -> str | None:
    assert found.key is not None
    return found.key.take(call)


@pytest.mark.parametrize("where", ["mode: {canary: 5%, key: paused}", "mode: {canary: 5%}, key: paused"])
def test_a_key_is_a_parameter_wherever_it_is_said(tmp_path: Path, where: str) -> None:
    found = migration(tmp_path, f"{START}, {where}")
    assert taken(found, Call("m", ("a", True))) == "a"
    assert taken(found, Call("m", (7, True))) == "7"
    assert taken(found, Call("m", (True,), {"paused": "named"})) == "named"
    assert taken(found, Call("m", (True,))) is None
    assert taken(found, Call("m")) is None
    assert taken(found, Call("m", (["a"],))) is None


def test_a_key_of_the_method_comes_before_that_of_its_file(tmp_path: Path) -> None:
    defaults = "defaults: {mode: {canary: 5%, key: peer}}"
    found = migration(tmp_path, f"{START}, key: force", defaults)
    assert found.key is not None
    assert found.key.name == "force"


def test_the_session_is_a_key(tmp_path: Path) -> None:
    entry = "member: Start, params: [session, paused, force], mode: {canary: 5%, key: session}"
    found = migration(tmp_path, entry, session=True)
    assert taken(found, Call("m", ("OpaqueRef:a", True, False))) == "OpaqueRef:a"


@pytest.mark.parametrize(
    ("key", "peer", "expected"),
    [
        ("peer", Peer("tcp:192.0.2.1:4711"), "tcp:192.0.2.1"),
        ("peer", Peer("tcp:[::1]:4711"), "tcp:[::1]"),
        ("peer", Peer("unix:/run/x", uid=0, gid=0, pid=77), "uid 0"),
        ("peer", Peer("control"), "control"),
        ("peer", Peer(), None),
        ("domid", Peer(domid=3), "3"),
        ("domid", Peer(), None),
    ],
)
def test_who_calls_is_a_key(tmp_path: Path, key: str, peer: Peer, expected: str | None) -> None:
    assert taken(migration(tmp_path, f"{READ}, key: {key}"), Call("m", peer=peer)) == expected


def test_the_user_of_the_session_is_a_key(tmp_path: Path) -> None:
    found = migration(tmp_path, f"{READ}, key: user")
    assert taken(found, Call("m", extensions={"user": "root"})) == "root"
    assert taken(found, Call("m")) is None


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            f"{START}, mode: {{canary: 5%}}",
            "methods.m.mode: canary is refused: no 'key' says what its share is a share of",
        ),
        (
            f"{START}, key: force_",
            f"methods.m.key: 'force_' {NO_KEY} (did you mean 'force'?)",
        ),
        (
            f"{START}, mode: {{canary: 5%, key: x}}",
            f"methods.m.mode.key: 'x' {NO_KEY} (there are: paused, force, user, peer, domid, session)",
        ),
        (f"{START}, always: [a]", "methods.m.always: 'always' lists keys, and no 'key' says of what"),
        (f"{START}, key: session", f"methods.m.key: 'session' {NO_KEY}"),
    ],
)
def test_a_key_must_be_there(tmp_path: Path, entry: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(tmp_path, entry))


def test_a_key_of_the_file_that_a_method_has_not_is_none(tmp_path: Path) -> None:
    built = moved(tmp_path, f"m: {{{START}}}\nn: {{{READ}}}", "defaults: {key: force}")
    assert built.route("m").migration.key is not None
    assert built.route("n").migration.key is None


# What is not mapped


def test_an_endpoint_forwards_what_is_not_mapped(tmp_path: Path) -> None:
    built = moved(tmp_path, f"m: {{{READ}}}", "unmapped: passthrough")
    assert built.problems == []
    assert built.table.endpoints[RPC].passthrough_to == "old"
    assert moved(tmp_path, f"m: {{{READ}}}").table.endpoints[RPC].passthrough_to is None


def bare(*lines: str) -> str:
    return HEAD.replace("methods:\n", "\n".join((*lines, "methods: {}", "")))


def test_an_endpoint_may_forward_everything(tmp_path: Path) -> None:
    built = build_files(tmp_path, a=bare("legacy: {upstream: old}", "unmapped: passthrough"))
    assert built.problems == []
    endpoint = built.table.endpoints[RPC]
    assert (endpoint.routes, endpoint.passthrough_to) == ({}, "old")


def test_a_file_that_maps_and_forwards_nothing_is_refused(tmp_path: Path) -> None:
    for lines in ((), ("legacy: {upstream: old}", "unmapped: reject")):
        (problem,) = build_files(tmp_path, a=bare(*lines)).problems
        assert problem.endswith("methods: no method is mapped, and 'unmapped: passthrough' is not said")


def test_forwarding_needs_an_old_service(tmp_path: Path) -> None:
    (problem,) = build_files(tmp_path, a=bare("unmapped: passthrough")).problems
    assert problem == f"a.yaml:12:11: unmapped: passthrough is refused: {NOWHERE}"


def test_what_is_forwarded_must_be_understood(tmp_path: Path) -> None:
    text = bare("legacy: {upstream: old}", "unmapped: passthrough").replace("codec: xmlrpc", "codec: jsonrpc")
    (problem,) = build_files(tmp_path, a=text).problems
    assert problem.endswith("unmapped: rpc /rpc speaks jsonrpc/plain, the upstream 'old' understands only xmlrpc/plain")


@pytest.mark.parametrize(
    ("other", "wants"),
    [
        (("legacy: {upstream: other}", "unmapped: passthrough"), "passes through to 'other'"),
        (("unmapped: reject",), "rejects"),
    ],
)
def test_files_that_share_an_endpoint_agree_on_where_it_leads(
    tmp_path: Path, other: tuple[str, ...], wants: str
) -> None:
    first = bare("legacy: {upstream: old}", "unmapped: passthrough")
    second = bare(*other).replace("methods: {}", f"methods: {{m: {{{READ}}}}}")
    (problem,) = build_files(tmp_path, a=first, b=second).problems
    where = f"{tmp_path}/a.yaml:13".replace(f"{tmp_path}/", "")
    assert problem.endswith(f"rpc /rpc passes through to 'old' what is not mapped ({where}), this file {wants}")


def test_a_file_that_says_nothing_of_it_shares_an_endpoint_with_one_that_forwards(tmp_path: Path) -> None:
    built = build_files(
        tmp_path, a=bare("legacy: {upstream: old}", "unmapped: passthrough"), b=HEAD + f"  m: {{{READ}}}\n"
    )
    assert built.problems == []
    assert built.table.endpoints[RPC].passthrough_to == "old"
