"""Legacy services made by hand, for tests of everything that only sends to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.core.interfaces import HttpExchange, UpstreamBackend, Wanted, always
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Answer, Call, Fault, Outcome, Reply, RequestMetadata


async def old(_route: Route, _call: Call) -> Outcome:
    """The answer of a legacy service that knows only one."""
    return Reply("old")


class Scripted(UpstreamBackend):
    """Legacy services by what they speak; `whole` is the answer to every message that is sent as it came."""

    def __init__(
        self,
        speaks: dict[str, tuple[str, str]],
        whole: Answer | Fault | None = None,
        answer: Callable[[Route, Call], Awaitable[Outcome]] = old,
        timeout: float = 5.0,
    ) -> None:
        self._speaks = speaks
        self._whole = whole
        self._answer = answer
        self._timeout = timeout
        self.called: list[str] = []
        self.forwarded: list[tuple[str, bytes, RequestMetadata]] = []
        self.repeatable: list[bool] = []  # of those

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        self.called.append(call.method)
        return await self._answer(route, call)

    def review(self) -> None:
        """Nobody waits."""

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        return self._speaks.get(upstream) == (codec, dialect)

    def timeout(self, upstream: str) -> float:
        return self._timeout

    async def forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        self.forwarded.append((upstream, body, carried))
        self.repeatable.append(repeatable)
        assert self._whole is not None
        return self._whole

    async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
        body = b""
        while piece := await exchange.read():
            body += piece
        answer = await self.forward(upstream, body, exchange.metadata)
        if isinstance(answer, Answer):
            await exchange.respond(answer)
            await exchange.write(answer.body or b"")
            await exchange.finish()
        return answer
