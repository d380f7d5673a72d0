"""The forms in which a legacy server takes the name of a method."""

from __future__ import annotations

import pytest

from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling, SpelledName

XENAPI = MethodSpelling("_", ("Async.", "InternalAsync."))


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ("VM.start", SpelledName("VM.start")),
        ("Async.VM.start", SpelledName("VM.start", "Async.")),
        ("InternalAsync.VM.start", SpelledName("VM.start", "InternalAsync.")),
        ("Async.Async.VM.start", SpelledName("Async.VM.start", "Async.")),
        ("Asynchronous.start", SpelledName("Asynchronous.start")),
        ("", SpelledName("")),
    ],
)
def test_one_prefix_is_taken_off(method: str, named: SpelledName) -> None:
    assert XENAPI.read(method) == named
    assert AS_WRITTEN.read(method) == SpelledName(method)


def test_the_dot_may_be_an_underscore_where_there_is_one_dot() -> None:
    assert XENAPI.index(["VM_metrics.get_all", "reboot", "a.b.c"]) == {"VM_metrics_get_all": "VM_metrics.get_all"}
    assert AS_WRITTEN.index(["VM.start"]) == {}
