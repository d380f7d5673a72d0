"""Golden cases, data only.

A case of <codec>/*.yaml, against the codec of that name, is a mapping of
  title, spec       what it shows, and the section that says so
  request           the bytes that came in, as text in UTF-8 (or `request_base64`)
  entries           what `decode` makes of them: {method, params, named?, oneway?} or {fault: CODE, message?}
  outcomes          what is answered to each: {value} or {fault: {code, message, name?, data?}};
                    left out where the entries are faults, which answer themselves
  response          the bytes that go back, as text; null where nothing is sent
  decoded           the outcome that a client reads from the response, where it is not the one that was sent;
                    null where it is not read (a batch)
A case of dialects/*.yaml, from the bytes of a request to those of its answer, is a mapping of
  title, rule       what it shows, and the rule of the legacy interface that says so
  codec             xmlrpc or jsonrpc
  request           the bytes that came in, as text
  call              what the mapping reads: {method, params, named?}
  outcome           what is answered: {value} or {fault: {code, message, name?, data?}}
  response          the bytes that go back, as text
  types             in the place of all these: {types, type, values}: a legacy type, and values as they stand on D-Bus
"""

from __future__ import annotations

import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.dbus.legacy_types import LegacyTypes, parse_type, read_definition
from gateway.core.dbus.marshal import MarshalError, Variant, from_dbus
from gateway.core.dbus.signature import parse_one
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply
from tests.kit.values import exactly

HERE = Path(__file__).parent
KEYS = {"title", "spec", "request", "request_base64", "entries", "outcomes", "response", "decoded"}

Case = dict[str, Any]


def _cases(*patterns: str) -> list[Any]:
    return [
        pytest.param(path, case, id=f"{path.relative_to(HERE)}: {case['title']}")
        for pattern in patterns
        for path in sorted(HERE.glob(pattern))
        for case in YAML(typ="safe", pure=True).load(path)
    ]


@pytest.mark.parametrize(("path", "case"), _cases(*(f"{name}/*.yaml" for name in CODECS)))
def test_a_message_is_read_and_answered_as_written(path: Path, case: Case) -> None:
    assert case.keys() <= KEYS
    codec = CODECS[path.parent.name]()
    envelope = codec.decode(_request(case))
    assert len(envelope.entries) == len(case["entries"])
    for entry, expected in zip(envelope.entries, case["entries"], strict=True):
        _assert_entry(entry, expected)
    outcomes = _outcomes(case, envelope)
    body = codec.encode(envelope, outcomes)
    assert (None if body is None else body.decode()) == case["response"]
    decoded = _outcome(case["decoded"]) if case.get("decoded") else outcomes[0] if outcomes else None
    if body is not None and not envelope.batch and case.get("decoded", True) is not None:
        assert exactly(codec.decode_outcome(body)) == exactly(decoded)


def _request(case: Case) -> bytes:
    return b64decode(case["request_base64"]) if "request_base64" in case else str(case["request"]).encode()


def _assert_entry(entry: Call | Fault, expected: Case) -> None:
    if "fault" in expected:
        assert isinstance(entry, Fault), entry
        assert (entry.code, entry.message) == (FaultCode[expected["fault"]], expected.get("message", entry.message))
        return
    params, named = tuple(expected["params"]), expected.get("named", {})
    assert exactly(entry) == exactly(Call(expected["method"], params, named, oneway=expected.get("oneway", False)))


def _outcomes(case: Case, envelope: Envelope) -> list[Outcome]:
    if "outcomes" in case:
        return [_outcome(outcome) for outcome in case["outcomes"]]
    return [entry for entry in envelope.entries if isinstance(entry, Fault)]


def _outcome(case: Case) -> Outcome:
    if "fault" not in case:
        return Reply(case["value"])
    fault = case["fault"]
    return Fault(FaultCode[fault["code"]], fault["message"], fault.get("name", ""), fault.get("data"))


# Dialects


