"""The interfaces between `gateway` and `adapters`: codec, dialect, endpoint, transport, backend and the rest.

Adapters subclass these protocols explicitly, and tests/conformance checks every adapter of a kind against its contract.
"""

# ruff: noqa: ARG002 - what a protocol does by default uses not all that its adapters get

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.admin.status import UpstreamStatus
from gateway.core.admin.views import Explanation, Listener, MethodRow, ModeRequest, ModeResult
from gateway.core.routing.publication import NodeSet, WatchTrigger
from gateway.core.routing.route import Route, encode_arguments
from gateway.core.rpc.model import (
    NO_METADATA,
    Answer,
    Call,
    Envelope,
    Event,
    EventsLost,
    Fault,
    FaultCode,
    Headers,
    Outcome,
    Peer,
    RequestMetadata,
    Value,
)
from gateway.core.rpc.spelling import MethodSpelling

DEADLINE_PASSED = "the deadline has passed"  # the message of the cancellation that ends a call for this reason

# A backend or connection that is cancelled before the first byte of a call was written adds this to the arguments of
# the CancelledError that it passes on. Without it, it is unknown whether the call was executed.
NOT_SENT = "no byte of the call was sent"

# Called for a call that waits for a connection to its upstream, whenever a mode may have changed. If it returns false,
# the call stops waiting (BUSY). It is never called once the call is being written.
Wanted = Callable[[], bool]


def always() -> bool:
    """A `Wanted` for calls that no change of a mode affects."""
    return True


class Codec(Protocol):
    """Bytes <-> Envelope, in both directions. Pure and total: bad input becomes a Fault entry, never an exception.

    `charset` is that of the Content-Type, for protocols that leave the encoding open; empty if there is none.
    """

    name: str  # in mapping files: "xmlrpc"
    content_type: str  # the exact Content-Type of its answers

    def decode(self, body: bytes, charset: str = "") -> Envelope:
        """Read one message. Unreadable bytes give an envelope with one Fault, which `encode` can answer."""

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes | None:
        """Write the answer, from one outcome for each entry; None if the protocol sends none.

        A reply that the protocol cannot carry becomes a fault (UNREPRESENTABLE) that names the place.
        """

    def encode_call(self, call: Call) -> bytes:
        """Write a call as a client; raises ValueError that names the place of a value that cannot be carried."""

    def decode_outcome(self, body: bytes, charset: str = "") -> Outcome:
        """Read an answer as a client. Unreadable bytes give a Fault (PARSE_ERROR)."""

    def decode_answers(self, body: bytes, envelope: Envelope, charset: str = "") -> Sequence[Outcome]:
        """Read the answer to this message as its client does: one outcome for each entry.

        An entry that wants no answer has Reply(None). This implementation is for codecs without batches.
        """
        return [self.decode_outcome(body, charset)]


class Dialect(Protocol):
    """A convention of one family of servers, over neutral values: `unwrap_x(wrap_x(v)) == v`. Pure and total.

    `malformed_as_page`: they answer a message that they cannot read with a page of HTTP 500. `has_notifications`: they
    take calls that want no answer. `echo`: with what the names begin of methods that return their first parameter.
    """

    malformed_as_page: bool = False
    has_notifications: bool = True
    echo: str = ""
    name: str  # in mapping files: "xenapi"
    spelling: MethodSpelling  # the forms in which its servers accept the name of a method

    def unwrap_call(self, call: Call) -> Call:
        """The call as the client sent it -> as the mapping reads it."""

    def wrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """An outcome -> as the client expects it. Never called for a fault of framing."""

    def wrap_call(self, call: Call) -> Call:
        """The inverse of unwrap_call, for calls to an upstream."""

    def unwrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """The inverse of wrap_outcome, for answers of an upstream."""


AnswerLater: TypeAlias = Callable[[], Awaitable[Answer]]  # answers a message, in a task


class AnswerTaker(Protocol):
    """Where the answer to a message goes that waits for it without a task: a transport's connection to its client."""

    __slots__ = ()

    def wait_for(self, passed: PassedMessage) -> None:
        """The message is on its way to a legacy service. `passed` is cancelled when the client leaves."""

    def serve(self, answer: AnswerLater, unserved: Callable[[], object]) -> None:
        """The message that was waited for needs a task. `unserved` is called when that has ended, begun or not."""

    def take_answer(self, answer: Answer) -> None:
        """The answer to the message that was waited for."""


class PassedMessage(Protocol):
    """A message on its way to a legacy service, whose answer goes to an AnswerTaker."""

    __slots__ = ()

    def cancel(self, why: object = None) -> object:
        """End it, without an answer unless the reason is DEADLINE_PASSED; what was sent is not undone."""


