"""Compares two revisions of mapping files, and names each change by its rule.

Endpoints first, with the names that clients find there; then each method that both revisions have. A change of a method
counts once, however many endpoints it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from gateway.core.routing.publication import Publication
from gateway.mapping.changes.compare_method import MethodComparison, domain_changes, split_source
from gateway.mapping.changes.rules import FoundChange
from gateway.mapping.changes.surface import Surface
from gateway.mapping.table import EndpointKey, EndpointTable

# Rules that leave the answer of the D-Bus side as it was.
_SAME_ANSWER = frozenset(
    {
        "DOCUMENTATION_CHANGED",
        "MODE_CHANGED",
        "METHOD_OFF",
        "FALLBACK_CHANGED",
        "TASK_FORM_GONE",
        "TIMEOUT_LONGER",
        "TIMEOUT_SHORTER",
        "EFFECT_WEAKENED",
        "EFFECT_STRENGTHENED",
        "SHADOW_ALLOWED",
        "UPSTREAM_CHANGED",
        "COMPARISON_RULES_CHANGED",
        "REDACTION_CHANGED",
        "CANARY_KEY_CHANGED",
        "CLIENT_ERRORS_CHANGED",
        "LOGIN_CHANGED",
        "ROLLOUT_CHANGED",
        "SESSION_ADDED",
        "SESSION_CHECK_CHANGED",
        "SESSION_GONE",
        "DOMAINS_NARROWED",
        "DOMAINS_WIDENED",
        "PARAMETER_NAME_CHANGED",
        "PARAMETER_RENAMED",
        "PARAMETER_ADDED_OPTIONAL",
        "PARAMETER_BECAME_OPTIONAL",
        "PARAMETER_TYPE_WIDENED",
        "PARAMETER_OBJECTS_WIDENED",
        "PARAMETER_OBJECTS_NARROWED",
    }
)


def compare(old: Surface, new: Surface) -> list[FoundChange]:
    """All changes from `old` to `new`, by subject."""
    found = [*_endpoints(old, new)]
    for key, before in old.methods.items():
        after = new.methods.get(key)
        if after is not None:
            changes = [*MethodComparison(before, after).changes()]
            found += changes
            answers = sorted({each.rule for each in changes} - _SAME_ANSWER)
            if answers and before.migration.upstream is not None and after.migration.upstream is not None:
                text = f"answers that were compared before are no longer those of D-Bus: {', '.join(answers)}"
                found.append(replace(changes[0], rule="COMPARISONS_INVALID", message=text))
    return sorted(dict.fromkeys([*found, *_nodes(old, new)]))


# Endpoints and names


def _endpoints(old: Surface, new: Surface) -> Iterator[FoundChange]:
    gone: dict[tuple[str, str], list[EndpointKey]] = {}  # method and name -> where
    added: dict[tuple[str, str], list[EndpointKey]] = {}
    for key, before in old.endpoints.items():
        after = new.endpoints.get(key)
        if after is None:
            yield FoundChange(
                str(key), "ENDPOINT_GONE", f"the endpoint had {len(before.routes)} methods", *_place(before)
            )
            continue
        yield from _endpoint(before, after)
        for name in before.routes.keys() - after.routes.keys():
            gone.setdefault((_title(before, name), name), []).append(key)
        for name in after.routes.keys() - before.routes.keys():
            added.setdefault((_title(after, name), name), []).append(key)
    for key in new.endpoints.keys() - old.endpoints.keys():
        endpoint = new.endpoints[key]
        yield FoundChange(str(key), "ENDPOINT_ADDED", f"{endpoint.codec}/{endpoint.dialect}", *_place(endpoint))
    for (title, name), keys in gone.items():
        yield _gone(title, name, keys, old, new)
    for (title, name), keys in added.items():
        rule = "METHOD_ADDED" if title.endswith(f"/{name}") else "ALIAS_ADDED"
        place = _place_of(new.endpoints[keys[0]], name)
        yield FoundChange(title, rule, f"'{name}' is new at {_listed(keys)}", *place)


def _gone(title: str, name: str, keys: list[EndpointKey], old: Surface, new: Surface) -> FoundChange:
    passed = [new.endpoints[key].passthrough_to for key in keys]
    place = _place_of(old.endpoints[keys[0]], name)
    if not title.endswith(f"/{name}"):
        return FoundChange(title, "ALIAS_GONE", f"the name '{name}' is gone at {_listed(keys)}", *place)
    if all(passed):
        return FoundChange(
            title, "METHOD_PASSED", f"not mapped any more; '{passed[0]}' answers at {_listed(keys)}", *place
        )
    return FoundChange(title, "METHOD_GONE", f"not mapped any more at {_listed(keys)}", *place)


def _endpoint(before: EndpointTable, after: EndpointTable) -> Iterator[FoundChange]:
    subject, place = str(before.key), _place(after)
    spoken = [f"{each.codec}/{each.dialect}" for each in (before, after)]
    if spoken[0] != spoken[1]:
        yield FoundChange(subject, "ENDPOINT_PROTOCOL_CHANGED", f"{spoken[0]} became {spoken[1]}", *place)
    if before.passthrough_to and not after.passthrough_to:
        text = f"methods that no file maps were passed to '{before.passthrough_to}'"
        yield FoundChange(subject, "UNMAPPED_REJECTED", text, *place)
    elif before.passthrough_to != after.passthrough_to:
        text = f"methods that no file maps are passed to '{after.passthrough_to}'"
        yield FoundChange(subject, "UNMAPPED_PASSED", text, *place)
    if before.exposure is not None and after.exposure is not None:
        yield from domain_changes(subject, before.exposure.domains, after.exposure.domains, place)
        same = replace(after.exposure, domains=before.exposure.domains)
        if same != before.exposure:
            yield FoundChange(subject, "ENDPOINT_NODES_CHANGED", "style, states or parameters of the nodes", *place)


def _nodes(old: Surface, new: Surface) -> Iterator[FoundChange]:
    """Publications and watch triggers of a xenstore."""
    were = {_published(each): each.fingerprint for each in old.table.publications}
    are = {_published(each): each.fingerprint for each in new.table.publications}
    yield from _differing("PUBLICATION", were, are)
    triggered = {each.place: each.fingerprint for each in old.table.triggers}
    yield from _differing("TRIGGER", triggered, {each.place: each.fingerprint for each in new.table.triggers})


def _published(publication: Publication) -> str:
    """The listener and the node of a publication."""
    return f"{publication.listener} /{'/'.join(publication.template.node.elements)}"


def _differing(kind: str, were: Mapping[str, str], are: Mapping[str, str]) -> Iterator[FoundChange]:
    for subject in were.keys() - are.keys():
        yield FoundChange(subject, f"{kind}_GONE", "not in the mapping any more")
    for subject in are.keys() - were.keys():
        yield FoundChange(subject, f"{kind}_ADDED", "new in the mapping")
    for subject in were.keys() & are.keys():
        if were[subject] != are[subject]:
            yield FoundChange(subject, f"{kind}_CHANGED", "its entry, or the IDL that it uses, differs")


def _title(endpoint: EndpointTable, name: str) -> str:
    route = endpoint.routes[name]
    return f"{route.service}/{route.method}"


def _listed(keys: list[EndpointKey]) -> str:
    return ", ".join(map(str, keys))


def _place_of(endpoint: EndpointTable, name: str) -> tuple[str, int]:
    return split_source(endpoint.routes[name].source)


def _place(endpoint: EndpointTable) -> tuple[str, int]:
    first = next(iter(endpoint.routes.values()), None)
    return (split_source(first.source)[0], 1) if first is not None else ("", 1)
