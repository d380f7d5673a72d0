"""The operations of the admin API: path, right, request and response of each; the OpenAPI document is made from them.

`OPERATIONS` is the only list of paths. The server takes verb, path and right of an operation from it and the handler by
the operation's name; `document` describes the same table as OpenAPI 3.1, with the JSON Schema of the types below.
Times are seconds since 1970, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, TypedDict

import msgspec
from msgspec import Struct, field

from gateway.admin.health import ServiceRow
from gateway.core.admin.access import Right
from gateway.core.admin.records import MethodId
from gateway.core.admin.status import BusStatus, StoreStatus, UpstreamStatus
from gateway.core.admin.views import Explanation, MethodRow, ModeRequest, ModeResult, SettingView
from gateway.migration.promote import Promotion
from gateway.migration.rollout_commands import RolloutView
from gateway.pipeline.recorder import RecordingLimits

_RECORDING = RecordingLimits()


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of bodies and queries: an unknown field is an error."""


class MethodsQuery(_Request, frozen=True):
    """Which methods: "VM.start", "xenopsd/VM.start", "VM.*", "group:NAME" or "*"."""

    pattern: str = "*"


class AuditQuery(_Request, frozen=True):
    """Which audit entries: at most `limit`, not older than `since`, of one pattern or rollout."""

    limit: int = 100
    since: float = 0.0
    subject: str | None = None


class DiffQuery(_Request, frozen=True):
    """Which mismatches: at most `limit`, of one method or of all."""

    method: str | None = None
    limit: int = 50


class ClientsQuery(_Request, frozen=True):
    """Which callers: of a method (a name or a pattern) or a service, not older than `since`."""

    method: str | None = None
    service: str | None = None
    since: float = 0.0
    limit: int = 1_000


class CallBody(_Request, frozen=True):
    """A call to make. `listener`, `path` and `codec` select the endpoint; params are JSON values."""

    method: str
    params: list[Any] = []
    listener: str | None = None
    path: str | None = None
    codec: str | None = None


class PatternBody(_Request, frozen=True):
    """Which methods (see MethodsQuery), and the reason for the audit."""

    pattern: str
    why: str = ""


class ReasonBody(_Request, frozen=True):
    """The reason for the audit."""

    why: str = ""


class ExplainBody(_Request, frozen=True):
    """A call that is not made. Params are JSON values after the dialect; `key` replaces the canary key of the call."""

    method: str
    params: list[Any] = []
    named: dict[str, Any] = {}
    key: str | None = None


class RolloutBody(_Request, frozen=True):
    """Which rollout: a method, "service/method" or "group:NAME"; and the reason for the audit."""

    name: str
    why: str = ""


class WatchBody(_Request, frozen=True):
    """What to watch: "*", a class ("VM") or an object ("VM/OpaqueRef:...")."""

    what: str = "*"


class RecordBody(_Request, frozen=True):
    """What to record and when to stop. No patterns: all methods; `size` in bytes; `writes`: writes too."""

    patterns: list[str] = []
    calls: int = _RECORDING.calls
    seconds: float = _RECORDING.seconds
    size: int = _RECORDING.size
    writes: bool = False


class ReplayBody(_Request, frozen=True):
    """Lines of a recording. `given`: values for redacted places; `writes`: run writes, twice; `noise`: legacy twice."""

    calls: list[Any]
    given: dict[str, str] = {}
    writes: bool = False
    noise: bool = False


class ErrorAnswer(TypedDict):
    """Why the gateway did not do it, for people."""

    error: str


class Alive(TypedDict):
    """The process answers."""

    alive: bool


class Readiness(TypedDict):
    """Whether every mapped method can be called, and if not, why."""

    ready: bool
    reasons: list[str]
    warnings: list[str]


class OperatorBus(TypedDict):
    """The connection that offers org.xen.xcp.gateway on D-Bus."""

    address: str
    connected: bool
    last_error: str


class WorkerStatus(TypedDict):
    """One of several processes that serve. `state`: starting, joined, serving, stopping, ended."""

    number: int
    pid: int
    state: str
    leads: bool
    restarts: int


