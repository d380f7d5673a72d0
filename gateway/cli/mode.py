"""Commands for moving methods: who answers, why, what is known of both sides, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.text import Text

from gateway.cli.app import (
    DEFAULT_SOCKET,
    MOVING,
    UNUSABLE,
    JsonOption,
    SocketOption,
    WhyOption,
    app,
    argument,
    ask,
    fail,
)
from gateway.cli.output import count, moment, numbers, out, print_json, table

MAPPING = "mapping"  # in place of a mode: back to what the mapping says

PatternArgument = Annotated[
    str | None,
    typer.Argument(metavar="METHOD", help="A method, service/method, a pattern such as 'VM.*', or group:NAME."),
]


@app.command(rich_help_panel=MOVING)
def mode(
    method: PatternArgument = None,
    mode: Annotated[
        str | None, typer.Argument(metavar="MODE", help="legacy, shadow, canary, dbus, off; or mapping: back to it.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    percent: Annotated[
        str | None, typer.Option(metavar="SHARE", help="canary: how many of its keys D-Bus answers: 0.5, 12%.")
    ] = None,
    control: Annotated[
        str, typer.Option(metavar="SIDE", help="shadow: who answers, legacy (the default) or dbus.")
    ] = "",
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="For so long only: 90s, 10m, 2h. Then it is undone.")
    ] = None,
    why: WhyOption = "",
    *,
    observe: Annotated[
        bool, typer.Option("--observe", help="Ask the side that does not answer too, afterwards, and compare.")
    ] = False,
    noise: Annotated[
        bool, typer.Option("--noise", help="Call the legacy side twice: what it varies in is not a difference.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set who answers a method, show it, or show all that is set.

    It holds at once, in every gateway of this host, for all methods of a pattern or for none. With MODE `mapping` what
    the mapping says holds again. Refused: what would run a call twice that may not, or split a group.

    Examples:

    - `xcp-gateway mode` shows all that is set, `xcp-gateway mode VM.get_record` one method

    - `xcp-gateway mode 'VM.get_*' shadow --for 2h --why "first look"`

    - `xcp-gateway mode group:vm-lifecycle canary --percent 0.5`

    - `xcp-gateway mode VM.start mapping`
    """
    if method is None:
        _show_modes(ask(socket, "GET", "/v1/modes"), as_json=as_json)
        return
    if mode is None:
        _show_methods(ask(socket, "GET", f"/v1/methods?{urlencode({'pattern': method})}"), as_json=as_json)
        return
    if mode == MAPPING:
        changed = ask(socket, "POST", "/v1/mode/clear", {"pattern": method, "why": why})
    else:
        wish = {"pattern": method, "mode": mode, "percent": percent, "control": control, "observe": observe}
        changed = ask(socket, "POST", "/v1/mode", {**wish, "noise": noise, "seconds": _seconds(for_), "why": why})
    _show_changed(changed, as_json=as_json)


