"""The admin API over its socket: each operation, its errors, and the document made from the table of operations."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gateway.admin.api import OPERATIONS, CallBody, document
from gateway.admin.handlers import handlers_by_name
from gateway.admin.http import json
from gateway.admin.service import AdminService
from gateway.core.admin.access import AccessRules, Right
from gateway.core.admin.records import Change, Counts, CountsBatch, MethodId, Rejected, StateRefused
from gateway.core.admin.views import ModeRequest
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.rollout_commands import RolloutCommands
from gateway.state.store import StateStore
from tests.kit.admin import DOCUMENT, STATE, Api, ask, operation, serving
from tests.kit.cases import each_case

VM_STATE = MethodId("xenopsd", "VM.get_state")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path) as api:
        yield api


async def test_a_reload_is_noted_in_the_audit_and_a_refused_one_is_a_conflict(api: Api) -> None:
    assert (await api.ask("POST", "/v1/reload"))[0] == 200
    api.toy.problems = ["x.yaml:1:1: $: no"]
    assert await api.ask("POST", "/v1/reload") == (409, {"revision": "r1", "problems": ["x.yaml:1:1: $: no"]})
    _, (entry,) = await api.ask("GET", "/v1/audit")
    assert (entry["what"], entry["numbers"]) == ("reload", {"revision": "r2"})


async def test_a_mode_is_set_shown_and_removed(api: Api) -> None:
    wanted = {"pattern": "VM.get_state", "mode": "canary", "percent": 12.5, "seconds": 600, "why": "try"}
    status, changed = await api.ask("POST", "/v1/mode", wanted)
    assert (status, changed["mode"], changed["methods"][0]["after"]) == (200, "canary 12.5%", "canary 12.5%")
    assert str(api.overrides.setting(STATE)) == "canary 12.5%"
    status, (mode,) = await api.ask("GET", "/v1/modes")
    me, named = getpass.getuser(), "xenopsd/VM.get_state"
    assert (mode["pattern"], mode["who"], mode["why"], mode["by"]) == (named, me, "try", "person")
    assert mode["until"] == pytest.approx(mode["when"] + 600)
    assert (await api.ask("POST", "/v1/mode", {"pattern": "group:life", "mode": "dbus"}))[0] == 200
    for pattern, before in (("VM.get_state", "canary 12.5%"), ("group:life", "dbus")):
        status, changed = await api.ask("POST", "/v1/mode/clear", {"pattern": pattern, "why": "enough"})
        (moved,) = changed["methods"]
        assert (status, changed["mode"], moved["before"], moved["after"]) == (200, "mapping", before, "legacy")
    _, entries = await api.ask("GET", "/v1/audit")
    assert [(each["what"], each["subject"], each["why"], each["numbers"]["mode"]) for each in entries] == [
        ("mode", "group:life", "enough", "mapping"),
        ("mode", named, "enough", "mapping"),
        ("mode", "group:life", "", "dbus"),
        ("mode", named, "try", "canary"),
    ]
    assert (entries[3]["who"], entries[3]["numbers"]["share"]) == (me, "12.5%")


async def test_methods_have_their_mode_and_statistics(api: Api) -> None:
    await api.state.flush(CountsBatch({VM_STATE: Counts({"equal": 5, "calls_dbus": 5, "calls_legacy": 5})}))
    status, rows = await api.ask("GET", "/v1/methods")
    assert (status, [row["method"] for row in rows]) == (200, ["VM.get_state", "VM.start"])
    assert (rows[0]["comparisons"], rows[0]["verdict"], rows[0]["dbus"]["calls"]) == (5, "equal so far", 5)
    status, rows = await api.ask("GET", "/v1/methods?pattern=group:life")
    assert [row["method"] for row in rows] == ["VM.start"]


async def test_what_is_not_set_cannot_be_taken_back_and_what_is_set_is_named(api: Api) -> None:
    async def why(pattern: str) -> str:
        status, answer = await api.ask("POST", "/v1/mode/clear", {"pattern": pattern})
        assert status == 422
        return str(answer["error"])

    assert await why("VM.get_state") == "nothing is set for 'xenopsd/VM.get_state': the mapping holds"
    await api.ask("POST", "/v1/mode", {"pattern": "*", "mode": "dbus"})
    exactly = "nothing is set for exactly 'xenopsd/VM.start'; what holds there is set for '*' (dbus, "
    assert (await why("VM.start")).startswith(f"{exactly}{getpass.getuser()} 20")


@pytest.mark.parametrize("pattern", ["VM.get_state", "*"])
async def test_what_a_rollout_has_set_is_cleared_once_it_is_over(api: Api, pattern: str) -> None:
    async def asked(path: str, name: str = "VM.get_state") -> tuple[int, object]:
        status, answer = await api.ask("POST", path, {"pattern": name} if "mode" in path else {"name": name})
        return status, answer.get("error")

    name = "xenopsd/VM.get_state"
    await asked("/v1/rollouts/start")
    then = f"`xcp-gateway rollout abort {name}` ends it and sets its methods to legacy, then `xcp-gateway mode clear"
    for state in ("running", "paused"):
        refusal = f"what is set for '{name}' is a rollout's: it is {state}; {then} {name}`"
        assert await asked("/v1/mode/clear") == (422, refusal)
        assert (await asked("/v1/mode/clear", "*"))[0] == 422
        await asked("/v1/rollouts/pause")
    assert (await asked("/v1/rollouts/abort"))[0] == 200
    _, again = await asked("/v1/rollouts/abort")
    assert str(again).endswith(f": `xcp-gateway mode clear {name}` clears the mode that it has left")
    await api.ask("POST", "/v1/mode", {"pattern": pattern, "mode": "dbus"})
    for left in (1, 0):  # what a person has set goes first
        assert await asked("/v1/mode/clear", pattern) == (200, None)
        assert len(api.state.overrides) == left
    assert (await asked("/v1/rollouts/abort"))[1] == str(again).partition(": `")[0]


async def test_two_spellings_of_a_method_are_one_override(api: Api) -> None:
    older = Override("VM.get_state", Setting(Mode.OFF), "alice", 1.0)  # as an older gateway has kept it
    await api.state.decide(Change((), (older,)))
    for pattern, mode in (("VM.get_state", "dbus"), ("xenopsd/VM.get_state", "off")):
        await api.ask("POST", "/v1/mode", {"pattern": pattern, "mode": mode})
        (each,) = api.state.overrides
        assert (each.pattern, each.setting.mode.value) == ("xenopsd/VM.get_state", mode)
    assert (await api.ask("POST", "/v1/mode/clear", {"pattern": "VM.get_state"}))[0] == 200
    assert not api.state.overrides


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_mode_for_a_time_ends_after_that_time_whatever_the_wall_clock_says() -> None:
    wall, steady = Clock(), Clock()
    overrides = ActiveOverrides(steady)
    async with StateStore(None, now=wall) as state:
        commands = RolloutCommands(state, lambda: [STATE], wall, steady)
        service = AdminService(lambda: [STATE], overrides, state, commands, now=wall, steady=steady)
        await service.set_mode(ModeRequest("VM.get_state", "off", seconds=600), "alice")
        for later, further, mode in ((86_400, 0, "off"), (-10 * 86_400, 599, "off"), (0, 2, "legacy")):
            wall.now += later
            steady.now += further
            assert str(overrides.setting(STATE)) == mode


async def test_trouble_with_the_state_file_is_reported_and_a_rollback_works(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    async with serving(tmp_path, file=tmp_path / "state") as api:
        status, answer = await api.ask("POST", "/v1/mode", {"pattern": "VM.get_state", "mode": "dbus"})
        assert status == 503
        assert "cannot be opened" in answer["error"]
        for path, status in (("/v1/audit", 503), ("/v1/clients", 503), ("/v1/methods", 200)):
            assert (await api.ask("GET", path))[0] == status, path
        status, changed = await api.ask("POST", "/v1/rollback", {})
        assert status == 200
        assert "cannot be opened" in changed["held"]


# Errors


BAD_REQUESTS: Sequence[tuple[str, object, str]] = (
    ("/v1/mode", {"pattern": "VM.nope", "mode": "dbus"}, "no mapped method is named 'VM.nope'"),
    ("/v1/mode", {"pattern": "VM.start", "mode": "shadow"}, "shadow is refused"),
    ("/v1/mode", {"pattern": "VM.*", "mode": "shadow"}, "shadow is refused"),
    ("/v1/mode", {"pattern": "VM.start", "mode": "dbsu"}, "unknown mode 'dbsu' (did you mean 'dbus'?)"),
    ("/v1/mode", {"pattern": "VM.start", "mode": "dbus", "seconds": 0}, "seconds: expected more than 0"),
    ("/v1/mode", {"pattern": "VM.start", "mode": "dbus", "seconds": 1e300}, "seconds: expected more than 0"),
    ("/v1/mode", {"pattern": "VM.start"}, "Object missing required field `mode`"),
    ("/v1/mode", {"pattern": "VM.start", "mode": "canary", "percent": []}, "Expected `float | str | null`"),
    ("/v1/mode/clear", {"pattern": "VM.start"}, "nothing is set for 'xenopsd/VM.start'"),
    ("/v1/explain", {"method": "VM.nope"}, "no mapped method is named 'VM.nope'"),
    ("/v1/statistics/reset", {"pattern": "VM.nope"}, "no mapped method is named 'VM.nope'"),
    (
        "/v1/rollouts/approve",
        {"name": "VM.get_state"},
        "there is no rollout of xenopsd/VM.get_state: `xcp-gateway rollout list` shows every rollout",
    ),
    ("/v1/call", {"method": "x", "parms": []}, "Object contains unknown field `parms`"),
)
BAD_QUERIES: Mapping[str, str] = {
    "/v1/audit?limit=0": "limit: expected 1 to 10,000, got 0",
    "/v1/diff?limit=10001": "limit: expected 1 to 10,000, got 10001",
    "/v1/audit?limit=many": "Expected `int`, got `str` - at `$.limit`",
    "/v1/audit?limt=1": "Object contains unknown field `limt`",
    "/v1/diff?method=VM.nope": "no mapped method is named 'VM.nope'",
    "/v1/methods?pattern=VM.nope": "no mapped method is named 'VM.nope'",
    "/v1/promotion?pattern=VM.nope": "no mapped method is named 'VM.nope'",
}


async def test_a_bad_request_or_query_is_answered_with_its_error_and_changes_nothing(api: Api) -> None:
    for path, body, says in BAD_REQUESTS:
        status, answer = await api.ask("POST", path, body)
        assert (status, answer["error"][: len(says)]) == (422, says)
    for path, says in BAD_QUERIES.items():
        assert await api.ask("GET", path) == (422, {"error": says})
    assert (api.state.overrides, await api.ask("GET", "/v1/audit")) == ((), (200, []))


async def test_a_body_that_cannot_be_decoded_and_an_unknown_path_are_answered_in_json(api: Api) -> None:
    assert await ask(api.socket, "POST", "/v1/call", b"{") == (422, {"error": "Input data was truncated"})
    assert await ask(api.socket, "POST", "/v1/call") == (422, {"error": "Object missing required field `method`"})
    assert await ask(api.socket, "GET", "/v1/nope") == (404, {"error": "Not Found"})
    assert (await ask(api.socket, "POST", "/v1/rollback"))[0] == 200  # no body is an empty one


async def test_a_call_carries_its_parameters_and_no_text_of_a_bug_reaches_the_client(api: Api) -> None:
    status, answer = await api.ask("POST", "/v1/call", {"method": "VM.start", "params": [1, {"a": None}]})
    assert (status, answer["value"]) == (200, [1, {"a": None}])
    api.toy.failure = LookupError("no such endpoint; there are: rpc:/RPC2")
    assert await api.ask("POST", "/v1/call", {"method": "x"}) == (422, {"error": str(api.toy.failure.args[0])})
    api.toy.failure = RuntimeError("a secret")
    assert await ask(api.socket, "POST", "/v1/call", b'{"method": "x"}') == (500, {"error": "internal error"})


@each_case(
    ("refused", "status"),
    [(Rejected("no such method"), 422), (StateRefused("disk full"), 503), (StateRefused("outrun", conflict=True), 409)],
)
def test_a_refusal_has_the_status_of_its_reason(refused: StateRefused, status: int) -> None:
    assert json(refused).status == status


async def test_a_caller_without_the_right_to_change_can_change_nothing(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user sees it; tests/interop/test_access.py is another user."""

    def reader(self: AccessRules, caller: object, right: Right) -> bool:
        return right is Right.READ

    monkeypatch.setattr(AccessRules, "have", reader)
    for each in OPERATIONS:
        if each.right is Right.CHANGE:
            status, answer = await ask(api.socket, each.verb, each.path, b"{}")
            assert status == 403, each.path
            assert "may not change anything here" in answer["error"]
        elif each.right is Right.READ:
            assert (await ask(api.socket, each.verb, each.path, b"{}"))[0] in (200, 422), each.path
    assert api.state.overrides == ()


