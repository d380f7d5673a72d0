from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from adapters.codecs import UPSTREAM_CODECS
from adapters.dialects import DIALECTS
from adapters.upstream import Arguments, Backend, Upstream, arrange_parameters
from gateway.core import interfaces
from gateway.core.admin.status import UpstreamStatus
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.interfaces import Wanted, always
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import (
    Answer,
    Call,
    Fault,
    FaultCode,
    Headers,
    Outcome,
    Reply,
    RequestMetadata,
    Value,
    ended,
)
from tests.kit.cases import each_case
from tests.kit.mappings import route

LOST = Fault(FaultCode.NO_REPLY, "cut")


class Line(interfaces.UpstreamConnection):
    """A connection to no server: remembers the requests, and answers as the test says."""

    def __init__(self, *answers: Answer | Fault) -> None:
        self.sent: list[tuple[bytes, RequestMetadata, bool]] = []
        self.did: list[str] = []
        self.busy = False
        self._answers = list(answers)

    async def start(self) -> None:
        self.did.append("start")

    async def send(
        self, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        self.sent.append((body, carried, repeatable))
        return self._answers.pop(0)

    def review(self) -> None:
        self.did.append("review")

    def retire(self) -> None:
        self.did.append("retire")

    @property
    def is_idle(self) -> bool:
        return not self.busy

    def status(self) -> UpstreamStatus:
        return UpstreamStatus("old", "http://old", 0, 0, 0, "")

    async def stop(self) -> None:
        self.did.append("stop")


OK = Answer(b"", "", None, 200, "OK")


def answered(body: bytes, headers: Headers = (), **how: Any) -> Answer:
    return replace(OK, body=body, headers=headers, **how)


def result(value: str) -> bytes:
    return f"<methodResponse><params><param><value>{value}</value></param></params></methodResponse>".encode()


def status(kind: str, member: str, value: str) -> Answer:
    """A Status struct over XML-RPC."""
    members = {"Status": kind, member: value}.items()
    inside = "".join(f"<member><name>{name}</name><value>{text}</value></member>" for name, text in members)
    return answered(result(f"<struct>{inside}</struct>"))


def upstream(line: Line, codec: str = "jsonrpc", dialect: str = "plain", key: object = 1, **more: Any) -> Upstream:
    made = UPSTREAM_CODECS[codec]()
    return Upstream(key, line, made, DIALECTS[dialect](made.name), frozenset({"jsonrpc", "xmlrpc"}), **more)


@asynccontextmanager
async def running(**upstreams: Upstream) -> AsyncIterator[Backend]:
    backend = Backend(upstreams)
    await backend.start()
    yield backend
    await backend.stop()


def to(name: str, *parameters: str, effect: Effect = Effect.WRITE, result: Type | None = None) -> Route:
    names = tuple(Parameter(each, None) for each in parameters)
    made = route("VM.start", migration=Migration(Setting(Mode.LEGACY), name), parameters=names, effect=effect)
    return replace(made, result=result)


async def outcome(line: Line, call: Call, route: Route | None = None, **kind: Any) -> Outcome:
    async with running(old=upstream(line, **kind)) as backend:
        return await backend.call(route or to("old"), call)


# What is sent


JSON1: Mapping[str, Any] = {"codec": "jsonrpc1"}
IDL: Mapping[str, Any] = {**JSON1, "dialect": "xapi_idl"}


@each_case(
    ("call", "kind", "body"),
    [
        (Call("f", (1,)), {}, b'{"jsonrpc":"2.0","method":"f","params":[1],"id":1}'),
        (Call("f", (1,)), JSON1, b'{"method":"f","params":[1],"id":1}'),
        (Call("f", ("x",), {"id": "a"}), IDL, b'{"method":"f","params":[{"id":"a"},"x"],"id":1}'),
        (
            Call("f", ("d", "a")),
            {**IDL, "arguments": "named"},
            b'{"method":"f","params":[{"dbg":"d","id":"a"}],"id":1}',
        ),
        (Call("a_b", ("c_d",)), {**JSON1, "dashes": True}, b'{"method":"a-b","params":["c_d"],"id":1}'),
    ],
)
async def test_a_call_is_written_as_the_upstream_takes_it(call: Call, kind: dict[str, Any], body: bytes) -> None:
    line = Line(LOST)
    assert await outcome(line, call, to("old", "dbg", "id"), **kind) == LOST
    headers = ((b"Content-Type", b"application/json"), (b"User-Agent", b"xcp-gateway"))
    assert line.sent == [(body, RequestMetadata("POST", "", headers), False)]


@each_case(
    ("known", "target", "begins"),
    [
        ({"protocol": "jsonrpc", "dialect": "xenapi", "path": "/jsonrpc"}, "/jsonrpc", b'{"jsonrpc":"2.0"'),
        ({"protocol": "jsonrpc", "dialect": "plain", "path": "/plain"}, "", b"<?xml"),
        ({"protocol": "xmlrpc", "dialect": "xenapi", "path": "/RPC2"}, "", b"<?xml"),
        ({}, "", b"<?xml"),
    ],
)
async def test_a_call_is_written_in_the_clients_own_codec_where_the_upstream_understands_it(
    known: dict[str, object], target: str, begins: bytes
) -> None:
    line = Line(LOST)
    xml, json = (upstream(line, codec, "xenapi") for codec in ("xmlrpc", "jsonrpc"))
    async with running(old=replace(xml, also={"jsonrpc": json})) as backend:
        await backend.call(to("old"), Call("VM.start", extensions=known))
    body, carried, _ = line.sent[0]
    assert carried.target == target
    assert body.startswith(begins)


async def test_a_call_that_cannot_be_said_or_has_no_upstream_is_refused_and_not_sent() -> None:
    line = Line()
    text = "$.named: expected positional parameters only; XML-RPC has no named ones"
    assert await outcome(line, Call("f", (), {"id": 1}), codec="xmlrpc") == Fault(FaultCode.INVALID_PARAMS, text)
    assert line.sent == []
    async with running() as backend:
        gone = Fault(FaultCode.UNAVAILABLE, "no upstream 'old' is configured; the call was not sent")
        assert await backend.call(to("old"), Call("f")) == gone
        assert await backend.forward("old", b"", RequestMetadata()) == gone


async def test_a_oneway_call_is_asked_like_any_other_and_its_result_is_nothing() -> None:
    line = Line(answered(b'{"jsonrpc":"2.0","result":7,"id":1}'), Fault(FaultCode.UNAVAILABLE, "gone"))
    async with running(old=upstream(line)) as backend:
        assert await backend.call(to("old"), Call("f", oneway=True)) == Reply(None)
        assert await backend.call(to("old"), Call("f", oneway=True)) == Fault(FaultCode.UNAVAILABLE, "gone")
    assert b'"id":1' in line.sent[0][0]


async def test_only_a_write_is_never_sent_twice() -> None:
    line = Line(LOST, LOST, LOST)
    async with running(old=upstream(line)) as backend:
        for effect in Effect:
            assert await backend.call(to("old", effect=effect), Call("f")) == LOST
    assert [repeatable for _, _, repeatable in line.sent] == [effect is not Effect.WRITE for effect in Effect]


# What is read


YES = b'{"jsonrpc":"2.0","result":"yes","id":1}'
LATIN_1 = answered(result("ü").decode().encode("latin-1"), content_type="text/xml; charset=ISO-8859-1")
GZIP, DEFLATE = ((b"Content-Encoding", b"gzip"),), ((b"Content-Encoding", b"deflate"),)
MOVED = ((b"LOCATION", b"https://10.0.0.2/RPC2?session_id=x"),)
TAG = "Cannot_free_this_much_memory"
NO_MEMORY = Fault(FaultCode.APPLICATION, TAG, name=TAG, data=[4096, 1024])
PAYLOAD = "<array><data><value><i4>4096</i4></value><value><i4>1024</i4></value></data></array>"
ERROR = f"<array><data><value>{TAG}</value><value>{PAYLOAD}</value></data></array>"


def old_service(text: str, name: str = "HTTP") -> Fault:
    return Fault(FaultCode.REMOTE, f"the legacy service 'old' answered with HTTP status {text}", name=name)


@each_case(
    ("answer", "kind", "expected"),
    [
        (LATIN_1, {"codec": "xmlrpc"}, Reply("ü")),
        (answered(b'{"result":null,"error":["%b",[4096,1024]],"id":0}' % TAG.encode()), IDL, NO_MEMORY),
        (status("Failure", "ErrorDescription", ERROR), {"codec": "xmlrpc", "dialect": "xapi_idl"}, NO_MEMORY),
        (
            answered(b'{"jsonrpc":"2.0","error":{"code":-32601,"message":"no"},"id":1}', status=404),
            {},
            Fault(FaultCode.UNKNOWN_METHOD, "no"),  # whatever the status
        ),
        (answered(b"<html>", status=500, reason="Internal Error"), {}, old_service("500 Internal Error")),
        (answered(b"", status=404, reason=""), {}, old_service("404")),
        (
            answered(b"<html>", MOVED, status=302, reason="Found"),
            {},
            old_service(
                "302 Found, a redirect to 'https://10.0.0.2/RPC2': "
                "`url` of the upstream must be the address that answers calls",
                "302",
            ),
        ),
        (answered(gzip.compress(YES), GZIP), {}, Reply("yes")),
        (answered(zlib.compress(YES), DEFLATE), {}, Reply("yes")),
        (
            answered(YES, GZIP),
            {},
            Fault(
                FaultCode.REMOTE, "the answer of the legacy service 'old' cannot be read: the body is not valid gzip"
            ),
        ),
        (
            answered(gzip.compress(bytes(2**20)), GZIP),
            {},
            Fault(
                FaultCode.TOO_LARGE,
                "the answer of the legacy service 'old': the inflated body is over 1000 bytes; the call was executed",
            ),
        ),
        (
            answered(b"Unexpected_exception"),
            {},
            Fault(
                FaultCode.REMOTE,
                "the answer of the legacy service 'old' cannot be read: "
                "expected JSON, it ends or goes wrong at character 0 of 20",
            ),
        ),
    ],
)
async def test_an_answer_is_read_in_the_terms_of_its_service_and_what_is_none_is_told(
    answer: Answer, kind: dict[str, Any], expected: Outcome
) -> None:
    found = await outcome(Line(answer), Call("f"), max_answer=1000, **kind)
    assert found == expected
    assert (ended(found) == "redirect") == (answer.status == 302)


@each_case(("signature", "value"), [("x", 42), ("s", "42")])
async def test_numbers_that_xml_has_as_text_are_numbers_where_the_mapping_says_so(signature: str, value: Value) -> None:
    line, of_type = Line(status("Success", "Value", "42")), to("old", result=parse_one(signature))
    assert await outcome(line, Call("f"), of_type, codec="xmlrpc", dialect="xenapi") == Reply(value)


# Parameters


@each_case(
    ("how", "params", "named", "expected"),
    [
        ("sent", ("d",), {"id": 1}, (("d",), {"id": 1})),
        ("named", ("d", 1), {}, ((), {"dbg": "d", "id": 1})),
        ("named", (1,), {"dbg": "d"}, ((), {"id": 1, "dbg": "d"})),
        ("named", ("d", 1, 2, 3), {}, (("d", 1, 2, 3), {})),
        ("positional", (), {"id": 1, "dbg": "d"}, (("d", 1), {})),
        ("positional", (), {"dbg": "d", "paused": True}, ((), {"dbg": "d", "paused": True})),
        ("positional", (), {"other": 1}, ((), {"other": 1})),
    ],
)
def test_parameters_are_given_as_the_old_service_takes_them(
    how: Arguments, params: tuple[Value, ...], named: Mapping[str, Value], expected: object
) -> None:
    got = arrange_parameters(Call("f", params, named), ["dbg", "id", "paused"], how)
    assert (got.params, dict(got.named)) == expected


# Messages as they come


async def test_a_message_is_forwarded_as_it_came() -> None:
    answer, carried = answered(b"junk too", status=299), RequestMetadata("GET", "/x?y", ((b"A", b"b"),))
    for repeatable in (False, True):
        line = Line(answer)
        async with running(old=upstream(line)) as backend:
            assert await backend.forward("old", b"junk", carried, repeatable=repeatable) is answer
        assert line.sent == [(b"junk", carried, repeatable)]


async def test_an_upstream_understands_its_own_dialect_in_the_codecs_it_speaks() -> None:
    async with running(old=upstream(Line(), dialect="xenapi")) as backend:
        assert backend.speaks("old", "xmlrpc", "xenapi")
        assert not backend.speaks("old", "xmlrpc", "plain")
        assert not backend.speaks("old", "xenstore", "xenapi")
        assert not backend.speaks("other", "xmlrpc", "xenapi")


# Reload


async def test_an_upstream_that_stays_keeps_its_line() -> None:
    old, new = Line(answered(b'{"jsonrpc":"2.0","result":1,"id":1}')), Line()
    async with running(old=upstream(old, key="same")) as backend:
        await backend.reconfigure({"old": upstream(new, key="same")})
        assert await backend.call(to("old"), Call("f")) == Reply(1)
        backend.review()
    assert (old.did, new.did) == (["start", "review", "stop"], [])


async def test_an_upstream_that_changes_gets_the_next_call_and_the_old_one_ends_its_own() -> None:
    old, new = Line(), Line(answered(b'{"jsonrpc":"2.0","result":1,"id":1}'))
    async with running(old=upstream(old, key=1)) as backend:
        old.busy = True
        await backend.reconfigure({"old": upstream(new, key=2)})
        assert await backend.call(to("old"), Call("f")) == Reply(1)
        assert old.did == ["start", "retire"]
        old.busy = False
        await backend.reconfigure({})
        assert old.did == ["start", "retire", "stop"]
        assert new.did == ["start", "retire", "stop"]
        assert backend.status() == ()


class Probed(Line):
    why, asked = "connection refused", 0

    async def probe(self) -> str:
        self.asked += 1
        await asyncio.sleep(3600 if self.why == "hangs" else 0)
        return self.why


async def test_an_upstream_that_was_reached_is_not_disturbed_again_and_one_that_was_not_is() -> None:
    line = Probed()
    backend = Backend({"old": upstream(line)})
    for why, seconds, told, asked in (
        ("connection refused", 1.0, "connection refused", 1),
        ("hangs", 0.01, "no connection within 0.01 s", 2),
        ("", 1.0, "", 3),
        ("connection refused", 1.0, "", 3),
    ):
        line.why = why
        (state,) = await backend.probed(seconds)
        assert (state.unreachable, line.asked) == (told, asked)
