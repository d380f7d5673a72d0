"""Mapping files and routes for tests: an IDL of all kinds, a file around the methods under test, hand-made routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from msgspec.structs import replace

from gateway.core.dbus.target import MethodCall, Target, Variants
from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished, CallListener, Route
from gateway.core.rpc.model import Call, Outcome, Value
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

# Twelve lines: the methods begin in line 13.
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

# A method that returns a task, and the object of one.
TASK_IDL = """\
<node>
  <interface name="org.example.VMs1">
    <method name="Migrate">
      <arg name="vm" type="s" direction="in"/><arg name="task" type="o" direction="out"/>
    </method>
  </interface>
  <interface name="org.example.Task1">
    <property name="Status" type="s" access="read"/>
    <property name="Progress" type="d" access="read"/>
    <property name="Result" type="v" access="read"/>
    <property name="Error" type="as" access="read"/>
    <method name="Cancel"/>
  </interface>
</node>
"""
TASK_MAPPING = """\
mapping: 1
service: example
dbus: {bus_name: org.example, object_path: /org/example, interface: org.example.VMs1, idl: operations.xml}
expose: [{listener: rpc, path: /, codec: jsonrpc, dialect: xenapi}]
errors: {org.example.Error.Broken: {code: VM_BROKEN, args: ["{0}"]}}
tasks: {interface: org.example.Task1, status: Status, progress: Progress, result: Result, error: Error, cancel: Cancel}
methods:
  VM.migrate: {member: Migrate, params: [vm], task: task}
"""


@dataclass(frozen=True, slots=True)
class Built:
    """The table and the problems of some mapping files."""

    table: Table
    problems: list[str]  # without the directory

    def route(self, name: str) -> Route:
        """Return the route of a method; there must be no problem."""
        assert self.problems == []
        return next(endpoint.routes[name] for endpoint in self.table.endpoints.values() if name in endpoint.routes)

    def bind(self, name: str, *params: Value, **named: Value) -> MethodCall:
        """Return the D-Bus call of a legacy call."""
        return self.route(name).encode_arguments(Call(name, params, named))


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


# A mapping with a method for each type; all are the Echo of the toy service

TYPES_HEAD = """\
mapping: 1
service: types
dbus: {{bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}}
expose:
  - {{listener: {listener}, path: /types.xml, codec: xmlrpc}}
  - {{listener: {listener}, path: /types.json, codec: jsonrpc}}
methods:
"""
TYPES_METHOD = '  "{name}": {{member: Echo, idl: type-{number}.xml, params: [value], {how}}}\n'
TYPES_IDL = """\
<node><interface name="org.example.Toy1"><method name="Echo">
  <arg name="value" type="{}" direction="in"/><arg name="same" type="{}" direction="out"/>
</method></interface></node>
"""


def echo_of(signature: str, variants: Variants) -> str:
    """Return the name of a method."""
    return f"{variants}:{signature}"


def write_type_methods(directory: Path, signatures: Sequence[str], *, listener: str = "rpc", more: str = "") -> None:
    """Write the mapping; `more` are further methods, and each signature also has one with `coerce: legacy`."""
    text = TYPES_HEAD.format(listener=listener)
    for number, signature in enumerate(signatures):
        (directory / f"type-{number}.xml").write_text(TYPES_IDL.format(signature, signature))
        text += TYPES_METHOD.format(name=echo_of(signature, "plain"), number=number, how="variants: plain")
        text += TYPES_METHOD.format(name=echo_of(signature, "typed"), number=number, how="variants: typed")
        text += TYPES_METHOD.format(name=f"legacy:{signature}", number=number, how="coerce: legacy")
    (directory / "types.yaml").write_text(text + more)


# Hand-made routes

TARGET = Target("org.xen.xcp.toy", "/org/xen/xcp/toy", "org.xen.xcp.toy.Echo1", "Echo", "s", "s")


def bind(call: Call) -> MethodCall:
    """Pass every parameter unchanged."""
    place = TARGET.bus_name, TARGET.object_path, TARGET.interface, TARGET.member, TARGET.signature
    return MethodCall(*place, list(call.params))


def shape(body: Sequence[object]) -> Value:
    """Return the first out-argument, or void."""
    first = body[0] if body else None
    assert first is None or isinstance(first, bool | int | float | str | bytes | list | dict)
    return first


def route(method: str = "echo", **changes: object) -> Route:
    """Return a route to the Echo of the toy service; any field can be given by name."""
    plain = Route(
        "toy", method, TARGET, (), None, bind, shape, lambda fault, _call: fault, timeout=5.0, source="toy.yaml:1"
    )
    return replace(plain, **changes)


def noting(listener: CallListener) -> Callable[[str, str, Call, Outcome, float, Side | None], object]:
    """Call it with service, method, call, outcome, seconds and side of a call that has ended."""

    def note(service: str, method: str, call: Call, outcome: Outcome, seconds: float, side: Side | None) -> object:
        return listener(CallFinished(route(method, service=service), call, outcome, side, seconds))

    return note
