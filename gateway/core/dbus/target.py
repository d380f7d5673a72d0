"""The D-Bus side of a call: a route's member, and method calls and subscriptions whose names are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct, field

from gateway.core.dbus.signature import Type
from gateway.core.rpc.model import Call

Coerce: TypeAlias = Literal["strict", "legacy"]  # legacy: numbers and booleans may also arrive as text
Variants: TypeAlias = Literal["plain", "typed"]  # typed: {"signature": "u", "value": 5}, nothing inferred


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The D-Bus side, in the order of `busctl call`; `object_path` may hold {parameter}."""

    bus_name: str
    object_path: str
    interface: str
    member: str
    signature: str
    reply_signature: str
    _: dataclasses.KW_ONLY
    no_reply: bool = False  # the service sends none: the call is done once it is written

    def __str__(self) -> str:
        return f"{self.bus_name} {self.object_path} {self.interface}.{self.member}"


@dataclasses.dataclass(frozen=True, slots=True)
class PropertyTarget(Target):
    """A property of an object: a call of Get or Set of org.freedesktop.DBus.Properties."""

    owner: str = ""  # the interface that has the property
    name: str = ""

    def __str__(self) -> str:
        return f"{self.bus_name} {self.object_path} {self.owner}.{self.name} ({self.member.lower()})"


class MethodCall(msgspec.Struct, frozen=True):
    """A D-Bus method call; its names and values are checked against the specification."""

    bus_name: str
    object_path: str
    interface: str
    member: str
    signature: str
    body: Sequence[object] = ()


class Subscription(Struct, frozen=True):
    """A subscription to one service: a signal, or property changes. Names are checked as in a MethodCall.

    Without an interface it is a subscription to all objects of the service: PropertiesChanged, InterfacesAdded and
    InterfacesRemoved of every path, with their arguments as D-Bus has them (variants are not decoded).
    """

    bus_name: str
    object_path: str  # never "/" together with `below`: that would be the whole bus
    interface: str
    member: str = ""  # a signal; empty: the properties
    signature: str = ""  # of the signal; one that says something else is not passed on
    properties: Mapping[str, str] = field(
        default_factory=dict
    )  # name -> signature; a value of another is "invalidated"
    below: bool = False  # objects below the path too

    @property
    def is_whole(self) -> bool:
        """Whether it is to all objects of the service."""
        return not self.interface


def all_objects(bus_name: str) -> Subscription:
    """The subscription to all objects of a service: one match rule, whatever the number of objects and interfaces."""
    return Subscription(bus_name, "/", "")


class OwnConnection(Struct, frozen=True):
    """A route whose calls go over a bus connection that belongs to a client connection or to a session."""

    of: Literal["client", "session"]
    idle: float = 600.0  # seconds without a call after which the connection of a session ends
    at_most: int = 100  # owners at a time
    session: Callable[[Call], str | None] | None = None  # reads the session of a call
    ends: bool = False  # the connection ends after the call


class Parameter(Struct, frozen=True):
    """One positional parameter of the legacy method, for help texts and signatures."""

    name: str
    type: Type | None  # the D-Bus type it becomes; None for a parameter that is dropped, or is taken apart
    required: bool = True
    documentation: str = ""
