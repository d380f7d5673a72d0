"""The demo's clients over HTTP, four third-party programs: their calls, the D-Bus calls that follow, the answers."""

from __future__ import annotations

import json
import subprocess
import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any

import jsonrpclib
import XenAPI

from demo.environment import Environment
from demo.report import CallCheck, equals

USER, PASSWORD = "root", "xenroot"  # of the sample toolstack
WEB = "OpaqueRef:11111111-aaaa-4aaa-8aaa-000000000001"
ARCHIVE = "OpaqueRef:33333333-cccc-4ccc-8ccc-000000000003"  # a VM with more memory than its host
SR = "6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001"


def xenapi(environment: Environment, check: CallCheck) -> None:
    """PyPI's XenAPI, the client library of XenServer: XML-RPC at /RPC2, dialect xenapi."""
    client = "XenAPI"
    session = XenAPI.Session(environment.url)

    def failing(call: Callable[[], object]) -> Callable[[], object]:
        def details() -> object:
            try:
                return call()
            except XenAPI.Failure as failure:
                return failure.details

        return details

    api = session.xenapi
    opened = check(
        client, "session.login_with_password(root, ...)", "Session1.Login",
        lambda: api.login_with_password(USER, PASSWORD, "1.0", "demo") or session._session,  # noqa: SLF001
        lambda answer: str(answer).startswith("OpaqueRef:"),
    )  # fmt: skip
    check(
        client, "VM.get_all_records()", "ObjectManager.GetManagedObjects", api.VM.get_all_records,
        lambda records: {record["name_label"] for record in records.values()} >= {"web", "db", "archive"},
    )  # fmt: skip
    check(client, "VM.get_by_name_label(web)", "GetByNameLabel", lambda: api.VM.get_by_name_label("web"), equals([WEB]))
    check(client, "VM.start(web, false, false)", "VM1.Start", lambda: api.VM.start(WEB, False, False), equals(""))  # noqa: FBT003
    check(client, "VM.get_power_state(web)", "Properties.Get", lambda: api.VM.get_power_state(WEB), equals("Running"))
    check(
        client, "VM.get_memory_static_max(web)", "Properties.Get",
        lambda: api.VM.get_memory_static_max(WEB), equals("2147483648"),
    )  # fmt: skip
    check(
        client, "VM.start(archive, false, false)", "VM1.Start", failing(lambda: api.VM.start(ARCHIVE, False, False)),  # noqa: FBT003
        lambda details: details[0] == "HOST_NOT_ENOUGH_FREE_MEMORY",
    )  # fmt: skip
    check(
        client, "VM.get_name_label(../../pool)", "Properties.Get", failing(lambda: api.VM.get_name_label("../../pool")),
        equals(["HANDLE_INVALID", "VM", "../../pool"]),
    )  # fmt: skip
    check(client, "session.logout()", "Session1.Logout", lambda: api.logout(), equals(None))
    check(
        client, "VM.get_all() with the session that was closed", "Session1.Check",
        lambda: standard_client(environment, "/RPC2").VM.get_all(opened)["ErrorDescription"],
        equals(["SESSION_INVALID", opened]),
    )  # fmt: skip


def standard_client(environment: Environment, path: str) -> Any:
    """The standard library's XML-RPC client for one endpoint."""
    return xmlrpc.client.ServerProxy(environment.url + path, allow_none=True)


