"""Commands for methods that move by themselves: start a rollout, hold it, let it on, end it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from gateway.cli.app import DEFAULT_SOCKET, EPILOG, MOVING, JsonOption, SocketOption, WhyOption, app, ask
from gateway.cli.output import moment, numbers, out, print_json, table

rollout = typer.Typer(
    help="Let a method, or a group of them, move by itself: shadow, a small share, more, all; and back on a breach.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(rollout, name="rollout", rich_help_panel=MOVING)

NameArgument = Annotated[str, typer.Argument(metavar="METHOD", help="A method, service/method, or group:NAME.")]


@rollout.command()
def start(
    name: NameArgument, socket: SocketOption = DEFAULT_SOCKET, why: WhyOption = "", *, as_json: JsonOption = False
) -> None:
    """Begin with the first step of the plan that the mapping says.

    Example: `xcp-gateway rollout start group:vm-lifecycle --why "shadow was equal for a week"`
    """
    _order(socket, "start", name, why, as_json=as_json)


@rollout.command()
def pause(
    name: NameArgument, socket: SocketOption = DEFAULT_SOCKET, why: WhyOption = "", *, as_json: JsonOption = False
) -> None:
    """Hold the step; a breach still acts.

    Example: `xcp-gateway rollout pause VM.get_record --why "backup is running"`
    """
    _order(socket, "pause", name, why, as_json=as_json)


@rollout.command()
def resume(
    name: NameArgument, socket: SocketOption = DEFAULT_SOCKET, why: WhyOption = "", *, as_json: JsonOption = False
) -> None:
    """Go on after a pause, a step down, a freeze, or when a person's mode was taken back.

    Example: `xcp-gateway rollout resume VM.get_record`
    """
    _order(socket, "resume", name, why, as_json=as_json)


@rollout.command()
def approve(
    name: NameArgument, socket: SocketOption = DEFAULT_SOCKET, why: WhyOption = "", *, as_json: JsonOption = False
) -> None:
    """Let it through the gate at which it waits for a person.

    Example: `xcp-gateway rollout approve VM.start --why "looked at the diffs"`
    """
    _order(socket, "approve", name, why, as_json=as_json)


@rollout.command()
def abort(
    name: NameArgument, socket: SocketOption = DEFAULT_SOCKET, why: WhyOption = "", *, as_json: JsonOption = False
) -> None:
    """End it and give its methods to the legacy service.

    Example: `xcp-gateway rollout abort VM.start --why "wrong week"`
    """
    _order(socket, "abort", name, why, as_json=as_json)


@rollout.command("list")
def list_(socket: SocketOption = DEFAULT_SOCKET, *, as_json: JsonOption = False) -> None:
    """Show every rollout, those that are over too: where it is, and what it waits for.

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


def _order(socket: Path, order: str, name: str, why: str, *, as_json: bool) -> None:
    view: Mapping[str, Any] = ask(socket, "POST", f"/v1/rollouts/{order}", {"name": name, "why": why})
    if as_json:
        print_json(view)
        return
    step = f"step {view['number']} of {len(view['steps'])}, {view['step']}"
    out.print(f"{view['name']}: {view['state']} at {step} (plan {view['plan']})", markup=False)
    if view["why"]:
        out.print(f"  {view['why']}", markup=False, style="dim", soft_wrap=True)
    if view["numbers"]:
        out.print(f"  {numbers(view['numbers'])}", markup=False, style="dim", soft_wrap=True)
