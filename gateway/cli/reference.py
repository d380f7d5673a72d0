"""`docs`: reference pages of the endpoints, from mapping files and IDL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.cli.app import (
    DEFAULT_CONFIG,
    FAILED,
    UNUSABLE,
    Commands,
    ConfigOption,
    JsonOption,
    PathsArgument,
    check_exists,
    error_text,
    fail,
    option,
)
from gateway.cli.output import out, print_json, report_problems

commands = Commands()


@commands.command()
def docs(
    paths: PathsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    directory: Annotated[Path, option("DIR", "Write the pages there.", "--output", "-o")] = Path(),
    form: Annotated[
        Literal["markdown", "html"], typer.Option("--format", help="The format of the pages.")
    ] = "markdown",
    url: Annotated[str, option("URL", "Where clients reach the listeners; default: from the config.")] = "",
    *,
    as_json: JsonOption = False,
) -> None:
    """Write reference pages: a page for each endpoint, with every method, its errors, and examples of calls.

    Example: `xcp-gateway docs mappings/ --url http://gateway.example.org --format html --output reference`
    """
    from gateway import check
    from gateway.config import ConfigError, base_urls, load
    from gateway.mapping.changes.surface import surface
    from gateway.reference import pages, to_html

    check_exists(paths or [])
    try:
        checked = check.check(paths or [], config, live=False)
        listeners = {} if paths else base_urls(load(config))
        base = url.rstrip("/")
        urls = {
            key: f"{base or listeners.get(key.listener, 'http://localhost:8080')}{key.path}"
            for key in checked.table.endpoints
        }
    except (ConfigError, OSError) as error:
        fail(error_text(error), UNUSABLE)
    if checked.problems:
        report_problems(checked.problems)
    suffix = "html" if form == "html" else "md"
    made = pages(surface(checked.table), urls, suffix=suffix)
    files = {directory / name: to_html(page) if form == "html" else page for name, page in made.items()}
    _write(files)
    if as_json:
        print_json({"files": list(map(str, files))})
        return
    for path in files:
        out.print(str(path))


def _write(files: dict[Path, str]) -> None:
    """Write pages. A file that is there must be a page that was generated before."""
    from gateway.reference import MARK

    try:
        for path in files:
            if path.exists() and MARK.partition(" `")[0] not in path.read_text(encoding="utf-8")[:2000]:
                fail(f"{path} exists and was not generated: name another directory with --output", FAILED)
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(error_text(error), FAILED)
