"""What the forms of the web page do: the same operations as the commands, with the fields of a form as arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from gateway.admin import api
from gateway.admin.handlers import Operations
from gateway.admin.service import AdminService
from gateway.core.admin.records import StateRefused
from gateway.core.admin.views import ModeRequest, ModeResult
from gateway.core.rpc import units

Form = Mapping[str, str]
_T = TypeVar("_T")


class Refusal(Exception):  # noqa: N818 - it is no error of the program
    """Why an action was not done, for the person who asked for it."""


def _done(result: _T | StateRefused) -> _T:
    if isinstance(result, StateRefused):
        raise Refusal(result.why)
    return result


async def _changed(changing: Awaitable[ModeResult | StateRefused]) -> str:
    result = _done(await changing)
    moved = [each for each in result.methods if each.changed]
    held = f"; applies to this gateway only: {result.held}" if result.held else ""
    if len(moved) == 1:
        (one,) = moved
        return f"{one.service}/{one.method}: {one.before} -> {one.after}{held}"
    return f"{len(moved)} methods changed: {result.mode}{held}" if moved else f"nothing has changed{held}"


async def _set_mode(_operations: Operations, service: AdminService, form: Form, who: str) -> str:
    try:
        seconds = units.seconds(form["duration"]) if form.get("duration") else None
    except ValueError as error:
        raise Refusal(f"duration: {error}") from error
    wanted = ModeRequest(
        pattern=form.get("pattern", ""),
        mode=form.get("mode", ""),
        percent=form.get("percent") or None,
        control=form.get("control", "") if form.get("mode") == "shadow" else "",
        observe="observe" in form,
        noise="noise" in form,
        seconds=seconds,
        why=form["why"],
    )
    return await _changed(service.set_mode(wanted, who))


async def _reset(_operations: Operations, service: AdminService, form: Form, who: str) -> str:
    done = _done(await service.reset_statistics(form.get("pattern", ""), who, form["why"]))
    return f"mismatches and call statistics of {len(done)} methods are deleted"


async def _reload(operations: Operations, service: AdminService, form: Form, who: str) -> str:
    answer = await operations.reload()
    problems = answer.get("problems")
    if isinstance(problems, list) and problems:
        raise Refusal("reload refused:\n" + "\n".join(map(str, problems)))
    await service.note(who, "reload", "*", {"revision": str(answer["revision"])}, form["why"])
    return f"revision {answer['revision']} is live"


async def _rollout(verb: str, _operations: Operations, service: AdminService, form: Form, who: str) -> str:
    view = _done(await getattr(service.rollouts, verb)(form.get("name", ""), who, form["why"]))
    return f"{view.name}: {view.state} at {view.step}"


# Name in the path -> what it does, and then says; each has the reason in `why`.
ACTIONS: Mapping[str, Callable[[Operations, AdminService, Form, str], Awaitable[str]]] = {
    "set-mode": _set_mode,
    "clear-mode": lambda _, service, form, who: _changed(service.clear_mode(form.get("pattern", ""), who, form["why"])),
    "rollback": lambda _, service, form, who: _changed(service.rollback_all(who, form["why"])),
    "undo-rollback": lambda _, service, form, who: _changed(service.undo_rollback(who, form["why"])),
    "reset-statistics": _reset,
    "reload": _reload,
    **{f"{verb}-rollout": partial(_rollout, verb) for verb in api.ROLLOUT_VERBS},
}
