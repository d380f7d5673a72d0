"""Tables of cases: one test runs its whole table; and values that must be of a type, or be there."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from _pytest.mark import ParameterSet

_T = TypeVar("_T")
FAILURES = Exception, BaseExceptionGroup, pytest.fail.Exception


class Failures:
    """The failures of a table, by row."""

    def __init__(self) -> None:
        self._found: list[BaseException] = []

    @contextmanager
    def of(self, row: object) -> Iterator[None]:
        """Collect the failure of this row."""
        try:
            yield
        except FAILURES as failure:
            failure.add_note(f"in the row {row!r}")
            self._found.append(failure)

    def tell(self) -> None:
        """Raise them together."""
        if self._found:
            raise BaseExceptionGroup(f"{len(self._found)} rows", self._found)


def each_case(names: str | Sequence[str], rows: Iterable[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test for every row, like `pytest.mark.parametrize`, but as one test, which costs a hundredth of the time.

    For tests that leave nothing for the next row: fixtures are the same for all. Each failure names its row.
    """
    words = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = list(rows)

    def arguments(row: Any) -> dict[str, Any]:
        values = row.values if isinstance(row, ParameterSet) else [row] if isinstance(names, str) else row
        return dict(zip(words, values, strict=True))

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def run(**others: Any) -> None:
                failures = Failures()
                for row in table:
                    with failures.of(row):
                        await test(**arguments(row), **others)
                failures.tell()

        else:

            @functools.wraps(test)
            def run(**others: Any) -> None:
                failures = Failures()
                for row in table:
                    with failures.of(row):
                        test(**arguments(row), **others)
                failures.tell()

        signature = inspect.signature(test)
        kept = [parameter for name, parameter in signature.parameters.items() if name not in words]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate


def expect(kind: type[_T], value: object) -> _T:
    """Return the value, which must be of this type."""
    assert isinstance(value, kind), value
    return value


def present(value: _T | None) -> _T:
    """Return the value, which must not be None."""
    assert value is not None
    return value
