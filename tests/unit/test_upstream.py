from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from msgspec import structs
from msgspec.structs import replace

from adapters.codecs import UPSTREAM_CODECS
from adapters.dialects import DIALECTS
from adapters.upstream import Arguments, Backend, Upstream, arrange_parameters
from gateway.core import interfaces
from gateway.core.admin.status import UpstreamStatus
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.interfaces import Wanted, always
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Answer, Call, Fault, FaultCode, Outcome, Reply, RequestMetadata, Value, ended
from tests.kit.cases import each_case, expect
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


def answered(body: bytes, status: int = 200, reason: str = "OK") -> Answer:
    return Answer(body, "", None, status, reason)


def upstream(
    line: Line, codec: str = "jsonrpc", dialect: str = "plain", arguments: Arguments = "sent", key: object = 1
) -> Upstream:
    made = UPSTREAM_CODECS[codec]()
    return Upstream(key, line, made, DIALECTS[dialect](made.name), frozenset({"jsonrpc", "xmlrpc"}), arguments)


@asynccontextmanager
async def running(**upstreams: Upstream) -> AsyncIterator[Backend]:
    backend = Backend(upstreams)
    await backend.start()
    yield backend
    await backend.stop()


def to(name: str, *parameters: str, effect: Effect = Effect.WRITE) -> Route:
    names = tuple(Parameter(each, None) for each in parameters)
    return route("VM.start", migration=Migration(Setting(Mode.LEGACY), name), parameters=names, effect=effect)


async def outcome(line: Line, call: Call, codec: str = "jsonrpc", dialect: str = "plain") -> Outcome:
    async with running(old=upstream(line, codec, dialect)) as backend:
        return await backend.call(to("old"), call)


async def test_an_answer_is_read_in_the_charset_of_its_content_type() -> None:
    body = "<methodResponse><params><param><value>\u00fc</value></param></params></methodResponse>".encode("latin-1")
    answer = structs.replace(answered(body), content_type="text/xml; charset=ISO-8859-1")
    assert await outcome(Line(answer), Call("VM.start"), "xmlrpc") == Reply("\u00fc")


async def test_a_call_is_written_in_the_upstreams_own_protocol() -> None:
    line = Line(answered(b'{"jsonrpc":"2.0","result":7,"id":1}'))
    assert await outcome(line, Call("VM.start", (1,))) == Reply(7)
    body, carried, _ = line.sent[0]
    assert body == b'{"jsonrpc":"2.0","method":"VM.start","params":[1],"id":1}'
    assert (carried.verb, carried.target) == ("POST", "")
    assert carried.headers == ((b"Content-Type", b"application/json"), (b"User-Agent", b"xcp-gateway"))


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
    xml, json = upstream(line, "xmlrpc", "xenapi"), upstream(line, "jsonrpc", "xenapi")
    async with running(old=replace(xml, also={"jsonrpc": json})) as backend:
        await backend.call(to("old"), Call("VM.start", extensions=known))
    body, carried, _ = line.sent[0]
    assert carried.target == target
    assert body.startswith(begins)


@each_case(
    ("call", "dialect", "body"),
    [
        (Call("f", (1,)), "plain", b'{"method":"f","params":[1],"id":1}'),
        (Call("f", ("x",), {"id": "a"}), "xapi_idl", b'{"method":"f","params":[{"id":"a"},"x"],"id":1}'),
    ],
)
async def test_an_upstream_may_know_nothing_but_json_rpc_1_0(call: Call, dialect: str, body: bytes) -> None:
    line = Line(answered(b'{"result":null,"error":null,"id":0}'))
    assert await outcome(line, call, "jsonrpc1", dialect) == Reply(None)
    assert line.sent[0][0] == body


@each_case(
    ("codec", "body"),
    [
        ("jsonrpc1", b'{"result":null,"error":["Cannot_free_this_much_memory",[4096,1024]],"id":0}'),
        (
            "xmlrpc",
            (
                b"<?xml version='1.0'?><methodResponse><params><param><value><struct><member><name>Status</name>"
                b"<value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>"
                b"<value>Cannot_free_this_much_memory</value><value><array><data><value><i4>4096</i4></value>"
                b"<value><int>1024</int></value></data></array></value></data></array></value></member></struct></value>"
                b"</param></params></methodResponse>"
            ),
        ),
    ],
)
async def test_an_error_of_an_xapi_idl_service_is_an_application_fault(codec: str, body: bytes) -> None:
    got = await outcome(Line(answered(body)), Call("reserve_memory"), codec, "xapi_idl")
    assert got == Fault(
        FaultCode.APPLICATION, "Cannot_free_this_much_memory", name="Cannot_free_this_much_memory", data=[4096, 1024]
    )


async def test_numbers_that_xml_has_as_text_are_numbers_where_the_mapping_says_so() -> None:
    members = {"Status": "Success", "Value": "42"}.items()
    struct = "".join(f"<member><name>{name}</name><value>{text}</value></member>" for name, text in members)
    body = f"<methodResponse><params><param><value><struct>{struct}</struct></value></param></params></methodResponse>"
    line = Line(answered(body.encode()), answered(body.encode()))
    async with running(old=upstream(line, "xmlrpc", "xenapi")) as backend:
        assert await backend.call(replace(to("old"), result=parse_one("x")), Call("f")) == Reply(42)
        assert await backend.call(replace(to("old"), result=parse_one("s")), Call("f")) == Reply("42")


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


