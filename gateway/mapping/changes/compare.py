"""Compares two revisions of mapping files, and names each change by its rule.

Endpoints first, with the names that clients find there; then each method that both revisions have. A change of a method
counts once, however many endpoints it has.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from gateway.core.routing.publication import Publication
from gateway.mapping.changes.compare_method import domain_changes, method_changes
from gateway.mapping.changes.rules import RULES, FoundChange, Level
from gateway.mapping.changes.surface import Surface
from gateway.mapping.table import EndpointKey, EndpointTable, Table

# Rules that leave the answer of the D-Bus side as it was: those that concern who may call, evidence, or nobody, these,
# and none of those of results.
_OTHER_LEVELS = (Level.ACCESS, Level.EVIDENCE, Level.COMPATIBLE)
_SAME_ANSWER = frozenset(
    {
        "DOMAINS_NARROWED",
        "EFFECT_WEAKENED",
        "FALLBACK_CHANGED",
        "METHOD_OFF",
        "MODE_CHANGED",
        "PARAMETER_NAME_CHANGED",
        "PARAMETER_OBJECTS_NARROWED",
        "PARAMETER_RENAMED",
        "SESSION_ADDED",
        "SESSION_CHECK_CHANGED",
        "SHADOW_ALLOWED",
        "TASK_FORM_GONE",
        "TIMEOUT_SHORTER",
    }
)


def compare(old: Surface, new: Surface) -> list[FoundChange]:
    """All changes from `old` to `new`, by subject."""
    found = [*_endpoints(old, new), *_nodes(old.table, new.table)]
    for key, before in old.methods.items():
        after = new.methods.get(key)
        if after is None:
            continue
        changes = [*method_changes(before, after)]
        answers = sorted({rule for rule, _ in changes if _changes_answers(rule)})
        if answers and before.migration.upstream is not None and after.migration.upstream is not None:
            text = f"answers that were compared before are no longer those of D-Bus: {', '.join(answers)}"
            changes.append(("COMPARISONS_INVALID", text))
        place = _split(after.route.source)
        found += [FoundChange(after.title, rule, message, *place) for rule, message in changes]
    return sorted(dict.fromkeys(found))


def _changes_answers(rule: str) -> bool:
    return rule.startswith("RESULT_") or (RULES[rule][0] not in _OTHER_LEVELS and rule not in _SAME_ANSWER)


# Endpoints and names


def _endpoints(old: Surface, new: Surface) -> Iterator[FoundChange]:
    for key, before in old.endpoints.items():
        after = new.endpoints.get(key)
        if after is None:
            text = f"the endpoint had {len(before.routes)} methods"
            yield FoundChange(str(key), "ENDPOINT_GONE", text, *_place(before))
            continue
        for rule, message in _endpoint(before, after):
            yield FoundChange(str(key), rule, message, *_place(after))
    for key in new.endpoints.keys() - old.endpoints.keys():
        endpoint = new.endpoints[key]
        yield FoundChange(str(key), "ENDPOINT_ADDED", f"{endpoint.codec}/{endpoint.dialect}", *_place(endpoint))
    for (title, name), keys in _names_only_in(old, new).items():
        rule, text = "METHOD_GONE", "not mapped any more"
        passed = [new.endpoints[key].passthrough_to for key in keys]
        if not title.endswith(f"/{name}"):
            rule, text = "ALIAS_GONE", f"the name '{name}' is gone"
        elif all(passed):
            rule, text = "METHOD_PASSED", f"not mapped any more; '{passed[0]}' answers"
        place = _split(old.endpoints[keys[0]].routes[name].source)
        yield FoundChange(title, rule, f"{text} at {', '.join(map(str, keys))}", *place)
    for (title, name), keys in _names_only_in(new, old).items():
        rule = "METHOD_ADDED" if title.endswith(f"/{name}") else "ALIAS_ADDED"
        place = _split(new.endpoints[keys[0]].routes[name].source)
        yield FoundChange(title, rule, f"'{name}' is new at {', '.join(map(str, keys))}", *place)


def _names_only_in(these: Surface, others: Surface) -> dict[tuple[str, str], list[EndpointKey]]:
    """Method and name -> the endpoints of both that have it in one revision only."""
    found: dict[tuple[str, str], list[EndpointKey]] = {}
    for key, endpoint in these.endpoints.items():
        for name, route in endpoint.routes.items():
            if key in others.endpoints and name not in others.endpoints[key].routes:
                found.setdefault((f"{route.service}/{route.method}", name), []).append(key)
    return found


def _endpoint(before: EndpointTable, after: EndpointTable) -> Iterator[tuple[str, str]]:
    spoken = [f"{each.codec}/{each.dialect}" for each in (before, after)]
    if spoken[0] != spoken[1]:
        yield "ENDPOINT_PROTOCOL_CHANGED", f"{spoken[0]} became {spoken[1]}"
    if before.passthrough_to and not after.passthrough_to:
        yield "UNMAPPED_REJECTED", f"methods that no file maps were passed to '{before.passthrough_to}'"
    elif before.passthrough_to != after.passthrough_to:
        yield "UNMAPPED_PASSED", f"methods that no file maps are passed to '{after.passthrough_to}'"
    if before.exposure is not None and after.exposure is not None:
        yield from domain_changes(before.exposure.domains, after.exposure.domains)
        if replace(after.exposure, domains=before.exposure.domains) != before.exposure:
            yield "ENDPOINT_NODES_CHANGED", "style, states or parameters of the nodes"


def _nodes(old: Table, new: Table) -> Iterator[FoundChange]:
    """Publications and watch triggers of a xenstore."""
    published = [{_published(each): each.fingerprint for each in table.publications} for table in (old, new)]
    triggered = [{each.place: each.fingerprint for each in table.triggers} for table in (old, new)]
    for kind, (were, are) in (("PUBLICATION", published), ("TRIGGER", triggered)):
        for subject in were.keys() | are.keys():
            if subject not in are:
                yield FoundChange(subject, f"{kind}_GONE", "not in the mapping any more")
            elif subject not in were:
                yield FoundChange(subject, f"{kind}_ADDED", "new in the mapping")
            elif were[subject] != are[subject]:
                yield FoundChange(subject, f"{kind}_CHANGED", "its entry, or the IDL that it uses, differs")


def _published(publication: Publication) -> str:
    """The listener and the node of a publication."""
    return f"{publication.listener} /{'/'.join(publication.template.node.elements)}"


def _split(source: str) -> tuple[str, int]:
    """The file and the line of a source ("FILE:LINE")."""
    file, _, line = source.rpartition(":")
    return file, int(line)


def _place(endpoint: EndpointTable) -> tuple[str, int]:
    first = next(iter(endpoint.routes.values()), None)
    return (_split(first.source)[0], 1) if first is not None else ("", 1)