def standard_library(environment: Environment, check: CallCheck) -> None:
    """Python's xmlrpc.client at the xapi-idl services: a struct of named parameters, Status and Value."""
    client = "xmlrpc.client"
    memory = standard_client(environment, "/memory")
    answer = check(
        client, "/memory login(dbg, demo)", "Memory1.Login", lambda: memory.login("dbg", "demo"),
        lambda answer: answer["Status"] == "Success",
    )  # fmt: skip
    session = answer.get("Value", "") if isinstance(answer, dict) else ""
    check(
        client, "/memory reserve_memory(dbg, session, 262144)", "Memory1.ReserveMemory",
        lambda: memory.reserve_memory("dbg", session, 262144),
        lambda answer: answer["Status"] == "Success",
    )  # fmt: skip
    check(
        client, "/memory reserve_memory(dbg, session, 1 TiB)", "Memory1.ReserveMemory",
        lambda: memory.reserve_memory("dbg", session, 2**30),
        lambda answer: answer["ErrorDescription"][0] == "Cannot_free_this_much_memory",
    )  # fmt: skip
    check(
        client, '/xenopsd VM.stat({debug_info, id: "11111111-..."})', "VMs1.StatRecord",
        lambda: standard_client(environment, "/xenopsd").VM.stat({"debug_info": "dbg", "id": WEB.partition(":")[2]}),
        lambda answer: answer["Value"][1]["power_state"] == "Running",
    )  # fmt: skip
    check(
        client, "/perfmon perfmon.status()", "Properties.GetAll",
        lambda: standard_client(environment, "/perfmon").perfmon.status(),
        lambda answer: isinstance(answer["last_refresh"], xmlrpc.client.DateTime),
    )  # fmt: skip
    check(
        client, "/perfmon system.methodSignature(perfmon.get_rules)", "",
        lambda: standard_client(environment, "/perfmon").system.methodSignature("perfmon.get_rules"),
        equals([["array", "string"]]),
    )  # fmt: skip


def curl(environment: Environment, check: CallCheck) -> None:
    """Bare bytes by curl: JSON-RPC 1.0 and 2.0 on one endpoint, a batch, a notification, a value out of range."""

    def post(path: str, body: object) -> Callable[[], Any]:
        command = ["curl", "-sS", "-w", "\n%{http_code}", "-d", json.dumps(body), environment.url + path]

        def make_call() -> Any:
            text, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition(
                "\n"
            )
            return json.loads(text) if text else f"HTTP {status}, no body"

        return make_call

    def request(number: int, method: str, *params: object) -> Mapping[str, object]:
        return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}

    path = "/perfmon/jsonrpc"
    check(
        "curl", '{"method":"perfmon.get_interval","params":[],"id":7}  (JSON-RPC 1.0)', "Properties.Get",
        post(path, {"method": "perfmon.get_interval", "params": [], "id": 7}),
        equals({"result": 0, "error": None, "id": 7}),
    )  # fmt: skip
    check(
        "curl", "[set_interval(30), get_interval()]  (JSON-RPC 2.0, a batch)", "Properties.Set",
        post(path, [request(1, "perfmon.set_interval", 30), request(2, "perfmon.get_interval")]),
        lambda answers: [answer["result"] for answer in answers] == [None, 30],
    )  # fmt: skip
    check(
        "curl", "perfmon.set_interval(-1)", "",
        post(path, request(3, "perfmon.set_interval", -1)),
        lambda answer: answer["error"]["message"].startswith("$.params[0]: expected u"),
    )  # fmt: skip
    check(
        "curl", "perfmon.refresh  (a notification)", "Alerts1.Refresh",
        post(path, {"jsonrpc": "2.0", "method": "perfmon.refresh"}), equals("HTTP 204, no body"),
    )  # fmt: skip


def pelix(environment: Environment, check: CallCheck) -> None:
    """PyPI's jsonrpclib-pelix: JSON-RPC 2.0 with named parameters."""
    client = "jsonrpclib"
    storage = jsonrpclib.ServerProxy(f"{environment.url}/storage/jsonrpc")
    check(client, "SR.list(dbg='demo')", "SRs1.List", lambda: storage.SR.list(dbg="demo"), equals([SR]))
    check(
        client, f"SR.scan(dbg='demo', sr='{SR[:8]}...')", "SR1.Scan", lambda: storage.SR.scan(dbg="demo", sr=SR),
        lambda disks: {disk["name_label"] for disk in disks} == {"web system", "db data"},
    )  # fmt: skip


HTTP_CLIENTS = (xenapi, standard_library, curl, pelix)
