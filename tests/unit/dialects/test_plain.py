from __future__ import annotations

import pytest

from adapters.dialects.plain import Dialect
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply


@pytest.mark.parametrize("protocol", ["xmlrpc", "jsonrpc"])
@pytest.mark.parametrize("outcome", [Reply(2**40), Reply(None), Fault(FaultCode.APPLICATION, "x", "X", [1], wire="X")])
def test_nothing_is_changed(protocol: str, outcome: Outcome) -> None:
    dialect, call = Dialect(protocol), Call("m", ({"a": 1}, None), {"b": 2})
    assert dialect.wrap_call(call) is dialect.unwrap_call(call) is call
    assert dialect.wrap_outcome(outcome, call) is dialect.unwrap_outcome(outcome, call) is outcome
