"""`scaffold openrpc`, `methods` and `recording`: an API on D-Bus for the methods of a legacy service."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCServer

import pytest
from ruamel.yaml import YAML

from gateway.check import check
from gateway.core.comparison.serialization import LEFT_OUT, write
from gateway.core.dbus import introspection_xml
from gateway.mapping.changes.surface import surface
from gateway.mapping.table import EndpointKey
from gateway.pipeline.introspection import describe
from gateway.pipeline.introspection import openrpc as document
from gateway.scaffold import SourceError, legacy_service, openrpc, recording
from tests.kit.cases import each_case
from tests.kit.command import command, succeed
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process


def scaffold(*words: str | Path) -> tuple[int, str, str]:
    done = command("scaffold", *words)
    return done.exit_code, done.stdout, done.stderr


def checked(folder: Path) -> str:
    return succeed("check", folder)


# OpenRPC

DOCUMENT: dict[str, Any] = YAML(typ="safe", pure=True).load("""
openrpc: 1.3.2
info: {title: shop, version: "1"}
methods:
  - name: Book.get_title
    summary: "The title\\nof a book."
    params: [{name: book, required: true, schema: {type: string}}]
    result: {name: title, schema: {type: string}}
  - name: Book.add
    params:
      - {$ref: "#/components/contentDescriptors/Title"}
      - {name: pages, schema: {type: integer, minimum: 0, maximum: 65535, default: 3}}
      - {name: kind, schema: {enum: [novel, poem]}}
      - {name: more, schema: {oneOf: [{type: string}, {type: integer}]}}
    result: {name: x, schema: {type: "null"}}
  - name: add
    params:
      - name: pairs
        required: true
        schema: {type: array, items: {type: array, items: [{type: string}, {type: number}]}}
      - {name: tree, required: true, schema: {$ref: "#/components/schemas/Tree"}}
      - {name: born, required: true, schema: {type: string, format: date-time}}
      - {name: data, required: true, schema: {type: string, contentEncoding: base64}}
      - {name: by, schema: {type: object, additionalProperties: {type: boolean}}}
    result: {schema: {type: object, properties: {a: {}}}}
  - {name: rpc.discover, params: []}
components:
  contentDescriptors: {Title: {name: title, required: true, schema: {type: string}}}
  schemas: {Tree: {type: array, items: {$ref: "#/components/schemas/Tree"}}}
""")
MAPPING = """\
methods:

  # org.example.Shop.Book1
  Book.get_title: {member: GetTitle, params: [book], effect: read}  # decide: effect by its name
  # decide: types of the variants in more; default of 'kind'; type of 'more'; default of 'more'
  Book.add:
    member: Add
    params: [title, {name: pages, default: 3}, {name: kind, default: ""}, {name: more, default: ""}]

  # org.example.Shop.Shop1
