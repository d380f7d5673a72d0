#!/usr/bin/env python3
"""Write the reference from the code: docs/reference.md, and the man pages of a package.

    .venv/bin/python scripts/reference.py             writes docs/reference.md
    .venv/bin/python scripts/reference.py --man DIR   writes DIR/man1/xcp-gateway.1 and DIR/man5/gateway.toml.5

tests/unit/test_reference.py fails when the page is not the one that this would write.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Any, get_type_hints

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapters.codecs import jsonrpc, xenstore, xmlrpc
from gateway import __version__, config
from gateway.cli import app
from gateway.core.rpc.model import FAULTS, Call, Fault, FaultCode, Reply
from gateway.ops.log import CallLine
from gateway.ops.metrics import SERIES
from gateway.wiring import DIALECTS

PAGE = Path(__file__).parents[1] / "docs/reference.md"

HEAD = """# Reference

What the code defines, written by `scripts/reference.py`: do not edit this page. Mapping files are described in
[mapping.md](mapping.md) and by `xcp-gateway schema`, the admin API by `xcp-gateway schema --admin`.
"""


def page() -> str:
    """The text of docs/reference.md."""
    parts = [HEAD, *_config_page(), *_faults_page(), *_log_page(), *_metrics_page(), *_commands_page()]
    return "\n".join(parts).rstrip() + "\n"


def _table(*head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


# The config


def sections() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each section of gateway.toml with its schema; "" has the keys outside of any."""
    root = config.schema()
    tables = {name: of for name, of in root["properties"].items() if of["type"] == "object"}
    for name in ("bus", "listener", "upstream"):
        yield f"{name}.NAME", tables[name]["additionalProperties"]
    for name, of in tables.items():
        if "properties" in of:
            yield name, of
    plain = {name: of for name, of in root["properties"].items() if name not in tables}
    yield "", {"description": "Keys outside of a section, at the top of the file.", "properties": plain, "required": []}


def value_words(of: Mapping[str, Any]) -> str:
    """The values that a key takes, in words."""
    if "title" in of:
        return str(of["title"])
    if "enum" in of:
        return " or ".join(f'"{each}"' for each in of["enum"])
    if of["type"] == "array":
        return f"a list: {value_words(of['items'])}"
    return {"string": "text", "boolean": "true or false", "integer": "a whole number", "object": "a table of text"}[
        of["type"]
    ]


def default_words(key: str, section: Mapping[str, Any]) -> str:
    """The default of a key."""
    of = section["properties"][key]
    if key in section["required"]:
        return "required"
    return json.dumps(of["default"]) if of.get("default") not in (None, "", []) else "-"


def _config_page() -> Iterator[str]:
    yield "## Keys of gateway.toml\n"
    yield "`xcp-gateway schema --config` prints their JSON Schema; `xcp-gateway check --config FILE` checks a file.\n"
    for name, section in sections():
        yield f"### {f'`[{name}]`' if name else 'Top level'}\n\n{section['description']}\n"
        rows = [
            (f"`{key}`", value_words(of), default_words(key, section), of["description"])
            for key, of in section["properties"].items()
        ]
        yield _table("key", "value", "default", "meaning", rows=rows)


# Fault codes


def fault_rows() -> list[tuple[str, ...]]:
    """One row for each fault code: its meaning, whether the call was executed, and what each protocol sends."""
    return [(f"`{code.value}`", *FAULTS[code], *_sent(code)) for code in FaultCode]


_CALL = Call("VM.start", ("OpaqueRef:1",))


def _sent(code: FaultCode) -> Iterator[str]:
    for codec in (xmlrpc, jsonrpc, xenstore):
        yield f"`{codec.FAULT_CODES[code]}`"
    of_service = code in (FaultCode.APPLICATION, FaultCode.REMOTE)
    fault = Fault(code, "MESSAGE", name="NAME" if of_service else "", data=_data(code))
    for name in ("xenapi", "xapi_idl"):
        wrapped = DIALECTS[name]("jsonrpc").wrap_outcome(fault, _CALL)
        wire = wrapped.wire if isinstance(wrapped, Fault) and wrapped.wire is not None else wrapped
        yield f"`{json.dumps(wire if not isinstance(wire, Reply | Fault) else _plain(wire))}`"


def _data(code: FaultCode) -> Any:
    if code in (FaultCode.APPLICATION, FaultCode.REMOTE):
        return ["ARGUMENT"]
    return {"expected": 2, "received": 1} if code is FaultCode.PARAMETER_COUNT else None


def _plain(outcome: Reply | Fault) -> Any:
    return outcome.value if isinstance(outcome, Reply) else [outcome.name, outcome.message]


def _faults_page() -> Iterator[str]:
    yield """## Fault codes of each protocol

The code is `outcome` in the log and in `xcp_gateway_calls_total`. With the dialect `plain` a client gets the number in
`faultCode` (XML-RPC), `error.code` (JSON-RPC) or the node `code` (xenstore). The dialects `xenapi` and `xapi_idl` send
an error of their own, here for the call `VM.start("OpaqueRef:1")`: MESSAGE is the text, NAME the error of a service.
"""
    head = ("code", "meaning", "executed", "XML-RPC", "JSON-RPC", "xenstore", "xenapi", "xapi_idl")
    yield _table(*head, rows=fault_rows())


