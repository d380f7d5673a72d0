"""Style `word`: a word asks, the empty string answers."""

from __future__ import annotations

from adapters.xenstore.styles.base import Request
from tests.kit.xenstore_clients import ERROR, Tried

NODE = "/local/domain/5/control/shutdown"
SHUTDOWN = Tried("word", "/local/domain/{domid}/control/shutdown")
SYSRQ = Tried("word", "/local/domain/{domid}/control/sysrq", method="sysrq")


def test_the_word_is_the_method() -> None:
    assert SHUTDOWN.request(NODE, shutdown=b"poweroff") == Request("poweroff", (), {NODE: b"poweroff"})
    assert SHUTDOWN.request(NODE, shutdown=b"") is None
    assert SHUTDOWN.request(NODE) is None


def test_the_word_is_a_value_where_the_method_is_named() -> None:
    node = "/local/domain/5/control/sysrq"
    assert SYSRQ.request(node, sysrq=b"h") == Request("sysrq", [("value", b"h")], {node: b"h"})


def test_it_is_acknowledged_by_the_empty_string_and_an_error_by_nothing_being_there() -> None:
    asked = Request("poweroff")
    assert SHUTDOWN.answer(NODE, asked, []) == [(NODE, b"")]
    assert SHUTDOWN.answer(NODE, asked, [("any", b"result")]) == [(NODE, b"")]
    assert SHUTDOWN.answer(NODE, asked, ERROR) == [(NODE, None)]