# The document


async def test_the_document_describes_the_running_api(api: Api) -> None:
    assert await api.ask("GET", "/v1/openapi.json") == (200, DOCUMENT)
    assert document() == DOCUMENT
    served = handlers_by_name(api.toy, api.admin_service, api.traffic)
    assert served.keys() == {each.name for each in OPERATIONS if each.right is not None}
    assert len({(each.verb, each.path) for each in OPERATIONS}) == len({each.name for each in OPERATIONS})


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    referred = {text.partition('"')[0] for text in str(DOCUMENT).replace("'", '"').split("#/components/schemas/")[1:]}
    assert referred == DOCUMENT["components"]["schemas"].keys()


def test_a_body_and_a_query_are_described_as_they_are_read() -> None:
    body = operation("POST", "/v1/call")["requestBody"]["content"]["application/json"]["schema"]
    schema = DOCUMENT["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert (list(schema["properties"]), schema["required"]) == (list(CallBody.__struct_fields__), ["method"])
    assert schema["additionalProperties"] is False
    asked = {each["name"]: each["schema"].get("default") for each in operation("GET", "/v1/audit")["parameters"]}
    assert asked == {"limit": 100, "since": 0.0, "subject": None}
    assert operation("GET", "/v1/audit")["x-right"] == "read"
