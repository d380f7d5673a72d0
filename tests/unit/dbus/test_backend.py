from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adapters.dbus.backend import decode_result, encode_arguments
from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply, Value
from tests.kit.backends import toy_call, toy_route


def test_a_value_that_does_not_fit_is_invalid_params_and_names_its_place() -> None:
    def refuse(call: Call) -> MethodCall:
        raise MarshalError("u", -1).at("params", 1)

    got = encode_arguments(toy_route("Echo", bind=refuse), toy_call())
    assert got == Fault(FaultCode.INVALID_PARAMS, "$.params[1]: expected u, got -1")


def test_a_wrong_number_of_parameters_is_told_with_both_numbers() -> None:
    def refuse(call: Call) -> MethodCall:
        raise ParameterCountError(2, 3)

    got = encode_arguments(toy_route("Echo", bind=refuse), toy_call())
    assert isinstance(got, Fault)
    assert (got.code, got.data) == (FaultCode.PARAMETER_COUNT, {"expected": 2, "received": 3})
    assert got.message == str(ParameterCountError(2, 3))


def test_a_body_is_shaped_into_a_reply() -> None:
    assert decode_result(toy_route("Echo", "s", "s"), ["text"]) == Reply("text")


def test_a_body_that_cannot_be_shaped_is_unrepresentable() -> None:
    def refuse(body: Sequence[object]) -> Value:
        raise MarshalError("no file descriptor", 0).at("result")

    got = decode_result(replace(toy_route("Echo"), decode_result=refuse), [0])
    assert got == Fault(FaultCode.UNREPRESENTABLE, "$.result: expected no file descriptor, got 0")