@app.command(rich_help_panel=MOVING)
def explain(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="The name that clients use, or service/method.")],
    args: Annotated[
        list[str] | None, typer.Argument(metavar="ARG...", help="Parameters: JSON, or else plain text.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    key: Annotated[
        str | None,
        typer.Option(metavar="K", help="What a canary divides (a VM's uuid, a user), instead of parameters."),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say who would answer a call, and why, without making it.

    Parameters are those that the mapping sees: without what a dialect adds of its own.

    Examples: `xcp-gateway explain VM.get_record SESSION OpaqueRef:1` or
    `xcp-gateway explain VM.start --key 6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001`
    """
    asked = {"method": method, "params": [argument(text) for text in args or []], "key": key}
    answer = ask(socket, "POST", "/v1/explain", asked)
    if as_json:
        print_json(answer)
        return
    for number, explanation in enumerate(answer):
        if number:
            out.print()
        _show_explanation(explanation)


@app.command(rich_help_panel=MOVING)
def diff(
    method: Annotated[str | None, typer.Argument(metavar="METHOD", help="Only of this method; default: all.")] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=10_000)] = 10,
    *,
    json_lines: Annotated[bool, typer.Option("--json-lines", help="One JSON document a line, for machines.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget the pairs and counts of METHOD: the cause is mended.")
    ] = False,
) -> None:
    """Show in what the answers of both sides differ, with the call that made them. Secrets are redacted.

    Red is what the control answered, green what the candidate did.

    Examples: `xcp-gateway diff VM.get_record`, `xcp-gateway diff --json-lines --limit 1000 > pairs.jsonl`
    """
    from gateway.cli import diff as diffing

    if forget:
        _forget(socket, method)
        return
    asked = {"limit": limit} if method is None else {"limit": limit, "method": method}
    pairs = ask(socket, "GET", f"/v1/diff?{urlencode(asked)}")
    if json_lines:
        for line in diffing.lines(
            {"when": pair["when"], "method": pair["method"], **pair["document"]} for pair in pairs
        ):
            print(line)  # noqa: T201
        return
    if not pairs:
        out.print("nothing differs")
    for number, pair in enumerate(pairs):
        if number:
            out.print()
        out.print(diffing.show(pair["document"], pair["when"]))


@app.command(rich_help_panel=MOVING)
def audit(
    subject: Annotated[
        str | None, typer.Argument(metavar="SUBJECT", help="Only of this pattern or rollout, written as it was set.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=10_000)] = 20,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Not older than: 90s, 10m, 2h.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show who has decided what, when and why, newest first, with the numbers that made a rollout decide.

    Examples: `xcp-gateway audit`, `xcp-gateway audit group:vm-lifecycle --since 2h`
    """
    import time

    ago = _seconds(since)
    asked = {"limit": limit, "since": 0 if ago is None else time.time() - ago}
    entries = ask(socket, "GET", f"/v1/audit?{urlencode(asked if subject is None else {**asked, 'subject': subject})}")
    if as_json:
        print_json(entries)
        return
    with table("WHEN", "WHO", "WHAT", "SUBJECT", "WHY", "NUMBERS") as rows:
        for entry in entries:
            cells = (moment(entry["when"]), *(entry[key] for key in ("who", "what", "subject", "why")))
            rows.add_row(*map(Text, cells), Text(numbers(entry["numbers"]), "dim"))


@app.command(rich_help_panel=MOVING)
def rollback(
    socket: SocketOption = DEFAULT_SOCKET,
    why: WhyOption = "",
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything: the only thing that can be said here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give every method back to its legacy service at once, and end all rollouts.

    Works when the buses are gone, and when the state file cannot be written: then it holds in this gateway only, and
    says so. `xcp-gateway mode '*' mapping` takes it back.

    Example: `xcp-gateway rollback --all --why "storage is slow"`
    """
    if not everything:
        fail("say --all to give everything back; one method: xcp-gateway mode METHOD legacy", UNUSABLE)
    _show_changed(ask(socket, "POST", "/v1/rollback", {"why": why}), as_json=as_json)


# How


def _seconds(text: str | None) -> float | None:
    from gateway.core.rpc import units

    try:
        return None if text is None else units.seconds(text)
    except ValueError as error:
        fail(str(error), UNUSABLE)


def _forget(socket: Path, method: str | None) -> None:
    if method is None:
        fail("say which METHOD is to be forgotten", UNUSABLE)
    forgotten = ask(socket, "POST", "/v1/evidence/clear", {"pattern": method})
    out.print(f"forgotten: pairs and counts of {count(len(forgotten), 'method')}")


def _show_modes(modes: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(modes)
        return
    if not modes:
        out.print("nothing is set: every method is as its mapping says")
        return
    with table("PATTERN", "MODE", "WHO", "SINCE", "UNTIL", "WHY") as rows:
        for each in modes:
            cells = (
                each["pattern"],
                each["mode"],
                each["who"],
                moment(each["when"]),
                moment(each["until"]),
                each["why"],
            )
            rows.add_row(*map(Text, cells))


def _show_methods(methods: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(methods)
        return
    with table("METHOD", "MODE", "FROM", "GROUP", "KEY", "EFFECT", "ASSESSMENT") as rows:
        for each in methods:
            name = f"{each['service']}/{each['method']}"
            cells = (
                name,
                each["mode"],
                each["source"],
                each["group"],
                each["key"] or "",
                each["effect"],
                each["verdict"],
            )
            rows.add_row(*map(Text, cells))


def _show_changed(changed: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
        return
    moved = [each for each in changed["methods"] if each["before"] != each["after"]]
    stays = [each for each in changed["methods"] if each["stays"]]
    same = len(changed["methods"]) - len(moved) - len([each for each in stays if each not in moved])
    for line in moved_lines(moved):
        out.print(line, markup=False)
    for each in stays:
        out.print(
            f"{each['service']}/{each['method']}: {each['after']}, since {each['stays']}", style="yellow", markup=False
        )
    if same:
        out.print(f"{count(same, 'method')} as before")
    if changed["held"]:
        out.print(f"only in this gateway, until it can be written down: {changed['held']}", style="red", markup=False)


MOST_LINES = 30  # methods that are named one by one; of more than that only their number is told


def moved_lines(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each method that has moved, or of very many how many have."""
    if len(methods) <= MOST_LINES:
        return [f"{each['service']}/{each['method']}: {each['before']} -> {each['after']}" for each in methods]
    numbers: dict[tuple[str, str, str], int] = {}
    for each in methods:
        kind = each["service"], each["before"], each["after"]
        numbers[kind] = numbers.get(kind, 0) + 1
    return [f"{service}: {count(n, 'method')} {before} -> {after}" for (service, before, after), n in numbers.items()]


_ANSWERS = {"legacy": "the legacy service answers", "dbus": "D-Bus answers", "nobody": "nobody answers"}


def _show_explanation(told: Mapping[str, Any]) -> None:
    out.print(Text.assemble((f"{told['service']}/{told['method']}", "bold"), f": {_ANSWERS[told['answers']]}"))
    for name, text in _facts(told):
        out.print(Text.assemble((f"  {name:9}", "dim"), text), soft_wrap=True)


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("why", told["why"]), ("mode", f"{told['mode']}: {told['source']}"), ("mapping", told["mapping"])]
    if told["key"] is not None:
        facts.append(("key", f"{told['key']}: {'this call has none' if told['value'] is None else told['value']}"))
    if told["bucket"] is not None:
        facts.append(("bucket", f"{told['bucket']} of {told['of']}; D-Bus answers those below {told['buckets']}"))
    if told["list"]:
        facts.append(("list", f"{told['list']}: the mapping lists this {told['key']}"))
    if told["group"]:
        facts.append(("group", f"{told['group']}: its methods move together"))
    if told["observed"]:
        facts.append(("then", f"{_ANSWERS[told['observed']].removesuffix('answers')}is asked too, and compared"))
    if told["fallback"]:
        facts.append(("else", "where D-Bus certainly executed nothing, the legacy service answers"))
    return [*facts, ("upstream", told["upstream"] or "none: D-Bus is the only side")]
