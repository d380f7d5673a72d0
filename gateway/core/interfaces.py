"""The seams: what a codec, dialect, transport and backend must be. Adapters subclass these explicitly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.admin.status import UpstreamStatus
from gateway.core.admin.views import Explanation, Listener, MethodRow, ModeRequest, ModeResult
from gateway.core.routing.publication import NodeSet, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.model import (
    NO_METADATA,
    Answer,
    Call,
    Envelope,
    Fault,
    FaultCode,
    Outcome,
    Peer,
    RequestMetadata,
    Value,
)
from gateway.core.rpc.spelling import MethodSpelling

DEADLINE_PASSED = "the deadline has passed"  # the message of the cancellation that ends a call for this reason

# A backend or line that is cancelled before the first byte of a call was written adds this to the arguments of the
# CancelledError that it passes on. Without it, whether the call was executed is unknown.
NOT_SENT = "no byte of the call was sent"

# Asked while a call waits for a connection to its upstream, whenever a mode may have changed: false, and it waits no
# longer (BUSY). Never asked once the call is being written.
Wanted = Callable[[], bool]


def always() -> bool:
    """Whatever changes, the call is still wanted."""
    return True


class Codec(Protocol):
    """Bytes <-> Envelope, both directions, pure and total: bad input becomes a Fault entry, never an exception.

    `charset`: what the Content-Type of a body says, where a protocol leaves its encoding open; empty when it does not.
    """

    @property
    def name(self) -> str:
        """Its name in mapping files: "xmlrpc"."""

    @property
    def content_type(self) -> str:
        """The exact Content-Type of its answers."""

    def decode(self, body: bytes, charset: str = "") -> Envelope:
        """Read one message; junk gives an envelope with one Fault, which `encode` can still answer."""

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes | None:
        """Write the answer: one outcome for each entry; None when nothing is sent.

        A reply that this protocol cannot carry is answered as a fault (UNREPRESENTABLE) that names the place.
        """

    def encode_call(self, call: Call) -> bytes:
        """The same protocol, spoken as a client; raises ValueError naming the place when a value cannot be carried."""

    def decode_outcome(self, body: bytes, charset: str = "") -> Outcome:
        """Read an answer; junk is a Fault (PARSE_ERROR)."""

    def decode_answers(
        self,
        body: bytes,
        envelope: Envelope,  # noqa: ARG002 - for batches
        charset: str = "",
    ) -> Sequence[Outcome]:
        """Read the answer to this very message as its client does: an outcome for each entry.

        An entry that wants no answer has Reply(None). A codec without batches needs no more than this.
        """
        return [self.decode_outcome(body, charset)]


class Dialect(Protocol):
    """A house convention over neutral values; `unwrap_x(wrap_x(v)) == v`. Pure and total."""

    @property
    def name(self) -> str:
        """Its name in mapping files: "xenapi"."""

    @property
    def spelling(self) -> MethodSpelling:
        """The forms in which its servers take the name of a method."""

    def unwrap_call(self, call: Call) -> Call:
        """What the client sent -> the call as the mapping sees it."""

    def wrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """Our outcome -> what the client expects. Faults of framing never come here."""

    def wrap_call(self, call: Call) -> Call:
        """The inverse of unwrap_call, for when we are the client."""

    def unwrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """The inverse of wrap_outcome, for when we are the client."""


class Endpoint(Protocol):
    """What a transport delivers bytes to: a codec, a dialect and a table of routes behind one path."""

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        """Answer one message; never raises but for cancellation.

        A transport cancels the task that runs this when the client's connection is lost, and at stop when the grace
        period is over. A call of which no byte was sent is then withdrawn: nothing is executed. A call that was sent
        is not undone; nobody waits for its reply any more, its place is free, and it is counted and logged as unknown.
        The CancelledError is passed on at once, so the transport may give back the place of the call.
        """

    def refuse(self, fault: Fault) -> Answer:
        """Say in the client's protocol why a message was not even read."""


class HttpExchange(Protocol):
    """One HTTP request of a client and its response, with bodies that pass in pieces (RFC 9112).

    At most 64 KiB of a direction are held, beside one read of a socket: `read` and `write` wait for the slower peer.
    The task that uses an exchange is cancelled when the client's connection is lost.
    """

    @property
    def metadata(self) -> RequestMetadata:
        """The head of the request."""

    @property
    def peer(self) -> Peer:
        """The client."""

    @property
    def length(self) -> int | None:
        """Bytes of the request body; None when it comes in chunks."""

    @property
    def is_tunnel(self) -> bool:
        """Whether the client asks for a tunnel (CONNECT, Upgrade), and the listener allows it."""

    @property
    def has_begun(self) -> bool:
        """Whether the head of a response was sent to the client."""

    async def read(self) -> bytes:
        """The next piece of the request body, or of the tunnel; empty at the end. Raises BrokenBodyError."""

    def send_continue(self) -> None:
        """Pass 100 (Continue) on to a client that waits for it."""

    async def respond(self, head: Answer, *, opens_tunnel: bool = False) -> None:
        """Send the head of the response; its `body` is ignored. `opens_tunnel`: the tunnel's bytes follow."""

    async def write(self, data: bytes) -> None:
        """Send a piece of the response body; returns when the kernel has taken it."""

    async def finish(self) -> None:
        """End the response body; of a tunnel, end this direction only."""

    def abort(self) -> None:
        """Reset the client's connection: the response that was begun can never be whole."""


