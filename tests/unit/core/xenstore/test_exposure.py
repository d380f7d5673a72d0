"""Which domains may call."""

from __future__ import annotations

import pytest

from gateway.core.xenstore.exposure import Domains, Exposure
from gateway.core.xenstore.paths import template


@pytest.mark.parametrize(
    ("domains", "allowed"),
    [
        (Domains(), {0}),
        (Domains(frozenset({5, 9})), {0, 5, 9}),
        (Domains(named=frozenset({"domid"})), {0, 7}),
        (Domains(frozenset({5}), frozenset({"domid"})), {0, 5, 7}),
        (Domains(named=frozenset({"other"})), {0}),
        (Domains(everyone=True), {0, 5, 7, 9}),
    ],
)
def test_domain_0_may_always_call_and_others_as_is_said(domains: Domains, allowed: set[int]) -> None:
    assert {domid for domid in (0, 5, 7, 9) if domains.allow(domid, {"domid": "7", "kib": "5"})} == allowed


def test_nobody_but_domain_0_may_call_when_nothing_is_said() -> None:
    assert Exposure("tree", template("/svc")).domains == Domains()


def test_exposures_that_say_the_same_are_one() -> None:
    assert len({Exposure("tree", template("/svc")), Exposure("tree", template("/svc"))}) == 1