class StateHealth(TypedDict):
    """Where the state is kept, and what is wrong with it (empty: nothing)."""

    place: str
    trouble: str


class Status(TypedDict):
    """The state of the gateway. `ungoverned`: calls that a legacy service may execute in every mode.

    `workers`: the processes, where there are several; all else is about all of them together.
    """

    ready: bool
    reasons: list[str]
    warnings: list[str]
    revision: str
    version: str
    listening: list[str]
    metrics: str | None
    in_flight: int
    tasks: int
    buffered: int
    buses: list[BusStatus]
    upstreams: list[UpstreamStatus]
    stores: list[StoreStatus]
    operators: OperatorBus | None
    state: StateHealth
    ungoverned: list[str]
    services: list[ServiceRow]
    workers: list[WorkerStatus]


class RouteRow(TypedDict):
    """One method at one endpoint. `spellings`: other forms of its name that the dialect accepts.

    `codec`: on_change for a node that is watched, whose `path` is the node. `access`: call, get, getall or set of
    `member`; the target is empty where the gateway answers itself. `file`, `line`: of the mapping.
    """

    service: str
    method: str
    listener: str
    path: str
    codec: str
    dialect: str
    bus_name: str
    object_path: str
    interface: str
    member: str
    access: str
    effect: str
    mode: str
    timeout: float
    file: str
    line: int | None
    spellings: list[str]


class Changed(TypedDict):
    """The names that a reload has added, removed and changed."""

    added: list[str]
    removed: list[str]
    changed: list[str]


class MappingFiles(TypedDict):
    """The files that are served, by path, in base64: mapping files, and the IDL that they use."""

    revision: str
    mappings: dict[str, bytes]
    idl: dict[str, bytes]


class Reloaded(TypedDict):
    """The mapping that is live now, and what changed: methods, and sections of the config that a reload applies.

    `notes`: workers that are replaced, since they did not answer.
    """

    revision: str
    before: str
    added: list[str]
    removed: list[str]
    changed: list[str]
    buses: Changed
    upstreams: Changed
    needs_restart: list[str]
    notes: list[str]


class NotReloaded(TypedDict):
    """The mapping that stays live, and what is wrong with the new files."""

    revision: str
    problems: list[str]


class CallResult(TypedDict, total=False):
    """`value` or `fault` of the call; `steps`: its value at each step."""

    value: Any
    fault: dict[str, Any]
    endpoint: str
    codec: str
    steps: list[dict[str, Any]]


class WebSession(TypedDict):
    """Where the web page is. The URL lets its first visitor in, with the rights of the caller, for a minute."""

    url: str


class OverrideRow(TypedDict):
    """A mode that was set at run time."""

    pattern: str
    mode: str
    setting: SettingView
    who: str
    when: float
    why: str
    until: float | None
    by: Literal["person", "rollout"]
    guarded: bool


class AuditRow(TypedDict):
    """One decision. `subject`: a pattern or a rollout; `numbers`: those the decision was made by."""

    when: float
    who: str
    what: str
    subject: str
    why: str
    numbers: dict[str, Any]


class MismatchRow(TypedDict):
    """One call whose two outcomes differ, with secrets redacted."""

    when: float
    method: MethodId
    document: Any


class ClientRow(TypedDict):
    """One caller of one method over one protocol. `domid`: of a caller over xenstore.

    `received`, `sent`: bytes of streamed bodies and tunnels. `redirects`: calls answered with another address.
    """

    service: str
    method: str
    protocol: str
    peer: str
    agent: str
    user: str
    domid: int | None
    count: int
    first: float
    last: float
    received: int
    sent: int
    redirects: int


class ReplayRow(TypedDict):
    """The comparison of one replayed call. `missing`: redacted places without a value; `pair`: the mismatch."""

    service: str
    method: str
    verdict: Literal["equal", "ignored", "different", "error_different", "too_large", "skipped", "unanswered"]
    why: str
    missing: list[str]
    legacy: float | None
    dbus: float | None
    pair: Any


