"""`docs`: pages of all endpoints, with examples that a gateway accepts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gateway.check import check, compiled
from gateway.core.routing.route import encode_arguments
from gateway.core.rpc.model import Call, Fault
from gateway.mapping.changes.surface import Surface, surface
from gateway.mapping.table import EndpointKey
from gateway.reference import arguments, for_busctl, pages, to_html
from tests.kit.buses import private_bus
from tests.kit.command import outcome
from tests.kit.gateway import Folder, gateway_process
from tests.kit.programs import ROOT

EVIL = "a | b <script>alert(1)</script> `x` ](http://evil)"
IDL = f"""<node><interface name="org.example.Shop1">
<method name="Find"><annotation name="org.gtk.GDBus.DocString" value="{EVIL.replace("<", "&lt;")}"/>
  <arg name="title" type="s" direction="in"/><arg name="data" type="ay" direction="in"/>
  <arg name="options" type="a{{sv}}" direction="in"/><arg name="book" type="o" direction="out"/></method>
<property name="Size" type="a(sb)" access="readwrite"/></interface></node>"""
MAPPING = """\
mapping: 1
service: shop
dbus: {bus_name: org.example.Shop, object_path: "/shop/{id}", interface: org.example.Shop1, idl: shop.xml}
expose:
  - {listener: rpc, path: /RPC2, codec: xmlrpc}
  - {listener: rpc, path: /idl, codec: jsonrpc, dialect: xapi_idl}
errors: {org.example.Error.NoBook: {code: NO_BOOK, args: ["{0}"]}}
methods:
  find-book: {member: Find, params: [id, title, data, options], aliases: [search]}
  size: {property: Size, object_path: "{shop}", params: [{name: shop, object: /shops}]}
  set_size: {set_property: Size, params: [id, {name: size, to: value}], timeout: 5s}
  record: {all_properties: true, params: [id, {name: session, drop: true, default: ""}]}
"""


@cache
def shop() -> Surface:
    path = Path("/nowhere/shop.yaml")
    table, problems = compiled(path, MAPPING.encode(), {path.with_name("shop.xml"): IDL.encode()})
    assert problems == []
    return surface(table)


URLS = {EndpointKey("rpc", "/RPC2"): "http://h/RPC2", EndpointKey("rpc", "/idl"): "http://h/idl"}


@cache
def page(name: str = "rpc-RPC2.md") -> str:
    return pages(shop(), URLS)[name]


EXPECTED = """
| parameter | type | required |  |
|---|---|---|---|
| `shop` | object path below /shops | yes | an object path below /shops |

Result: array, each item: array of 2: text, boolean.

D-Bus: `org.example.Shop {shop} org.example.Shop1.Size (get)`. Effect: read. Timeout: 60 s.

```python
from xmlrpc.client import ServerProxy

with ServerProxy('http://h/RPC2') as server:
    print(server.size('/shops/x'))
```

```sh
curl -s -H 'Content-Type: text/xml' -d '<methodCall><methodName>size</methodName><params><param><value><string>\
/shops/x</string></value></param></params></methodCall>' http://h/RPC2
```

