"""Bytes in, bytes out: the order of the path, batches, faults of framing and bugs."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import xmlrpc.client
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
from msgspec import structs
from msgspec.structs import replace

from adapters.codecs import CODECS, jsonrpc
from adapters.dialects import DIALECTS, plain
from gateway.core.admin.records import MethodId
from gateway.core.comparison.compare import compare
from gateway.core.comparison.equality import Checkpoint
from gateway.core.interfaces import NOT_SENT, Backend, Codec, Dialect, UpstreamBackend, Wanted, always
from gateway.core.migration.modes import BUCKETS, Migration, Mode, Setting, Side
from gateway.core.routing.call_record import UNKEPT, RecordedCall
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import CallFinished, CallListener, Effect, Route
from gateway.core.rpc.model import (
    ABANDONED,
    LARGE,
    NO_METADATA,
    WITHDRAWN,
    Answer,
    Call,
    Envelope,
    Fault,
    FaultCode,
    MessageLimits,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
    Value,
)
from gateway.core.xenstore.paths import Domains, Exposure, template
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.migration.shadow import ComparedCall, ObservedCall, Shadow
from gateway.pipeline import passthrough
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher
from gateway.pipeline.endpoint import Endpoints, RpcEndpoint
from gateway.pipeline.origins import side_override
from gateway.pipeline.recorder import Recorder, RecordingLimits, RecordingSession
from gateway.pipeline.sessions import Sessions
from tests.kit import upstreams as kit
from tests.kit.cases import each_case, expect
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT
from tests.kit.traffic import ScriptedBus

PEER = Peer("tcp:127.0.0.1:4711")
HERE = EndpointKey("rpc", "/here")


async def echo(_route: Route, call: Call) -> Outcome:
    return Reply(call.params[0])


def endpoint_over(
    backend: Backend,
    codec: str | Codec = "jsonrpc",
    dialect: str | Dialect = "plain",
    table: EndpointTable | None = None,
    listeners: Sequence[CallListener] = (),
    upstreams: UpstreamBackend | None = None,
    **more: Any,
) -> RpcEndpoint:
    """An endpoint with the method echo, or with those of a table."""
    codec = CODECS[codec](MessageLimits()) if isinstance(codec, str) else codec
    dialect = DIALECTS[dialect](codec.name) if isinstance(dialect, str) else dialect
    table = table or EndpointTable(HERE, codec.name, dialect.name, {"echo": route("echo")})
    dispatcher = Dispatcher(backend, *listeners, upstreams=upstreams or kit.Scripted({}))
    return RpcEndpoint(table, codec, dialect, dispatcher, **more)


def exchange(
    codec: str | Codec = "jsonrpc",
    dialect: str | Dialect = "plain",
    answer: Callable[[Route, Call], Awaitable[Outcome]] = echo,
    **more: Any,
) -> RpcEndpoint:
    return endpoint_over(ScriptedBus(answer), codec, dialect, **more)


def request(*ids: int, method: str = "echo") -> bytes:
    calls = [{"jsonrpc": "2.0", "method": method, "params": [number], "id": number} for number in ids]
    return json.dumps(calls if len(calls) > 1 else calls[0]).encode()


def body(answer: Answer) -> bytes:
    assert answer.body is not None
    return answer.body


class Watched(jsonrpc.Codec):
    """Notes in which threads it works."""

    def __init__(self) -> None:
        super().__init__(MessageLimits())
        self.threads: dict[str, threading.Thread] = {}

    def decode(self, body: bytes, charset: str = "") -> Envelope:
        self.threads["decode"] = threading.current_thread()
        return super().decode(body, charset)

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes | None:
        self.threads["encode"] = threading.current_thread()
        return super().encode(envelope, outcomes)


class WatchedDialect(plain.Dialect):
    """The same for the outcome of a call."""

    def __init__(self, codec: Watched) -> None:
        super().__init__(codec.name)
        self._threads = codec.threads

    def wrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        self._threads["wrap_outcome"] = threading.current_thread()
        return super().wrap_outcome(outcome, call)


@each_case("is_batch", [False, True])
async def test_a_long_request_is_read_and_a_large_answer_written_beside_the_event_loop(*, is_batch: bool) -> None:
    names: dict[str, Value] = {f"name{number}": "value" for number in range(LARGE + 1)}

    async def records(_route: Route, asked: Call) -> Outcome:
        return Reply(names if asked.params[0] != "short" else "short")

    codec = Watched()
    endpoint = exchange(codec, WatchedDialect(codec), records)
    for text, is_beside in (("short", False), ("x" * (passthrough.READ_AT_ONCE + 1), True)):
        call = {"jsonrpc": "2.0", "method": "echo", "params": [text], "id": 1}
        answer = json.loads(body(await endpoint.answer(json.dumps([call] if is_batch else call).encode(), PEER)))
        assert (answer[0] if is_batch else answer)["result"] == (names if is_beside else "short")
        here = threading.main_thread()
        assert {step: thread is not here for step, thread in codec.threads.items()} == dict.fromkeys(
            ("decode", "wrap_outcome", "encode"), is_beside
        )


async def test_a_notification_is_called_and_not_answered() -> None:
    backend = ScriptedBus(echo)
    answer = await endpoint_over(backend).answer(b'{"jsonrpc":"2.0","method":"echo","params":[1]}', PEER)
    assert answer.body is None
    assert [call.oneway for call in backend.calls] == [True]


@each_case("version", [b'"id":null', b'"jsonrpc":"2.0"'])
async def test_a_dialect_without_notifications_refuses_one_and_calls_nothing(version: bytes) -> None:
    backend = ScriptedBus(echo)
    message = b'{%b,"method":"echo","params":[1]}' % version
    answer = await endpoint_over(backend, "jsonrpc", "xenapi").answer(message, PEER)
    assert answer.fault is not None
    assert (answer.fault.code, answer.as_page, backend.calls) == (FaultCode.INVALID_REQUEST, True, [])
    assert json.loads(body(answer))["error"]["message"].startswith("$.id: expected text or an integer")


async def test_over_xml_rpc_the_dialect_dresses_outcomes_and_not_a_broken_message() -> None:
    endpoint = exchange("xmlrpc", "xenapi")
    answer = await endpoint.answer(xmlrpc.client.dumps((5,), "echo").encode(), PEER)
    assert xmlrpc.client.loads(body(answer))[0] == ({"Status": "Success", "Value": "5"},)
    answer = await endpoint.answer(b"<nonsense", PEER)
    assert expect(Fault, answer.fault).code is FaultCode.PARSE_ERROR
    with pytest.raises(xmlrpc.client.Fault, match=r"32700"):
        xmlrpc.client.loads(body(answer))
    answer = await exchange("xmlrpc").answer(xmlrpc.client.dumps((), "system.listMethods").encode(), PEER)
    assert "echo" in expect(list, xmlrpc.client.loads(body(answer))[0][0])


async def test_a_message_that_holds_no_call_is_told_of_and_one_that_does_is_not() -> None:
    told: list[Fault] = []
    listening = exchange(on_refused=told.append)
    for message in (request(7), request(7, method="nobody"), b"{"):
        await listening.answer(message, PEER)
    listening.refuse(Fault(FaultCode.BUSY, "too many calls at once, try again"))
    assert [fault.code for fault in told] == [FaultCode.PARSE_ERROR, FaultCode.BUSY]


@each_case(("concurrency", "most"), [(1, 1), (2, 2)])
async def test_batch_entries_are_answered_in_order_with_so_many_at_a_time(concurrency: int, most: int) -> None:
    running, seen, order = 0, 0, []

    async def look(_route: Route, call: Call) -> Outcome:
        nonlocal running, seen
        running += 1
        seen = max(seen, running)
        await asyncio.sleep(0)
        running -= 1
        order.append(call.params[0])
        return Reply(call.params[0])

    ids = [3, 1, 2, 0, 5, 4]
    answer = await exchange(answer=look, concurrency=concurrency).answer(request(*ids), PEER)
    assert seen == most
    assert [entry["result"] for entry in json.loads(body(answer))] == ids
    assert concurrency > 1 or order == ids


class BrokenCodec(jsonrpc.Codec):
    """A codec with a bug: what stands between the bug and the client is under test."""

    def decode(self, body: bytes, charset: str = "") -> Envelope:
        raise KeyError("a secret that no client may see")

    def decode_answers(self, body: bytes, envelope: Envelope, charset: str = "") -> Sequence[Outcome]:
        raise KeyError


async def test_a_bug_in_a_codec_is_an_internal_fault_without_its_text() -> None:
    answer = json.loads(body(await exchange(BrokenCodec(MessageLimits())).answer(b"", PEER)))
    assert answer["error"]["message"] == "internal error"


def test_the_exchange_with_the_longest_path_is_found_and_the_root_takes_the_rest() -> None:
    keys = [EndpointKey("rpc", "/"), EndpointKey("rpc", "/RPC2"), EndpointKey("other", "/RPC2/deep")]
    exchanges = {key: exchange() for key in keys}
    endpoints = Endpoints(exchanges)
    assert endpoints.resolve("rpc", "/RPC2") is exchanges[keys[1]]
    assert endpoints.resolve("rpc", "/RPC2/deep") is exchanges[keys[1]]
    assert endpoints.resolve("rpc", "/elsewhere") is exchanges[keys[0]]
    assert endpoints.resolve("rpc", "/RPC2XYZ") is exchanges[keys[0]]
    assert endpoints.resolve("rpc", "/RPC2/") is exchanges[keys[1]]
    assert endpoints.resolve("other", "/RPC2") is None
    assert endpoints.resolve("third", "/") is None


# Messages that a legacy service answers

LEGACY = Migration(Setting(Mode.LEGACY), upstream="old", may_shadow=True)
OLD_ANSWER = Answer(b'{"result": 1,   "error":null,"id":7}', "text/odd", None, 200, "Fine", ((b"X-Old", b"yes"),))


ALL = frozenset(MethodId("toy", method) for method in ("stat", "look"))


class Told:
    """Remembers observations and notes."""

    def __init__(self) -> None:
        self.seen: list[ObservedCall] = []
        self.lost: list[str] = []
        self.noted: list[tuple[str, Outcome, Side | None]] = []

    def compare(self, observed: ObservedCall, checkpoint: Checkpoint) -> ComparedCall:
        return ComparedCall(compare(observed.control.outcome, observed.candidate.outcome, checkpoint=checkpoint))

    def observed(self, observed: ObservedCall, result: ComparedCall | str) -> None:
        self.seen.append(observed)

    def not_compared(self, route: Route, reason: str) -> None:
        self.lost.append(route.method)

    def note(self, finished: CallFinished) -> None:
        self.noted.append((finished.route.method, finished.outcome, finished.side))


class Front:
    """An exchange before a legacy service, with methods that move."""

    def __init__(
        self,
        whole: Answer | Fault,
        *,
        codec: str = "jsonrpc",
        dialect: str = "plain",
        passthrough_to: str | None = None,
        dotted: Mapping[str, Setting] = MappingProxyType({}),  # methods whose names are no Python names
        fields: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),  # of routes
        new: Outcome = Reply(1),  # of the D-Bus side  # noqa: B008 - immutable
        upstreams: kit.Scripted | None = None,
        **methods: Setting,
    ) -> None:
        methods = {**methods, **dotted}
        self.upstreams = upstreams or kit.Scripted({"old": (codec, dialect)}, whole)
        self.told = Told()
        self.asked: list[str] = []
        routes = {
            name: replace(route(name, migration=replace(LEGACY, setting=setting)), **fields.get(name, {}))
            for name, setting in methods.items()
        }
        spelling = DIALECTS[dialect](codec).spelling
        table = EndpointTable(HERE, codec, dialect, routes, passthrough_to=passthrough_to, spelling=spelling)

        async def answer(_route: Route, call: Call) -> Outcome:
            self.asked.append(call.method)
            return new

        self.dispatcher = Dispatcher(ScriptedBus(answer), self.told.note, upstreams=self.upstreams)
        self.shadow = Shadow(self.dispatcher.observe, self.told)
        override = side_override("X-Gateway-Side", "side")
        plain = CODECS[codec](MessageLimits()), DIALECTS[dialect](codec)
        self.exchange = RpcEndpoint(table, *plain, self.dispatcher, shadow=self.shadow, override=override)
        recorder = Recorder(self.dispatcher)
        self._recording = expect(RecordingSession, recorder.begin(ALL, RecordingLimits(writes=True)))

    @property
    def recorded(self) -> list[RecordedCall]:
        """What a recording of all methods has taken."""
        return [each for _, each, _ in self._recording._waiting if isinstance(each, RecordedCall)]

    def set_mode(self, pattern: str, setting: Setting) -> None:
        self.dispatcher.toggles.replace([Override(pattern, setting, "alice", 1.0)])

    async def answer(self, message: bytes, carried: RequestMetadata = NO_METADATA) -> Answer:
        """The answer; then everything that comes after it."""
        answer = await self.exchange.answer(message, PEER, carried)
        await asyncio.sleep(0)
        await self.shadow.drain(TIMEOUT)
        return answer


ONE = b'{ "method":"stat", "params":["a"], "id":7 }'
LEGACY_ONLY, SHADOW, DBUS = Setting(Mode.LEGACY), Setting(Mode.SHADOW), Setting(Mode.DBUS)


async def test_a_message_of_legacy_calls_goes_as_it_came_and_its_answer_comes_back_as_it_is() -> None:
    front = Front(OLD_ANSWER, stat=LEGACY_ONLY)
    carried = RequestMetadata("POST", "/x?y", ((b"User-Agent", b"old client"),))
    assert await front.answer(ONE, carried) is OLD_ANSWER
    assert front.upstreams.forwarded == [("old", ONE, carried)]
    assert front.told.noted == [("stat", Reply(1), Side.LEGACY)]
    assert front.asked == []


@each_case(
    ("session", "at_once"),
    [
        ({"login": lambda call: str(call.params[0])}, True),
        ({"closes": lambda call: str(call.params[0])}, True),
        ({}, False),
    ],
)
async def test_a_session_is_known_before_its_client_can_make_another_call(
    session: dict[str, Callable[[Call], str]], *, at_once: bool
) -> None:
    front = Front(OLD_ANSWER, stat=LEGACY_ONLY, fields={"stat": session})
    assert await front.exchange.answer(ONE, PEER) is OLD_ANSWER
    assert bool(front.told.noted) is at_once  # all else is counted after the answer has left
    await asyncio.sleep(0)
    assert front.told.noted == [("stat", Reply(1), Side.LEGACY)]


async def test_a_message_as_it_came_may_be_sent_again_only_when_none_of_its_calls_is_a_write() -> None:
    read = {"stat": {"effect": Effect.READ}}
    front = Front(OLD_ANSWER, passthrough_to="old", stat=LEGACY_ONLY, start=LEGACY_ONLY, fields=read)
    for methods in (("stat", "stat"), ("stat", "start"), ("stat", "unmapped")):
        await front.answer(batch(*methods))
    assert front.upstreams.repeatable == [True, False, False]


class InLine(kit.Scripted):
    """A legacy service without a free slot: a message waits until it is no longer wanted."""

    async def forward(self, *_: object, wanted: Wanted = always, **__: object) -> Answer | Fault:
        self.reviewed = asyncio.Event()
        await self.reviewed.wait()
        assert not wanted()
        return Fault(FaultCode.BUSY, "not wanted any more")

    def review(self) -> None:
        self.reviewed.set()


async def test_a_message_that_waits_for_an_old_service_is_answered_call_by_call_when_a_mode_changes() -> None:
    in_line = InLine({"old": ("jsonrpc", "plain")})
    front = Front(OLD_ANSWER, upstreams=in_line, stat=LEGACY_ONLY, start=LEGACY_ONLY)
    answering = asyncio.ensure_future(front.answer(batch("stat", "start")))
    await asyncio.sleep(0)
    assert not answering.done()
    front.set_mode("toy/start", DBUS)
    answer = await asyncio.wait_for(answering, TIMEOUT)
    assert [each["result"] for each in json.loads(answer.body or b"")] == ["old", 1]
    assert front.asked == ["start"]
    assert [(method, side) for method, _, side in front.told.noted] == [("stat", Side.LEGACY), ("start", Side.DBUS)]


@each_case(("said", "noted"), [((NOT_SENT,), WITHDRAWN), ((), ABANDONED)])
async def test_a_message_whose_client_leaves_is_noted_for_each_of_its_calls(
    said: tuple[str, ...], noted: Fault
) -> None:
    class Hung(kit.Scripted):
        async def forward(self, *_: object, **__: object) -> Answer | Fault:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                error.args = (*error.args, *said)
                raise
            raise AssertionError("unreachable")

    front = Front(OLD_ANSWER, upstreams=Hung({"old": ("jsonrpc", "plain")}), stat=LEGACY_ONLY)
    answering = asyncio.ensure_future(front.answer(batch("stat", "stat")))
    await asyncio.sleep(0)
    answering.cancel()
    await asyncio.wait({answering})
    assert answering.cancelled()
    assert front.told.noted == [("stat", noted, Side.LEGACY)] * 2


async def test_in_shadow_mode_the_other_side_runs_once_the_answer_has_left() -> None:
    front = Front(OLD_ANSWER, stat=SHADOW)
    assert await front.exchange.answer(ONE, PEER) is OLD_ANSWER
    assert front.asked == []  # not before the answer is out of our hands
    await asyncio.sleep(0)
    await front.shadow.drain(TIMEOUT)
    (observed,) = front.told.seen
    assert front.asked == ["stat"]
    assert (observed.control.outcome, observed.candidate.outcome) == (Reply(1), Reply(1))
    assert observed.control.side is Side.LEGACY


async def test_the_legacy_side_is_the_control_also_where_dbus_answers() -> None:
    front = Front(OLD_ANSWER, stat=Setting(Mode.SHADOW, control=Side.DBUS))
    answer = await front.answer(ONE)
    assert json.loads(body(answer)) == {"result": 1, "error": None, "id": 7}
    (observed,) = front.told.seen
    assert (observed.control.outcome, observed.candidate.outcome) == (Reply("old"), Reply(1))
    assert observed.answered is Side.DBUS
    assert observed.apart < 60


async def test_an_answer_that_cannot_be_read_goes_back_all_the_same_and_is_a_difference() -> None:
    page = Answer(b"<html>", "text/html", None, 500, "Internal Error")
    front = Front(page, stat=SHADOW)
    assert await front.answer(ONE) is page
    assert front.told.seen[0].control.outcome == Fault(FaultCode.REMOTE, "HTTP 500", name="500")
    front = Front(Answer(b"nonsense", "text/html", None, 200), stat=LEGACY_ONLY)
    await front.answer(ONE)
    [(_, outcome, _)] = front.told.noted
    assert isinstance(outcome, Fault)
    assert outcome.code is FaultCode.PARSE_ERROR


@each_case(
    "refused",
    [
        Answer(
            b'{"jsonrpc":"2.0","error":{"code":-32600,"message":"no batches"},"id":null}', "application/json", None, 200
        ),
        Answer(b"<html>", "text/html", None, 500, "Internal Error"),
    ],
)
async def test_an_old_service_that_takes_no_batches_has_answered_none_of_their_calls(refused: Answer) -> None:
    """Else each of them would differ from what D-Bus says, and a rollout would go back for it."""
    front = Front(refused, stat=SHADOW)
    assert await front.answer(batch("stat", "stat")) is refused
    assert [observed.control.is_answer for observed in front.told.seen] == [False, False]


async def test_an_old_service_that_is_away_is_a_fault_in_the_clients_protocol() -> None:
    away = Fault(FaultCode.UNAVAILABLE, "cannot connect")
    front = Front(away, stat=LEGACY_ONLY)
    answer = json.loads(body(await front.answer(ONE)))
    assert (answer["id"], answer["error"]["message"]) == (7, "cannot connect")
    assert front.told.noted == [("stat", away, Side.LEGACY)]
    assert [taken.outcome for taken in front.recorded] == [away]


def batch(*methods: str) -> bytes:
    return json.dumps(
        [{"jsonrpc": "2.0", "method": method, "params": [], "id": at} for at, method in enumerate(methods)]
    ).encode()


async def test_a_batch_goes_as_it_came_only_when_the_old_service_answers_all_of_it() -> None:
    answers = b'[{"jsonrpc":"2.0","result":"A","id":0},{"jsonrpc":"2.0","result":1,"id":1}]'
    whole = Answer(answers, "application/json", None, 200)
    front = Front(whole, stat=LEGACY_ONLY, look=SHADOW, move=DBUS)
    assert await front.answer(batch("stat", "look")) is whole
    assert front.told.noted == [("stat", Reply("A"), Side.LEGACY), ("look", Reply(1), Side.LEGACY)]
    recorded = [(each.call.method, each.outcome, each.side, each.view) for each in front.recorded]
    assert recorded == [(*each, None) for each in front.told.noted]
    assert [observed.call.method for observed in front.told.seen] == ["look"]
    mixed = json.loads(body(await front.answer(batch("stat", "move"))))
    assert [entry["result"] for entry in mixed] == ["old", 1]
    assert len(front.upstreams.forwarded) == 1


async def test_an_old_service_of_another_protocol_is_asked_call_by_call() -> None:
    front = Front(OLD_ANSWER, stat=SHADOW)
    front.upstreams._speaks = {"old": ("xmlrpc", "xenapi")}
    assert json.loads(body(await front.answer(ONE)))["result"] == "old"
    assert (front.upstreams.called, front.upstreams.forwarded) == (["stat"], [])
    assert front.told.seen[0].control.outcome == Reply("old")


UNREADABLE = (b"{", b'[{"jsonrpc":"2.0","id":2},{"jsonrpc":"2.0","method":"stat","id":3}]')


@each_case("message", UNREADABLE)
@each_case("moved", [Setting(Mode.OFF), SHADOW, Setting(Mode.CANARY, 0), DBUS])
async def test_what_cannot_be_read_is_forwarded_only_where_no_mode_governs_a_call(
    message: bytes, moved: Setting
) -> None:
    """It may hold a call of a method that is off, or that both sides would run."""
    front = Front(OLD_ANSWER, passthrough_to="old", stat=LEGACY_ONLY, start=LEGACY_ONLY)
    assert await front.answer(message) is OLD_ANSWER
    front.set_mode("toy/start", moved)
    answer = json.loads(body(await front.answer(message)))
    assert "error" in (answer[0] if isinstance(answer, list) else answer)
    assert [each for _, each, _ in front.upstreams.forwarded] == [message]  # the first one alone
    front.dispatcher.toggles.replace([])
    assert await front.answer(message) is OLD_ANSWER


@each_case("message", [b'{"method":"nope","params":[],"id":7}', b"{", batch("nope", "stat")])
async def test_what_is_not_mapped_is_forwarded_where_the_mapping_says_so(message: bytes) -> None:
    front = Front(OLD_ANSWER, passthrough_to="old", stat=LEGACY_ONLY)
    assert await front.answer(message) is OLD_ANSWER
    assert front.told.noted[0][0] == UNMAPPED
    refusing = Front(OLD_ANSWER, stat=LEGACY_ONLY)
    assert await refusing.answer(message) is not OLD_ANSWER


async def test_a_multicall_of_no_calls_is_answered_and_forwarded_like_any_other() -> None:
    array = b"<value><array><data></data></array></value>"
    params = b"<params><param>%b</param></params>" % array
    message = b"<methodCall><methodName>system.multicall</methodName>%b</methodCall>" % params
    assert array in body(await Front(OLD_ANSWER, codec="xmlrpc").answer(message))
    assert await Front(OLD_ANSWER, codec="xmlrpc", passthrough_to="old").answer(message) is OLD_ANSWER


SPELLINGS = ("VM.start", "VM_start", "Async.VM.start", "InternalAsync.VM.start", "Async.VM_start")
TASKS = SPELLINGS[2:]


def xapi(setting: Setting, whole: Answer | Fault = OLD_ANSWER) -> Front:
    """VM.start before a xapi that answers all that is not mapped."""
    return Front(whole, dialect="xenapi", passthrough_to="old", dotted={"VM.start": setting})


def call(method: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": ["session", "vm"], "id": 1}).encode()


@each_case("spelling", SPELLINGS)
async def test_a_method_that_is_off_is_off_in_every_spelling(spelling: str) -> None:
    front = xapi(Setting(Mode.OFF))
    for message in (call(spelling), batch("VM.other", spelling)):
        assert "is switched off" in body(await front.answer(message)).decode()
    assert (front.upstreams.forwarded, front.upstreams.called, front.asked) == ([], ["VM.other"], [])


async def test_no_spelling_in_a_multicall_escapes_the_mode() -> None:
    off = {"VM.start": Setting(Mode.OFF)}
    front = Front(OLD_ANSWER, codec="xmlrpc", dialect="xenapi", passthrough_to="old", dotted=off)
    calls = [{"methodName": spelling, "params": []} for spelling in SPELLINGS]
    answer = body(await front.answer(xmlrpc.client.dumps((calls,), "system.multicall").encode()))
    assert answer.count(b"is switched off") == len(SPELLINGS)
    assert (front.upstreams.forwarded, front.upstreams.called, front.asked) == ([], [], [])


@each_case("spelling", SPELLINGS)
@each_case("setting", [LEGACY_ONLY, SHADOW])
async def test_a_method_of_the_old_service_goes_there_as_it_came_in_every_spelling(
    spelling: str, setting: Setting
) -> None:
    front = xapi(setting)
    assert await front.answer(call(spelling)) is OLD_ANSWER
    assert [message for _, message, _ in front.upstreams.forwarded] == [call(spelling)]
    counted = spelling.replace("VM_start", "VM.start")  # a task is told at once: its time says nothing of the method
    assert [(method, side) for method, _, side in front.told.noted] == [(counted, Side.LEGACY)]
    assert front.asked == ([spelling] if setting is SHADOW and spelling not in TASKS else [])


@each_case("setting", [DBUS, Setting(Mode.CANARY, BUCKETS), Setting(Mode.SHADOW, control=Side.DBUS)])
async def test_what_dbus_answers_is_answered_in_both_spellings_and_its_tasks_are_refused_without_a_place_for_them(
    setting: Setting,
) -> None:
    front = xapi(setting)
    for spelling in SPELLINGS[:2]:
        assert json.loads(body(await front.answer(call(spelling))))["result"] == 1
    for spelling in TASKS:
        error = json.loads(body(await front.answer(call(spelling))))["error"]
        assert error["message"] == "Fault"
        assert error["data"] == [f"No async mode for this operation (rpc: {spelling})"]
    assert front.asked == list(SPELLINGS[:2])
    assert front.upstreams.forwarded == []


@each_case("setting", [DBUS, Setting(Mode.CANARY, BUCKETS)])
async def test_tasks_stay_with_the_old_service_only_where_the_mapping_says_so(setting: Setting) -> None:
    staying = {"VM.start": {"migration": replace(LEGACY, setting=setting, tasks="legacy")}}
    front = Front(OLD_ANSWER, dialect="xenapi", passthrough_to="old", dotted={"VM.start": DBUS}, fields=staying)
    assert await front.answer(call("Async.VM.start")) is OLD_ANSWER
    assert front.asked == []
    front.set_mode("VM.start", Setting(Mode.OFF))
    assert "is switched off" in body(await front.answer(call("Async.VM.start"))).decode()


async def test_a_refused_call_goes_nowhere_and_its_neighbours_are_answered() -> None:
    front = xapi(DBUS)
    message = batch("VM.other", "Async.VM.start", "VM_start")
    other, refused, start = json.loads(body(await front.answer(message)))
    assert (other["result"], start["result"]) == ("old", 1)
    assert refused["error"]["message"] == "Fault"
    assert front.upstreams.forwarded == []  # never the whole message: the refused call would go with it
    assert front.upstreams.called == ["VM.other"]
    entries = [*json.loads(batch("Async.VM.start")), {"jsonrpc": "2.0", "id": 2}]  # beside one that cannot be read
    answers = json.loads(body(await front.answer(json.dumps(entries).encode())))
    assert [sorted(each) for each in answers] == [["error", "id", "jsonrpc"]] * 2
    assert (front.upstreams.forwarded, front.upstreams.called) == ([], ["VM.other"])


@each_case(
    ("header", "side", "answers"),
    [
        (b"dbus", None, "asked"),
        (b" DBUS ", None, "asked"),
        (b"legacy", None, "forwarded"),
        (b"both", None, "forwarded"),  # it names no side
        (b"", "dbus", "asked"),
        (b"", "legacy", "called"),  # the parameter is taken out, so the message is no longer as it came
        (b"", 5, "called"),
    ],
)
async def test_a_client_may_force_a_side_by_a_header_or_by_a_parameter(
    header: bytes, side: Value, answers: str
) -> None:
    front = Front(OLD_ANSWER, stat=LEGACY_ONLY)
    named = {"vm": "a"} if side is None else {"vm": "a", "side": side}
    message = json.dumps({"jsonrpc": "2.0", "method": "stat", "params": named, "id": 1}).encode()
    await front.answer(message, RequestMetadata(headers=((b"Host", b"x"), (b"X-Gateway-Side", header))))
    await asyncio.sleep(0)  # what is passed through is recorded after it was read
    found = {"asked": front.asked, "called": front.upstreams.called, "forwarded": front.upstreams.forwarded}
    assert [way for way, calls in found.items() if calls] == [answers]
    assert [each.call.named for each in front.recorded] == [{"vm": "a"}]
    assert side_override("", "") is None  # a listener that allows neither


async def test_a_bug_in_what_comes_after_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    front = Front(OLD_ANSWER, stat=LEGACY_ONLY)
    front.exchange.client = BrokenCodec(MessageLimits())
    assert await front.answer(ONE) is OLD_ANSWER
    assert "a bug lost the outcome of this message" in caplog.text


async def test_where_a_call_fell_back_nothing_is_compared_with_itself() -> None:
    observed = replace(DBUS, observe=True)
    falls_back = {"stat": {"migration": replace(LEGACY, setting=observed, fallback=True)}}
    away = Fault(FaultCode.UNAVAILABLE, "the bus is gone")
    front = Front(OLD_ANSWER, stat=observed, fields=falls_back, new=away)
    assert json.loads(body(await front.answer(ONE)))["result"] == "old"
    assert front.told.seen == []


def first(call: Call) -> str:
    return str(call.params[0])


SESSIONS = {"login": route("login", login=first), "stat": route("stat", session=first)}


async def test_what_is_known_of_a_caller_travels_with_the_call() -> None:
    """The session was opened at another endpoint."""

    async def opens(_route: Route, _call: Call) -> Outcome:
        return Reply("ref-1")

    sessions, backend = Sessions(), ScriptedBus(opens)
    ends = [
        endpoint_over(backend, codec, table=EndpointTable(HERE, codec, "plain", SESSIONS), sessions=sessions)
        for codec in ("xmlrpc", "jsonrpc")
    ]
    agent = RequestMetadata(headers=((b"Host", b"x"), (b"user-agent", b"xe/1.2"), (b"X-Request-ID", b"r-7")))
    await ends[0].answer(ends[0].codec.encode_call(Call("login", ("alice",))), PEER)
    await ends[1].answer(ends[1].codec.encode_call(Call("stat", ("ref-1",))), PEER, agent)
    caller = {"protocol": "jsonrpc", "agent": "xe/1.2", "user": "alice", "listener": "rpc", "request_id": "r-7"}
    assert backend.calls[1].extensions == {**caller, "dialect": "plain", "path": "/here"}


async def test_a_logout_without_a_session_ends_nobodys() -> None:
    told: list[str] = []
    table = EndpointTable(HERE, "jsonrpc", "plain", {"logout": route("logout", closes=first)})
    endpoint = endpoint_over(ScriptedBus(echo), table=table, on_logout=told.append)
    for session in ("", "ref-1"):
        await endpoint.answer(endpoint.codec.encode_call(Call("logout", (session,))), PEER)
    assert told == ["ref-1"]


@each_case(
    ("trusts_root", "peer", "served"),
    [
        (True, Peer("unix:/xapi", uid=0), "root login"),
        (True, Peer("unix:/xapi", uid=1000), "login"),
        (True, Peer("tcp:127.0.0.1:5"), "login"),
        (False, Peer("unix:/xapi", uid=0), "login"),
    ],
)
async def test_only_root_on_a_trusted_socket_logs_in_without_a_password(
    trusts_root: bool, peer: Peer, served: str
) -> None:
    async def named(route: Route, _call: Call) -> Outcome:
        return Reply(route.method)

    routes = {"login": route("login", login=first, root_login=route("root login"))}
    table = EndpointTable(HERE, "jsonrpc", "plain", routes)
    trusting = endpoint_over(ScriptedBus(named), table=table, trusts_root=trusts_root)
    answer = await trusting.answer(b'{"jsonrpc":"2.0","method":"login","params":["root"],"id":1}', peer)
    assert json.loads(body(answer))["result"] == served


# Recordings


async def test_a_call_is_recorded_once_its_answer_has_left_with_the_side_that_answered() -> None:
    front = Front(OLD_ANSWER, stat=DBUS)
    await front.exchange.answer(ONE, PEER)
    assert front.recorded == []
    await asyncio.sleep(0)
    (taken,) = front.recorded
    assert (taken.listener, taken.path, taken.codec) == ("rpc", "/here", "jsonrpc")
    assert (taken.route.method, taken.call.params, taken.side, taken.outcome) == ("stat", ("a",), Side.DBUS, Reply(1))
    assert taken.view is not None
    assert taken.view(Reply(b"hi")) == Reply("aGk=")  # as this client reads it


async def test_what_is_not_mapped_and_what_nobody_answers_is_never_recorded() -> None:
    front = Front(OLD_ANSWER, passthrough_to="old", stat=Setting(Mode.OFF))
    unmapped = b'{"method":"nope","params":["secret"],"id":7}'
    for message in (unmapped, b"{", ONE, request(1, method="system.listMethods")):
        await front.answer(message)
    assert front.recorded == []


async def test_an_answer_of_many_megabytes_goes_back_unread_and_only_the_call_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passthrough, "READ_MOST", len(body(OLD_ANSWER)) - 1)
    front = Front(OLD_ANSWER, stat=SHADOW)
    assert await front.answer(ONE) is OLD_ANSWER
    assert front.told.noted == [("stat", UNKEPT, Side.LEGACY)]
    assert (front.told.seen, front.told.lost) == ([], ["stat"])
    await asyncio.sleep(0)
    assert [taken.outcome for taken in front.recorded] == [UNKEPT]


def packed(body: bytes, encoding: str = "gzip") -> Answer:
    return structs.replace(OLD_ANSWER, body=body, headers=((b"Content-Encoding", encoding.encode()),))


@each_case(
    ("answer", "limits", "seen"),
    [
        (OLD_ANSWER, {"READ_AT_ONCE": len(body(OLD_ANSWER)) - 1}, Reply(1)),  # long: it is read in a thread
        (packed(gzip.compress(OLD_ANSWER.body or b"")), {}, Reply(1)),
        (packed(zlib.compress(OLD_ANSWER.body or b""), "deflate"), {}, Reply(1)),
        (packed(b"junk"), {}, Fault(FaultCode.PARSE_ERROR, "the body is not valid gzip")),
        (packed(gzip.compress(bytes(2**20))), {"READ_MOST": 100_000}, UNKEPT),  # too long to be read
        (structs.replace(OLD_ANSWER, status=302, reason="Found"), {}, Fault(FaultCode.REMOTE, "HTTP 302", name="302")),
    ],
)
async def test_an_answer_goes_back_as_it_came_and_is_read_for_what_came_of_it(
    answer: Answer, limits: dict[str, int], seen: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Front(answer, stat=LEGACY_ONLY)
    with monkeypatch.context() as patch:
        for name, limit in limits.items():
            patch.setattr(passthrough, name, limit)
        assert await front.answer(ONE) is answer
        async with asyncio.timeout(TIMEOUT):
            while not front.told.noted:  # noqa: ASYNC110 - the thread sets no event
                await asyncio.sleep(0)
    assert front.told.noted == [("stat", seen, Side.LEGACY)]


@each_case(
    ("domains", "asks", "method", "allowed"),
    [
        (Domains(), 0, "echo", True),
        (Domains(), 5, "echo", False),
        (Domains(), 5, "nobody-knows", False),
        (Domains(), 5, "system.listMethods", False),
        (Domains(frozenset({5})), 5, "echo", True),
        (Domains(frozenset({5})), 5, "narrow", False),
        (Domains(named=frozenset({"domid"})), 7, "echo", True),
        (Domains(named=frozenset({"domid"})), 5, "echo", False),
    ],
)
async def test_a_domain_calls_what_the_mapping_lets_it_call(
    domains: Domains, asks: int, method: str, allowed: bool
) -> None:
    async def answer(_route: Route, call: Call) -> Outcome:
        return Reply(str(call.peer.domid))

    routes = {"echo": route(), "narrow": route("narrow", domains=Domains())}
    exposure = Exposure("tree", template("/svc"), domains)
    table = EndpointTable(EndpointKey("store", "/svc"), "xenstore", "plain", routes, exposure=exposure)
    noted: list[Outcome] = []
    exchange = endpoint_over(
        ScriptedBus(answer), "xenstore", table=table, listeners=[lambda finished: noted.append(finished.outcome)]
    )
    body = exchange.codec.encode_call(Call(method, named={"domid": "7"}))
    outcome = exchange.codec.decode_outcome((await exchange.answer(body, Peer(domid=asks))).body or b"")
    if allowed:
        assert outcome == Reply(str(asks))
    else:
        assert outcome == Fault(FaultCode.ACCESS_DENIED, f"domain {asks} may not call '{method}'")
        assert noted == [outcome]