@pytest.mark.parametrize(("path", "case"), _cases("dialects/xenapi.yaml", "dialects/xapi_idl.yaml"))
def test_a_call_is_read_and_answered_as_the_legacy_service_does(path: Path, case: Case) -> None:
    assert case.keys() <= {"title", "rule", "codec", "request", "call", "outcome", "response"}
    codec = CODECS[case["codec"]](MessageLimits())
    spoken = DIALECTS[path.stem](codec.name)
    envelope = codec.decode(case["request"].encode())
    [entry] = envelope.entries
    assert isinstance(entry, Call), entry
    call = spoken.unwrap_call(entry)
    wanted = case["call"]
    assert exactly(call) == exactly(Call(wanted["method"], tuple(wanted.get("params", ())), wanted.get("named", {})))
    answer = codec.encode(envelope, [spoken.wrap_outcome(_outcome(case["outcome"]), call)])
    assert (answer or b"").decode() == case["response"].rstrip("\n")


@pytest.mark.parametrize(("path", "case"), _cases("dialects/types.yaml"))
def test_a_legacy_value_stands_on_d_bus_by_its_type_and_comes_back(path: Path, case: Case) -> None:
    types = LegacyTypes({name: read_definition(data) for name, data in case.get("types", {}).items()})
    kind = parse_type(case["type"])
    types.check(kind)
    signature = types.signature(kind)
    assert signature == case["signature"]
    argument = parse_one(signature)
    encode = types.encoder(kind, argument, "legacy")
    decode = from_dbus(argument)
    for sent, *back in case["values"]:
        assert decode(encode(sent)) == (back[0] if back else sent)
    for sent, where, expected in case.get("refused", ()):
        with pytest.raises(MarshalError) as refused:
            encode(sent)
        assert "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in refused.value.path) == where
        assert refused.value.expected == expected


def test_an_option_that_may_be_absent_has_no_list_around_it() -> None:
    types = LegacyTypes()
    encode = types.optional(parse_type("option(tuple(string, int))"), parse_one("a(sx)"), "legacy")
    assert encode(None) == []
    assert encode(["xenbr0", "5"]) == [("xenbr0", 5)]


def test_a_variant_has_the_tag_alone_or_tag_and_payload() -> None:
    types = LegacyTypes({"disk": read_definition({"variant": {"Local": "string", "None": None}})})
    encode = types.encoder(parse_type("disk"), parse_one("v"), "legacy")
    assert encode("none") == Variant("s", "None")
    assert encode(["LOCAL", "/dev/a"]) == Variant("(ss)", ("Local", "/dev/a"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("list", "'list' takes 1, got 'list'"),
        ("list(string", "expected ',' or ')' after string in 'list(string'"),
        ("string(int)", "'string' takes no items, got 'string(int)'"),
        ("tuple()", "expected a type such as list(string), got 'tuple()'"),
        ("a b", "expected one type, got 'a b'"),
        ("", "expected a type such as list(string), got ''"),
        ("list(string]", "expected a type such as list(string), got 'list(string]'"),
    ],
)
def test_a_wrong_type_is_refused_with_its_text(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words follow
        parse_type(text)
    assert str(refused.value) == words


def test_spaces_in_a_type_cost_no_more_than_they_are() -> None:
    started = time.thread_time()
    with pytest.raises(ValueError, match="expected a type such as"):
        parse_type(" " * 50_000 + "!")
    assert time.thread_time() - started < 1


def test_a_type_that_is_unknown_or_contains_itself_is_refused() -> None:
    types = LegacyTypes({"a": read_definition({"record": {"b": "list(a)"}})})
    for text, words in (("dict(x)", "unknown type 'x'"), ("a", "type 'a' contains itself")):
        with pytest.raises(ValueError, match=words):
            types.check(parse_type(text))


def test_a_type_that_cannot_become_the_argument_says_which_it_needs() -> None:
    with pytest.raises(ValueError, match=r"type int needs a D-Bus argument of type x, not s"):
        LegacyTypes().encoder(parse_type("list(int)"), parse_one("as"), "legacy")
