"""Who may ask one upstream now, and who waits in line for that; knows no wire."""

from __future__ import annotations

import asyncio

from gateway.core.ports import NOT_SENT, Wanted


class Turns:
    """So many at a time, so many that wait, the first first. Who waits leaves when the call is not wanted any more."""

    def __init__(self, most: int, waiting: int) -> None:
        self._free = most
        self._most_waiting = waiting
        self._line: dict[asyncio.Future[bool], Wanted] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def is_full(self) -> bool:
        """Whether one more could not even wait."""
        return not self._free and len(self._line) >= self._most_waiting

    async def take(self, wanted: Wanted) -> bool:
        """Wait for a turn, which the caller gives back; false: the call was not wanted any more, and has none."""
        if self._free:
            self._free -= 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._line[turn] = wanted
        try:
            return await turn
        except asyncio.CancelledError as error:
            if self._line.pop(turn, None) is None and not turn.cancelled() and turn.result():
                self.give_back()
            error.args = (*error.args, NOT_SENT)
            raise

    def give_back(self) -> None:
        """Let the one go on that has waited longest."""
        while self._line:
            turn = next(iter(self._line))
            del self._line[turn]
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1

    def review(self) -> None:
        """Send away whoever waits and is not wanted any more."""
        for turn, wanted in tuple(self._line.items()):
            if not turn.done() and not wanted():
                del self._line[turn]
                turn.set_result(False)
