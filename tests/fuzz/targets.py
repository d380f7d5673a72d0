"""All fuzz targets: for each the first inputs, its tokens, and a check of any bytes.

A check returns its result in a few words, so that a run recognises a new one; it raises for a defect.
"""

from __future__ import annotations

import json
import tempfile
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbus_fast import Message
from dbus_fast.signature import SignatureTree

from adapters.codecs import CODECS
from adapters.dbus.messages import to_library
from gateway.core.dbus import introspection_xml
from gateway.core.dbus.marshal import MarshalError, body_size, from_dbus, to_dbus
from gateway.core.dbus.signature import Type, parse, parse_one
from gateway.core.dbus.target import Variants
from gateway.core.interfaces import Codec
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.xenstore.paths import pack
from gateway.mapping.compiler import build
from gateway.mapping.problem import Problem
from tests.fuzz import answers, moving, requests, stores
from tests.fuzz.target import Check, Target, said, told, words
from tests.kit.mappings import IDL
from tests.kit.values import exactly
from tests.property.test_compile import GOOD, WORDS
from tests.unit.codecs import corpus

VARIANTS: tuple[Variants, ...] = ("plain", "typed")


def _codec(name: str, second_opinion: Callable[[bytes, Sequence[Call]], None]) -> Check:
    """Whatever comes in: entries or faults, an answer for them, and a call that was read can be said and read again.

    `second_opinion` is asked of a message without any fault, and what calls it holds.
    """
    codec: Codec = CODECS[name]()

    def check(body: bytes) -> str:
        envelope = codec.decode(body)
        outcomes: list[Outcome] = [entry if isinstance(entry, Fault) else _reply(entry) for entry in envelope.entries]
        answer = codec.encode(envelope, outcomes)
        if answer is not None and not envelope.batch:
            outcome = codec.decode_outcome(answer)
            assert isinstance(outcome, Fault) == isinstance(outcomes[0], Fault) or _no_room(outcome), outcome
        codec.decode_outcome(body)
        calls = [entry for entry in envelope.entries if isinstance(entry, Call)]
        if len(calls) == len(envelope.entries):
            second_opinion(body, calls)
        return " ".join(sorted({_entry(codec, entry) for entry in envelope.entries}))

    return check


def _json_opinion(body: bytes, calls: Sequence[Call]) -> None:
    """Python's own reader, told to be strict, finds the same parameters."""
    read = json.loads(body, object_pairs_hook=_members, parse_constant=_no_constant)
    for request, call in zip(read if isinstance(read, list) else [read], calls, strict=True):
        assert request["method"] == call.method
        assert exactly(request.get("params") or []) == exactly(dict(call.named) or list(call.params))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    assert len(members) == len(pairs), "a member was lost"
    return members


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def _xml_opinion(body: bytes, calls: Sequence[Call]) -> None:
    """Python's own client, where it can read it at all, finds the same values; dates it reads in its own way."""
    try:
        params, method = xmlrpc.client.loads(body, use_builtin_types=True)
    except Exception:  # noqa: BLE001 - it knows fewer types, and fails in many ways
        return
    if method != "system.multicall" and b"dateTime" not in body:
        (call,) = calls
        assert exactly((method, params)) == exactly((call.method, call.params))


def _no_opinion(_body: bytes, _calls: Sequence[Call]) -> None:
    """Nobody else reads this."""


def _nodes(body: bytes) -> str:
    """The items of a request with a bar between them; a change of a length would be all that is ever tried."""
    return _NODES(pack(body.split(b"|"))) + " " + _NODES(body)


_NODES = _codec("xenstore", _no_opinion)


def _reply(call: Call) -> Reply:
    return Reply([*call.params, dict(call.named)])


def _no_room(outcome: Outcome) -> bool:
    """XML-RPC reads what it cannot write (an integer of 64 bits is none in 32); a reply is nested one level deeper."""
    return isinstance(outcome, Fault) and outcome.code in (FaultCode.UNREPRESENTABLE, FaultCode.TOO_LARGE)


def _entry(codec: Codec, entry: Call | Fault) -> str:
    if isinstance(entry, Fault):
        return f"{entry.code.name} {told(entry.message)}"
    try:
        body = codec.encode_call(entry)
    except ValueError as error:
        return f"unsaid {told(str(error))}"
    (again,) = codec.decode(body).entries
    assert isinstance(again, Call)
    assert exactly((again.method, again.params, dict(again.named))) == exactly(
        (entry.method, entry.params, dict(entry.named))
    )
    return "call"


def _signature(body: bytes) -> str:
    """What we accept, a library accepts too, and it is written back the same."""
    text = body.decode("latin-1")
    try:
        types = parse(text)
    except ValueError as error:
        return told(str(error))
    assert "".join(map(str, types)) == text
    assert len(SignatureTree(text).types) == len(types)
    return "good"


def _value(body: bytes) -> str:
    """A signature, a space, a value as JSON: what passes the type gate, a library marshals, in the size we say."""
    signature, _, text = body.decode("utf-8", "surrogateescape").partition(" ")
    try:
        kind, value = parse_one(signature), json.loads(text)
    except (ValueError, RecursionError):
        return "no case"
    return " ".join(_gate(kind, value, variants) for variants in VARIANTS)