class ApiOperation(Struct, frozen=True):
    """One operation. `right`: None for the monitoring paths; `media`: of an answer that is not JSON."""

    name: str
    verb: str
    path: str
    right: Right | None
    summary: str
    answer: Any = None
    body: Any = None
    query: Any = None
    refusals: tuple[int, ...] = ()  # answered with ErrorAnswer
    others: Mapping[int, Any] = field(default_factory=dict)  # other statuses with an answer of their own
    media: str = "application/json"


_READ, _CHANGE = Right.READ, Right.CHANGE
_WRONG = (422,)  # the request makes no sense
_UNREADABLE = (422, 503)  # or the state cannot be read
_UNDECIDED = (409, 422, 503)  # or another decision was faster

ROLLOUT_VERBS = {
    "start": "Begin the first step of the mapping's plan",
    "pause": "Hold the current step; a breach is still acted on",
    "resume": "Continue after a pause, a freeze, or a mode set by a person",
    "approve": "Pass the gate at which the rollout waits",
    "abort": "End the rollout and set its methods to legacy",
}

OPERATIONS: tuple[ApiOperation, ...] = (
    ApiOperation("alive", "GET", "/healthz", None, "Report that the process answers", Alive),
    ApiOperation("ready", "GET", "/readyz", None, "Report whether every mapped method can be called", Readiness,
                 others={503: Readiness}),
    ApiOperation("metrics", "GET", "/metrics", None, "Return all metrics in the Prometheus text format", str,
                 media="text/plain"),
    ApiOperation("openapi", "GET", "/v1/openapi.json", _READ, "Return this document", dict[str, Any]),
    ApiOperation("status", "GET", "/v1/status", _READ, "Show the state of the gateway", Status),
    ApiOperation("routes", "GET", "/v1/routes", _READ, "List every mapped method at every endpoint", list[RouteRow]),
    ApiOperation("mappings", "GET", "/v1/mappings", _READ, "Return the mapping and IDL files that are served",
                 MappingFiles),
    ApiOperation("reload", "POST", "/v1/reload", _CHANGE, "Read config and mapping files again", Reloaded,
                 others={409: NotReloaded}),
    ApiOperation("call", "POST", "/v1/call", _CHANGE, "Make one call as a legacy client would", CallResult, CallBody,
                 refusals=_WRONG),
    ApiOperation("web", "POST", "/v1/web", _READ, "Begin a session of the web page with the rights of the caller",
                 WebSession, refusals=_WRONG),
    ApiOperation("methods", "GET", "/v1/methods", _READ, "List methods with mode, call statistics and assessment",
                 list[MethodRow], query=MethodsQuery, refusals=_WRONG),
    ApiOperation("modes", "GET", "/v1/modes", _READ, "List the modes set at run time, the strongest first",
                 list[OverrideRow]),
    ApiOperation("set_mode", "POST", "/v1/mode", _CHANGE, "Set the mode of all methods of a pattern, or of none",
                 ModeResult, ModeRequest, refusals=_UNDECIDED),
    ApiOperation("clear_mode", "POST", "/v1/mode/clear", _CHANGE,
                 "Remove the mode of exactly this pattern: a person's, else what ended rollouts have left (*: all)",
                 ModeResult, PatternBody, refusals=_UNDECIDED),
    ApiOperation("rollback", "POST", "/v1/rollback", _CHANGE,
                 "Set every method to legacy and end all rollouts, even without buses and state file",
                 ModeResult, ReasonBody, refusals=(422, 503)),
    ApiOperation("undo_rollback", "POST", "/v1/rollback/undo", _CHANGE,
                 "Restore the modes that were set before the rollback in force", ModeResult, ReasonBody,
                 refusals=_UNDECIDED),
    ApiOperation("explain", "POST", "/v1/explain", _READ, "Explain which side would serve a call, and why",
                 list[Explanation], ExplainBody, refusals=_WRONG),
    ApiOperation("promotion", "GET", "/v1/promotion", _READ, "List run-time modes that mapping files could contain",
                 Promotion, query=MethodsQuery, refusals=_WRONG),
    ApiOperation("promoted", "POST", "/v1/promoted", _CHANGE,
                 "Remove modes set at run time that equal the mapping's, and return their patterns",
                 list[str], PatternBody, refusals=_UNDECIDED),
    ApiOperation("audit", "GET", "/v1/audit", _READ, "List decisions, the newest first", list[AuditRow],
                 query=AuditQuery, refusals=_UNREADABLE),
    ApiOperation("diff", "GET", "/v1/diff", _READ, "List mismatches, the newest first", list[MismatchRow],
                 query=DiffQuery, refusals=_UNREADABLE),
    ApiOperation("reset_statistics", "POST", "/v1/statistics/reset", _CHANGE,
                 "Delete call statistics and mismatches of the methods of a pattern",
                 list[MethodId], PatternBody, refusals=_UNDECIDED),
    ApiOperation("rollouts", "GET", "/v1/rollouts", _READ, "List all rollouts, ended ones too", list[RolloutView],
                 refusals=(503,)),
    *(ApiOperation(f"{verb}_rollout", "POST", f"/v1/rollouts/{verb}", _CHANGE, summary, RolloutView, RolloutBody,
                   refusals=_UNDECIDED)
      for verb, summary in ROLLOUT_VERBS.items()),
    ApiOperation("clients", "GET", "/v1/clients", _READ, "List the callers of each method, the latest first",
                 list[ClientRow], query=ClientsQuery, refusals=_UNREADABLE),
    ApiOperation("record", "POST", "/v1/record", _CHANGE,
                 "Stream calls as JSON lines: a header, the calls, an end; an empty line each second without a call",
                 str, RecordBody, refusals=(409, 422), media="application/x-ndjson"),
    ApiOperation("watch", "POST", "/v1/watch", _READ,
                 "Stream objects and their changes as JSON lines: what there is, a line with `ready`, the changes; an"
                 " empty line each second without a change. Secrets are redacted",
                 str, WatchBody, refusals=(422, 503), media="application/x-ndjson"),
    ApiOperation("replay", "POST", "/v1/replay", _CHANGE, "Send recorded calls to both sides and compare",
                 list[ReplayRow], ReplayBody, refusals=_WRONG),
)  # fmt: skip

