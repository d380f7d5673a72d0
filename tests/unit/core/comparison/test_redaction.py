"""Secrets are gone from all that is kept, wherever they stood and wherever else they turn up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.comparison import json_path, redaction
from gateway.core.comparison.compare import compare
from gateway.core.comparison.equality import MISSING
from gateway.core.comparison.json_path import Place
from gateway.core.comparison.redaction import Redaction, RedactionRules
from gateway.core.comparison.rules import Rules, compile_rule
from gateway.core.rpc.model import Call, Fault, FaultCode, Peer, Reply, Value
from tests.kit.cases import each_case
from tests.kit.values import anything, changed, places

SESSION = "OpaqueRef:5e7f0001"
TEXT: Value = {"$redacted": "text"}
LOGIN = ("uname", "pwd", "version")


def redactions(*texts: str, parameters: tuple[str, ...] = ()) -> RedactionRules:
    return RedactionRules(tuple(map(redaction.parse, texts)), parameters)


def redacted_call(rules: RedactionRules, call: Call) -> Call:
    return Redaction(rules, call).call(call)


@each_case(
    ("secret", "kind"),
    [
        (None, "nil"),
        (True, "boolean"),
        (5, "integer"),
        (0.5, "double"),
        ("x", "text"),
        (b"x", "bytes"),
        ([1], "list"),
        ({}, "struct"),
    ],
)
def test_a_secret_is_replaced_by_its_type(secret: Value, kind: str) -> None:
    call = redacted_call(redactions("$.params[1]"), Call("m", ("a", secret)))
    assert call.params == ("a", {"$redacted": kind})


def test_a_part_of_a_parameter_can_be_the_secret() -> None:
    call = Call("m", ({"user": "root", "password": "hunter22"},), {"o": [{"key": "k"}]})
    redacted = redacted_call(redactions("$.params[0].password", "$.named.o[*].key"), call)
    assert (redacted.params, redacted.named) == (({"user": "root", "password": TEXT},), {"o": [{"key": TEXT}]})
    redacted = redacted_call(
        redactions("$.params[3]", "$.named.x", parameters=("a", "b", "c")), Call("m", (1, 2, 3, 4), {"x": 5})
    )
    assert redacted.params == (1, 2, 3, {"$redacted": "integer"})
    assert redacted.named == {"x": {"$redacted": "integer"}}


@each_case("path", ["$.named.pwd", "$.params[1]", "$..pwd"])
@each_case(
    ("params", "named"),
    [(("root", "hunter22"), {}), ((), {"uname": "root", "pwd": "hunter22"}), (("hunter22",), {"uname": "root"})],
)
def test_a_path_holds_for_a_parameter_whichever_way_it_is_given(
    path: str, params: tuple[Value, ...], named: dict[str, Value]
) -> None:
    redacted = redacted_call(redactions(path, parameters=LOGIN), Call("login", params, named))
    assert "hunter22" not in repr(redacted)
    assert "root" in repr(redacted)


def test_a_secret_is_found_where_no_path_says_so_and_in_the_other_outcome() -> None:
    call = Call("VM.start", (SESSION, "vm"))
    fault = Fault(FaultCode.APPLICATION, f"session {SESSION} is closed", "SESSION_INVALID", [SESSION, "x"])
    hiding = Redaction(redactions("$.named.session", parameters=("session", "vm")), call, fault, Reply({SESSION: 1}))
    assert hiding.call(call).params == (TEXT, "vm")
    assert hiding.outcome(fault) == Fault(fault.code, "session (redacted) is closed", fault.name, [TEXT, "x"])
    assert hiding.outcome(Reply({SESSION: SESSION.encode() + b"."})) == Reply({"(redacted)": {"$redacted": "bytes"}})
    control, candidate = Reply({"session": SESSION}), Reply({"ref": SESSION})
    hiding = Redaction(redactions("$.result.session"), Call("login"), control, candidate)
    assert hiding.outcome(control) == Reply({"session": TEXT})
    assert hiding.outcome(candidate) == Reply({"ref": TEXT})


def test_a_short_secret_is_not_looked_for_inside_other_texts_and_headers_are_not_kept() -> None:
    redacted = redacted_call(redactions("$.params[0]"), Call("m", ("on", "on", "strong", "")))
    assert redacted.params == (TEXT, TEXT, "strong", "")
    call = Call("m", peer=Peer("tcp:x"), extensions={"headers": "Authorization: Basic eDp5"})
    assert redacted_call(redactions(), call) == Call("m", peer=Peer("tcp:x"))


def test_whole_answers_parameters_and_faults_can_be_secret() -> None:
    fault = Fault(FaultCode.REMOTE, "secret words", "a.Secret", ["secret"])
    whole = redactions("$.result", "$.fault.message", "$.fault.name", "$.fault.data[0]")
    hiding = Redaction(whole, Call("m"), Reply([1]), fault)
    assert hiding.outcome(Reply([1])) == Reply({"$redacted": "list"})
    assert hiding.outcome(fault) == Fault(FaultCode.REMOTE, "(redacted)", "(redacted)", [TEXT])
    redacted = redacted_call(
        redactions("$.params", parameters=LOGIN), Call("login", ("root",), {"pwd": "hunter22", "x": 1})
    )
    assert (redacted.params, redacted.named) == ((TEXT,), {"pwd": TEXT, "x": 1})
    redacted = redacted_call(redactions("$.named"), Call("login", (1,), {"pwd": "hunter22"}))
    assert (redacted.params, redacted.named) == ((1,), {"pwd": TEXT})
    fault = Fault(FaultCode.REMOTE, "words", "a.B", [1, "x"])
    hiding = Redaction(redactions("$.fault"), Call("m"), Reply(1), fault)
    assert hiding.outcome(fault) == Fault(FaultCode.REMOTE, "(redacted)", "(redacted)", {"$redacted": "list"})
    (difference,) = hiding.comparison(compare(fault, Fault(FaultCode.REMOTE, "", "a.C"))).differences
    assert (difference.path, difference.control, difference.candidate) == ("fault.name", TEXT, TEXT)
    redacted = redacted_call(
        redactions("$.params[0]"), Call("m", ({"$redacted": "hunter22"}, {"$redacted": "hunter22"}))
    )
    assert "hunter22" not in repr(redacted)


def test_differences_are_masked_at_around_and_inside_a_secret() -> None:
    control: Any = {"user": {"password": "hunter22", "n": 1}, "list": ["topsecret"], "x": {"hunter22": 1}}
    candidate: Any = {"user": 5, "list": ["othersecret"], "x": {}}
    said = ({"path": "$.list[0]", "tolerance": 1},)
    comparison = compare(Reply(control), Reply(candidate), Rules(tuple(map(compile_rule, said))))
    assert "topsecret" in repr(comparison)
    hiding = Redaction(
        redactions("$.result.user.password", "$.result.list"), Call("m"), Reply(control), Reply(candidate)
    )
    redacted = hiding.comparison(comparison)
    assert [(each.path, each.control, each.candidate) for each in redacted.differences] == [
        ("$.user", {"password": TEXT, "n": 1}, 5),
        ("$.list[0]", TEXT, TEXT),
        ("$.x['(redacted)']", 1, MISSING),
    ]
    assert "secret" not in repr(redacted)
    assert "hunter22" not in repr(redacted)
    assert redacted.verdict is comparison.verdict
    control, candidate = Reply(1), Fault(FaultCode.REMOTE, "no hunter22", "a.B", ["hunter22", "x"])
    hiding = Redaction(redactions("$.fault.data[0]"), Call("m"), control, candidate)
    (difference,) = hiding.comparison(compare(control, candidate)).differences
    assert difference.candidate == {"code": "remote", "name": "a.B", "message": "no (redacted)", "data": [TEXT, "x"]}
    control, candidate = Reply({"sr": {"chappassword": "hunter22"}}), Reply({"sr": {"chappassword": "hunter23"}})
    hiding = Redaction(redactions(), Call("m"), control, candidate)
    assert "hunter2" not in repr([hiding.outcome(control), hiding.outcome(candidate)])
    assert "hunter2" not in repr(hiding.comparison(compare(control, candidate, Rules())))


@each_case("text", ["$", "$.password", "$[0]", "$.*", "params[0]", "$.params["])
def test_a_path_that_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        redaction.parse(text)


# Laws

SECRETS = st.text("qwxyz", min_size=9, max_size=12).map("S3cret-".__add__)


@given(anything(), anything(), SECRETS, st.data())
def test_no_secret_is_left_anywhere(value: Value, other: Value, secret: str, draw: st.DataObject) -> None:
    place = draw.draw(st.sampled_from(list(places(value))))
    elsewhere = draw.draw(st.sampled_from(list(places(other))))
    holders: list[Value] = [secret, f"see {secret}!", [secret], {secret: secret}, secret.encode()]
    holds = draw.draw(st.sampled_from(holders))
    path = json_path.show(("result", *place))
    assume(len(path) < json_path.LONGEST)
    control, candidate = Reply(changed(value, place, secret)), Reply(changed(other, elsewhere, holds))
    call = Call("m", (holds,), {"n": holds})
    fault = Fault(FaultCode.REMOTE, f"no {secret}", secret, [holds])
    hiding = Redaction(RedactionRules((redaction.parse(path),)), call, control, candidate, fault)
    kept = [
        hiding.call(call),
        hiding.outcome(control),
        hiding.outcome(candidate),
        hiding.outcome(fault),
        hiding.comparison(compare(control, candidate)),
        hiding.comparison(compare(fault, candidate)),
    ]
    assert secret not in repr(kept)


@given(anything(), st.data())
def test_what_is_no_secret_stays(value: Value, draw: st.DataObject) -> None:
    place: Place = draw.draw(st.sampled_from(list(places(value))))
    marked = changed(value, place, 5)
    hiding = Redaction(RedactionRules((redaction.parse(json_path.show(("result", *place))),)), Call("m"), Reply(marked))
    assert hiding.outcome(Reply(marked)) == Reply(changed(value, place, {"$redacted": "integer"}))


# Names that say it


@each_case(
    "name",
    ["password", "PASSWORD", "passwd", "pwd", "cifspassword", "db_password", "rootPassword", "chapuser", "chappassword",
     "chap", "chap_secret", "secret", "clientSecret", "token", "auth-token", "credential", "credentials", "api_key",
     "apiKey", "private-key", "secret_key", "psk", "passphrase", "s3.access_key"],
)  # fmt: skip
def test_a_name_says_that_it_holds_a_secret(name: str) -> None:
    assert redaction.is_secret(name)
    call = Call("SR.create", ({"host": "filer", name: "hunter22"},), {name: "hunter22", "other": "see hunter22"})
    by_position = Call("m", ("filer", "hunter22"))
    for redacted in (
        redacted_call(redactions(), call),
        redacted_call(redactions(parameters=("sr", name)), by_position),
    ):
        assert "hunter22" not in repr(redacted)
        assert "filer" in repr(redacted)


@each_case(
    "name",
    ["key", "keys", "vm_key", "map_key", "public_key", "keyboard", "monkey", "user", "uname", "session_count",
     "chapter", "passthrough", "bypass", "compass", "secretary", "tokenizer", "host", "", "k", "scsiid", "passed"],
)  # fmt: skip
def test_a_name_that_only_looks_like_one_says_nothing(name: str) -> None:
    assert not redaction.is_secret(name)


@each_case(
    ("params", "named"),
    [(("sr-1", "chappassword", "hunter22"), {}), (("sr-1",), {"key": "chappassword", "value": "hunter22"})],
)
def test_the_value_of_a_secret_entry_of_a_map_is_one(params: tuple[Value, ...], named: dict[str, Value]) -> None:
    redacted = redacted_call(
        redactions(parameters=("sr", "key", "value")), Call("SR.add_to_other_config", params, named)
    )
    assert "hunter22" not in repr(redacted)
    assert "chappassword" in repr(redacted)
    plain = Call("m", (), {"key": "folder", "value": "hunter22"})
    assert redacted_call(redactions(), plain).named == plain.named


def test_the_user_of_a_failed_login_is_taken_out() -> None:
    call = Call("login", ("hunter22", "x"), extensions={"user": "hunter22", "login": True})
    fault = Fault(FaultCode.APPLICATION, "no hunter22", "SESSION_AUTHENTICATION_FAILED", ["hunter22"])
    hiding = Redaction(redactions(), call, fault)
    assert "hunter22" not in repr([hiding.call(call), hiding.outcome(fault)])
    worked = Redaction(redactions(), call, Reply("session"))
    assert worked.call(call).params == ("hunter22", "x")
