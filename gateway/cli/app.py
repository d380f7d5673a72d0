"""The parts that all commands share: the application, options, exit status, and requests to a running gateway.

A command prints its result on stdout and errors on stderr, each sentence on one line. With `--json` its outcome is one
JSON document on stdout, an error too: {"error": text, "status": exit status}, with "problems" where there are several.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from gateway import __version__
from gateway.cli.commands import LoadedCommands, summaries

# Exit status, the same for every command.
FAILED = 1  # the command was valid and did not succeed: a fault, a refused reload, a gateway that is not ready
UNUSABLE = 2  # bad arguments, or a config that cannot be used
BREAKING = 6  # `check --against` has found changes that break something
UNREACHABLE = 69  # no gateway answers on the admin socket (EX_UNAVAILABLE)

EPILOG = (
    "Exit status: 0 success, 1 failure, 2 bad arguments or config, 3 a mapping file is wrong in itself, "
    "4 it contradicts the IDL, 5 it contradicts the running services, 6 it breaks clients (check --against), "
    "69 no gateway answers."
)

json_output: ContextVar[bool] = ContextVar("json_output", default=False)  # whether errors are printed as JSON

_ClickException: Any = typer.BadParameter.__mro__[2]  # typer brings its own copy of click, or uses the installed one
_Abort: Any = typer.Abort

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Parsed = TypeVar("_Parsed")

_NUMBER = re.compile(r"-\d+(\.\d+)?([eE][+-]?\d+)?")  # negative, as JSON writes it


class _Command(TyperCommand):
    """A command whose help shows a flag without a type, and a required argument without braces."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words. A negative number is an argument; any other word with a dash must be an option."""
        options = {name for each in self.get_params(ctx) for name in (*each.opts, *each.secondary_opts)}
        dashed = {word for word in takewhile(lambda word: word != "--", args) if word[:1] == "-" != word}
        numbers = set(filter(_NUMBER.fullmatch, dashed))
        others = {word.partition("=")[0] for word in dashed - numbers}
        ctx.ignore_unknown_options = bool(numbers) and others <= options  # then only numbers are unknown
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage: `[OPTIONS] METHOD [ARG...]`."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class CommandGroup(TyperGroup):
    """Commands that share a name, such as `rollout`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the group."""
        return _without_type(super().get_params(ctx))


