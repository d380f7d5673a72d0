"""The command that is the gateway itself. It imports none of what the other commands print with."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.app import DEFAULT_CONFIG, UNUSABLE, Commands, ConfigOption, error_text, fail

commands = Commands()


@commands.command()
def run(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    worker: Annotated[int | None, typer.Option(hidden=True, help="The descriptor of the supervisor's link.")] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; SIGHUP loads config and mapping files again.

    With `workers` in the config, this process starts that number of others, which serve, and replaces those that end.

    Example: `xcp-gateway run --config /etc/xcp-gateway/gateway.toml`
    """
    import gc

    gc.disable()  # until the gateway has started: what is made before stays, and would be scanned again and again

    import uvloop

    from gateway import server as application
    from gateway import wiring
    from gateway.config import ConfigError, read_text
    from gateway.ops import log
    from gateway.start import MappingError

    try:
        if worker is not None:
            from gateway.workers import worker as one

            uvloop.run(one.run(config, worker))
            return
        text = read_text(config)
        settings = wiring.load_config(config, text)
        log.configure(settings.log.format, settings.log.level)
        if settings.workers > 1:
            import asyncio

            from gateway.workers import supervisor

            gc.enable()
            raise typer.Exit(asyncio.run(supervisor.Supervisor(config, text, settings).run()))
        uvloop.run(application.run(config))
    except (ConfigError, MappingError) as error:
        from gateway.cli.output import report_problems

        report_problems(error.problems)
    except OSError as error:
        fail(error_text(error), UNUSABLE)
    finally:
        gc.enable()
