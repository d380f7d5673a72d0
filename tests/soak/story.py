"""Records of each call and each disturbance."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from gateway.core.rpc.model import FaultCode


class Ending(Enum):
    """How a call ended, as its client saw it."""

    RIGHT = "right"
    FAULT = "fault"
    WRONG = "wrong"  # an answer that is not the one to this call, or none that can be read
    SILENT = "silent"  # no answer
    LEFT = "left"  # the client went away
    NOTIFIED = "notified"  # no answer was wanted, and none came


@dataclass(slots=True)
class Story:
    """One call."""

    token: str
    service: str
    method: str
    client: str
    began: float
    ended: float = inf
    ending: Ending = Ending.SILENT
    code: FaultCode | None = None
    text: str = ""

    def end(self, ending: Ending, text: str = "", code: FaultCode | None = None) -> None:
        """Its last line; there is but one."""
        self.ended, self.ending, self.text, self.code = time.monotonic(), ending, text, code

    def __str__(self) -> str:
        code = f" {self.code.value}" if self.code else ""
        how_long = f"{self.began:.3f} +{self.ended - self.began:.3f} s"
        what = f"{self.service}.{self.method} {self.token}"
        return f"{how_long} {self.client}: {what}: {self.ending.value}{code} {self.text}"


@dataclass(slots=True)
class Disturbance:
    """Something done to a service or to a bus; over when a probe was answered again."""

    kind: str
    place: str
    began: float
    ended: float = inf

    def touches(self, story: Story) -> bool:
        """Whether it may have affected this call, by time alone."""
        return self.began <= story.ended and story.began <= self.ended


@dataclass
class Ledger:
    """All records of a run. Correct reads are only counted."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # service, how it ended
    clients: Counter[str] = field(default_factory=Counter)  # answers by kind of client
    stories: list[Story] = field(default_factory=list)  # faults, writes and what should not be
    calm: list[Story] = field(default_factory=list)  # calls whose message held no call to another service
    disturbances: list[Disturbance] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)  # hostile bodies, stalls, reloads
    offences: list[str] = field(default_factory=list)  # seen on the spot

    def keep(self, story: Story, kind: str, *, calm: bool) -> None:
        """Record a call that has ended."""
        how = story.code.value if story.code else story.ending.value
        self.counts[story.service, how] += 1
        self.clients[kind] += 1
        if calm:
            self.calm.append(story)
        if story.method == "write" or story.ending is not Ending.RIGHT:
            self.stories.append(story)

    @contextmanager
    def disturbance(self, kind: str, place: str) -> Iterator[Disturbance]:
        """Note when it began, and when it was over."""
        one = Disturbance(kind, place, time.monotonic())
        self.disturbances.append(one)
        yield one
        one.ended = time.monotonic()