# Log and metrics


def _log_page() -> Iterator[str]:
    yield "## Fields of the log line of a call\n"
    yield 'With `format = "json"`. Fields without a value are left out.\n'
    fields = get_type_hints(CallLine, include_extras=True)
    rows = [(f"`{name}`", kind.__metadata__[0].description) for name, kind in fields.items()]
    yield _table("field", "meaning", rows=rows)


def _metrics_page() -> Iterator[str]:
    yield "## Metrics\n"
    rows = [
        (f"`{name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels) or "-", each.help)
        for name, each in SERIES.items()
    ]
    yield _table("series", "kind", "labels", "meaning", rows=rows)


# Commands


def commands() -> Iterator[tuple[str, Any]]:
    """Each command with its whole name."""
    root = typer.main.get_command(app)
    yield from _commands("xcp-gateway", root)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for each, inside in sorted(command.commands.items()):
            yield from _commands(f"{name} {each}", inside)
    else:
        yield name, command


def options(command: Any) -> list[tuple[str, str]]:
    """Each option and argument of a command, and its help."""
    found = []
    for each in command.get_params(_Context(command)):
        if each.name == "help" or getattr(each, "hidden", False):
            continue
        is_option = each.param_type_name == "option"
        value = "" if getattr(each, "is_flag", False) else f" {each.metavar or each.name.upper()}"
        name = ", ".join(each.opts) + value if is_option else each.metavar or each.name.upper()
        found.append((name, each.help or ""))
    return found


def _Context(command: Any) -> Any:  # noqa: N802 - of click, whichever typer brings
    return command.context_class(command, info_name=command.name)


def _commands_page() -> Iterator[str]:
    yield "## Commands\n"
    for name, command in commands():
        yield f"### {name}\n\n{_paragraphs(command.help)}\n"
        rows = [(f"`{option}`", text) for option, text in options(command)]
        if rows:
            yield _table("option or argument", "meaning", rows=rows)


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text or ""))


# Man pages


def manual(directory: Path) -> None:
    """Write the man pages."""
    pages = {"man1/xcp-gateway.1": "\n".join(_command_manual()), "man5/gateway.toml.5": "\n".join(_config_manual())}
    for name, text in pages.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def _head(name: str, section: int, summary: str) -> Iterator[str]:
    day = datetime.fromtimestamp(int(environ.get("SOURCE_DATE_EPOCH", "0")) or 0, UTC).date()
    yield f'.TH {name.upper()} {section} "{day}" "xcp-gateway {__version__}"'
    yield f".SH NAME\n{name} \\- {_roff(summary)}"


def _command_manual() -> Iterator[str]:
    yield from _head("xcp-gateway", 1, "gateway from XML-RPC, JSON-RPC and xenstore clients to D-Bus services")
    yield ".SH SYNOPSIS\n.B xcp-gateway\n.I COMMAND\n[\\fIOPTION\\fR]..."
    root = typer.main.get_command(app)
    yield f".SH DESCRIPTION\n{_roff(_paragraphs(root.help or ''))}\n.SH COMMANDS"
    for name, command in commands():
        yield f".SS {name}\n{_roff(_paragraphs(command.help))}"
        for option, text in options(command):
            yield f".TP\n.B {_roff(option)}\n{_roff(text)}"
    yield f".SH EXIT STATUS\n{_roff(root.epilog or '')}"
    files = ("/etc/xcp-gateway/gateway.toml", "/etc/xcp-gateway/mappings.d/", "/run/xcp-gateway/admin")
    yield ".SH FILES\n" + "\n.br\n".join(f".I {file}" for file in files)
    yield ".SH SEE ALSO\n.BR gateway.toml (5)"


def _config_manual() -> Iterator[str]:
    yield from _head("gateway.toml", 5, "configuration of xcp-gateway")
    yield ".SH DESCRIPTION\n" + _roff(
        "The file is TOML. `xcp-gateway check` reports every problem of it with line and column; `xcp-gateway schema "
        "--config` prints its JSON Schema. A duration is text such as 30s, a size text such as 300KiB."
    )
    for name, section in sections():
        yield f".SH {_roff(f'[{name}]' if name else 'TOP LEVEL')}\n{_roff(section['description'])}"
        for key, of in section["properties"].items():
            default = default_words(key, section)
            note = "Required." if default == "required" else "" if default == "-" else f"Default: {default}."
            words = f"{of['description']} Value: {value_words(of)}. {note}".rstrip()
            yield f".TP\n.B {_roff(key)}\n{_roff(words)}"
    yield ".SH SEE ALSO\n.BR xcp-gateway (1)"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "").replace("'", "\\(aq")
    lines = (f"\\&{line}" if line.startswith(".") else line for line in escaped.split("\n"))
    return "\n".join(line if line.strip() else ".PP" for line in lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--man"]:
        manual(Path(sys.argv[2]))
    else:
        PAGE.write_text(page())
