"""The forms in which a legacy server takes the name of a method."""

from __future__ import annotations

import pytest

from gateway.core.spelling import AS_WRITTEN, Named, Spelling

XENAPI = Spelling("_", ("Async.", "InternalAsync."))


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("VM.start", Named("VM.start")),
        ("Async.VM.start", Named("VM.start", "Async.")),
        ("InternalAsync.VM.start", Named("VM.start", "InternalAsync.")),
        ("Async.Async.VM.start", Named("Async.VM.start", "Async.")),
        ("Asynchronous.start", Named("Asynchronous.start")),
        ("", Named("")),
    ],
)
def test_one_prefix_is_taken_off(method: str, named: Named) -> None:
    assert XENAPI.read(method) == named
    assert AS_WRITTEN.read(method) == Named(method)


def test_the_dot_may_be_an_underscore_where_there_is_one_dot() -> None:
    assert XENAPI.index(["VM_metrics.get_all", "reboot", "a.b.c"]) == {"VM_metrics_get_all": "VM_metrics.get_all"}
    assert AS_WRITTEN.index(["VM.start"]) == {}