MOVED = structs.replace(
    answered(b"<html>", 302, "Found"), headers=((b"LOCATION", b"https://10.0.0.2/RPC2?session_id=x"),)
)


@each_case(
    ("answer", "text", "name"),
    [
        (answered(b"<html>", 500, "Internal Error"), "answered with HTTP status 500 Internal Error", "HTTP"),
        (answered(b"", 404, ""), "answered with HTTP status 404", "HTTP"),
        (answered(b"<html>", 304, "Not Modified"), "answered with HTTP status 304 Not Modified", "HTTP"),
        (
            MOVED,
            (
                "answered with HTTP status 302 Found, a redirect to 'https://10.0.0.2/RPC2': "
                "`url` of the upstream must be the address that answers calls"
            ),
            "302",
        ),
    ],
)
async def test_an_http_error_that_is_no_answer_is_told_by_its_status(answer: Answer, text: str, name: str) -> None:
    found = await outcome(Line(answer), Call("f"))
    assert found == Fault(FaultCode.REMOTE, f"the legacy service 'old' {text}", name=name)
    assert (ended(found) == "redirect") == (name == "302")


async def test_an_answer_is_read_whatever_its_status_and_one_without_sense_is_the_old_services_fault() -> None:
    answer = answered(b'{"jsonrpc":"2.0","error":{"code":-32601,"message":"no"},"id":1}', 404)
    assert await outcome(Line(answer), Call("f")) == Fault(FaultCode.UNKNOWN_METHOD, "no")
    got = expect(Fault, await outcome(Line(answered(b"Unexpected_exception")), Call("f")))
    assert got.code is FaultCode.REMOTE
    assert got.message.startswith("the answer of the legacy service 'old' cannot be read: ")


def packed(body: bytes, encoding: str = "gzip") -> Answer:
    return structs.replace(answered(body), headers=((b"Content-Encoding", encoding.encode()),))


ANSWER = b'{"jsonrpc":"2.0","result":"yes","id":1}'


@each_case(
    ("answer", "expected"),
    [
        (packed(gzip.compress(ANSWER)), Reply("yes")),
        (packed(zlib.compress(ANSWER), "deflate"), Reply("yes")),
        (
            packed(ANSWER),
            Fault(
                FaultCode.REMOTE, "the answer of the legacy service 'old' cannot be read: the body is not valid gzip"
            ),
        ),
        (
            packed(gzip.compress(bytes(2**20))),
            Fault(
                FaultCode.TOO_LARGE,
                "the answer of the legacy service 'old': the inflated body is over 1000 bytes; the call was executed",
            ),
        ),
    ],
)
async def test_an_answer_that_is_compressed_is_inflated_within_bounds(answer: Answer, expected: Outcome) -> None:
    async with running(old=replace(upstream(Line(answer)), max_answer=1000)) as backend:
        assert await backend.call(to("old"), Call("f")) == expected


async def test_a_call_that_its_protocol_cannot_say_is_refused_and_not_sent() -> None:
    line = Line()
    got = await outcome(line, Call("f", (), {"id": 1}), "xmlrpc")
    text = "$.named: expected positional parameters only; XML-RPC has no named ones"
    assert got == Fault(FaultCode.INVALID_PARAMS, text)
    assert line.sent == []


async def test_an_upstream_that_is_not_there_executed_nothing() -> None:
    async with running() as backend:
        gone = Fault(FaultCode.UNAVAILABLE, "no upstream 'old' is configured; the call was not sent")
        assert await backend.call(to("old"), Call("f")) == gone
        assert await backend.forward("old", b"", RequestMetadata()) == gone


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


async def test_a_positional_call_reaches_a_service_that_wants_names_or_writes_them_with_dashes() -> None:
    line = Line(*[answered(b'{"result":null,"error":null,"id":0}')] * 2)
    async with running(old=upstream(line, "jsonrpc1", "xapi_idl", "named")) as backend:
        await backend.call(to("old", "debug_info", "id"), Call("VM.shutdown", ("dbg", "a")))
    async with running(old=replace(upstream(line, "jsonrpc1"), dashes=True)) as backend:
        await backend.call(to("old"), Call("reserve_memory", ("a_b",)))
    assert [body for body, _, _ in line.sent] == [
        b'{"method":"VM.shutdown","params":[{"debug_info":"dbg","id":"a"}],"id":1}',
        b'{"method":"reserve-memory","params":["a_b"],"id":1}',
    ]


# Messages as they come


async def test_a_message_is_forwarded_as_it_came() -> None:
    answer = answered(b"junk too", 299)
    line = Line(answer, answer)
    async with running(old=upstream(line)) as backend:
        carried = RequestMetadata("GET", "/x?y", ((b"A", b"b"),))
        assert await backend.forward("old", b"junk", carried) is answer
        assert await backend.forward("old", b"junk", carried, repeatable=True) is answer
    assert line.sent == [(b"junk", carried, False), (b"junk", carried, True)]


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
