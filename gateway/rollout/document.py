"""A rollout as it is kept: a JSON document with everything that a gateway needs to go on where another one stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from gateway.core.kept import Json
from gateway.core.limits import Sides
from gateway.core.rollout import OVER, Progress, RolloutPlan, Step

FORMAT = 1
UNREADABLE = "cannot be read by this version of the gateway"
LONGEST = 300  # characters of why


@dataclass(frozen=True, slots=True)
class Document:
    """`start`: what each member had counted when the step began; None until the counts of the one before are in."""

    plan: RolloutPlan  # as it was when the rollout began, whatever the mapping says later
    progress: Progress
    who: str
    began: float  # seconds since 1970
    start: Mapping[str, Sides] | None = None
    format: int = FORMAT

    @property
    def step(self) -> Step:
        """Where it is."""
        return self.plan.steps[self.progress.step]

    @property
    def over(self) -> bool:
        """Whether it does nothing any more."""
        return self.progress.state in OVER

    def at(self, progress: Progress) -> Document:
        """The same rollout further on. What begins now begins with counts of its own."""
        return replace(self, progress=progress, start=self.start if progress.since == self.progress.since else None)


def write(document: Document) -> Json:
    """The document as JSON."""
    json: Json = msgspec.to_builtins(document)
    return json


def read(json: Json) -> Document | str:
    """The same backwards, or in words why it cannot be read: another version of the gateway wrote it."""
    try:
        document = msgspec.convert(json, Document)
    except msgspec.ValidationError as error:
        return f"{UNREADABLE}: {str(error)[:LONGEST]}"
    step, count = document.progress.step, len(document.plan.steps)
    return document if 0 <= step < count else f"{UNREADABLE}: it is at step {step}, and its plan has {count}"