class Endpoint(Protocol):
    """The receiver of a transport's messages for one path: bytes in, bytes out; see `pipeline.endpoint.RpcEndpoint`."""

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        """Answer one message; raises nothing but the cancellation of its task.

        A transport cancels that task when the client's connection is lost, and at stop when the grace period is over.
        A call of which no byte was sent is then withdrawn: it is not executed. A call that was sent is not undone; its
        capacity is free, and it is counted and logged as unknown. The CancelledError is passed on at once.
        """

    def receive(self, body: bytes, peer: Peer, carried: RequestMetadata, client: AnswerTaker) -> AnswerLater | None:
        """Take one message: returns what answers it in a task, or None where `client` waits for it without one."""
        return partial(self.answer, body, peer, carried)

    def refuse(self, fault: Fault) -> Answer:
        """Encode the reason why a message was not read, in the client's protocol."""


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

    @property
    def received(self) -> int:
        """Bytes of the client's body, or of its side of the tunnel, that were read so far."""

    @property
    def sent(self) -> int:
        """Bytes of the response body, or of the tunnel, that were written to the client so far."""

    @property
    def trailers(self) -> Headers:
        """The trailers of a request body in chunks that may be passed on; known once the body is read to its end."""

    async def read(self) -> bytes:
        """The next piece of the request body, or of the tunnel; empty at the end. Raises BrokenBodyError."""

    def send_continue(self) -> None:
        """Pass 100 (Continue) on to a client that waits for it."""

    async def respond(self, head: Answer, *, opens_tunnel: bool = False) -> None:
        """Send the head of the response; its `body` is ignored. `opens_tunnel`: the tunnel's bytes follow."""

    async def write(self, data: bytes) -> None:
        """Send a piece of the response body; returns when the kernel has taken it."""

    async def finish(self, trailers: Headers = ()) -> None:
        """End the response body; of a tunnel, end this direction only.

        `trailers` are sent where the body went in chunks.
        """

    def hold(self, size: int) -> bool:
        """Count `size` bytes as held for this client, in place of what was counted so. False: they do not fit."""

    def abort(self) -> None:
        """Reset the client's connection: the response that was begun can never be whole."""


class BrokenBodyError(Exception):
    """The request body can never be whole: the text says what was found and what was expected."""


class StreamingEndpoint(Protocol):
    """Where a transport delivers a request of which nothing needs to be read: bodies are streamed both ways."""

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        """Answer one request; None when the response was sent through the exchange. Raises only CancelledError."""

    def refuse(self, fault: Fault) -> Answer:
        """Say in plain words why a request was not passed on."""


class MessageChannel(Protocol):
    """A connection for whole messages in both directions, at any time."""

    async def receive(self) -> bytes | None:
        """The next message of the client; None when no more comes. Then the caller answers what it has, and closes."""

    @property
    def held(self) -> int:
        """Bytes of the messages that were received and not released. They count as held for the client."""

    def release(self, size: int) -> None:
        """A message of so many bytes is dealt with."""

    async def probe(self) -> None:
        """Find out whether a client that has ended its direction is still there: else its connection is lost."""

    async def send(self, message: bytes) -> None:
        """Send a message; returns when the kernel has taken it. Messages of several tasks do not mix."""

    async def close(self, why: str = "") -> None:
        """End the connection. The client gets `why` as the reason, unless it closed first or broke a rule."""


# Accepts a client's request for such a connection, with messages of at most so many bytes; the answer says why not.
OpenChannel = Callable[[HttpExchange, int], Awaitable[MessageChannel | Answer]]

# Path of a request without a body, and whether it asks for another protocol -> what streams to it, or None.
ResolveStream = Callable[[str, bool], StreamingEndpoint | None]

Resolve = Callable[[str], Endpoint | None]  # path of a request -> its endpoint (longest prefix), or None


class Transport(Protocol):
    """Owns the sockets of a listener and calls `Endpoint.answer`."""

    async def start(self) -> None:
        """Bind and accept; raises OSError that names the address."""

    async def stop(self, grace: float) -> int:
        """Stop accepting and let calls in flight finish for `grace` seconds; returns the number of calls cut off."""


class Backend(Protocol):
    """One side: it answers calls. An expected failure is a returned Fault; an exception is a bug."""

    async def start(self) -> None:
        """Begin to connect; returns at once and retries in the background."""

    async def call(self, route: Route, call: Call) -> Outcome:
        """Answer one call. The dispatcher enforces the deadline by cancelling with DEADLINE_PASSED.

        If no byte was sent when it is cancelled, it adds NOT_SENT to the CancelledError.
        """

    async def check(self, route: Route, call: Call) -> Fault | None:
        """Why a call would be refused for its parameters; it is not made. A large one is read beside other calls."""
        encoded = encode_arguments(route, call)
        return encoded if isinstance(encoded, Fault) else None

    async def stop(self) -> None:
        """Fail the calls that still wait, and close."""


class AnswerReceiver(Protocol):
    """Gets the answer to a message that was sent without a task."""

    __slots__ = ()

    def receive(self, answer: Answer | Fault) -> None:
        """The answer, unchanged, or why there is none."""

    def send_again(self, send: Callable[[], Awaitable[Answer | Fault]]) -> None:
        """The connection has ended without an answer, and the message may be sent again: by `send`, in a task."""


