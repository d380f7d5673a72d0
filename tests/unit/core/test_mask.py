"""Secrets are gone from all that is kept, wherever they stood and wherever else they turn up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core import mask, paths
from gateway.core.compare import compare
from gateway.core.mask import Masking, Masks, masked_call
from gateway.core.model import Call, Fault, FaultCode, Peer, Reply, Value
from gateway.core.paths import Place
from gateway.core.rules import Rules, compile_rule
from gateway.core.sameness import MISSING
from tests.kit.differing import changed, places
from tests.kit.values import anything

SESSION = "OpaqueRef:5e7f0001"
TEXT: Value = {"$masked": "text"}
LOGIN = ("uname", "pwd", "version")


def masks(*texts: str, parameters: tuple[str, ...] = ()) -> Masks:
    return Masks(tuple(map(mask.parse, texts)), parameters)


@pytest.mark.parametrize(
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
    call = masked_call(masks("$.params[1]"), Call("m", ("a", secret)))
    assert call.params == ("a", {"$masked": kind})


def test_a_part_of_a_parameter_can_be_the_secret() -> None:
    call = Call("m", ({"user": "root", "password": "hunter22"},), {"o": [{"key": "k"}]})
    masked = masked_call(masks("$.params[0].password", "$.named.o[*].key"), call)
    assert (masked.params, masked.named) == (({"user": "root", "password": TEXT},), {"o": [{"key": TEXT}]})


@pytest.mark.parametrize("path", ["$.named.pwd", "$.params[1]", "$..pwd"])
@pytest.mark.parametrize(
    ("params", "named"),
    [(("root", "hunter22"), {}), ((), {"uname": "root", "pwd": "hunter22"}), (("hunter22",), {"uname": "root"})],
)
def test_a_path_holds_for_a_parameter_whichever_way_it_is_given(
    path: str, params: tuple[Value, ...], named: dict[str, Value]
) -> None:
    masked = masked_call(masks(path, parameters=LOGIN), Call("login", params, named))
    assert "hunter22" not in repr(masked)
    assert "root" in repr(masked)


def test_a_parameter_that_the_method_does_not_have_has_its_position_only() -> None:
    masked = masked_call(
        masks("$.params[3]", "$.named.x", parameters=("a", "b", "c")), Call("m", (1, 2, 3, 4), {"x": 5})
    )
    assert masked.params == (1, 2, 3, {"$masked": "integer"})
    assert masked.named == {"x": {"$masked": "integer"}}


def test_a_secret_is_found_where_no_path_says_so() -> None:
    call = Call("VM.start", (SESSION, "vm"))
    fault = Fault(FaultCode.APPLICATION, f"session {SESSION} is closed", "SESSION_INVALID", [SESSION, "x"])
    masking = Masking(masks("$.named.session", parameters=("session", "vm")), call, fault, Reply({SESSION: 1}))
    assert masking.call(call).params == (TEXT, "vm")
    assert masking.outcome(fault) == Fault(fault.code, "session (masked) is closed", fault.name, [TEXT, "x"])
    assert masking.outcome(Reply({SESSION: SESSION.encode() + b"."})) == Reply({"(masked)": {"$masked": "bytes"}})


def test_a_secret_of_one_outcome_is_one_in_the_other() -> None:
    control, candidate = Reply({"session": SESSION}), Reply({"ref": SESSION})
    masking = Masking(masks("$.result.session"), Call("login"), control, candidate)
    assert masking.outcome(control) == Reply({"session": TEXT})
    assert masking.outcome(candidate) == Reply({"ref": TEXT})


def test_a_short_secret_is_not_looked_for_inside_other_texts() -> None:
    masked = masked_call(masks("$.params[0]"), Call("m", ("on", "on", "strong", "")))
    assert masked.params == (TEXT, TEXT, "strong", "")


def test_headers_are_not_kept() -> None:
    call = Call("m", peer=Peer("tcp:x"), extensions={"headers": "Authorization: Basic eDp5"})
    assert masked_call(masks(), call) == Call("m", peer=Peer("tcp:x"))


def test_the_whole_answer_can_be_secret() -> None:
    fault = Fault(FaultCode.REMOTE, "secret words", "a.Secret", ["secret"])
    whole = masks("$.result", "$.fault.message", "$.fault.name", "$.fault.data[0]")
    masking = Masking(whole, Call("m"), Reply([1]), fault)
    assert masking.outcome(Reply([1])) == Reply({"$masked": "list"})
    assert masking.outcome(fault) == Fault(FaultCode.REMOTE, "(masked)", "(masked)", [TEXT])


def test_all_parameters_can_be_secret() -> None:
    masked = masked_call(masks("$.params", parameters=LOGIN), Call("login", ("root",), {"pwd": "hunter22", "x": 1}))
    assert (masked.params, masked.named) == ((TEXT,), {"pwd": TEXT, "x": 1})
    masked = masked_call(masks("$.named"), Call("login", (1,), {"pwd": "hunter22"}))
    assert (masked.params, masked.named) == ((1,), {"pwd": TEXT})


def test_a_whole_fault_can_be_secret() -> None:
    fault = Fault(FaultCode.REMOTE, "words", "a.B", [1, "x"])
    masking = Masking(masks("$.fault"), Call("m"), Reply(1), fault)
    assert masking.outcome(fault) == Fault(FaultCode.REMOTE, "(masked)", "(masked)", {"$masked": "list"})
    (difference,) = masking.comparison(compare(fault, Fault(FaultCode.REMOTE, "", "a.C"))).differences
    assert (difference.path, difference.control, difference.candidate) == ("fault.name", TEXT, TEXT)


def test_what_looks_like_a_marker_is_masked_all_the_same() -> None:
    masked = masked_call(masks("$.params[0]"), Call("m", ({"$masked": "hunter22"}, {"$masked": "hunter22"})))
    assert "hunter22" not in repr(masked)


def test_differences_are_masked_at_around_and_inside_a_secret() -> None:
    control: Any = {"user": {"password": "hunter22", "n": 1}, "list": ["topsecret"], "x": {"hunter22": 1}}
    candidate: Any = {"user": 5, "list": ["othersecret"], "x": {}}
    said = ({"path": "$.list[0]", "expression": "int(control) == 1"},)
    comparison = compare(Reply(control), Reply(candidate), Rules(tuple(map(compile_rule, said))))
    assert "topsecret" in repr(comparison)
    masking = Masking(masks("$.result.user.password", "$.result.list"), Call("m"), Reply(control), Reply(candidate))
    masked = masking.comparison(comparison)
    assert [(each.path, each.control, each.candidate) for each in masked.differences] == [
        ("$.user", {"password": TEXT, "n": 1}, 5),
        ("$.list[0]", TEXT, TEXT),
        ("$.x['(masked)']", 1, MISSING),
    ]
    assert "secret" not in repr(masked)
    assert "hunter22" not in repr(masked)
    assert masked.verdict is comparison.verdict


def test_differences_of_faults_are_masked() -> None:
    control, candidate = Reply(1), Fault(FaultCode.REMOTE, "no hunter22", "a.B", ["hunter22", "x"])
    masking = Masking(masks("$.fault.data[0]"), Call("m"), control, candidate)
    (difference,) = masking.comparison(compare(control, candidate)).differences
    assert difference.candidate == {"code": "remote", "name": "a.B", "message": "no (masked)", "data": [TEXT, "x"]}


@pytest.mark.parametrize("text", ["$", "$.password", "$[0]", "$.*", "params[0]", "$.params["])
def test_a_path_that_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        mask.parse(text)


def test_the_path_of_a_parameter() -> None:
    assert mask.named("a b").matches(("named", "a b"))


# Laws

SECRETS = st.text("qwxyz", min_size=9, max_size=12).map("S3cret-".__add__)


@given(anything(), anything(), SECRETS, st.data())
def test_no_secret_is_left_anywhere(value: Value, other: Value, secret: str, draw: st.DataObject) -> None:
    place = draw.draw(st.sampled_from(list(places(value))))
    elsewhere = draw.draw(st.sampled_from(list(places(other))))
    holders: list[Value] = [secret, f"see {secret}!", [secret], {secret: secret}, secret.encode()]
    holds = draw.draw(st.sampled_from(holders))
    path = paths.show(("result", *place))
    assume(len(path) < paths.LONGEST)
    control, candidate = Reply(changed(value, place, secret)), Reply(changed(other, elsewhere, holds))
    call = Call("m", (holds,), {"n": holds})
    fault = Fault(FaultCode.REMOTE, f"no {secret}", secret, [holds])
    masking = Masking(Masks((mask.parse(path),)), call, control, candidate, fault)
    kept = [
        masking.call(call),
        masking.outcome(control),
        masking.outcome(candidate),
        masking.outcome(fault),
        masking.comparison(compare(control, candidate)),
        masking.comparison(compare(fault, candidate)),
    ]
    assert secret not in repr(kept)


@given(anything(), st.data())
def test_what_is_no_secret_stays(value: Value, draw: st.DataObject) -> None:
    place: Place = draw.draw(st.sampled_from(list(places(value))))
    marked = changed(value, place, 5)
    masking = Masking(Masks((mask.parse(paths.show(("result", *place))),)), Call("m"), Reply(marked))
    assert masking.outcome(Reply(marked)) == Reply(changed(value, place, {"$masked": "integer"}))


# Names that say it


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "passwd", "pwd", "cifspassword", "db_password", "rootPassword", "chapuser", "chappassword",
     "chap", "chap_secret", "secret", "clientSecret", "token", "auth-token", "credential", "credentials", "api_key",
     "apiKey", "private-key", "secret_key", "psk", "passphrase", "s3.access_key"],
)  # fmt: skip
def test_a_name_says_that_it_holds_a_secret(name: str) -> None:
    assert mask.is_secret(name)
    call = Call("SR.create", ({"host": "filer", name: "hunter22"},), {name: "hunter22", "other": "see hunter22"})
    masked = masked_call(masks(), call)
    assert "hunter22" not in repr(masked)
    assert "filer" in repr(masked)


@pytest.mark.parametrize(
    "name",
    ["key", "keys", "vm_key", "map_key", "public_key", "keyboard", "monkey", "user", "uname", "session_count",
     "chapter", "passthrough", "bypass", "compass", "secretary", "tokenizer", "host", "", "k", "scsiid", "passed"],
)  # fmt: skip
def test_a_name_that_only_looks_like_one_says_nothing(name: str) -> None:
    assert not mask.is_secret(name)


def test_a_parameter_is_known_by_its_name_though_it_comes_by_its_position() -> None:
    masked = masked_call(masks(parameters=("sr", "password")), Call("m", ("sr-1", "hunter22")))
    assert masked.params == ("sr-1", TEXT)


@pytest.mark.parametrize(
    ("params", "named"),
    [(("sr-1", "chappassword", "hunter22"), {}), (("sr-1",), {"key": "chappassword", "value": "hunter22"})],
)
def test_the_value_of_a_secret_entry_of_a_map_is_one(params: tuple[Value, ...], named: dict[str, Value]) -> None:
    masked = masked_call(masks(parameters=("sr", "key", "value")), Call("SR.add_to_other_config", params, named))
    assert "hunter22" not in repr(masked)
    assert "chappassword" in repr(masked)


def test_the_value_of_a_plain_entry_of_a_map_stays() -> None:
    call = Call("m", (), {"key": "folder", "value": "hunter22"})
    assert masked_call(masks(), call).named == call.named


def test_a_result_is_searched_as_a_call_is_and_so_is_a_difference() -> None:
    control, candidate = Reply({"sr": {"chappassword": "hunter22"}}), Reply({"sr": {"chappassword": "hunter23"}})
    masking = Masking(masks(), Call("m"), control, candidate)
    assert "hunter2" not in repr([masking.outcome(control), masking.outcome(candidate)])
    assert "hunter2" not in repr(masking.comparison(compare(control, candidate, Rules())))


def test_the_user_of_a_failed_login_is_taken_out() -> None:
    call = Call("login", ("hunter22", "x"), extensions={"user": "hunter22", "login": True})
    fault = Fault(FaultCode.APPLICATION, "no hunter22", "SESSION_AUTHENTICATION_FAILED", ["hunter22"])
    masking = Masking(masks(), call, fault)
    assert "hunter22" not in repr([masking.call(call), masking.outcome(fault)])
    worked = Masking(masks(), call, Reply("session"))
    assert worked.call(call).params == ("hunter22", "x")
