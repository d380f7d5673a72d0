"""Commands for modes and rollouts: mode, explain, diff, audit, rollback, rollout."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from gateway.cli import completion
from gateway.cli.app import (
    DEFAULT_SOCKET,
    FAILED,
    UNUSABLE,
    ArgsArgument,
    Commands,
    JsonOption,
    SocketOption,
    WhyOption,
    argument,
    ask,
    fail,
    flag,
    option,
    parsed,
    positional,
)
from gateway.cli.output import count, moment, numbers, out, print_fitted, print_json, table
from gateway.core.rpc import units

commands = Commands()


@commands.command()
def mode(
    words: Annotated[
        list[str] | None,
        positional(
            "[set|clear] [METHOD] [MODE]",
            "METHOD: a method, service/method, a pattern such as 'VM.*', or group:NAME. "
            "MODE: legacy, shadow, canary, dbus or off.",
            completion.mode_words,
        ),
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    percent: Annotated[str | None, option("SHARE", "canary: the share of keys that D-Bus serves: 0.5, 12%.")] = None,
    control: Annotated[
        str,
        option(
            "SIDE", "shadow: the side that serves, legacy (default) or dbus.", autocompletion=lambda: ["legacy", "dbus"]
        ),
    ] = "",
    duration: Annotated[str | None, option("TIME", "Clear the mode after this time: 90s, 10m, 2h.")] = None,
    why: WhyOption = "",
    *,
    observe: Annotated[bool, flag("--observe", "Run the call on the other side too, afterwards, and compare.")] = False,
    noise: Annotated[
        bool, flag("--noise", "Run the legacy side twice; ignore fields that differ between its responses.")
    ] = False,
    guarded: Annotated[
        bool, flag("--guarded", "A breach of the limits of the method's rollout ends the mode.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show, set or clear the mode of methods.

    A mode applies at once, in every gateway of this host, to all methods of a pattern or to none. A mode that would
    run a write twice or split a group is refused. Without `set`, METHOD and MODE set a mode too. Exit status 1 if
    nothing has changed.

    Examples:

    - `xcp-gateway mode` lists the modes set at run time, `xcp-gateway mode VM.get_record` shows one method

    - `xcp-gateway mode set 'VM.get_*' shadow --duration 2h --why "first look"`

    - `xcp-gateway mode group:vm-lifecycle canary --percent 0.5`

    - `xcp-gateway mode clear VM.start` restores the mode of the mapping, also after a rollout that is over
    """
    verb, *rest = words or ["list"]
    if verb not in ("set", "clear", "list"):
        verb, rest = ("set", [verb, *rest]) if rest else ("show", [verb])
    expected = {"list": "", "show": "METHOD", "set": "METHOD MODE", "clear": "METHOD"}[verb]
    if len(rest) != len(expected.split()):
        fail(f"mode {verb}: expected {expected or 'no argument'}, got {' '.join(rest) or 'nothing'}", UNUSABLE)
    if verb in ("list", "show"):
        rows = ask(socket, "GET", "/v1/methods", pattern=rest[0]) if rest else ask(socket, "GET", "/v1/modes")
        show = print_json if as_json else _show_methods if rest else _show_modes
        show(rows)
        return
    wanted: dict[str, object] = {"pattern": rest[0], "why": why}
    if verb == "set":
        wanted |= {"mode": rest[1], "percent": percent, "control": control}
        wanted |= {"observe": observe, "noise": noise, "guarded": guarded}
        wanted["seconds"] = None if duration is None else parsed(units.seconds, duration)
    path = "/v1/mode/clear" if verb == "clear" else "/v1/mode"
    changed = ask(socket, "POST", path, wanted)
    _show_changed(changed, as_json=as_json, notes=_unreachable(socket, rest[0]))


