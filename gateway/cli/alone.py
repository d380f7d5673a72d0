"""Commands that need no running gateway: run one, check files, print what is known."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.command import (
    DEFAULT_CONFIG,
    FAILED,
    FILES,
    GATEWAY,
    UNUSABLE,
    ConfigOption,
    JsonOption,
    app,
    fail,
    words,
)
from gateway.cli.problems import report_problems
from gateway.cli.showing import count, err, out, print_json


@app.command(rich_help_panel=GATEWAY)
def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP reads the mappings again.

    Example: `xcp-gateway run --config /etc/xcp-gateway/gateway.toml`
    """
    import uvloop

    from gateway import app as application
    from gateway import log
    from gateway.config import ConfigError, load

    try:
        settings = load(config)
        log.configure(settings.log.format, settings.log.level)
        uvloop.run(application.run(config))
    except (ConfigError, OSError) as error:
        fail(words(error), UNUSABLE)
    except application.MappingError as error:
        report_problems(error.problems, as_json=False)


@app.command(rich_help_panel=FILES)
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Mapping files or directories; default: those the config names.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    live: Annotated[bool, typer.Option("--live", help="Also against what the running services answer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check mapping files: in themselves, against the IDL and, with --live, against the running services.

    Every problem of every file is one line: `file:line:column: place: what is wrong`.

    Examples: `xcp-gateway check mappings/` or `xcp-gateway check --config gateway.toml --live`
    """
    from gateway import checking
    from gateway.config import ConfigError

    try:
        checked = checking.check(paths or [], config, live=live)
    except (ConfigError, OSError) as error:
        fail(str(error), UNUSABLE)
    for note in checked.notes:
        err.print(f"note: {note}", markup=False, soft_wrap=True)
    if checked.problems:
        report_problems(checked.problems, as_json=as_json)
    nothing_seen = live and checked.contracts > 0 and checked.unseen == checked.contracts
    if as_json:
        seen = {"contracts": checked.contracts, "unseen": checked.unseen} if live else {}
        print_json({"problems": [], "methods": checked.methods, "files": checked.files, "notes": checked.notes, **seen})
    else:
        out.print(
            f"{count(checked.methods, 'method')} in {count(checked.files, 'file')}: no problems (schema and IDL"
            f"{' and the running services' if live and not checked.unseen else ''})",
            soft_wrap=True,
        )
        if checked.unseen:
            told = f"{checked.unseen} of {count(checked.contracts, 'use')} of an interface could not be checked live"
            out.print(f"{told}: see the notes", style="yellow", markup=False, soft_wrap=True)
    if nothing_seen:
        raise typer.Exit(FAILED)


@app.command(rich_help_panel=FILES)
def schema(
    *,
    control: Annotated[
        bool, typer.Option("--control", help="Instead the OpenAPI document of the control socket.")
    ] = False,
) -> None:
    """Print the JSON Schema of mapping files, for editors.

    Examples: `xcp-gateway schema`, `xcp-gateway schema --control > openapi.json`
    """
    if control:
        print(files("gateway.control").joinpath("openapi.json").read_text(encoding="utf-8"), end="")  # noqa: T201
        return
    print(files("gateway.mapping").joinpath("mapping.schema.json").read_text(encoding="utf-8"), end="")  # noqa: T201