def _without_type(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters


class _Application(CommandGroup):
    """All commands. Prints an error in the arguments as one line, or as JSON where the arguments ask for JSON."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.commands = LoadedCommands()  # type: ignore[assignment] # commands are only looked up

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super(_Application, self._in_summary()).format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        ctx.command = listed = self._in_summary()  # whose commands are listed
        return super(_Application, listed).shell_complete(ctx, incomplete)

    def _in_summary(self) -> _Application:
        """This group with commands that can be listed and not called."""
        listed = copy.copy(self)
        listed.commands = summaries()
        listed.rich_markup_mode = "rich"  # summaries are one line each, and Markdown takes a tenth of the command
        return listed

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **named: Any) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        wanted = not {"--json", "--json-lines"}.isdisjoint(words)
        if not standalone_mode:
            return super().main(words, standalone_mode=False, **named)
        token = json_output.set(wanted)
        try:
            status = super().main(words, standalone_mode=False, **named)
        except _ClickException as error:
            text, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
            if context is not None and isinstance(context.command, TyperGroup) and hasattr(error, "option_name"):
                text += f": options stand after the command: `{context.command_path} COMMAND {error.option_name} ...`"
            if text and context is not None and not wanted:
                text = f"{text}\n{context.get_usage()}; `{context.command_path} -h` shows more"
            status = _print_error(text, error.exit_code)
        except _Abort:
            status = _print_error("interrupted", FAILED)
        finally:
            json_output.reset(token)
        sys.exit(status if isinstance(status, int) else 0)


class Commands(typer.Typer):
    """A group of commands, as this program shows them."""

    def __init__(self, **named: Any) -> None:
        named = {"cls": CommandGroup, "epilog": EPILOG, **named}
        context = {"help_option_names": ["-h", "--help"]}
        super().__init__(no_args_is_help=True, rich_markup_mode="markdown", context_settings=context, **named)

    def command(  # type: ignore[override]
        self, name: str | None = None, *, cls: type[TyperCommand] = _Command, **named: Any
    ) -> Callable[[_Function], _Function]:
        """Add a command."""
        return super().command(name, cls=cls, **named)


app = Commands(name="xcp-gateway", cls=_Application, pretty_exceptions_enable=False)

DEFAULT_CONFIG = Path("/etc/xcp-gateway/gateway.toml")
DEFAULT_SOCKET = Path("/run/xcp-gateway/admin")


def flag(name: str, about: str) -> Any:
    """An option that takes no value."""
    return typer.Option(name, help=about)


def option(metavar: str, about: str, *names: str, **more: Any) -> Any:
    """An option with a value; its name is that of the parameter unless `names` has others."""
    return typer.Option(*names, metavar=metavar, help=about, **more)


def positional(metavar: str, about: str, complete: Callable[..., list[str]] | None = None) -> Any:
    """An argument; `complete` gives the words that a shell offers for it."""
    return typer.Argument(metavar=metavar, help=about, autocompletion=complete)


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The config file of the gateway.", envvar="XCP_GATEWAY_CONFIG")
]
SocketOption = Annotated[
    Path,
    # whether the user may open it is said by client.not_connected
    typer.Option("--socket", help="The admin socket of the gateway.", envvar="XCP_GATEWAY_SOCKET", readable=False),
]
PathsArgument = Annotated[
    list[Path] | None, positional("PATH...", "Mapping files or directories; default: those of the config.")
]
ArgsArgument = Annotated[list[str] | None, positional("ARG...", "Parameters, as JSON or plain text.")]
WhyOption = Annotated[str, option("TEXT", "The reason, for the audit.", "--why")]
JsonOption = Annotated[bool, flag("--json", "Print JSON.")]


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from gateway.cli.output import out

        out.print(f"xcp-gateway {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve legacy XML-RPC, JSON-RPC and xenstore clients of the Xen toolstack from D-Bus services.

    Mapping files define the methods. Each method migrates to D-Bus on its own, and back.
    """


def ask(socket: Path, verb: str, path: str, body: object = None, *, timeout: float = 60.0, **query: object) -> Any:
    """Return the answer of the running gateway; end the command when there is none, or an error."""
    from gateway.cli import client

    with failing():
        return client.ask(socket, verb, path, body, timeout=timeout, **query)


@contextmanager
def failing() -> Iterator[None]:
    """End the command when no gateway answers, or with its error: a request that makes no sense is a bad argument."""
    from http import HTTPStatus

    from gateway.cli import client

    try:
        yield
    except client.UnreachableError as error:
        fail(str(error), UNREACHABLE)
    except client.RefusedError as error:
        fail(str(error), UNUSABLE if error.status == HTTPStatus.UNPROCESSABLE_ENTITY else FAILED)


def fail(message: str, status: int) -> NoReturn:
    """End the command with a message and an exit status."""
    raise typer.Exit(_print_error(message, status))


def _print_error(message: str, status: int) -> int:
    from gateway.cli.output import err, print_json

    if json_output.get():
        print_json({"error": message, "status": status})
    else:
        err.print(message, style="red")
    return status


def argument(text: str) -> object:
    """Decode a parameter: JSON if it is JSON, else the text itself: `5`, `true`, `'{"a": 1}'`, `xenopsd`."""
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def check_exists(paths: Sequence[Path]) -> None:
    """End the command when a file or directory is not there."""
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        fail(f"{missing}: no such file or directory", UNUSABLE)


def error_text(error: Exception) -> str:
    """The text of an error, without Python's "[Errno 98]" before it."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)


def parsed(parse: Callable[[str], _Parsed], text: str, place: str = "") -> _Parsed:
    """Parse an option such as 90s or 64MiB; end the command when it is wrong. `place` begins the message."""
    try:
        return parse(text)
    except ValueError as error:
        fail(f"{place}{error}", UNUSABLE)
