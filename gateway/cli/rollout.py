"""The commands `xcp-gateway rollout ...`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from rich.text import Text

from gateway.cli import completion
from gateway.cli.app import DEFAULT_SOCKET, Commands, JsonOption, SocketOption, WhyOption, ask, positional
from gateway.cli.output import moment, numbers, out, print_json, table

rollout = Commands()
commands = Commands()
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


COMMANDS = {
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
for _verb, _about in COMMANDS.items():
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
