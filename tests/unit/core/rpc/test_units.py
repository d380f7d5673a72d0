"""The forms of a method's name, and durations and sizes with their unit."""

from __future__ import annotations

import pytest

from gateway.core.rpc import units
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


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30.0), ("10m", 600.0), ("1h", 3600.0), ("0.25s", 0.25), ("0s", 0.0)]
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("300KiB", 307_200), ("32MiB", 2**25), ("1GiB", 2**30)])
def test_a_size_is_read_in_bytes(text: str, size: int) -> None:
    assert units.size(text) == size


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5S", "5s\n", "1e3s", "٣s"])
def test_a_duration_without_its_unit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 500ms, 30s, 10m or 1h"):
        units.seconds(text)


@pytest.mark.parametrize("text", ["", "5", "5kb", "1.5MiB", "-1B", "5KB"])
def test_a_size_without_its_unit_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 512B, 300KiB or 32MiB"):
        units.size(text)
