"""Encode a legacy call as a D-Bus method call: parameters become in-arguments and an object path.

The mapping compiler makes an `ArgumentPlan` for each method and checks it. The functions here turn it into one encoder,
which trusts the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct, field

from gateway.core.dbus.marshal import Encode, Variant, dict_encoder, list_encoder
from gateway.core.dbus.object_paths import Escape, PathTemplate, Slots, placeholders
from gateway.core.dbus.scalars import KEYS_IN, MarshalError, absent, placed
from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import MethodCall, Target
from gateway.core.rpc.model import Call, Value

Take: TypeAlias = Callable[[Slots], object]  # MarshalErrors say the slot as the first step of their path
Arrange: TypeAlias = Callable[[Call], Slots]
EncodeArguments: TypeAlias = Callable[[Call], MethodCall]


class ParameterCountError(Exception):
    """Too few or too many parameters. Neither number counts the session; `expected` is the number required.

    `missing`: the first missing parameter; "" if there are too many.
    """

    def __init__(self, expected: int, received: int, most: int | None = None, missing: str = "") -> None:
        up_to = f" to {most}" if most is not None and most != expected else ""
        plural = "" if expected == 1 and not up_to else "s"
        got = str(received) if received >= 0 else "none, not even the session"
        super().__init__(f"expected {expected}{up_to} parameter{plural}, got {got}")
        self.expected = expected
        self.received = received
        self.missing = missing


# Sources of an in-argument


class Slot(Struct, frozen=True):
    """The value of a parameter slot."""

    slot: int
    convert: Encode

    def __call__(self, slots: Slots) -> object:
        """Return the in-argument."""
        try:
            return self.convert(slots[self.slot])
        except MarshalError as error:
            error.at(self.slot)
            raise


class Constant(Struct, frozen=True):
    """A constant D-Bus value."""

    value: object

    def __call__(self, _slots: Slots) -> object:
        """Return the in-argument."""
        return self.value


class GatheredStruct(Struct, frozen=True):
    """Several slots, as the fields of a D-Bus struct."""

    fields: tuple[Slot, ...]

    def __call__(self, slots: Slots) -> object:
        """Return the in-argument."""
        return tuple([take(slots) for take in self.fields])


class GatheredDict(Struct, frozen=True):
    """Several slots, as the entries of a D-Bus dictionary."""

    entries: tuple[tuple[Any, Slot], ...]

    def __call__(self, slots: Slots) -> object:
        """Return the in-argument."""
        return {key: take(slots) for key, take in self.entries}


class Unpacked(Struct, frozen=True):
    """A struct parameter whose members become slots of their own, after those of the parameters."""

    slot: int
    members: tuple[str, ...]
    defaults: Mapping[str, Value] = field(default_factory=dict)
    others_ignored: bool = False

    def open(self, value: Value) -> list[Value]:
        """Return the values of the members; raises MarshalError."""
        if not isinstance(value, dict):
            raise MarshalError("a struct", value)
        if not self.others_ignored:
            _reject_unknown_members(value, self.members)
        for name in self.members:
            if name not in value and name not in self.defaults:
                raise absent("a member of this name").at(name)
        return [value[name] if name in value else self.defaults[name] for name in self.members]


class ArgumentPlan(Struct, frozen=True):
    """The data for encoding a call. The names in the target's object path are names of parameters."""

    target: Target
    names: tuple[str, ...] = ()
    defaults: tuple[Value, ...] = ()  # of the last parameters
    session: bool = False  # one of the parameters is a session, which is not counted
    rest: str = ""  # the parameter that is a struct of what is given by any other name
    surplus: bool = False  # parameters that there are not are ignored
    structs: tuple[Unpacked, ...] = ()
    arguments: tuple[Take, ...] = ()
    dropped: tuple[int, ...] = ()  # parameters that are not used, and whose value is a single one
    translated: Mapping[int, Callable[[Value], Value]] = field(default_factory=dict)  # what a parameter stands for
    escapes: Mapping[str, Escape] = field(default_factory=dict)  # the rule of a parameter in the object path
    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # parameters that are object paths: subtrees


