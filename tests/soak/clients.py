"""The clients of a run: they call and check each answer, or leave in mid-call."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice, product
from typing import Any

import aiohttp

from tests.kit.clients import connect, post
from tests.soak.speech import SPEECHES, Heard, Speech, Wanted, WrongError
from tests.soak.story import Ending, Ledger, Story
from tests.soak.wires import LINES, Line
from tests.soak.world import CALM, HOMES, World

CLIENTS = 64
THINK = (0.01, 0.16)  # seconds between two calls of one client
PAUSES = (20, 20, 600)  # milliseconds that a write takes at most; the long ones are found in mid-call by harm
TOGETHER = (1, 4)  # calls in one message, where there may be several
LEAVES = 0.03  # share of messages after which the client is gone
HANGS_UP = 0.05  # share of messages after which the connection is closed in peace
NO_ANSWER = (OSError, EOFError, TimeoutError, ValueError, aiohttp.ClientError)

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
    """One of them: a protocol, a kind of HTTP client and an address."""

    name: str
    kind: str  # of protocol
    line: str  # kind of HTTP client
    address: str
    chance: random.Random
    ledger: Ledger

    def __post_init__(self) -> None:
        self._speech: Speech = SPEECHES[self.kind]()
        self._line: Line = LINES[self.line](self.address)
        self._numbers = count(1)
        self._client = f"{self.kind}, {self.line}, {self.address.partition(':')[0]}"

    async def run(self, over: asyncio.Event) -> None:
        """Call until it is over; what was begun is ended."""
        while not over.is_set():
            calls = [self._choose() for _ in range(self.chance.randint(*TOGETHER) if self._speech.together else 1)]
            if self.chance.random() < LEAVES:
                await self._leave(calls)
            else:
                await self._talk(calls)
            if self.chance.random() < HANGS_UP:
                await self._hang_up()
            await asyncio.sleep(self.chance.uniform(*THINK))
        await self._hang_up()

    def _choose(self) -> Wanted:
        token = f"{self.name}-{next(self._numbers)}"
        method = self.chance.choices([*METHODS], [*METHODS.values()])[0]
        oneway = self._speech.oneway and (not self._speech.together or self.chance.random() < 0.3)
        if oneway:
            method = "write"  # nothing else would leave a trace
        return Wanted(token, self.chance.choice([*HOMES]), method, PARAMS[method](token, self.chance), oneway)

    def _stories(self, calls: Sequence[Wanted]) -> list[Story]:
        return [Story(call.token, call.service, call.method, self._client, time.monotonic()) for call in calls]

    async def _talk(self, calls: Sequence[Wanted]) -> None:
        stories = self._stories(calls)
        try:
            answers = self._speech.hear(await self._line.post(self._speech.path, self._speech.say(calls)), calls)
        except WrongError as error:
            self._end_all(stories, Ending.WRONG, str(error))
        except NO_ANSWER as error:
            self._end_all(stories, Ending.SILENT, repr(error))
            self._line = LINES[self.line](self.address)
        else:
            for call, story, heard in zip(calls, stories, answers, strict=True):
                conclude(story, call, heard)
        self._keep(stories)

    async def _leave(self, calls: Sequence[Wanted]) -> None:
        """Send, and be gone before the answer, or just then."""
        stories = self._stories(calls)
        async with connect(self.address) as wire:
            await wire.send(post(self._speech.say(calls), self._speech.path))
            await asyncio.sleep(self.chance.uniform(0, 2 * min(PAUSES) / 1000))
        self._end_all(stories, Ending.LEFT)
        self._keep(stories)

    async def _hang_up(self) -> None:
        try:
            await self._line.close()
        except WrongError as error:
            self.ledger.offences.append(f"{self.name} ({self.kind}): {error}")
        except TimeoutError:
            self.ledger.offences.append(f"{self.name} ({self.kind}): the gateway did not hang up")

    def _keep(self, stories: Sequence[Story]) -> None:
        calm = all(story.service == CALM for story in stories)
        for story in stories:
            self.ledger.keep(story, self._client, calm=calm)

    def _end_all(self, stories: Sequence[Story], ending: Ending, text: str = "") -> None:
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


def crowd(world: World, ledger: Ledger, seed: str, prefix: str = "") -> list[Client]:
    """64 of them: every protocol over every kind of client on every kind of socket, over and over."""
    kinds = islice(cycle(product(SPEECHES, LINES, [world.tcp, f"unix:{world.folder}/rpc"])), CLIENTS)
    return [
        Client(f"{prefix}t{at}", speech, line, address, random.Random(f"{seed} client {at}"), ledger)
        for at, (speech, line, address) in enumerate(kinds)
    ]
