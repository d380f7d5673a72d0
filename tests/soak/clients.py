"""The clients of a run: they call and check each answer, or leave in mid-call."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count, cycle, islice, product
from typing import Any

from tests.kit.clients import Wire, connect, post
from tests.soak.speech import SPEECHES, Heard, Wanted, WrongError
from tests.soak.story import Ending, Ledger, Story
from tests.soak.world import CALM, HOMES, World

CLIENTS = 64
THINK = (0.01, 0.16)  # seconds between two calls of one client
PAUSES = (20, 20, 600)  # milliseconds that a write takes at most; the long ones are found in mid-call by harm
TOGETHER = (1, 4)  # calls in one message, where there may be several
LEAVES = 0.03  # share of messages after which the client is gone
HANGS_UP = 0.05  # share of messages after which the connection is closed in peace
ANSWER_WITHIN = 60.0  # seconds until a call counts as unanswered
NO_ANSWER = (OSError, EOFError, TimeoutError, ValueError)

METHODS: Mapping[str, int] = {"read": 4, "write": 4, "record": 2, "refuse": 1}
PARAMS: Mapping[str, Callable[[str, random.Random], dict[str, Any]]] = {
    "read": lambda token, chance: {"text": f"{token} \u00e9\u4e16 <&>"},
    "write": lambda token, chance: {"token": token, "pause": chance.randrange(chance.choice(PAUSES))},
    "record": lambda token, chance: {
        "record": {"token": token, "number": chance.randrange(2**31), "yes": True, "share": 0.25, "tags": ["a", "b"]}
    },
    "refuse": lambda token, chance: {"text": token},
}


@dataclass
class Client:
    """One of them: a protocol and an address. It keeps one connection open between its calls."""

    name: str
    kind: str  # of protocol
    address: str
    chance: random.Random
    ledger: Ledger

    def __post_init__(self) -> None:
        self._speech = SPEECHES[self.kind]
        self._numbers = count(1)
        self._client = f"{self.kind}, {self.address.partition(':')[0]}"
        self._stack = AsyncExitStack()
        self._wire: Wire | None = None

    async def run(self, over: asyncio.Event) -> None:
        """Call until it is over; what was begun is ended."""
        while not over.is_set():
            calls = [self._choose() for _ in range(self.chance.randint(*TOGETHER) if self._speech.together else 1)]
            stories = [Story(call.token, call.service, call.method, self._client, time.monotonic()) for call in calls]
            await (self._leave if self.chance.random() < LEAVES else self._talk)(calls, stories)
            calm = all(story.service == CALM for story in stories)
            for story in stories:
                self.ledger.keep(story, self._client, calm=calm)
            if self.chance.random() < HANGS_UP:
                await self._hang_up()
            await asyncio.sleep(self.chance.uniform(*THINK))
        await self._hang_up()

    def _choose(self) -> Wanted:
        token = f"{self.name}-{next(self._numbers)}"
        oneway = self._speech.oneway and (not self._speech.together or self.chance.random() < 0.3)
        # Of calls without an answer only writes leave a trace
        method = "write" if oneway else self.chance.choices([*METHODS], [*METHODS.values()])[0]
        return Wanted(token, self.chance.choice([*HOMES]), method, PARAMS[method](token, self.chance), oneway)

    async def _talk(self, calls: Sequence[Wanted], stories: Sequence[Story]) -> None:
        try:
            if self._wire is None:
                self._wire = await self._stack.enter_async_context(connect(self.address))
            await self._wire.send(post(self._speech.say(calls), self._speech.path))
            answers = self._speech.hear((await self._wire.reply(ANSWER_WITHIN)).body, calls)
        except WrongError as error:
            end_all(stories, Ending.WRONG, str(error))
        except NO_ANSWER as error:
            end_all(stories, Ending.SILENT, repr(error))
            self._wire = None
            await self._stack.aclose()
        else:
            for call, story, heard in zip(calls, stories, answers, strict=True):
                conclude(story, call, heard)

    async def _leave(self, calls: Sequence[Wanted], stories: Sequence[Story]) -> None:
        """Send, and be gone before the answer, or just then."""
        async with connect(self.address) as wire:
            await wire.send(post(self._speech.say(calls), self._speech.path))
            await asyncio.sleep(self.chance.uniform(0, 2 * min(PAUSES) / 1000))
        end_all(stories, Ending.LEFT)

    async def _hang_up(self) -> None:
        """No byte may come that was not asked for."""
        wire, self._wire = self._wire, None
        async with self._stack:
            if wire is None:
                return
            wire.end()
            try:
                problem = f"more than one answer: {rest[:300]!r}" if (rest := await wire.rest()) else ""
            except TimeoutError:
                problem = "the gateway did not hang up"
        if problem:
            self.ledger.offences.append(f"{self.name} ({self.kind}): {problem}")


def end_all(stories: Sequence[Story], ending: Ending, text: str = "") -> None:
    for story in stories:
        story.end(ending, text)


def conclude(story: Story, call: Wanted, heard: Heard | None) -> None:
    """How a call ended that was answered, or wants no answer."""
    if heard is None:
        story.end(Ending.NOTIFIED)
    elif call.is_right(heard):
        story.end(Ending.RIGHT)
    elif heard.text is None:
        story.end(Ending.WRONG, f"{heard.value!r}"[:300])
    else:
        story.end(Ending.FAULT, heard.text, heard.code)


def crowd(world: World, ledger: Ledger, seed: str, prefix: str) -> list[Client]:
    """64 of them: every protocol on every kind of socket, over and over."""
    kinds = islice(cycle(product(SPEECHES, [world.tcp, f"unix:{world.folder}/rpc"])), CLIENTS)
    return [
        Client(f"{prefix}t{at}", speech, address, random.Random(f"{seed} client {at}"), ledger)
        for at, (speech, address) in enumerate(kinds)
    ]
