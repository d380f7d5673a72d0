"""An update follows a changed IDL, and keeps what a person wrote in the mapping: comments, names, values, order."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.dbus import introspection_xml
from gateway.scaffold.description import Description
from gateway.scaffold.files import Plan, updated_files
from gateway.scaffold.mapping import Settings

SETTINGS = Settings("shop", "idl/shop.xml", "scaffold")

BEFORE = """<node>
  <interface name="org.example.Shop1">
    <method name="Add"><arg name="title" type="s" direction="in"/><arg name="pages" type="u" direction="in"/></method>
    <method name="Get"><arg name="book" type="s" direction="in"/><arg name="info" type="s" direction="out"/></method>
    <method name="List"><arg name="books" type="as" direction="out"/></method>
    <method name="Burn"><arg name="book" type="s" direction="in"/></method>
    <method name="Hidden"/>
    <property name="Count" type="u" access="read"/>
  </interface>
  <interface name="org.example.Lamp1"><property name="On" type="b" access="readwrite"/></interface>
</node>
"""

# As a person has made it: other names and order, comments, values, an entry in block style, one member left out.
MAPPING = """\
# The shop, as its clients know it.
mapping: 1
service: shop
dbus: {bus_name: org.example.Shop, object_path: /shop, interface: org.example.Shop1, idl: idl/shop.xml}
expose:
  - {listener: rpc, path: /RPC2, codec: xmlrpc}   # since 2009
errors: {org.example.Error.NoBook: {code: 404}}
methods:
  lamp.on: {property: On, interface: org.example.Lamp1}
  lamp.set: {set_property: On, interface: org.example.Lamp1, params: [value]}

  # Clients call it `lookup`.
  lookup:
    member: Get
    params:
      - {name: id, to: book}    # an ISBN
    effect: read
    timeout: 5s
  size: {property: Count}
  burn: {member: Burn, params: [book], aliases: [destroy]}  # careful
  add: {member: Add, params: [title, {name: pages, default: 0}]}
"""


def plan(
    folder: Path, after: str, mapping: str = MAPPING, before: str = BEFORE, *, complete: bool = True
) -> tuple[str, Plan]:
    """The mapping file after the IDL has changed, and the whole plan."""
    (folder / "idl").mkdir()
    (folder / "idl/shop.xml").write_text(before)
    (folder / "shop.yaml").write_bytes(mapping.encode())
    made = updated_files(_description(after), SETTINGS, folder, complete=complete)
    return made.files[folder / "shop.yaml"], made


NEW = '<method name="Sell"><arg name="book" type="s" direction="in"/></method><method name="GetPrice"/>'
DOOR = '<interface name="org.example.Door1"><method name="Open"/></interface>'


def test_a_new_member_comes_after_those_of_its_interface_and_a_new_interface_at_the_end(tmp_path: Path) -> None:
    after = BEFORE.replace('<method name="Hidden"/>', '<method name="Hidden"/>' + NEW)
    text, made = plan(tmp_path, after.replace("</node>", DOOR + "</node>"))
    entries = "  shop.sell: {member: Sell, params: [book]}\n"
    entries += "  shop.get_price: {member: GetPrice, effect: read}  # decide: effect by its name\n"
    section = "\n  # org.example.Door1\n  door.open: {member: Open, interface: org.example.Door1}\n"
    assert text == MAPPING + entries + section
    assert sorted(made.notes) == ["new: door.open", "new: shop.sell, shop.get_price"]


def test_an_entry_whose_member_is_gone_becomes_a_comment(tmp_path: Path) -> None:
    """Nothing that a person wrote is lost, and the file passes the check."""
    without = BEFORE.replace('<method name="Get">', '<method name="Fetch">').replace('name="On"', 'name="Off"')
    text, made = plan(tmp_path, without)
    assert (
        """\
  # gone from the IDL: org.example.Lamp1.On
  # lamp.on: {property: On, interface: org.example.Lamp1}
  # gone from the IDL: org.example.Lamp1.On
  # lamp.set: {set_property: On, interface: org.example.Lamp1, params: [value]}
  lamp.off: {property: "Off", interface: org.example.Lamp1}
  lamp.set_off: {set_property: "Off", interface: org.example.Lamp1, params: [value]}

  # Clients call it `lookup`.
  # gone from the IDL: org.example.Shop1.Get
  # lookup:
  #   member: Get
  #   params:
  #     - {name: id, to: book}    # an ISBN
  #   effect: read
  #   timeout: 5s
  size: {property: Count}