def compile_arguments(plan: ArgumentPlan) -> EncodeArguments:
    """Return the function that encodes calls; it raises MarshalError or ParameterCountError."""
    arrange = _arranger(plan)
    direct = [(take.slot, take.convert) for take in plan.arguments if isinstance(take, Slot)]
    if not plan.structs and len(direct) == len(plan.arguments) and not placeholders(plan.target.object_path):
        return _bind_directly(plan, arrange, direct)
    return _bind(plan, arrange)


def _bind_directly(plan: ArgumentPlan, arrange: Arrange, steps: Sequence[tuple[int, Encode]]) -> EncodeArguments:
    """Encode the common case: each in-argument is a parameter, and the object path is fixed."""
    bus_name, path, interface, member, signature = _names(plan.target)
    count = -1 if plan.dropped or plan.translated else len(plan.names)

    def bind(call: Call) -> MethodCall:
        slots = call.params if len(call.params) == count and not call.named else arrange(call)
        body: list[object] = []
        try:
            for slot, convert in steps:
                body.append(convert(slots[slot]))  # how many are done tells which failed
        except MarshalError as error:
            error.at(*_place(plan, call, (steps[len(body)][0],)))
            raise
        return MethodCall(bus_name, path, interface, member, signature, body)

    return bind


def _bind(plan: ArgumentPlan, arrange: Arrange) -> EncodeArguments:
    bus_name, _, interface, member, signature = _names(plan.target)
    path_of = PathTemplate(plan.target.object_path, plan.escapes, plan.objects).encoder(plan.names)
    structs, arguments = plan.structs, plan.arguments
    # The origin of each slot: a parameter, and a member of it.
    origins: list[tuple[int, *tuple[str, ...]]] = [(index,) for index in range(len(plan.names))]
    origins += [(apart.slot, name) for apart in structs for name in apart.members]

    def bind(call: Call) -> MethodCall:
        slots = arrange(call)
        try:
            if structs:
                slots = [
                    *slots,
                    *(item for apart in structs for item in placed(apart.slot, apart.open, slots[apart.slot])),
                ]
            body = [take(slots) for take in arguments]
            path = path_of(slots)
        except MarshalError as error:
            slot = error.path[0]
            assert isinstance(slot, int)
            error.path = error.path[1:]
            error.at(*_place(plan, call, origins[slot]))
            raise
        return MethodCall(bus_name, path, interface, member, signature, body)

    return bind


def _names(target: Target) -> tuple[str, str, str, str, str]:
    return target.bus_name, target.object_path, target.interface, target.member, target.signature


def _place(plan: ArgumentPlan, call: Call, origin: tuple[int, *tuple[str, ...]]) -> tuple[str | int, ...]:
    """Return the place of a value in the call: `params[1]`, or `params.vm` if it was given by name."""
    index, *member = origin
    name = plan.names[index]
    if name in call.named:
        return "params", name, *member
    return "params", sum(before not in call.named for before in plan.names[:index]), *member


# Parameters: positional, named, or named ones and the rest positional


def _arranger(plan: ArgumentPlan) -> Arrange:
    """Return the function that orders a call's parameters, fills in defaults, and translates."""
    count, defaults = len(plan.names), plan.defaults
    least = count - len(defaults)

    def arrange(call: Call) -> Slots:
        if call.named:
            return _by_name(plan, call)
        given = len(call.params)
        if given > count and plan.surplus:
            return call.params[:count]
        if given == count:
            return call.params
        if least <= given < count:
            return call.params + defaults[given - least :]
        raise _miscounted(plan, given)

    def arrange_and_translate(call: Call) -> Slots:
        slots = arrange(call)
        for slot in plan.dropped:  # a struct could be one of named parameters, all of which would be lost
            if isinstance(slots[slot], dict | list):
                raise MarshalError("a single value, which is not used", slots[slot]).at(*_place(plan, call, (slot,)))
        for slot, translate in plan.translated.items():
            slots = [*slots[:slot], translate(slots[slot]), *slots[slot + 1 :]]
        return slots

    return arrange_and_translate if plan.dropped or plan.translated else arrange