"""


def test_an_openrpc_document_becomes_idl_and_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "doc.json").write_text(json.dumps(DOCUMENT))
    where = ("--bus-name", "org.example.Shop", "-o", tmp_path / "m")
    code, _, notes = scaffold("openrpc", tmp_path / "doc.json", *where)
    assert code == 0, notes
    text = (tmp_path / "m/shop.yaml").read_text()
    assert MAPPING in text
    assert "mode: legacy" not in text
    idl = introspection_xml.parse((tmp_path / "m/idl/org.example.Shop.xml").read_text())
    method = idl.interfaces["org.example.Shop.Shop1"].methods["Add"]
    kinds = {each.name: str(each.type) for each in method.ins}
    deep = "a" * 13 + "v"
    assert kinds == {"pairs": "a(sd)", "tree": deep, "born": "s", "data": "ay", "by": "a{sb}"}
    assert [str(each.type) for each in method.outs] == ["a{sv}"]
    title = idl.interfaces["org.example.Shop.Book1"].methods["GetTitle"]
    assert (title.documentation, [str(each.type) for each in title.outs]) == ("The title of a book.", ["s"])
    assert "{name: born, format: datetime}" in text
    assert checked(tmp_path / "m") == "3 methods in 1 file: no problems (schema and IDL)\n"
    assert scaffold("openrpc", tmp_path / "doc.json", *where)[2].endswith("nothing to change\n")


def test_the_document_of_a_gateway_gives_back_its_types(tmp_path: Path) -> None:
    """Types of parameters and results are the same; what the document does not have is a variant."""
    folder = Folder(tmp_path)
    table = check([folder.mappings], None, live=False).table
    found = document(table.endpoints[EndpointKey("rpc", "/jsonrpc")], describe(surface(table)), ())
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": found}).encode()
    methods = {each.name: each for each in openrpc.read(answer)}
    for name, route in table.endpoints[EndpointKey("rpc", "/jsonrpc")].routes.items():
        assert [each.type for each in methods[name].parameters] == [each.type for each in route.parameters]
        assert methods[name].result == route.result


@each_case(
    ("content", "expected"),
    [
        ("{", "expected the JSON of an OpenRPC document"),
        ("[]", "expected an OpenRPC document, an object with `methods`"),
        ('{"methods": [1]}', r"methods\[0\]: expected an object with `name`"),
        ('{"methods": [{"name": "a", "params": {}}]}', r"methods\[0\] \(a\): expected `params` as a list"),
        ('{"methods": [{"name": "a", "params": [1]}]}', "expected each parameter as an object with `name`"),
        ('{"methods": [{"$ref": "http://x"}]}', "expected one inside the document"),
        ('{"methods": [{"$ref": "#/none"}]}', "leads nowhere"),
        ('{"methods": [{"$ref": "#/a"}], "a": {"$ref": "#/a"}}', "references lead to each other"),
    ],
)
def test_a_bad_document_is_refused_with_its_place(content: str, expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        openrpc.read(content.encode())


# A legacy service


class Server(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True


@contextmanager
def old(handler: Any = None) -> Iterator[str]:
    """A server of Python's library with three methods; with a handler, one that answers by it."""
    if handler is None:
        server: Any = Server(("127.0.0.1", 0), logRequests=False)
        server.register_introspection_functions()

        def get_title(book):  # type: ignore[no-untyped-def]  # as in 2004
            """Return the title of a book."""
            return book

        server.register_function(get_title, "shop.get_title")
    else:
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/RPC2"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_of_pythons_library_tells_names_and_help_only(tmp_path: Path) -> None:
    with old() as url:
        code, _, notes = scaffold("methods", url, "--bus-name", "org.example.Shop", "-o", tmp_path)
    assert code == 0, notes
    text = (tmp_path / "shop.yaml").read_text()
    assert "legacy: {upstream: shop}\ndefaults: {mode: legacy}\n" in text
    assert "  - {listener: rpc, path: /RPC2, codec: xmlrpc}\nlegacy" in text
    decide = "effect by its name; parameters and result: the server does not tell them"
    assert f"  # decide: {decide}\n  shop.get_title: {{member: GetTitle, effect: read}}\n" in text
    assert "system." not in text.partition("methods:")[2]
    idl = introspection_xml.parse((tmp_path / "idl/org.example.Shop.xml").read_text())
    assert idl.interfaces["org.example.Shop.Shop1"].methods["GetTitle"].documentation == "Return the title of a book."
    assert checked(tmp_path) == "1 method in 1 file: no problems (schema and IDL)\n"