@commands.command()
def explain(
    method: Annotated[str, positional("METHOD", "The name that clients use, or service/method.", completion.patterns)],
    args: ArgsArgument = None,
    socket: SocketOption = DEFAULT_SOCKET,
    key: Annotated[str | None, option("K", "The canary key (a VM uuid, a user), instead of parameters.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain which side would serve a call, and why. The call is not made.

    Parameters are those after the dialect: without a session reference that the dialect adds, for example.

    Examples: `xcp-gateway explain VM.get_record SESSION OpaqueRef:1`,
    `xcp-gateway explain VM.start --key 6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001`
    """
    call = {"method": method, "params": [argument(text) for text in args or []], "key": key}
    answer = ask(socket, "POST", "/v1/explain", call)
    if as_json:
        print_json(answer)
        return
    for number, explanation in enumerate(answer):
        if number:
            out.print()
        _show_explanation(explanation)


@commands.command()
def diff(
    method: Annotated[str | None, positional("METHOD", "A method; default: all.", completion.patterns)] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    limit: Annotated[int, typer.Option(help="The number of mismatches, the newest first.", min=1, max=10_000)] = 10,
    *,
    as_json: JsonOption = False,
    json_lines: Annotated[bool, flag("--json-lines", "Print one JSON document a mismatch.")] = False,
    reset: Annotated[
        bool, flag("--reset", "Delete mismatches and call statistics of METHOD, after its cause is fixed.")
    ] = False,
) -> None:
    """Show mismatches: calls whose outcomes differ between the two sides. Secrets are redacted.

    A summary by place is first: how many of the mismatches differ there, and the newest values. Red is the outcome of
    the control, green that of the candidate.

    Examples: `xcp-gateway diff VM.get_record`, `xcp-gateway diff --json-lines --limit 1000 > mismatches.jsonl`
    """
    from gateway.cli import diff as diffing

    if reset:
        if method is None:
            fail("--reset: METHOD is missing", UNUSABLE)
        methods = ask(socket, "POST", "/v1/statistics/reset", {"pattern": method})
        if as_json:
            print_json(methods)
        else:
            out.print(f"deleted mismatches and call statistics of {count(len(methods), 'method')}")
        return
    pairs = ask(socket, "GET", "/v1/diff", limit=limit, method=method)
    if json_lines:
        for pair in pairs:
            told = {"when": pair["when"], "method": pair["method"], **pair["document"]}
            print(json.dumps(told, separators=(",", ":"), allow_nan=False))  # noqa: T201
        return
    places = diffing.places(pairs)
    if as_json:
        print_json({"places": places, "mismatches": pairs})
        return
    if not pairs:
        out.print("no mismatches")
        return
    out.print(f"the newest {count(len(pairs), 'mismatch', 'mismatches')}, by place", style="bold")
    print_fitted(diffing.summary(places))
    for pair in pairs:
        out.print()
        print_fitted(diffing.show(pair["document"], pair["when"]))


@commands.command()
def audit(
    subject: Annotated[
        str | None, positional("SUBJECT", "A pattern or a rollout; default: all.", completion.rollouts)
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    limit: Annotated[int, typer.Option(help="The number of entries, the newest first.", min=1, max=10_000)] = 20,
    since: Annotated[str | None, option("TIME", "The greatest age: 90s, 10m, 2h.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List decisions, the newest first: time, person or rollout, reason, and the numbers of the decision.

    Examples: `xcp-gateway audit`, `xcp-gateway audit group:vm-lifecycle --since 2h`
    """
    earliest = 0 if since is None else time.time() - parsed(units.seconds, since)
    entries = ask(socket, "GET", "/v1/audit", limit=limit, since=earliest, subject=subject)
    if as_json:
        print_json(entries)
        return
    if not entries:
        out.print(f"no decisions{f' about {subject}' if subject else ''}{f' within {since}' if since else ''}")
        return
    with table("WHEN", "WHO", "WHAT", "SUBJECT", "WHY", "NUMBERS") as rows:
        for entry in entries:
            cells = (moment(entry["when"]), *(entry[key] for key in ("who", "what", "subject", "why")))
            rows.add_row(*map(Text, cells), Text(numbers(entry["numbers"]), "dim"))


@commands.command()
def rollback(
    socket: SocketOption = DEFAULT_SOCKET,
    why: WhyOption = "",
    *,
    everything: Annotated[bool, flag("--all", "Set all methods to legacy.")] = False,
    undo: Annotated[bool, flag("--undo", "Restore the modes that were set before. Rollouts stay ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set every method to legacy at once and end all rollouts. A method that a person has set to off stays off.

    It works without buses, and without a writable state file: then it applies to this gateway only, and the command
    prints that. Exit status 1 if nothing has changed. `--undo` restores the modes that were set at run time before;
    `xcp-gateway mode clear '*'` returns to the modes of the mapping.

    Examples: `xcp-gateway rollback --all --why "storage is slow"`, `xcp-gateway rollback --undo`
    """
    if everything == undo:
        fail("expected --all or --undo; for one method use `xcp-gateway mode set METHOD legacy`", UNUSABLE)
    changed = ask(socket, "POST", f"/v1/rollback{'/undo' * undo}", {"why": why})
    notes = _unreachable(socket, "*")
    if undo and not as_json:
        notes = chain(notes, list(_unwatched(socket)))  # asked for before anything is printed
    _show_changed(changed, as_json=as_json, everything=True, notes=notes)


def _unwatched(socket: Path) -> Iterator[str]:
    """The restored modes whose rollout has ended: no limit brings them back."""
    ended = {each["name"] for each in ask(socket, "GET", "/v1/rollouts") if each["state"] == "aborted"}
    for each in ask(socket, "GET", "/v1/modes"):
        if each["pattern"] in ended and each["who"].startswith("rollout "):
            yield (
                f"the rollout of {each['pattern']} stays ended, and nothing watches its mode {each['mode']}: "
                f"`xcp-gateway mode clear {each['pattern']}`, then `rollout start`, begins it again"
            )


def _show_modes(modes: Sequence[Mapping[str, Any]]) -> None:
    if not modes:
        out.print("no modes are set at run time; every method has the mode of its mapping")
        return
    with table("PATTERN", "MODE", "WHO", "SINCE", "UNTIL", "WHY") as rows:
        for each in modes:
            mode = f"{each['mode']}{' guarded' if each['guarded'] else ''}"
            times = (moment(each["when"]), moment(each["until"]))
            rows.add_row(*map(Text, (each["pattern"], mode, each["who"], *times, each["why"])))


def _show_methods(methods: Sequence[Mapping[str, Any]]) -> None:
    with table("METHOD", "MODE", "SOURCE", "GROUP", "KEY", "EFFECT", "ASSESSMENT") as rows:
        for each in methods:
            others = (each[name] or "" for name in ("mode", "source", "group", "key", "effect", "verdict"))
            rows.add_row(*map(Text, (f"{each['service']}/{each['method']}", *others)))


def _show_changed(
    changed: Mapping[str, Any], *, as_json: bool, everything: bool = False, notes: Iterable[str] = ()
) -> NoReturn:
    """Print what has changed, then the notes; exit status 1 if nothing has.

    `everything`: of all methods, only changed modes.
    """
    moved = [each for each in changed["methods"] if each["changed"]]
    status = 0 if moved else FAILED
    if everything:
        moved = [each for each in moved if each["before"] != each["after"]]
    if as_json:
        print_json({**changed, "notes": [*changed["notes"], *notes]})
        raise typer.Exit(status)
    stays = [each for each in changed["methods"] if each["stays"]]
    same = len(changed["methods"]) - len(moved) - sum(each not in moved for each in stays)
    for line in moved_lines(moved):
        out.print(line)
    for each in stays:
        out.print(f"{each['service']}/{each['method']}: {each['after']}, since {each['stays']}", style="yellow")
    if same:
        out.print(f"{count(same, 'method')} unchanged")
    if status:
        out.print("nothing has changed", style="yellow")
    for note in notes:
        out.print(note, style="yellow", markup=False, soft_wrap=True)
    for note in changed["notes"]:
        out.print(note, style="yellow")
    if changed["held"]:
        out.print(f"applies to this gateway only until the state can be written: {changed['held']}", style="red")
    raise typer.Exit(status)


_TO_PROBE = 5.0  # seconds that an answer of the gateway with probes may take


def _unreachable(socket: Path, pattern: str) -> Iterator[str]:
    """The legacy services of these methods that serve calls now and cannot be reached; none where the probe fails."""
    from gateway.cli import client

    with suppress(client.UnreachableError, client.RefusedError):
        rows = client.ask(socket, "GET", "/v1/methods", pattern=pattern, timeout=_TO_PROBE)
        serving = {row["upstream"] for row in rows if _served_by_legacy(row["setting"])}
        for each in client.ask(socket, "GET", "/v1/status", timeout=_TO_PROBE)["upstreams"] if serving else ():
            if each["name"] in serving and each["unreachable"]:
                where = f"the legacy service '{each['name']}' ({each['url']}), which serves calls now"
                yield f"{where}, cannot be reached: {each['unreachable']}; start it, or choose another mode"


def _served_by_legacy(setting: Mapping[str, Any]) -> bool:
    mode = setting["mode"]
    return mode in ("legacy", "canary") or (mode == "shadow" and setting["control"] == "legacy")


MAX_LINES = 30  # methods that are listed one by one; of more only the number is printed


def moved_lines(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each changed method, or counts if there are very many."""
    if len(methods) <= MAX_LINES:
        return [f"{each['service']}/{each['method']}: {_change(each)}" for each in methods]
    numbers = Counter((each["service"], _change(each)) for each in methods)
    return [f"{service}: {count(n, 'method')} {change}" for (service, change), n in numbers.items()]


def _change(method: Mapping[str, Any]) -> str:
    """The change in words. Where the mode is the same, its end or its source is another one."""
    if method["before"] != method["after"]:
        return f"{method['before']} -> {method['after']}"
    if method["set_by"] == "mapping":
        return f"{method['after']} as before, now by the mapping"
    until = "it is cleared" if method["until"] is None else moment(method["until"])
    return f"{method['after']} as before, now by {method['set_by']} until {until}"


_SERVED_BY = {"legacy": "served by legacy", "dbus": "served by D-Bus", "nobody": "rejected"}


def _show_explanation(explained: Mapping[str, Any]) -> None:
    name = f"{explained['service']}/{explained['method']}"
    out.print(Text.assemble((name, "bold"), f": {_SERVED_BY[explained['answers']]}"))
    for fact, text in _facts(explained):
        out.print(Text.assemble((f"  {fact:9}", "dim"), text))


def _facts(explained: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "why", explained["why"]
    yield "mode", f"{explained['mode']}: {explained['source']}"
    yield "mapping", explained["mapping"]
    key = explained["key"]
    if key is not None:
        yield "key", f"{key}: {'this call has none' if explained['value'] is None else explained['value']}"
    if explained["bucket"] is not None:
        served = f"D-Bus serves those below {explained['buckets']}"
        yield "bucket", f"{explained['bucket']} of {explained['of']}; {served}"
    if explained["list"]:
        yield "list", f"{explained['list']}: the mapping lists this {key}"
    if explained["group"]:
        yield "group", f"{explained['group']}: its methods migrate together"
    if explained["observed"]:
        part = "the call" if explained["sampling"] == "100%" else f"a sample of the calls ({explained['sampling']})"
        side = "D-Bus" if explained["observed"] == "dbus" else "legacy"
        yield "observe", f"{side} runs {part} too, and the outcomes are compared"
    if explained["fallback"]:
        yield "fallback", "legacy serves a call that D-Bus certainly did not execute"
    if explained["client_errors"]:
        codes = ", ".join(explained["client_errors"])
        yield "client", f"faults with these codes are the client's, and count for neither side: {codes}"
    yield "upstream", explained["upstream"] or "none: D-Bus is the only side"


# rollout


rollout = Commands()
commands.add_typer(rollout, name="rollout")


@rollout.callback()
def _rollout() -> None:
    """Migrate a method or a group step by step (shadow, canary, dbus), and roll back on a breach.

    Examples: `xcp-gateway rollout start VM.get_record`, `xcp-gateway rollout list`
    """


NameArgument = Annotated[str, positional("METHOD", "A method, service/method, or group:NAME.", completion.rollouts)]


def _command(verb: str, about: str) -> None:
    """Add a command that changes one rollout, and shows it then."""

    def run(
        name: NameArgument, socket: SocketOption = DEFAULT_SOCKET, why: WhyOption = "", *, as_json: JsonOption = False
    ) -> None:
        view: Mapping[str, Any] = ask(socket, "POST", f"/v1/rollouts/{verb}", {"name": name, "why": why})
        if as_json:
            print_json(view)
            return
        step = f"step {view['number']} of {len(view['steps'])}, {view['step']}"
        out.print(f"{view['name']}: {view['state']} at {step} (plan {view['plan']})")
        if view["why"]:
            out.print(f"  {view['why']}", style="dim")
        counted = {name: value for name, value in view["numbers"].items() if name != "step_seconds"}
        if any(counted.values()):  # not of a step that has just begun
            out.print(f"  {numbers(view['numbers'])}", style="dim")

    rollout.command(verb, help=about)(run)


_VERBS = {
    "start": """Start the first step of the plan in the mapping.

    Example: `xcp-gateway rollout start group:vm-lifecycle --why "shadow was equal for a week"`
    """,
    "pause": """Hold the current step. A breach is still acted on.

    Example: `xcp-gateway rollout pause VM.get_record --why "backup is running"`
    """,
    "resume": """Continue after a pause, a step down, a freeze, or after a mode set by a person was cleared.

    Example: `xcp-gateway rollout resume VM.get_record`
    """,
    "approve": """Pass the gate at which the rollout waits for approval.

    Example: `xcp-gateway rollout approve VM.start --why "looked at the diffs"`
    """,
    "abort": """End the rollout and set its methods to legacy.

    Example: `xcp-gateway rollout abort VM.start --why "wrong week"`
    """,
}
for _verb, _about in _VERBS.items():
    _command(_verb, _about)


@rollout.command("list")
def list_(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """List all rollouts, ended ones too, with their step and what they wait for.

    Example: `xcp-gateway rollout list`
    """
    views = ask(socket, "GET", "/v1/rollouts")
    if as_json:
        print_json(views)
        return
    if not views:
        out.print("no rollouts")
        return
    with table("ROLLOUT", "PLAN", "STATE", "STEP", "SINCE", "WHY") as rows:
        for view in views:
            step = f"{view['number']} of {len(view['steps'])}: {view['step']}"
            state = Text(view["state"], _STYLES.get(view["state"], ""))
            cells = (step, moment(view["since"]), view["why"])
            rows.add_row(Text(view["name"]), Text(view["plan"]), state, *map(Text, cells))


_STYLES = {"running": "green", "done": "green", "rolled back": "red", "frozen": "red", "waiting": "yellow"}
