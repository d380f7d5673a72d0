"""What the forms of the web page do: the same operations as the commands, with the fields of a form as arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct

from gateway.admin.handlers import Operations
from gateway.admin.service import AdminService
from gateway.core.admin.records import StateRefused
from gateway.core.admin.views import ModeRequest, ModeResult
from gateway.core.rpc import units

Form = Mapping[str, str]


class Outcome(Struct, frozen=True):
    """What became of an action, for the person who asked for it."""

    text: str
    is_done: bool = True


async def _set_mode(_operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
    try:
        seconds = units.seconds(form["duration"]) if form.get("duration") else None
    except ValueError as error:
        return Outcome(f"duration: {error}", is_done=False)
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
    return _changed(await service.set_mode(wanted, who))


async def _clear_mode(_operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
    return _changed(await service.clear_mode(form.get("pattern", ""), who, form["why"]))


async def _rollback(_operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
    return _changed(await service.rollback_all(who, form["why"]))


async def _undo(_operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
    return _changed(await service.undo_rollback(who, form["why"]))


async def _reset(_operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
    done = await service.reset_statistics(form.get("pattern", ""), who, form["why"])
    if isinstance(done, StateRefused):
        return Outcome(done.why, is_done=False)
    return Outcome(f"mismatches and call statistics of {len(done)} methods are deleted")


async def _reload(operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
    answer = await operations.reload()
    problems = answer.get("problems")
    if isinstance(problems, list) and problems:
        return Outcome("reload refused:\n" + "\n".join(map(str, problems)), is_done=False)
    await service.note(who, "reload", "*", {"revision": str(answer["revision"])}, form["why"])
    return Outcome(f"revision {answer['revision']} is live")


def _rollout(verb: str) -> Callable[[Operations, AdminService, Form, str], Awaitable[Outcome]]:
    async def act(_operations: Operations, service: AdminService, form: Form, who: str) -> Outcome:
        view = await getattr(service.rollouts, verb)(form.get("name", ""), who, form["why"])
        if isinstance(view, StateRefused):
            return Outcome(view.why, is_done=False)
        return Outcome(f"{view.name}: {view.state} at {view.step}")

    return act


def _changed(result: ModeResult | StateRefused) -> Outcome:
    if isinstance(result, StateRefused):
        return Outcome(result.why, is_done=False)
    moved = [each for each in result.methods if each.changed]
    held = f"; applies to this gateway only: {result.held}" if result.held else ""
    if len(moved) == 1:
        (one,) = moved
        return Outcome(f"{one.service}/{one.method}: {one.before} -> {one.after}{held}")
    return Outcome(f"{len(moved)} methods changed: {result.mode}{held}" if moved else f"nothing has changed{held}")


# Name in the path -> what it does; each has the reason in `why`.
ACTIONS: Mapping[str, Callable[[Operations, AdminService, Form, str], Awaitable[Outcome]]] = {
    "set-mode": _set_mode,
    "clear-mode": _clear_mode,
    "rollback": _rollback,
    "undo-rollback": _undo,
    "reset-statistics": _reset,
    "reload": _reload,
    **{f"{verb}-rollout": _rollout(verb) for verb in ("start", "pause", "resume", "approve", "abort")},
}
