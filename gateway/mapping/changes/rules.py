"""The kinds of changes between two revisions of mapping files, and for whom each one breaks something.

The levels are meant like the categories of buf's breaking change detection: a caller chooses those that it will not
break, and every rule has one. (https://buf.build/docs/breaking/rules/)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from fnmatch import fnmatchcase

from msgspec import Struct


class Level(Enum):
    """For whom a change breaks something."""

    WIRE = "wire"  # old clients: a call fails that succeeded, has another effect, or is answered in another form
    SOURCE = "source"  # people and programs that read names: documentation, OpenRPC, generated clients
    DBUS = "dbus"  # the services: other members or objects are called, or the same ones in another way
    ACCESS = "access"  # who may call: a check is gone, or a value is accepted that was not
    EVIDENCE = "evidence"  # recorded comparisons: what was counted says nothing about the new revision
    COMPATIBLE = "compatible"  # nobody


DEFAULT_LEVELS = (Level.WIRE, Level.DBUS, Level.ACCESS)

# Rule -> its level, and what it means.
RULES: Mapping[str, tuple[Level, str]] = {
    "ENDPOINT_GONE": (Level.WIRE, "No client reaches the endpoint any more."),
    "ENDPOINT_PROTOCOL_CHANGED": (Level.WIRE, "The endpoint has another codec or dialect."),
    "ENDPOINT_NODES_CHANGED": (Level.WIRE, "Requests in the xenstore are written in another way."),
    "ENDPOINT_ADDED": (Level.COMPATIBLE, "Clients reach methods at a further endpoint."),
    "UNMAPPED_REJECTED": (Level.WIRE, "Methods that no file maps are rejected; they were passed to a legacy service."),
    "UNMAPPED_PASSED": (Level.ACCESS, "Methods that no file maps are passed to a legacy service."),
    "METHOD_GONE": (Level.WIRE, "The method is not mapped any more, and calls fail."),
    "METHOD_PASSED": (Level.DBUS, "The method is not mapped any more; calls are passed to the legacy service."),
    "METHOD_ADDED": (Level.COMPATIBLE, "The method is new."),
    "ALIAS_GONE": (Level.WIRE, "The method has lost one of its names."),
    "ALIAS_ADDED": (Level.COMPATIBLE, "The method has a further name."),
    "METHOD_OFF": (Level.WIRE, "The mode is off: every call is refused."),
    "TASK_FORM_GONE": (Level.WIRE, "Calls that ask for a task are refused."),
    "PARAMETER_ADDED_REQUIRED": (Level.WIRE, "Old clients do not send the new parameter."),
    "PARAMETER_ADDED_OPTIONAL": (Level.COMPATIBLE, "The new parameter has a default."),
    "PARAMETER_BECAME_REQUIRED": (Level.WIRE, "Old clients may omit the parameter."),
    "PARAMETER_BECAME_OPTIONAL": (Level.COMPATIBLE, "The parameter may be omitted."),
    "PARAMETER_GONE": (Level.WIRE, "Old clients send the parameter, and are refused."),
    "PARAMETER_MOVED": (Level.WIRE, "Clients that pass by position pass another parameter."),
    "PARAMETER_RENAMED": (Level.WIRE, "Clients that pass by name use the old name."),
    "PARAMETER_NAME_CHANGED": (Level.SOURCE, "The parameter has another name; no endpoint takes names."),
    "PARAMETER_TYPE_CHANGED": (Level.WIRE, "Values that were accepted are refused."),
    "PARAMETER_TYPE_WIDENED": (Level.COMPATIBLE, "More values are accepted."),
    "PARAMETER_FORM_CHANGED": (Level.WIRE, "The value is read in another form."),
    "PARAMETER_DEFAULT_CHANGED": (Level.WIRE, "A call without the parameter has another effect."),
    "PARAMETER_UNUSED": (Level.WIRE, "The value that clients send is dropped."),
    "PARAMETER_OBJECTS_NARROWED": (Level.WIRE, "Objects that were accepted are refused."),
    "PARAMETER_OBJECTS_WIDENED": (Level.ACCESS, "Objects are accepted that were not."),
    "MEMBER_ADDED_REQUIRED": (Level.WIRE, "Old clients do not send the new member."),
    "MEMBER_GONE": (Level.WIRE, "Old clients send the member, and are refused."),
    "MEMBER_UNUSED": (Level.WIRE, "The value of the member that clients send is dropped."),
    "MEMBER_TYPE_CHANGED": (Level.WIRE, "The member has another type."),
    "COERCION_STRICTER": (Level.WIRE, "Numbers and booleans as text are refused."),
    "SURPLUS_REJECTED": (Level.WIRE, "Parameters that the method does not have are refused."),
    "VARIANTS_CHANGED": (Level.WIRE, "Variants are read or written in another form."),
    "RESULT_TYPE_CHANGED": (Level.WIRE, "The result has another type or form."),
    "RESULT_TYPE_NARROWED": (Level.COMPATIBLE, "The result has fewer possible values."),
    "RESULT_FIELD_GONE": (Level.WIRE, "The result has lost a field."),
    "RESULT_FIELD_ADDED": (Level.COMPATIBLE, "The result has a further field."),
    "RESULT_FIELD_TYPE_CHANGED": (Level.WIRE, "A field of the result has another type or form."),
    "RESULT_KEY_CHANGED": (Level.WIRE, "Records have other keys."),
    "ERROR_CODE_CHANGED": (Level.WIRE, "A D-Bus error has another code."),
    "ERROR_ARGUMENTS_CHANGED": (Level.WIRE, "A D-Bus error has other arguments."),
    "ERROR_MESSAGE_CHANGED": (Level.SOURCE, "A D-Bus error has another message."),
    "TIMEOUT_SHORTER": (Level.WIRE, "Calls that took long fail."),
    "TIMEOUT_LONGER": (Level.COMPATIBLE, "Calls may take longer."),
    "SESSION_ADDED": (Level.WIRE, "The method needs a session."),
    "SESSION_GONE": (Level.ACCESS, "The method needs no session any more."),
    "DOMAINS_NARROWED": (Level.WIRE, "Domains that called are refused."),
    "DOMAINS_WIDENED": (Level.ACCESS, "More domains may call."),
    "LOGIN_CHANGED": (Level.ACCESS, "The method opens or closes sessions in another way."),
    "TASK_CHANGED": (Level.WIRE, "The call ends at another moment: with its reply, or with an operation."),
    "DOCUMENTATION_CHANGED": (Level.COMPATIBLE, "The description is another one."),
    "BUS_NAME_CHANGED": (Level.DBUS, "Another service is called."),
    "OBJECT_PATH_CHANGED": (Level.DBUS, "Another object is called."),
    "MEMBER_CHANGED": (Level.DBUS, "Another member is called."),
    "SIGNATURE_CHANGED": (Level.DBUS, "The service must have the member with another signature."),
    "ARGUMENT_CHANGED": (Level.DBUS, "An argument that clients do not send has another value."),
    "PARAMETER_TARGET_CHANGED": (Level.DBUS, "The parameter supplies another argument."),
    "SESSION_CHECK_CHANGED": (Level.DBUS, "The session is checked by another object or member."),
    "EFFECT_WEAKENED": (Level.DBUS, "The call counts as one that may be executed twice."),
    "EFFECT_STRENGTHENED": (Level.COMPATIBLE, "The call is not executed twice any more."),
    "SHADOW_ALLOWED": (Level.DBUS, "Calls of the method may be executed on both sides."),
    "CONNECTION_CHANGED": (Level.DBUS, "Calls go over other bus connections."),
    "MODE_CHANGED": (Level.DBUS, "Another side serves the calls, or a share of them."),
    "FALLBACK_CHANGED": (Level.DBUS, "Calls that D-Bus did not take go to another place."),
    "ROLLOUT_CHANGED": (Level.COMPATIBLE, "A rollout has another plan."),
    "UPSTREAM_CHANGED": (Level.EVIDENCE, "Another legacy service was compared."),
    "COMPARISONS_INVALID": (Level.EVIDENCE, "The answers that were compared are not those of the new revision."),
    "COMPARISON_RULES_CHANGED": (Level.EVIDENCE, "Answers were compared by other rules."),
    "REDACTION_CHANGED": (Level.EVIDENCE, "Other values were redacted before they were compared."),
    "CANARY_KEY_CHANGED": (Level.EVIDENCE, "Other calls were in the share of the canary."),
    "CLIENT_ERRORS_CHANGED": (Level.EVIDENCE, "Other faults were counted as errors of a side."),
    "PUBLICATION_GONE": (Level.WIRE, "Nodes that show the service are not written any more."),
    "PUBLICATION_CHANGED": (Level.WIRE, "Nodes that show the service are written in another way."),
    "PUBLICATION_ADDED": (Level.COMPATIBLE, "Further nodes show the service."),
    "TRIGGER_GONE": (Level.WIRE, "A node that called a method when it changed calls nothing any more."),
    "TRIGGER_CHANGED": (Level.WIRE, "A node calls a method in another way."),
    "TRIGGER_ADDED": (Level.COMPATIBLE, "A further node calls a method."),
}


class FoundChange(Struct, frozen=True, order=True):
    """One change. `subject`: `service/method`, or an endpoint; `file`, `line`: its place, in the new files if any."""

    subject: str
    rule: str
    message: str
    file: str = ""
    line: int = 1

    @property
    def level(self) -> Level:
        """For whom it breaks something."""
        return RULES[self.rule][0]


class Ignored(Struct, frozen=True):
    """An entry of the ignore list: a rule or `*`, and a pattern of subjects."""

    rule: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> Ignored:
        """Read `RULE`, `RULE PATTERN` or `* PATTERN`; raises ValueError."""
        rule, _, pattern = text.strip().partition(" ")
        if rule != "*" and rule not in RULES:
            raise ValueError(f"unknown rule '{rule}': expected one of {', '.join(sorted(RULES))}, or *")
        if rule == "*" and not pattern.strip():
            raise ValueError("'*' needs a pattern of methods: `* xenopsd/VM.*`")
        return cls(rule, pattern.strip() or "*")

    def __str__(self) -> str:
        return f"{self.rule} {self.pattern}"

    def matches(self, change: FoundChange) -> bool:
        """Whether a change is ignored. A pattern without a service is of methods of all services."""
        names = (change.subject, change.subject.partition("/")[2])
        return self.rule in ("*", change.rule) and any(fnmatchcase(name, self.pattern) for name in names)


def without_ignored(
    changes: Sequence[FoundChange], ignored: Sequence[Ignored]
) -> tuple[list[FoundChange], list[Ignored]]:
    """The changes that count, and the entries of the ignore list that match none."""
    kept = [change for change in changes if not any(each.matches(change) for each in ignored)]
    return kept, [each for each in ignored if not any(each.matches(change) for change in changes)]
