"""`scaffold introspection`: IDL and mapping of any service pass `check`, with comments where a person decides."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.core.dbus import introspection_xml
from gateway.scaffold.description import Description, from_files, idl_text
from gateway.scaffold.files import new_files
from gateway.scaffold.mapping import Settings
from tests.kit.command import outcome, succeed
from tests.kit.programs import ROOT

XML = """<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN" "x">
<node name="/org/example/shop">
  <interface name="org.freedesktop.DBus.Peer"><method name="Ping"/></interface>
  <interface name="org.example.Shop1">
    <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
    <method name="GetBooks"><arg name="books" type="ao" direction="out"/></method>
    <method name="Sell">
      <annotation name="org.freedesktop.DBus.Deprecated" value="true"/>
      <arg name="book" type="o" direction="in"/><arg name="options" type="a{sv}" direction="in"/>
      <arg name="receipt" type="s" direction="out"/>
    </method>
    <method name="Stock"><arg name="delta" type="i" direction="in"/></method>
    <method name="Reload"><annotation name="org.freedesktop.DBus.Method.NoReply" value="true"/></method>
    <method name="Lend"><arg name="pipe" type="h" direction="out"/></method>
    <method name="Twice"/><method name="Twice"><arg type="s" direction="in"/></method>
    <signal name="Sold"><arg name="book" type="o"/></signal>
    <property name="stock" type="i" access="readwrite"/>
    <property name="Rx Mode" type="s" access="read"/>
    <property name="Secret" type="s" access="write"/>
    <property name="Extra" type="v" access="readwrite">
      <annotation name="org.gtk.GDBus.DocString" value="More, &quot;as it is&quot; &lt;b&gt;"/>
    </property>
  </interface>
</node>
"""
COMMAND = "xcp-gateway scaffold introspection shop.xml"
BOOK = """<node><interface name="org.example.Book1">
<method name="on"><arg name="true" type="s" direction="in"/></method>
<property name="Title" type="s" access="read"/></interface></node>"""
CHANGED = BOOK.replace("<property", '<method name="Shut"/><property')


def shop() -> Description:
    service = Description("org.example.Shop")
    service.add("/org/example/shop", introspection_xml.parse(XML))
    service.add("/org/example/shop/book/b1", introspection_xml.parse(BOOK))
    service.add_values("/org/example/shop/book/b1", "org.example.Book1", {"Id": ("s", "b1x"), "Title": ("s", "Emma")})
    service.add_values("/org/example/shop/book/c22", "org.example.Book1", {"Id": ("s", "c22")})
    service.managers["/org/example/shop"] = {"org.example.Book1"}
    return service


MAPPING = """\
# Written by `xcp-gateway scaffold introspection shop.xml`.
# After the service has changed, run it again with --update: what you write here stays.
# A comment that begins with `decide:` marks a guess: remove it when you have decided.
mapping: 1
service: shop
dbus:
  bus_name: org.example.Shop
  object_path: /org/example/shop
  interface: org.example.Shop1
  idl: idl/org.example.Shop.xml
expose:
  - {listener: rpc, path: /shop, codec: xmlrpc}
  - {listener: rpc, path: /shop/jsonrpc, codec: jsonrpc}
methods:

  # org.freedesktop.DBus.ObjectManager
  shop.managed_objects: {member: GetManagedObjects, interface: org.freedesktop.DBus.ObjectManager, effect: read}

  # org.example.Book1
  book.on: {member: "on", interface: org.example.Book1, params: [{name: book, object: /org/example/shop/book}, "true"]}
  book.title: {property: Title, interface: org.example.Book1, params: [{name: book, object: /org/example/shop/book}]}
  book.id: {property: Id, interface: org.example.Book1, params: [{name: book, object: /org/example/shop/book}]}
  book.record:
    all_properties: true
    interface: org.example.Book1
    params: [{name: book, object: /org/example/shop/book}]
  book.records: {managed_objects: {key: path}, interface: org.example.Book1}

  # org.example.Shop1
  # Left out, since no legacy protocol has file descriptors: method Lend
  # Left out: method Twice: duplicate method 'Twice'
  shop.get_books: {member: GetBooks, effect: read}  # decide: effect by its name
  # decide: types of the variants in options; objects of 'book' by its name
  shop.sell: {member: Sell, params: [{name: book, object: /org/example/shop/book}, options]}
  shop.stock: {member: Stock, params: [delta]}
  shop.reload: {member: Reload}
  shop.property_stock: {property: stock}
  shop.set_stock: {set_property: stock, params: [value]}
  shop.rx_mode: {property: "Rx Mode"}
  shop.set_secret: {set_property: Secret, params: [value]}
  shop.extra: {property: Extra}
  shop.set_extra: {set_property: Extra, params: [value]}  # decide: types of the variants
  shop.record: {all_properties: true}
