"""Mapping files for tests: an IDL with every kind of thing in it, and a file around the methods under test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from gateway.core.dbus.target import MethodCall
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Value
from gateway.core.rpc.spelling import MethodSpelling
from gateway.mapping.compiler import build
from gateway.mapping.table import Table

IDL = """\
<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="org.example.VM1">
    <annotation name="org.gtk.GDBus.DocString" value="A virtual machine."/>
    <method name="Start">
      <annotation name="org.gtk.GDBus.DocString" value="Starts
        the VM."/>
      <arg name="paused" type="b" direction="in"><annotation name="org.gtk.GDBus.DocString" value="Not yet."/></arg>
      <arg name="force" type="b" direction="in"/>
    </method>
    <method name="Stat">
      <arg name="state" type="s" direction="out"/>
      <arg name="memory_bytes" type="t" direction="out"/>
    </method>
    <method name="Add">
      <arg name="name" type="s" direction="in"/>
      <arg name="memory" type="u" direction="in"/>
      <arg name="uuid" type="s" direction="out"/>
    </method>
    <method name="Configure">
      <arg name="config" type="a{sv}" direction="in"/>
      <arg name="pair" type="(su)" direction="in"/>
    </method>
    <method name="Plug">
      <arg name="devices" type="a(su)" direction="in"/>
    </method>
    <method name="At">
      <arg name="when" type="x" direction="in"/>
      <arg name="since" type="x" direction="out"/>
    </method>
    <method name="Disks"><arg name="disks" type="a(st)" direction="out"/></method>
    <method name="Info"><arg name="info" type="a{sv}" direction="out"/></method>
    <method name="Pass"><arg name="fd" type="h" direction="in"/></method>
    <property name="PowerState" type="s" access="read"/>
    <property name="NameLabel" type="s" access="readwrite"/>
    <property name="Memory" type="t" access="read"/>
    <property name="Created" type="x" access="read"/>
    <property name="Tags" type="as" access="read"/>
    <property name="Secret" type="s" access="write"/>
    <property name="Paused" type="b" access="read"/>
    <signal name="Retargeted"><arg name="name" type="s"/><arg name="kib" type="x"/></signal>
  </interface>
  <interface name="org.example.Session1">
    <method name="Check"><arg name="session" type="s" direction="in"/></method>
    <method name="Nothing"/>
  </interface>
</node>
"""

# Twelve lines, so that the methods begin in line 13.
HEAD = """\
mapping: 1
service: example

dbus:
  bus_name: org.example
  object_path: /org/example
  interface: org.example.VM1
  idl: example.xml

expose:
  - {listener: rpc, path: /rpc, codec: xmlrpc}
methods:
"""
UPSTREAMS = {"old": {"xmlrpc/plain"}, "other": {"xmlrpc/plain", "jsonrpc/plain"}}
SPELLINGS = {"xenapi": MethodSpelling("_", ("Async.", "InternalAsync."))}
FIRST = HEAD.count("\n") + 1  # the line of the first method


@dataclass(frozen=True, slots=True)
class Built:
    """What came of some mapping files."""

    table: Table
    problems: list[str]  # without the directory

    def route(self, name: str) -> Route:
        """A method; the files must be good."""
        assert self.problems == []
        return next(endpoint.routes[name] for endpoint in self.table.endpoints.values() if name in endpoint.routes)

    def bind(self, name: str, *params: Value, **named: Value) -> MethodCall:
        """What a call becomes."""
        return self.route(name).bind(Call(name, params, named))


def build_files(directory: Path, **files: str) -> Built:
    """Build whole files, `name="text"`, beside the IDL."""
    (directory / "example.xml").write_text(IDL)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    table, problems = build(
        [directory],
        codecs={"xmlrpc", "jsonrpc", "xenstore"},
        dialects={"plain", "xenapi"},
        listeners={"rpc", "store"},
        stores={"store"},
        upstreams=UPSTREAMS,
        spellings=SPELLINGS,
    )
    return Built(table, [str(problem).replace(f"{directory}/", "") for problem in problems])


def build_methods(directory: Path, methods: str, head: str = HEAD) -> Built:
    """Build one file, x.yaml, of these methods."""
    return build_files(directory, x=head + indent(dedent(methods).strip("\n"), "  ") + "\n")
