"""The cases of tests/wire/reports/ for whatever reads them."""

from __future__ import annotations

from base64 import b64decode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.core.rpc.model import Value

REPORTS = Path(__file__).parents[1] / "wire" / "reports"
_PARAMS = "<params><param><value>{}</value></param></params>"

Case = dict[str, Any]


def cases(name: str) -> list[Any]:
    """Those of one file, as parameters of a test."""
    return [pytest.param(case, id=case["title"]) for case in YAML(typ="safe").load(REPORTS / f"{name}.yaml")]


def value_of(written: Any) -> Value:
    """The value that a case means: {date} and {bytes} are what YAML has not."""
    match written:
        case {"date": text}:
            return datetime.fromisoformat(text)
        case {"bytes": text}:
            return b64decode(text)
    value: Value = written
    return value


def xmlrpc_call(method: str, value: str) -> bytes:
    """A call with what stands in its one <value>."""
    return f"<methodCall><methodName>{method}</methodName>{_PARAMS.format(value)}</methodCall>".encode()


def xmlrpc_answer(value: str) -> bytes:
    """An answer with it."""
    return f"<methodResponse>{_PARAMS.format(value)}</methodResponse>".encode()
