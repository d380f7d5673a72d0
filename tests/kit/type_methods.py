"""A mapping with a method for each type, all of them the Echo of the toy service; knows no value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.core.dbus.target import Variants

HEAD = """\
mapping: 1
service: types
dbus: {{bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}}
expose:
  - {{listener: {listener}, path: /types.xml, codec: xmlrpc}}
  - {{listener: {listener}, path: /types.json, codec: jsonrpc}}
methods:
"""
METHOD = '  "{name}": {{member: Echo, idl: type-{number}.xml, params: [value], {how}}}\n'
IDL = """\
<node><interface name="org.example.Toy1"><method name="Echo">
  <arg name="value" type="{}" direction="in"/><arg name="same" type="{}" direction="out"/>
</method></interface></node>
"""


def echo_of(signature: str, variants: Variants) -> str:
    """The name of a method."""
    return f"{variants}:{signature}"


def write_type_methods(directory: Path, signatures: Sequence[str], *, listener: str = "rpc", more: str = "") -> None:
    """Write the mapping; `more` are further methods, and each signature also has one with `coerce: legacy`."""
    text = HEAD.format(listener=listener)
    for number, signature in enumerate(signatures):
        (directory / f"type-{number}.xml").write_text(IDL.format(signature, signature))
        text += METHOD.format(name=echo_of(signature, "plain"), number=number, how="variants: plain")
        text += METHOD.format(name=echo_of(signature, "typed"), number=number, how="variants: typed")
        text += METHOD.format(name=f"legacy:{signature}", number=number, how="coerce: legacy")
    (directory / "types.yaml").write_text(text + more)
