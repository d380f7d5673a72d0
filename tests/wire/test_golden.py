"""Golden cases, data only: every case of <codec>/*.yaml against the codec of that name.

A case is a mapping of
  title, spec       what it shows, and the section that says so
  request           the bytes that came in, as text in UTF-8 (or `request_base64`)
  entries           what `decode` makes of them: {method, params, named?, oneway?} or {fault: CODE, message?}
  outcomes          what is answered to each: {value} or {fault: {code, message, name?, data?}};
                    left out where the entries are faults, which answer themselves
  response          the bytes that go back, as text; null where nothing is sent
  decoded           the outcome that a client reads from the response, where it is not the one that was sent;
                    null where it is not read (a batch)
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adapters.codecs import CODECS
from gateway.core.interfaces import Codec
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, Outcome, Reply
from tests.kit.values import exactly

HERE = Path(__file__).parent
KEYS = {"title", "spec", "request", "request_base64", "entries", "outcomes", "response", "decoded"}

Case = dict[str, Any]


def _cases() -> Iterator[Any]:
    for path in sorted(path for name in CODECS for path in HERE.glob(f"{name}/*.yaml")):
        for case in YAML(typ="safe", pure=True).load(path):
            yield pytest.param(CODECS[path.parent.name](), case, id=f"{path.relative_to(HERE)}: {case['title']}")


@pytest.mark.parametrize(("codec", "case"), list(_cases()))
def test_a_message_is_read_and_answered_as_written(codec: Codec, case: Case) -> None:
    assert case.keys() <= KEYS
    envelope = codec.decode(_request(case))
    assert len(envelope.entries) == len(case["entries"])
    for entry, expected in zip(envelope.entries, case["entries"], strict=True):
        _assert_entry(entry, expected)
    outcomes = _outcomes(case, envelope)
    body = codec.encode(envelope, outcomes)
    assert (None if body is None else body.decode()) == case["response"]
    decoded = outcome_of(case["decoded"]) if case.get("decoded") else outcomes[0] if outcomes else None
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
        return [outcome_of(outcome) for outcome in case["outcomes"]]
    return [entry for entry in envelope.entries if isinstance(entry, Fault)]


def outcome_of(case: Case) -> Outcome:
    if "fault" not in case:
        return Reply(case["value"])
    fault = case["fault"]
    return Fault(FaultCode[fault["code"]], fault["message"], fault.get("name", ""), fault.get("data"))