"""


def test_a_described_service_becomes_a_mapping_file_that_passes_the_check(tmp_path: Path) -> None:
    plan = new_files(shop(), Settings("shop", "idl/org.example.Shop.xml", COMMAND), tmp_path)
    assert (plan.files[tmp_path / "shop.yaml"], plan.notes) == (MAPPING, [])


def test_objects_by_name_have_the_template_and_its_rule(tmp_path: Path) -> None:
    service = Description("org.example.Shop")
    for address in ("11:22", "33:44"):
        path = f"/org/example/Shop/dev_{address.replace(':', '_')}"
        service.add(path, introspection_xml.parse(BOOK))
        service.add_values(path, "org.example.Book1", {"Address": ("s", address)})
    by_name, by_path = (
        new_files(service, Settings("shop", "idl/x.xml", COMMAND, by_name=named), tmp_path).files[
            tmp_path / "shop.yaml"
        ]
        for named in (True, False)
    )
    assert 'object_path: "/org/example/Shop/dev_{address}"\n  interface: org.example.Book1\n' in by_name
    instead = "params: [{name: book, object: /org/example/Shop}]"
    assert f"  # decide: by name, as here, or by the object path:\n  #   {instead}\n  book.on" in by_name
    assert '  book.on: {member: "on", escape: dashes, params: [address, "true"]}\n' in by_name
    template = 'object_path: "/org/example/Shop/dev_{address}", params: [address], escape: dashes'
    assert f"  # decide: by the object path, as here, or by name:\n  #   {template}\n" in by_path


def test_the_idl_says_what_the_sources_say() -> None:
    """Members, types, access and annotations are those of the source; what cannot be used is not there."""
    source = introspection_xml.parse(XML).interfaces["org.example.Shop1"]
    written = introspection_xml.parse(idl_text(shop(), COMMAND)).interfaces["org.example.Shop1"]
    members = source.methods, source.properties, source.signals
    assert (written.methods, written.properties, written.signals) == members
    assert (written.emits, written.odd) == ("const", {})


def test_a_method_that_cannot_be_mapped_is_left_out_and_said(tmp_path: Path) -> None:
    """A dictionary whose keys no legacy protocol has is found by the compiler, not by the scaffold."""
    service = Description("org.example.Shop")
    xml = '<node><interface name="org.example.A1"><method name="Do"/><method name="Bad">{}</method></interface></node>'
    service.add("/a", introspection_xml.parse(xml.format('<arg name="a" type="s" direction="in"/>')))
    service.interfaces["org.example.A1"].methods["Bad"].ins[0].name = ""
    plan = new_files(service, Settings("shop", "idl/x.xml", COMMAND), tmp_path)
    text = plan.files[tmp_path / "shop.yaml"]
    assert [each in text for each in ("a.do: {member: Do", "\n  a.bad", "# Left out: a.bad: ")] == [True, False, True]
    (note,) = plan.notes
    assert note.startswith("a.bad is left out: ")


# The command


def scaffold(*words: str | Path) -> tuple[int, str, str]:
    return outcome("scaffold", "introspection", *words)


def test_introspection_files_become_files_that_pass_check(tmp_path: Path) -> None:
    for name, text in (("shop", XML), ("book", BOOK)):
        (tmp_path / f"{name}.xml").write_text(text)
    code, out, notes = scaffold(
        *(tmp_path / f"{name}.xml" for name in ("shop", "book")), "-o", tmp_path, "--service", "s"
    )
    assert code == 0, notes
    assert out.split() == [str(tmp_path / "idl/org.example.xml"), str(tmp_path / "s.yaml")]
    assert "the bus name org.example is a guess from the interfaces: --bus-name sets it" in notes
    text = (tmp_path / "s.yaml").read_text()
    assert "# decide: which objects have this interface; their subtree is a guess\n  book.on:" in text
    assert succeed("check", tmp_path / "s.yaml") == "14 methods in 1 file: no problems (schema and IDL)\n"
    perfmon = ROOT / "mappings/idl/org.xen.xcp.perfmon.xml"  # it has org.xen.xcp.Service1 too
    notes = scaffold(perfmon, "-o", tmp_path)[2]
    assert "the bus name org.xen.xcp.perfmon is a guess from the name of the file: --bus-name sets it" in notes
    given = ("--object-path", "/b", "--bus-name", "org.example.Book")
    assert scaffold(tmp_path / "book.xml", "-o", tmp_path, *given)[0] == 0
    assert "book.title: {property: Title}" in (tmp_path / "book.yaml").read_text()


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    for content, words, expected in (
        (None, (), "No such file or directory"),
        ("<node", (), "book.xml:1:1: invalid XML"),
        ("<node/>", (), "book.xml: expected an interface that is none of the D-Bus specification's"),
        (BOOK, ("--bus-name", "x"), "expected a bus name such as org.example.Service, got 'x'"),
        (BOOK, ("--object-path", "x"), "expected an object path such as /org/example/Service, got 'x'"),
        (BOOK, ("--service", "../x"), "--service: expected a name of letters, digits, _ . and -, got '../x'"),
    ):
        if content is not None:
            (tmp_path / "book.xml").write_text(content)
        code, out, message = scaffold(tmp_path / "book.xml", "-o", tmp_path / "m", *words)
        assert (code, out, expected in message, (tmp_path / "m").exists()) == (2, "", True, False), message


def test_nothing_is_overwritten_without_being_told(tmp_path: Path) -> None:
    source, file = tmp_path / "book.xml", tmp_path / "book.yaml"
    source.write_text(BOOK)
    assert scaffold(source, "-o", tmp_path)[0] == 0
    mine = file.read_text() + "  # mine\n"
    file.write_text(mine)
    assert scaffold(source, "-o", tmp_path)[2].endswith("nothing to change\n")
    code, out, message = scaffold(source, "-o", tmp_path, "--json")
    assert (code, json.loads(out)["files"], message) == (0, [], "")
    source.write_text(CHANGED)
    code, out, message = scaffold(source, "-o", tmp_path)
    assert (code, out) == (1, "")
    assert "org.example.Book.xml exists: --dry-run shows what would change, --update changes it" in message
    assert json.loads(scaffold(source, "-o", tmp_path, "--json")[1])["status"] == 1
    code, out, message = scaffold(source, "-o", tmp_path, "--dry-run", "--json")
    document = json.loads(out)
    assert (code, message, document.keys()) == (0, "", {"files", "written", "notes", "diff"})
    assert (len(document["files"]), document["written"]) == (2, False)
    code, out, _ = scaffold(source, "-o", tmp_path, "--dry-run")
    assert (code, f"--- {file}\n+++ {file}\n" in out, file.read_text()) == (0, True, mine)
    assert "\n+  book.shut: {member: Shut, interface: org.example.Book1, params: [" in out
    for word, kept in (("--update", True), ("--force", False)):
        assert scaffold(source, "-o", tmp_path, word)[0] == 0
        assert ("# mine" in file.read_text(), "book.shut" in file.read_text()) == (kept, True)


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1)])
def test_at_a_terminal_a_person_is_asked(answer: str, status: int, tmp_path: Path) -> None:
    source, file = tmp_path / "book.xml", tmp_path / "book.yaml"
    source.write_text(BOOK)
    assert scaffold(source, "-o", tmp_path)[0] == 0
    source.write_text(CHANGED)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        line = [sys.executable, "-m", "gateway", "scaffold", "introspection", str(source), "-o", str(tmp_path)]
        done = subprocess.run(line, stdin=theirs, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, "book.shut" in file.read_text()) == (status, answer == "y"), done.stderr
    assert f"and {file}? [y/N]:" in done.stdout


def test_a_bus_name_follows_from_the_interfaces(tmp_path: Path) -> None:
    file = tmp_path / "x.xml"
    for interfaces, expected in (
        (["org.example.Shelf1", "org.example.Shelf1.Book"], "org.example.Shelf"),
        (["org.a.B", "com.a.B"], "org.a.B"),
    ):
        inside = "".join(f'<interface name="{name}"/>' for name in interfaces)
        file.write_text(f"<node>{inside}</node>")
        assert from_files([file]).bus_name == expected