def _gate(kind: Type, value: Value, variants: Variants) -> str:
    try:
        sent = to_dbus(kind, coerce="legacy", variants=variants)(value)
    except MarshalError as error:
        return told(str(error))
    from_dbus(kind, variants=variants)(sent)
    assert len(_marshalled(str(kind), sent)) == body_size(str(kind), [sent])
    return "good"


def _marshalled(signature: str, sent: object) -> bytes:
    body = to_library(signature)([sent])
    message: Any = Message(path="/", member="M", signature=signature, body=body, serial=1)
    data = bytes(message._marshall(False))
    return data[len(data) - int.from_bytes(data[4:8], "little") :]


def _idl(body: bytes) -> str:
    try:
        introspection_xml.parse(body)
    except introspection_xml.IdlError as error:
        return said(str(Problem("x.xml", error.line, error.column, "", str(error), "idl")))
    return "good"


@contextmanager
def _mapping() -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        directory = Path(name)
        (directory / "example.xml").write_text(IDL)

        def check(body: bytes) -> str:
            (directory / "x.yaml").write_bytes(body)
            table, problems = build([directory], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
            assert table.revision
            return " ".join(sorted({said(str(problem)) for problem in problems})) or "good"

        yield check


XML_TOKENS = (
    *(
        f"<{slash}{tag}>".encode()
        for slash in ("", "/")
        for tag in ("value", "int", "i8", "struct", "member", "name", "array", "data")
    ),
    *words("<nil/> <double> <base64> <boolean> <dateTime.iso8601> <params> <param> <!DOCTYPE <!-- --> <![CDATA[ ]]>"),
    *words("&lt; &#10; &#xD800; &a; <?x?> encoding='utf-16' \xff\xfe -1 1e400 9999999999999999999 system.multicall"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\xed\xa0\x80"),
)
JSON_TOKENS = (
    *words(r"""{ } [ ] , : " \ "a" "\u0061" "\ud83d\ude00" "\ud800" "x:y" "\\" 0 -1 1.0 1e400 -0 NaN true null"""),
    *words('"jsonrpc":"2.0" "method":"m" "params":[] "id":1 "id":null 9007199254740993'),
    *(b"\xef\xbb\xbf", b"\0", b"\xff", b" "),
)
NODE_TOKENS = (*words("| / 0 1 10 @ @2e @30 @c3@a9 a _ - . code description kib"), b"\0", b"\xff", b"||", b"7:")
MAPPING_TOKENS = (*(word.encode() for word in WORDS), *(bytes([byte]) for byte in b"{}[]:,-*&!|>'\"#%@` \n\0\xff"))
VALUE_TOKENS = (*JSON_TOKENS, *words('{"signature":"u","value":5} "/" "1" "inf" 18446744073709551615 v a{sv} (su) ay'))
VALUES = (
    *(
        "u 5",
        'a{sv} {"a":[1,"x",{"b":true}]}',
        'a{dv} {"1.0":1}',
        '(sat) ["x",[1]]',
        'ay "QUJD"',
        'a{oas} {"/a":["b"]}',
    ),
    *('v {"signature":"a(yv)","value":[[1,{"signature":"g","value":"ai"}]]}', 'd "1e5"', 'b "true"', 'g "a{sv}"'),
)


@contextmanager
def targets() -> Iterator[dict[str, Target]]:
    """Return all targets; some need a folder to write to."""
    types = tuple(code.encode() for code in (*"ybnqiuxtdsoghav(){}", "a{s", "(((", "aaa", "{", "\0", "e"))
    with (
        _mapping() as mapping,
        answers.targets(XML_TOKENS, JSON_TOKENS) as old,
        stores.targets() as in_stores,
        requests.targets() as of_clients,
    ):
        yield {
            "xmlrpc": Target([corpus.XMLRPC_CALL, *_bodies(corpus.XMLRPC)], XML_TOKENS, _codec("xmlrpc", _xml_opinion)),
            "jsonrpc": Target(
                [corpus.JSONRPC_CALL, *_bodies(corpus.JSONRPC)], JSON_TOKENS, _codec("jsonrpc", _json_opinion)
            ),
            "xenstore": Target([b"echo|kib|5", b"f|0/a|x|0/b|y|1||vm/disks/0|z"], NODE_TOKENS, _nodes),
            "signature": Target([b"a{sv}", b"(a(yt)a{s(vo)})", b"aaaaai"], types, _signature),
            "value": Target([text.encode() for text in VALUES], VALUE_TOKENS, _value),
            "mapping": Target([GOOD.encode()], MAPPING_TOKENS, mapping),
            "idl": Target([IDL.encode()], [*words("<method <arg </node> /> name= type= a{sv} h &a; <!DOCTYPE")], _idl),
            **in_stores,
            **moving.TARGETS,
            **old,
            **of_clients,
        }


def _bodies(rows: Sequence[tuple[str, bytes, FaultCode, str]]) -> list[bytes]:
    return [body for _, body, _, _ in rows if len(body) < 2000]