class AnsweredMessage(AnswerReceiver, PassedMessage, Protocol):
    """A message that is passed through without a task."""

    __slots__ = ()


class SentMessage(Protocol):
    """A message that was sent, and has no answer yet."""

    __slots__ = ()

    def withdraw(self) -> bool:
        """Wait for no answer any more. True: certainly no byte of it was sent."""


class UpstreamConnection(Protocol):
    """The connections to one legacy service: a message out, an answer back, both as bytes."""

    async def start(self) -> None:
        """Become ready; returns at once."""

    async def send(
        self, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """Send one message and return the answer unchanged. The caller enforces the deadline.

        UNAVAILABLE and BUSY mean that nothing was executed. `repeatable`: the message may be sent twice. If no byte
        was sent when it is cancelled, it adds NOT_SENT to the CancelledError.
        """

    def send_at_once(
        self, body: bytes, carried: RequestMetadata, receiver: AnswerReceiver, *, repeatable: bool
    ) -> SentMessage | None:
        """Send one message without a task. None: that is not possible now, and nothing was sent; see `send`."""
        return None

    async def relay(self, exchange: HttpExchange, idle_timeout: float) -> Answer | Fault:
        """Stream one exchange; `idle_timeout`: seconds during which no byte passes in either direction.

        Returns the head of the response that the client has been sent to the end. A Fault says why there is none, or,
        when `exchange.has_begun`, why the response can never be whole.
        """
        return Fault(FaultCode.UNAVAILABLE, "this upstream takes no HTTP requests; nothing was executed")

    def review(self) -> None:
        """Check again whether each message that waits for a connection is wanted; see Wanted."""

    def retire(self) -> None:
        """It has been replaced: close every connection as soon as its call has ended."""

    @property
    def is_idle(self) -> bool:
        """Whether no message waits for an answer."""

    def status(self) -> UpstreamStatus:
        """Its current state."""

    async def probe(self) -> str:
        """Try to connect, without a request; return why that fails, or "". The caller enforces the deadline."""
        return ""

    async def stop(self) -> None:
        """Fail the calls that still wait, and close."""


class UpstreamBackend(Backend, Protocol):
    """The legacy services. `call` goes to the upstream of the route, in the protocol of that upstream."""

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        """Answer one call; see Backend, and Wanted."""

    def review(self) -> None:
        """Modes may have changed: check again whether each call that waits for a connection is wanted."""

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        """Whether it understands messages of this codec and dialect unchanged."""

    def timeout(self, upstream: str) -> float:
        """The timeout in seconds of an upstream. It is long by default, because its clients never set one."""

    async def forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """Pass a message through and return the answer unchanged; a Fault if there is none.

        The caller enforces the deadline. `repeatable`, `wanted`: see UpstreamConnection.send.
        """

    def send_at_once(
        self, upstream: str, body: bytes, carried: RequestMetadata, receiver: AnswerReceiver, *, repeatable: bool
    ) -> tuple[SentMessage, float] | None:
        """Pass a message through without a task, and return the timeout too; see UpstreamConnection."""
        return None

    async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
        """Stream one exchange; see UpstreamConnection."""


class EventFeed(Protocol):
    """Receives the events of a subscription in the step in which they arrive."""

    def put(self, event: Event) -> bool:
        """Take an event; False if it cannot, and then the subscription is paused."""

    def miss(self, missed: EventsLost) -> None:
        """Events may be lost: the state must be read."""


class NodePublisher(Protocol):
    """Publishes nodes in a xenstore and runs watch triggers, in tasks of its own: every method returns at once."""

    def show(self, key: str, node_set: NodeSet) -> None:
        """Publish these nodes from now on, in place of those of the same key."""

    def forget(self, key: str) -> None:
        """Stop publishing the nodes of a key; they stay as they are."""

    def register(self, trigger: WatchTrigger) -> None:
        """Fire a trigger when one of its nodes changes."""

    def unregister(self, trigger: WatchTrigger) -> None:
        """Do not fire a trigger again; what is being fired is still fired."""


class AdminOperations(Protocol):
    """The operator's queries and commands about migration, for each way in which operators connect."""

    def names(self) -> Sequence[MethodId]:
        """Every mapped method."""

    async def methods(self, pattern: str = "*") -> Sequence[MethodRow] | StateRefused:
        """A row for each mapped method that matches a pattern."""

    def explain(
        self, name: str, params: Sequence[Value] = (), named: Mapping[str, Value] | None = None, key: str | None = None
    ) -> Sequence[Explanation] | StateRefused:
        """The side that would answer a call and the reason, for each method of this name."""

    async def set_mode(self, wish: ModeRequest, who: str) -> ModeResult | StateRefused:
        """Set a mode for all methods of a pattern, or for none with the reason."""

    async def clear_mode(self, pattern: str, who: str, why: str = "") -> ModeResult | StateRefused:
        """Remove the override that was set for exactly this pattern."""

    async def rollback_all(self, who: str, why: str = "") -> ModeResult | StateRefused:
        """Return every method to its legacy service at once."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every change from now on; the returned function ends that."""