class BrokenBodyError(Exception):
    """The client ended its side before its request body was whole."""


class StreamingEndpoint(Protocol):
    """Where a transport delivers a request of which nothing needs to be read: bodies are streamed both ways."""

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        """Answer one request; None when the response was sent through the exchange. Raises only CancelledError."""

    def refuse(self, fault: Fault) -> Answer:
        """Say in plain words why a request was not passed on."""


Resolve = Callable[[str], Endpoint | None]  # path of a request -> its endpoint (longest prefix), or None


class Transport(Protocol):
    """Owns sockets, knows no protocol; calls `Endpoint.answer`."""

    async def start(self) -> None:
        """Bind and accept; raises OSError naming the address."""

    async def stop(self, grace: float) -> int:
        """Stop accepting, let calls in flight finish for `grace` seconds; returns how many were cut off."""


class Backend(Protocol):
    """Answers calls. An expected failure is a returned Fault; an exception is a bug."""

    async def start(self) -> None:
        """Begin to connect; returns at once and keeps trying."""

    async def call(self, route: Route, call: Call) -> Outcome:
        """Answer one call; the dispatcher holds the deadline and cancels past it, with DEADLINE_PASSED.

        When cancelled before anything was sent it passes NOT_SENT on.
        """

    async def stop(self) -> None:
        """Fail what is still waiting, close."""


class UpstreamConnection(Protocol):
    """One legacy service as a transport reaches it: a message out, an answer back. Knows no codec."""

    async def start(self) -> None:
        """Be ready; returns at once."""

    async def send(
        self, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """Send one message and wait for what comes back, byte for byte; the caller holds the deadline.

        UNAVAILABLE or BUSY: for certain nothing was executed. `repeatable`: it may be sent twice where that helps.
        When cancelled before anything was sent it passes NOT_SENT on.
        """

    async def relay(self, exchange: HttpExchange, idle_timeout: float) -> Answer | Fault:  # noqa: ARG002
        """Stream one exchange; `idle_timeout`: seconds during which no byte passes in either direction.

        Returns the head of the response that the client has been sent to the end. A Fault says why there is none, or,
        when `exchange.has_begun`, why the response can never be whole.
        """
        return Fault(FaultCode.UNAVAILABLE, "this upstream takes no HTTP requests; nothing was executed")

    def review(self) -> None:
        """Ask each message that waits for a connection whether it is still wanted; see Wanted."""

    def retire(self) -> None:
        """Another line has taken its place: keep nothing open beyond the calls in flight."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""

    def status(self) -> UpstreamStatus:
        """How it is doing."""

    async def stop(self) -> None:
        """Fail what is still waiting, close."""


class UpstreamBackend(Backend, Protocol):
    """The legacy services. `call` goes to the route's upstream, in whatever protocol that one speaks."""

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        """Answer one call; see Backend, and Wanted."""

    def review(self) -> None:
        """Modes may have changed: ask each call that waits for a connection whether it is still wanted."""

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        """Whether a message of this codec and dialect can be sent to it as it is."""

    def timeout(self, upstream: str) -> float:
        """Seconds for an answer; long by default, because clients of legacy services never set a limit."""

    async def forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """Send a message as it came and return what came back, byte for byte; a Fault when nothing came back.

        The caller holds the deadline. `repeatable`, `wanted`: see Line.
        """

    async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
        """Stream one exchange; see UpstreamConnection."""


class NodePublisher(Protocol):
    """A store that shows what services tell, and has triggers. Returns at once: tasks of its own do the work."""

    def show(self, key: str, picture: NodeSet) -> None:
        """These nodes from now on, in place of those of the same key."""

    def forget(self, key: str) -> None:
        """Show them no more; the nodes stay as they are."""

    def register(self, trigger: WatchTrigger) -> None:
        """Ring when one of its nodes changes."""

    def unregister(self, trigger: WatchTrigger) -> None:
        """Ring no more; what is being rung is still rung."""


class AdminOperations(Protocol):
    """What an operator may ask and change of moving methods; for the wires that operators come over."""

    def names(self) -> Sequence[MethodId]:
        """Every mapped method."""

    async def methods(self, pattern: str = "*") -> Sequence[MethodRow] | StateRefused:
        """A row for each mapped method that a pattern means."""

    def explain(
        self, name: str, params: Sequence[Value] = (), named: Mapping[str, Value] | None = None, key: str | None = None
    ) -> Sequence[Explanation] | StateRefused:
        """Who would answer a call, for each method of this name."""

    async def set_mode(self, wish: ModeRequest, who: str) -> ModeResult | StateRefused:
        """Set a mode for all methods of a pattern, or for none and say why."""

    async def clear_mode(self, pattern: str, who: str, why: str = "") -> ModeResult | StateRefused:
        """Back to what holds without what was set for exactly this pattern."""

    async def rollback_all(self, who: str, why: str = "") -> ModeResult | StateRefused:
        """Every method to its legacy service at once."""

    def tell(self, listener: Listener) -> Callable[[], None]:
        """Have somebody told of all that changes from now on; what is returned ends it."""