@pytest.mark.bus
@pytest.mark.parametrize(("codec", "path"), [("xmlrpc", "/RPC2"), ("jsonrpc", "/jsonrpc")])
def test_a_server_with_signatures_is_read_over_tcp_and_a_socket(
    codec: str, path: str, tmp_path: Path, empty_bus: str
) -> None:
    """A gateway is such a server. What was read serves the same clients, from the same legacy service."""
    folder = Folder(tmp_path)
    folder.mapping(TOY_MAPPING)
    folder.buses({"example": (empty_bus, "org.example.*")})
    with gateway_process(folder.config) as process:
        address = process.wait_for("ready")["listening"][0].removeprefix("tcp:")
        socket = f"http+unix://{str(tmp_path / 'rpc').replace('/', '%2F')}{path}"
        for number, url in enumerate((f"http://{address}{path}", socket)):
            where = ("--bus-name", "org.example.Toys", "--codec", codec, "-o", tmp_path / str(number))
            code, _, notes = scaffold("methods", url, *where, "--upstream", "old-toys")
            assert code == 0, notes
    text = (tmp_path / "0/toys.yaml").read_text()
    assert "echo: {member: Echo, params: [arg1]}  # decide: names of the parameters\n" in text
    assert "legacy: {upstream: old-toys}\n" in text
    assert text.replace(f"http://{address}{path}", socket) == (tmp_path / "1/toys.yaml").read_text()
    idl = introspection_xml.parse((tmp_path / "0/idl/org.example.Toys.xml").read_text())
    held = idl.interfaces["org.example.Toys.Toys1"].methods["Held"]
    assert [str(each.type) for each in held.outs] == ["x"]  # XML-RPC's i8
    assert checked(tmp_path / "0") == "7 methods in 1 file: no problems (schema and IDL)\n"


@each_case(
    ("signatures", "expected"),
    [
        ([["string", "int"]], ["s", "i", None]),
        ([["boolean", "i8", "double"], ["boolean", "i8"]], ["b", "x", None, "d", "0.0"]),
        ([["struct", "array"], ["string", "array"]], ["v", "av", None]),
        ([["nil", "base64"]], [None, "ay", None]),
        (["string,int, boolean"], ["s", "i", None, "b", None]),
        ([["array", "unknown"]], ["av", "v", None]),
        ([["dateTime.iso8601", "dateTime.iso8601"]], ["x datetime", "x datetime", None]),
        ("signatures not supported", ["v"]),
        (None, ["v"]),
        ([[]], ["v"]),
        ([[1, "int"]], ["v"]),
    ],
)
def test_signatures_in_the_forms_of_old_servers(signatures: Any, expected: list[str | None]) -> None:
    found = legacy_service.method("m", signatures)
    told = [None if found.result is None else f"{found.result} {found.result_format}".rstrip()]
    for each in found.parameters:
        told += [f"{each.type} {each.format}".rstrip(), each.default]
    assert told == expected


class Odd(BaseHTTPRequestHandler):
    """Answers what its test says."""

    status, body = 200, b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


VALUE = b"<?xml version='1.0'?><methodResponse><params><param><value>%b</value></param></params></methodResponse>"
LIST = VALUE % b"<array><data>%b</data></array>"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, b"", "system.listMethods: HTTP 500"),
        (302, b"", "system.listMethods: HTTP 302"),
        (200, b"<html>", "system.listMethods: "),
        (200, VALUE % b"<int>1</int>", "expected a list of names"),
        (200, LIST % b"<value><int>1</int></value>", "expected a list of names"),
        (200, LIST % (b"<value>a</value>" * 5001), "expected at most 5000 names, got 5001"),
        (200, LIST % b"<value>system.x</value>", "there is no method but those that the gateway answers itself"),
        (200, b" " * (legacy_service.MAX_ANSWER + 1), "the answer is larger than"),
    ],
)
def test_what_a_server_should_not_answer(status: int, body: bytes, expected: str, tmp_path: Path) -> None:
    with old(type("Once", (Odd,), {"status": status, "body": body})) as url:
        code, out, message = scaffold("methods", url, "--bus-name", "org.example.Shop", "-o", tmp_path)
    assert (code in (1, 2), out, expected in message) == (True, "", True), message
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_is_not_there_and_a_url_that_is_none(tmp_path: Path) -> None:
    where = ("--bus-name", "org.example.Shop", "-o", tmp_path)
    assert scaffold("methods", "http://127.0.0.1:1/", *where)[0] == 1
    assert "expected an http, https or http+unix URL, got 'ftp://x'" in scaffold("methods", "ftp://x", *where)[2]
    assert scaffold("methods", "http://x/", *where, "--codec", "soap")[0] == 2
    (tmp_path / "doc.json").write_text(json.dumps(DOCUMENT))
    assert "--bus-name: expected a bus name" in scaffold("openrpc", tmp_path / "doc.json", "--bus-name", "x")[2]