_REFERENCE = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The API as an OpenAPI 3.1 document."""
    kinds = dict.fromkeys([ErrorAnswer, *(kind for each in OPERATIONS for kind in _kinds(each))])
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.verb.lower()] = _described(each, by_kind)
    for schema in components.values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "xcp-gateway admin API",
            "version": "1",
            "description": "JSON over HTTP on the admin socket. Root and the gateway's user have every right; `read`"
            " and `change` in the config's [admin] give them to others. `x-right` of an operation says which of the two"
            " it needs. Times are seconds since 1970, durations seconds.",
        },
        "servers": [
            {
                "url": "http://gateway",
                "description": "Any host name does: curl --unix-socket /run/xcp-gateway/admin http://gateway/v1/status",
            }
        ],
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _kinds(operation: ApiOperation) -> list[Any]:
    return [kind for kind in (operation.answer, operation.body, *operation.others.values()) if kind is not None]


def _described(operation: ApiOperation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    def answer(status: int, kind: Any, media: str = "application/json") -> dict[str, Any]:
        return {"description": HTTPStatus(status).phrase, "content": {media: {"schema": schemas[kind]}}}

    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.name,
        "x-right": operation.right.value if operation.right is not None else "none",
    }
    if operation.query is not None:
        (schema,) = msgspec.json.schema_components([operation.query])[1].values()
        described["parameters"] = [
            {"name": name, "in": "query", "schema": found} for name, found in schema["properties"].items()
        ]
    if operation.body is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": schemas[operation.body]}}}
    problems = sorted({*operation.refusals, *((403,) if operation.right is not None else ())})
    described["responses"] = {
        "200": answer(200, operation.answer, operation.media),
        **{str(status): answer(status, ErrorAnswer) for status in problems},
        **{str(status): answer(status, kind) for status, kind in operation.others.items()},
    }
    return described
