"""What every command shares: the application, its options, its exit status, and how one asks a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from gateway.cli import client
from gateway.cli.output import err

# Exit status, the same for every command.
FAILED = 1  # it was tried and did not work: a fault, a refused reload, a gateway that is not ready
UNUSABLE = 2  # bad arguments, or a config that cannot be used
UNREACHABLE = 69  # no gateway answers on the admin socket (EX_UNAVAILABLE)

EPILOG = (
    "Exit status: 0 all well, 1 it did not work, 2 bad arguments or config, 3 mapping file wrong in itself, "
    "4 wrong against the IDL, 5 wrong against the running services, 69 no gateway answers."
)

GATEWAY, FILES, MOVING, OTHER = (
    "Gateway",
    "Mapping files",
    "Moving methods",
    "Other",
)  # under what --help lists a command

app = typer.Typer(
    name="xcp-gateway",
    help="Old XML-RPC, JSON-RPC and xenstore clients of the Xen toolstack reach D-Bus services through mapping files;"
    " one method after the other moves there, and back.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

DEFAULT_CONFIG = Path("/etc/xcp-gateway/gateway.toml")
DEFAULT_SOCKET = Path("/run/xcp-gateway/admin")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The daemon's config.", envvar="XCP_GATEWAY_CONFIG")]
SocketOption = Annotated[
    Path, typer.Option("--socket", help="The gateway's admin socket.", envvar="XCP_GATEWAY_SOCKET")
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def ask(socket: Path, verb: str, path: str, body: object = None, *, timeout: float = 60.0) -> Any:
    """What the running gateway answers; the command ends here when it does not, or refuses."""
    try:
        return client.ask(socket, verb, path, body, timeout=timeout)
    except client.UnreachableError as error:
        fail(str(error), UNREACHABLE)
    except client.RefusedError as error:
        fail(str(error), FAILED)


def fail(message: str, status: int) -> NoReturn:
    """End the command with words and its exit status."""
    err.print(message, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(status)


def argument(text: str) -> object:
    """JSON where it is JSON, else the text itself: `5`, `true`, `'{"a": 1}'`, `xenopsd`."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def words(error: Exception) -> str:
    """An error in the words it was raised with, without Python's "[Errno 98]" before them."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)