"""
        in text
    )
    assert "lookup is a comment now: org.example.Shop1.Get is gone from the IDL" in made.notes
    assert not [note for note in made.notes if note.startswith("to do")]


def argument(name: str, kind: str = "s") -> str:
    return f'<arg name="{name}" type="{kind}" direction="in"/>'


PAGES = "{name: pages, default: 0}"


@pytest.mark.parametrize(
    ("arguments", "params", "note"),
    [
        (
            argument("title") + argument("pages", "u") + argument("isbn"),
            f"title, isbn, {PAGES}",
            "argument isbn is new, and required of clients unless you give it a default",
        ),
        (argument("title"), "title, {name: pages, default: 0, drop: true}", "argument pages is gone"),
        (
            argument("name") + argument("length", "u"),
            "{name: title, to: name}, {name: pages, default: 0, to: length}",
            "argument title is called name; argument pages is called length",
        ),
        (argument("title") + argument("pages", "t"), f"title, {PAGES}", "argument pages has another type"),
    ],
)
def test_parameters_follow_the_arguments(arguments: str, params: str, note: str, tmp_path: Path) -> None:
    """Old clients go on to call the method as before, but for an argument that is new."""
    text, made = plan(tmp_path, BEFORE.replace(argument("title") + argument("pages", "u"), arguments))
    assert text == MAPPING.replace(f"params: [title, {PAGES}]", f"params: [{params}]")
    assert made.notes == [f"add: {note}"]


def test_a_parameter_list_in_block_style_follows_too(tmp_path: Path) -> None:
    info = '<arg name="info"'
    text, made = plan(
        tmp_path, BEFORE.replace(argument("book") + info, argument("book") + argument("edition", "u") + info)
    )
    assert "      - {name: id, to: book}    # an ISBN\n      - edition\n    effect: read\n" in text
    assert made.notes == ["lookup: argument edition is new, and required of clients unless you give it a default"]


def test_what_cannot_be_followed_is_left_to_a_person(tmp_path: Path) -> None:
    mapping = MAPPING.replace("params: [book], aliases", "args: {book: all}, aliases")
    text, made = plan(tmp_path, BEFORE.replace(f'"Burn">{argument("book")}', '"Burn">'), mapping)
    assert text == mapping
    assert made.notes[0] == "by hand: burn: argument book is gone; no plain parameter supplies book"
    assert made.notes[1].startswith("to do: ")
    assert "methods.burn.args" in made.notes[1]


def test_an_interface_that_no_object_has_now_is_kept_unless_all_is_known(tmp_path: Path) -> None:
    without = BEFORE[: BEFORE.index('  <interface name="org.example.Lamp1">')] + "</node>"
    text, made = plan(tmp_path, without, complete=False)
    assert (text, made.changed) == (MAPPING, {})
    made = updated_files(_description(without), SETTINGS, tmp_path, complete=True)
    assert "# lamp.on:" in made.files[tmp_path / "shop.yaml"]


def _description(xml: str) -> Description:
    service = Description("org.example.Shop")
    service.add("/shop", introspection_xml.parse(xml))
    return service


def test_names_and_documentation_in_the_idl_stay_where_the_service_has_none(tmp_path: Path) -> None:
    noted = '<annotation name="org.gtk.GDBus.DocString" value="All of them."/><arg name="books"'
    before = BEFORE.replace('<arg name="books"', noted)
    unnamed = BEFORE.replace('<arg name="books"', "<arg").replace('name="Count"', 'name="Total"')
    _, made = plan(tmp_path, unnamed, before=before)
    shop = introspection_xml.parse(made.files[tmp_path / "idl/shop.xml"]).interfaces["org.example.Shop1"]
    method = shop.methods["List"]
    assert (method.documentation, [each.name for each in method.outs]) == ("All of them.", ["books"])


def test_line_ends_and_a_missing_last_one_stay(tmp_path: Path) -> None:
    mapping = MAPPING.replace("\n", "\r\n")
    after = BEFORE.replace('<method name="Hidden"/>', '<method name="Hidden"/><method name="Sell"/>')
    text, _ = plan(tmp_path, after, mapping[:-2])
    assert text == mapping + "  shop.sell: {member: Sell}\r\n"


def test_entries_that_share_a_line_or_an_anchor_are_left_to_a_person(tmp_path: Path) -> None:
    shared = "  one: &same {member: Burn, params: [book]}\n  two: *same\n"
    mapping = MAPPING.replace("  burn: {member: Burn, params: [book], aliases: [destroy]}  # careful\n", shared)
    text, made = plan(tmp_path, BEFORE.replace('"Burn"', '"Shred"'), mapping)
    assert shared in text
    assert [note for note in made.notes if note.startswith("by hand")] == [
        "by hand: one: org.example.Shop1.Burn is gone from the IDL",
        "by hand: two: org.example.Shop1.Burn is gone from the IDL",
    ]


def test_a_file_without_entries_gets_them(tmp_path: Path) -> None:
    mapping = MAPPING[: MAPPING.index("methods:")] + "methods: {}\n"
    text, _ = plan(tmp_path, BEFORE.replace('"Hidden"', '"Shown"'), mapping)
    assert text.endswith("\nmethods:\n\n  # org.example.Shop1\n  shop.shown: {member: Shown}\n")


def test_what_follows_from_a_class_gets_no_entry(tmp_path: Path) -> None:
    classes = "classes: {Lamp: {object_path: '/lamp/{lamp}', interface: org.example.Lamp1}}\n"
    mapping = MAPPING.replace("methods:", f"{classes}methods:")
    text, made = plan(tmp_path, BEFORE.replace('name="On"', 'name="Off"'), mapping)
    assert "lamp.off" not in text
    assert [note for note in made.notes if note.startswith("new")] == []


def test_the_same_idl_changes_nothing_nor_does_an_update_twice(tmp_path: Path) -> None:
    text, made = plan(tmp_path, BEFORE)
    assert (text, made.changed, made.notes) == (MAPPING, {}, [])
    after = _description(BEFORE.replace('<method name="Hidden"/>', NEW).replace('"Get"', '"Fetch"'))
    made = updated_files(after, SETTINGS, tmp_path, complete=True)
    for path, content in made.files.items():
        path.write_text(content)
    again = updated_files(after, SETTINGS, tmp_path, complete=True)
    assert (bool(made.changed), again.changed, again.notes) == (True, {}, [])
