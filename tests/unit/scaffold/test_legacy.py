"""`scaffold openrpc`, `methods` and `recording`: an API on D-Bus for the methods of a legacy service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
from tests.kit.command import outcome, succeed
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process
from tests.kit.upstreams import legacy_server, ok

SHOP = ("--bus-name", "org.example.Shop")


def scaffolded(folder: Path, *words: str | Path, name: str = "shop") -> tuple[str, introspection_xml.Node, str]:
    """The mapping file, the IDL and the notes of a source that can be used; and what `check` says of them."""
    code, _, notes = outcome("scaffold", *words, "-o", folder)
    assert code == 0, notes
    idl = (folder / f"idl/org.example.{name.capitalize()}.xml").read_text()
    assert "no problems (schema and IDL)" in succeed("check", folder)
    return (folder / f"{name}.yaml").read_text(), introspection_xml.parse(idl), notes


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
    words = ("openrpc", tmp_path / "doc.json", *SHOP)
    text, idl, _ = scaffolded(tmp_path / "m", *words)
    assert MAPPING in text
    assert "mode: legacy" not in text
    method = idl.interfaces["org.example.Shop.Shop1"].methods["Add"]
    kinds = {each.name: str(each.type) for each in method.ins}
    deep = "a" * 13 + "v"
    assert kinds == {"pairs": "a(sd)", "tree": deep, "born": "s", "data": "ay", "by": "a{sb}"}
    assert [str(each.type) for each in method.outs] == ["a{sv}"]
    title = idl.interfaces["org.example.Shop.Book1"].methods["GetTitle"]
    assert (title.documentation, [str(each.type) for each in title.outs]) == ("The title of a book.", ["s"])
    assert "{name: born, format: datetime}" in text
    assert scaffolded(tmp_path / "m", *words)[2].endswith("nothing to change\n")


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


@contextmanager
def old(*functions: Any) -> Iterator[str]:
    """A server of Python's library with these functions."""
    with SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
        server.register_introspection_functions()
        for function in functions:
            server.register_function(function, f"shop.{function.__name__}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/RPC2"
        finally:
            server.shutdown()
            thread.join()


def get_title(book):  # type: ignore[no-untyped-def]  # as in 2004
    """Return the title of a book."""
    return book


def test_a_server_of_pythons_library_tells_names_and_help_only(tmp_path: Path) -> None:
    with old(get_title) as url:
        text, idl, _ = scaffolded(tmp_path, "methods", url, *SHOP)
    assert "legacy: {upstream: shop}\ndefaults: {mode: legacy}\n" in text
    assert "  - {listener: rpc, path: /RPC2, codec: xmlrpc}\nlegacy" in text
    decide = "effect by its name; parameters and result: the server does not tell them"
    assert f"  # decide: {decide}\n  shop.get_title: {{member: GetTitle, effect: read}}\n" in text
    assert "system." not in text.partition("methods:")[2]
    assert idl.interfaces["org.example.Shop.Shop1"].methods["GetTitle"].documentation == "Return the title of a book."
    with old() as url:
        code, out, message = outcome("scaffold", "methods", url, *SHOP, "-o", tmp_path / "none")
    assert (code, out, (tmp_path / "none").exists()) == (2, "", False)
    assert "there is no method but those that the gateway answers itself" in message


@pytest.mark.bus
def test_a_server_with_signatures_is_read_over_tcp_and_a_socket(tmp_path: Path, empty_bus: str) -> None:
    """A gateway is such a server. What was read serves the same clients, from the same legacy service."""
    folder = Folder(tmp_path)
    folder.mapping(TOY_MAPPING)
    folder.buses({"example": (empty_bus, "org.example.*")})
    found: dict[tuple[str, str], str] = {}
    with gateway_process(folder.config) as process:
        address = process.wait_for("ready")["listening"][0].removeprefix("tcp:")
        for codec, path in (("xmlrpc", "/RPC2"), ("jsonrpc", "/jsonrpc")):
            for place in (f"http://{address}", f"http+unix://{str(tmp_path / 'rpc').replace('/', '%2F')}"):
                where = ("--bus-name", "org.example.Toys", "--codec", codec, "--upstream", "old-toys")
                folder_of = tmp_path / str(len(found))
                text, idl, _ = scaffolded(folder_of, "methods", place + path, *where, name="toys")
                found[codec, place] = text.replace(place, "")
                held = idl.interfaces["org.example.Toys.Toys1"].methods["Held"]
                assert [str(each.type) for each in held.outs] == ["x"]  # XML-RPC's i8
                assert "echo: {member: Echo, params: [arg1]}  # decide: names of the parameters\n" in text
                assert "legacy: {upstream: old-toys}\n" in text
    assert len({text for (codec, _), text in found.items() if codec == "xmlrpc"}) == 1


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


VALUE = b"<?xml version='1.0'?><methodResponse><params><param><value>%b</value></param></params></methodResponse>"
LIST = VALUE % b"<array><data>%b</data></array>"


@each_case(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 500 Odd\r\ncontent-length: 0\r\n\r\n", "HTTP 500"),
        (b"HTTP/1.1 302 Odd\r\ncontent-length: 0\r\n\r\n", "HTTP 302"),
        (ok(b"<html>"), ""),
        (ok(VALUE % b"<int>1</int>"), "expected a list of names"),
        (ok(LIST % b"<value><int>1</int></value>"), "expected a list of names"),
        (ok(LIST % (b"<value>a</value>" * 5001)), "expected at most 5000 names, got 5001"),
        (ok(b" " * (legacy_service.MAX_ANSWER + 1)), "the answer is larger than"),
    ],
)
async def test_what_a_server_should_not_answer(answer: bytes, expected: str) -> None:
    async with legacy_server(lambda _request: answer) as server:
        with pytest.raises(SourceError, match=f"system.listMethods: {expected}"):
            await legacy_service.ask(server.url, "xmlrpc")


def test_a_server_that_is_not_there_and_a_url_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "doc.json").write_text(json.dumps(DOCUMENT))
    for status, says, words in (
        (1, "http://127.0.0.1:1/: system.listMethods: ", ("methods", "http://127.0.0.1:1/", *SHOP)),
        (1, "expected an http, https or http+unix URL, got 'ftp://x'", ("methods", "ftp://x", *SHOP)),
        (2, "--codec: ", ("methods", "http://x/", *SHOP, "--codec", "soap")),
        (2, "--bus-name: expected a bus name", ("openrpc", tmp_path / "doc.json", "--bus-name", "x")),
    ):
        code, out, message = outcome("scaffold", *words, "-o", tmp_path / "m")
        assert (code, out, says in message, (tmp_path / "m").exists()) == (status, "", True, False), message


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
    text, _, _ = scaffolded(tmp_path / "m", "recording", file, *SHOP)
    assert "expose:\n  - {listener: rpc, path: /RPC2, codec: xmlrpc}\nlegacy: {upstream: shop}\n" in text
    assert "\ndefaults: {mode: legacy}\n" in text
    decide = "effect by its name; types, from 1 call; names of the parameters"
    assert f"  # decide: {decide}\n  Book.get_title: {{member: GetTitle, params: [arg1], effect: read}}\n" in text


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
    code, out, message = outcome("scaffold", "recording", tmp_path / "calls", *SHOP, "-o", tmp_path)
    assert (code, out, expected in message) == (2, "", True), message
