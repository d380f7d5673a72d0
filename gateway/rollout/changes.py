"""What a step of a rollout changes, all at once: its document, what it sets for its methods, a line of the audit."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.kept import Change, Entry, Json, PutRollout
from gateway.core.override import Override
from gateway.core.rollout import Progress, State, setting
from gateway.rollout import document
from gateway.rollout.document import Document


def moved(
    name: str,
    version: int,
    before: Document | None,
    after: Document,
    *,
    who: str,
    when: float,
    numbers: Mapping[str, Json] | None = None,
) -> Change:
    """From one document to the next; `before` None: it has just begun. The new progress says why."""
    progress = after.progress
    wanted = setting(after.plan, progress)
    same = before is not None and setting(before.plan, before.progress) == wanted and not _put_again(before, progress)
    override = (
        Override(name, wanted, f"rollout {after.plan.name}", when, progress.why, by="rollout") if wanted else None
    )
    what = "rollback" if progress.state is State.ROLLED_BACK else "rollout"
    said = {"state": progress.state.value, "step": str(after.step), **(numbers or {})}
    return Change(
        (Entry(when, who, what, name, progress.why, said),),
        put=() if override is None or same else (override,),
        drop=((name, "rollout"),) if override is None else (),
        rollouts=(PutRollout(name, document.write(after), version),),
    )


def _put_again(before: Document, progress: Progress) -> bool:
    """Somebody may have taken away what an overridden rollout had set; who resumes it wants it back."""
    return before.progress.state is State.OVERRIDDEN and progress.state is State.RUNNING


def counted(name: str, version: int, after: Document) -> Change:
    """Only from where counts are read: nothing that anybody decided."""
    return Change((), rollouts=(PutRollout(name, document.write(after), version),))