```sh
busctl get-property org.example.Shop /shops/x org.example.Shop1 Size
```
"""


def section(name: str, of: str = "rpc-RPC2.md") -> str:
    return page(of).partition(f"### `{name}`\n")[2].partition("\n### ")[0]


def test_a_method_has_parameters_result_errors_target_and_examples() -> None:
    assert section("size") == EXPECTED


def test_examples_of_other_kinds_of_calls() -> None:
    setter = "busctl set-property org.example.Shop /shop/x org.example.Shop1 Size 'a(sb)' 1 text true"
    assert setter in section("set_size")
    reader = "busctl call org.example.Shop /shop/x org.freedesktop.DBus.Properties GetAll s org.example.Shop1"
    assert reader in section("record")
    find = section("find-book")
    assert "Other names: `search`." in find
    assert "from xmlrpc.client import Binary, ServerProxy" in find
    assert "getattr(server, 'find-book')('text', 'text', Binary(b'data'), {'text': 'text'})" in find
    assert "busctl call org.example.Shop /shop/x org.example.Shop1 Find 'saya{sv}' text 1 1 1 text s text" in find
    curl = next(line for line in section("find-book", "rpc-idl.md").splitlines() if line.startswith("curl"))
    message = json.loads(shlex.split(curl)[3])
    assert message["params"] == [{"id": "text", "title": "text", "data": "ZGF0YQ==", "options": {"text": "text"}}]


def test_errors_of_all_methods_are_listed_once_and_the_index_leads_to_each_page() -> None:
    before, _, after = page().partition("### `find-book`")
    assert (before.count("NO_BOOK"), after.count("NO_BOOK")) == (1, 0)
    index = page("index.md").replace("\\", "")
    assert "| [http://h/idl](rpc-idl.md) | jsonrpc, xapi_idl | 4 | shop |" in index


def test_text_of_the_idl_becomes_no_markup() -> None:
    html = to_html(page())
    assert "<script" not in html.lower()
    assert {*re.findall('<a href="#([^"]*)"', html)} == {*re.findall('<h3 id="([^"]*)"', html)}
    assert html.count("<a ") == html.count('<a href="#')
    assert "a | b &lt;script&gt;alert(1)&lt;/script&gt; `x` ](http://evil)" in html


def test_every_example_of_the_shipped_mappings_has_the_form_that_the_method_takes() -> None:
    checked = check([ROOT / "mappings", ROOT / "mappings/examples"], None, live=False)
    found = surface(checked.table)
    refused = []
    for method in found.methods.values():
        call = Call(method.route.method, tuple(arguments(method).values()))
        encoded = encode_arguments(method.route, call)
        if isinstance(encoded, Fault):
            refused.append(f"{method.title}: {encoded.message}")
        assert for_busctl(method).startswith("busctl ")
    assert (refused, len(found.methods)) == ([], len(checked.table.routes()))


# The command


def docs(*words: str | Path) -> tuple[int, str, str]:
    return outcome("docs", *words)


def test_pages_are_written_and_replaced_but_no_other_file(tmp_path: Path) -> None:
    folder, made = Folder(tmp_path), tmp_path / "ref"
    where = (folder.mappings, "--output", made, "--url", "http://gw.example.org/")
    names = [f"{made}/{name}" for name in ("index.md", "rpc-RPC2.md", "rpc-jsonrpc.md")]
    assert docs(*where)[:2] == (0, "".join(f"{name}\n" for name in names))
    assert (made / "rpc-RPC2.md").read_text().startswith("# http://gw.example.org/RPC2\n")
    assert json.loads(docs(*where, "--json")[1]) == {"files": names}
    assert [docs(*where, "--format", "html")[0] for _ in range(2)] == [0, 0]
    (made / "index.md").write_text("mine")
    code, out, message = docs(*where)
    assert (code, out, "index.md exists and was not generated" in message) == (1, "", True)
    assert json.loads(docs(*where, "--json")[1])["status"] == 1
    assert docs(folder.mappings / "none.yaml")[0] == 2


@pytest.mark.bus
def test_the_examples_run_as_they_are(tmp_path: Path) -> None:
    """The addresses of pages that are made with a config are those of its listeners."""
    folder = Folder(tmp_path)
    with private_bus() as bus:
        folder.buses({"example": (bus.address, "org.example.*")})
        with gateway_process(folder.config) as process:
            address = process.wait_for("ready")["listening"][0].removeprefix("tcp:")
            folder.config.write_text(folder.config.read_text().replace("tcp:127.0.0.1:0", f"tcp:{address}"))
            assert docs("--config", folder.config, "-o", tmp_path / "ref")[0] == 0
            for name in ("rpc-RPC2", "rpc-jsonrpc"):
                for line in (tmp_path / f"ref/{name}.md").read_text().splitlines():
                    if line.startswith("curl"):
                        done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
                        # No service is on the bus: the gateway has taken the call and its parameters.
                        assert "org.example.toy" in done.stdout, done.stdout
            program = (tmp_path / "ref/rpc-RPC2.md").read_text().split("```python\n")[1].partition("```")[0]
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
            assert "org.example.toy" in done.stderr