def _miscounted(plan: ArgumentPlan, given: int) -> ParameterCountError:
    session = 1 if plan.session else 0
    most = len(plan.names) - session
    lacking = plan.names[given] if given < len(plan.names) - len(plan.defaults) else ""
    return ParameterCountError(most - len(plan.defaults), given - session, most, lacking)


def _by_name(plan: ArgumentPlan, call: Call) -> Slots:
    """Positional values fill the parameters that are not named, in order.

    Where further values are ignored, they fill required parameters only: they could be such values.
    """
    named = {name: value for name, value in call.named.items() if name in plan.names}
    others = {} if plan.surplus else {name: value for name, value in call.named.items() if name not in plan.names}
    if plan.rest:
        named[plan.rest] = others
    elif others:
        name, value = next(iter(others.items()))
        expected = f"no parameter of this name (there are: {', '.join(plan.names) or 'none'})"
        raise MarshalError(expected, value).at("params", name)
    required = plan.names[: len(plan.names) - len(plan.defaults)] if plan.surplus else plan.names
    rest = [name for name in required if name not in named]
    if len(call.params) > len(rest) and not plan.surplus:
        raise _miscounted(plan, len(call.params) + len(named))
    known = {**_defaults(plan), **dict(zip(rest, call.params, strict=False)), **named}
    for name in plan.names:
        if name not in known:
            raise absent("a parameter of this name").at("params", name)
    return [known[name] for name in plan.names]


def _defaults(plan: ArgumentPlan) -> dict[str, Value]:
    return dict(zip(reversed(plan.names), reversed(plan.defaults), strict=False))


def parameter(plan: ArgumentPlan, name: str, *, translated: bool = False) -> Callable[[Call], Value]:
    """Return a function that finds one parameter in a call, even in one that cannot be encoded; None if it is missing.

    The value is as the client sent it, or the one that it stands for (`translated`).
    """
    index = plan.names.index(name)
    default = _defaults(plan).get(name)

    def find(call: Call) -> Value:
        if name in call.named:
            return call.named[name]
        at = sum(before not in call.named for before in plan.names[:index])
        return call.params[at] if at < len(call.params) else default

    translate = plan.translated.get(index)
    return find if translate is None or not translated else lambda call: translate(find(call))


# Structs by the names of their members


def struct_encoder(
    kind: Type, names: Sequence[str], encoder: Callable[[Type, int], Encode], *, ignore: bool, around: int = 0
) -> Encode:
    """Return a converter from a legacy struct to a D-Bus struct with these fields, also in arrays and dictionaries.

    `encoder` makes a converter for a type and the number of containers around it; `around`: those around this one.
    """
    if kind.is_dict:
        key, item = kind.children[0].children
        convert = struct_encoder(item, names, encoder, ignore=ignore, around=around + 2)
        return dict_encoder(str(kind), KEYS_IN[key.code], convert)
    if kind.code == "a":
        convert = struct_encoder(kind.children[0], names, encoder, ignore=ignore, around=around + 1)
        return list_encoder(str(kind), convert)
    steps = [(name, encoder(child, around + 1)) for name, child in zip(names, kind.children, strict=True)]

    def encode(value: Value) -> object:
        if not isinstance(value, dict):
            raise MarshalError("a struct", value)
        if not ignore:
            _reject_unknown_members(value, names)
        fields = []
        for name, convert in steps:
            if name not in value:
                raise absent("a member of this name").at(name)
            fields.append(placed(name, convert, value[name]))
        return tuple(fields)

    return encode


def record_encoder(members: Mapping[str, tuple[str, str, Encode]]) -> Encode:
    """Return a converter from a legacy record to a dictionary of properties, `a{sv}`.

    `members`: field -> property, its signature and the encoder of its value. Members that are no fields are ignored.
    """

    def encode(value: Value) -> object:
        if not isinstance(value, dict):
            raise MarshalError("a struct", value)
        found = {}
        for name, item in value.items():
            if name in members:
                known, signature, convert = members[name]
                found[known] = Variant(signature, placed(name, convert, item))
        return found

    return encode


def _reject_unknown_members(value: Mapping[str, Value], names: Sequence[str]) -> None:
    for name in value:
        if name not in names:
            raise MarshalError(f"no member of this name (there are: {', '.join(names)})", value[name]).at(name)