# A recording


def line(method: str, *params: Any, reply: Any = None, named: dict[str, Any] | None = None, **more: Any) -> bytes:
    given = {"service": "shop", "method": method, "effect": "read", "params": write(list(params))}
    where = {"when": 1.0, "listener": "rpc", "path": "/RPC2", "codec": "xmlrpc", "side": "legacy", "seconds": 0.1}
    ended = more or {"reply": write(reply)}
    return json.dumps({**where, **given, "named": write(named or {}), **ended}).encode() + b"\n"


HEAD = b'{"recording": 1, "version": "1", "revision": "r", "when": 1.0, "methods": [], "writes": false}\n'
WHEN = datetime(2026, 1, 31, tzinfo=UTC)


def test_types_come_from_the_values_of_all_calls() -> None:
    lines = [
        HEAD,
        line("a", "x", 1, [1, 2], reply=1),
        line("a", "y", 2, [], {"any": 1}, reply=2.5),
        line("a", "z", 2.5, [3], fault={"code": "application", "message": "x"}),
        line("b", WHEN, b"data", True, reply=WHEN),
        line("c", 1, reply=[["a"], []]),
        line("c", "text", reply=[["b", "c"]]),
        line("d", reply=None),
        line("e", "x", named={"size": 1}, reply={"a": 1}),
        line("e", "x", named={}, reply={"a": "x"}),
        line("f", {"$redacted": "text"}, reply={LEFT_OUT: "an answer of more than 65536 bytes"}),
        b'{"end": "calls", "calls": 9, "seconds": 1, "no_room": 0, "too_large": 0}\n',
    ]
    found = {}
    for each in recording.read(lines).methods:
        parameters = [f"{one.type}{f' {one.format}' * bool(one.format)}" for one in each.parameters]
        defaults = {one.name: one.default for one in each.parameters if one.default is not None}
        found[each.name] = (parameters, defaults, str(each.result), each.result_format)
    assert found == {
        "a": (["s", "d", "ax", "a{sv}"], {"arg4": "{}"}, "d", ""),
        "b": (["x datetime", "ay", "b"], {}, "x", "datetime"),
        "c": (["v"], {}, "aas", ""),
        "d": ([], {}, "None", ""),
        "e": (["s", "x"], {"size": "0"}, "a{sv}", ""),
        "f": (["s"], {}, "v", ""),
    }


def test_a_recording_becomes_idl_and_a_mapping_in_mode_legacy(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_bytes(HEAD + line("Book.get_title", "b1", reply="Emma") + line("Book.set", {"a": 1}, named={"why": "x"}))
    code, _, notes = scaffold("recording", file, "--bus-name", "org.example.Shop", "-o", tmp_path / "m")
    assert code == 0, notes
    text = (tmp_path / "m/shop.yaml").read_text()
    assert "expose:\n  - {listener: rpc, path: /RPC2, codec: xmlrpc}\nlegacy: {upstream: shop}\n" in text
    assert "\ndefaults: {mode: legacy}\n" in text
    decide = "effect by its name; types, from 1 call; names of the parameters"
    assert f"  # decide: {decide}\n  Book.get_title: {{member: GetTitle, params: [arg1], effect: read}}\n" in text
    assert checked(tmp_path / "m") == "2 methods in 1 file: no problems (schema and IDL)\n"


@each_case(
    ("content", "expected"),
    [
        (b"", "expected a recording with at least one call"),
        (HEAD, "expected a recording with at least one call"),
        (b"x", "line 1: is not JSON"),
        (HEAD + b'{"method": "a"}\n', "line 2: 'listener' is missing"),
        (b'{"recording": 9}\n', "line 1: unknown recording format 9; expected 1"),
    ],
)
def test_a_bad_recording_is_refused_with_its_line(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(content)
    code, out, message = scaffold("recording", tmp_path / "calls", "--bus-name", "org.example.Shop", "-o", tmp_path)
    assert (code, out) == (2, "")
    assert expected in message
