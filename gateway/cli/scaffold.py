"""`scaffold`: write IDL and a mapping file from the description of an API."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from msgspec import Struct

from gateway.cli.app import (
    DEFAULT_CONFIG,
    FAILED,
    UNUSABLE,
    Commands,
    ConfigOption,
    JsonOption,
    error_text,
    fail,
    flag,
    option,
    parsed,
    positional,
)
from gateway.cli.output import count, err, out, print_json

OF_SERVICE = "."  # an upstream with the name of the service

scaffold = Commands()
commands = Commands()
commands.add_typer(scaffold, name="scaffold")


@scaffold.callback()
def _scaffold() -> None:
    """Write IDL and a mapping file from the description of an API.

    Example: `xcp-gateway scaffold bus org.bluez --output mappings`
    """


@contextmanager
def _refusing(status: int, place: str = "") -> Iterator[None]:
    """End the command where the source of an API cannot be used."""
    from gateway.scaffold import SourceError

    try:
        yield
    except (SourceError, OSError) as error:
        fail(f"{place}{error_text(error)}", status)


@scaffold.command()
def xenapi(
    file: Annotated[
        Path, positional("FILE", "The datamodel: the JSON that xapi ships (xenapi.json), or a subset of it.")
    ],
    directory: Annotated[Path, option("DIR", "Write the files there.", "--output", "-o")] = Path(),
    bus_name: Annotated[
        str, option("NAME", "The bus name of the service; the interfaces begin with it.")
    ] = "org.xen.xcp.xapi",
    *,
    force: Annotated[bool, flag("--force", "Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for the classes of a XenAPI datamodel.

    DIR/idl/NAME.classes.xml has an interface for each class, with its fields as properties and its messages as methods.
    DIR/xapi.yaml binds the classes to it; add the check of sessions, and what your service does differently.

    Example: `xcp-gateway scaffold xenapi xenapi.json --bus-name org.xen.xcp.xapi --output mappings`
    """
    from gateway.core.dbus import names
    from gateway.scaffold import files
    from gateway.scaffold import xenapi as of_xenapi

    path = "/" + parsed(names.bus_name, bus_name, "--bus-name: ").replace(".", "/")
    with _refusing(UNUSABLE):
        content = file.read_bytes()
    with _refusing(UNUSABLE, f"{file}: "):
        idl = Path("idl") / f"{bus_name}.classes.xml"
        made = of_xenapi.make(of_xenapi.read(content), of_xenapi.Names(bus_name, path, str(idl)))
    _write(files.Plan({directory / idl: made.idl, directory / "xapi.yaml": made.mapping}), force=force, as_json=as_json)


class Choice(Struct, frozen=True):
    """The options that all sources of a service have, as their commands show them."""

    directory: Annotated[Path, option("DIR", "The directory of the mapping file.", "--output", "-o")] = Path()
    service: Annotated[
        str, option("NAME", "Name of the service and its file; default: from the bus name.", "--service")
    ] = ""
    listener: Annotated[str, option("NAME", "The listener of the config where clients call.")] = "rpc"
    dry_run: Annotated[bool, flag("--dry-run", "Write nothing; show what would change, as a diff.")] = False
    update: Annotated[bool, flag("--update", "Change files that exist, and keep what is written in them by hand.")] = (
        False
    )
    force: Annotated[bool, flag("--force", "Replace files that exist; what is written in them is lost.")] = False
    as_json: JsonOption = False


def _source(make: Callable[..., None]) -> None:
    """Add a command with the options of `Choice`: the flags last, the others in place of its parameter `choice`."""
    hints = get_type_hints(Choice, include_extras=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in zip(Choice.__struct_fields__, Choice.__struct_defaults__, strict=True)
    ]
    own = inspect.signature(make, eval_str=True).parameters
    parameters, at = list(own.values()), list(own).index("choice")
    flags = [each for each in options if each.default is False]
    parameters[at : at + 1] = [each for each in options if each not in flags]

    def run(**given: Any) -> None:
        make(choice=Choice(**{name: given.pop(name) for name in Choice.__struct_fields__}), **given)

    run.__signature__ = inspect.Signature([*parameters, *flags])  # type: ignore[attr-defined]
    run.__doc__ = make.__doc__
    scaffold.command(make.__name__)(run)


@_source
def bus(
    *,
    name: Annotated[str, positional("BUS_NAME", "The bus name of the running service.")],
    address: Annotated[
        str, typer.Option("--address", "-a", help="The address of the bus; default: that of the config.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    choice: Choice,
    objects: Annotated[
        list[str] | None, option("PATH", "Look at this object too; may be repeated.", "--object")
    ] = None,
    max_objects: Annotated[int, option("COUNT", "Look at no more objects.", min=1)] = 1000,
    follow: Annotated[bool, flag("--follow", "Call methods that read by their names and return objects.")] = False,
    by_name: Annotated[
        bool, flag("--by-name", "Clients name an object by a property, where it makes the paths of all objects.")
    ] = False,
) -> None:
    """Write IDL and a mapping file for a running D-Bus service.

    Looks at the objects that introspection, object managers and properties show; it changes nothing of the service.

    Example: `xcp-gateway scaffold bus org.bluez --address unix:path=/run/dbus/system_bus_socket --output mappings`
    """
    import asyncio

    from gateway.core.dbus import names
    from gateway.scaffold import bus as of_bus

    parsed(names.bus_name, name)
    paths = [parsed(names.object_path, path) for path in objects or ()]
    where = of_bus.Where(address or _address(config, name), name, paths, follow=follow, max_objects=max_objects)
    with _refusing(FAILED), err.status(f"looking at {name}") as status:

        def progress(objects: int, interfaces: int) -> None:
            status.update(f"looking at {name}: {count(objects, 'object')}, {count(interfaces, 'interface')}")

        found = asyncio.run(of_bus.look(where, progress))
    _finish(choice, found, f"xcp-gateway scaffold bus {name}", by_name=by_name, complete=False)


@_source
def introspection(
    *,
    sources: Annotated[list[Path], positional("FILE...", "Introspection XML.")],
    bus_name: Annotated[str, option("NAME", "The bus name of the service; default: from the interfaces.")] = "",
    object_path: Annotated[str, option("PATH", "The object of interfaces for which the files name none.")] = "",
    choice: Choice,
) -> None:
    """Write IDL and a mapping file for the interfaces in introspection XML.

    Example: `xcp-gateway scaffold introspection org.example.Shelf1.xml --object-path /org/example/shelf`
    """
    from gateway.core.dbus import names
    from gateway.scaffold import description

    with _refusing(UNUSABLE):
        found = description.from_files(sources, parsed(names.bus_name, bus_name) if bus_name else "")
    object_path = parsed(names.object_path, object_path) if object_path else ""
    command = f"xcp-gateway scaffold introspection {' '.join(each.name for each in sources)}"
    _finish(choice, found, command, object_path=object_path)


BusName = Annotated[str, option("NAME", "The bus name that the service shall have.")]
UpstreamName = Annotated[
    str, option("NAME", "The [upstream.NAME] of the config with the legacy service.", "--upstream")
]


@_source
def openrpc(
    *,
    file: Annotated[Path, positional("FILE", "An OpenRPC document, or the answer to `rpc.discover`.")],
    bus_name: BusName,
    choice: Choice,
    upstream: UpstreamName = "",
) -> None:
    """Write IDL and a mapping file for a D-Bus service with the methods of an OpenRPC document.

    Example: `xcp-gateway scaffold openrpc openrpc.json --bus-name org.example.Shop --output mappings`
    """
    from gateway.scaffold import openrpc as of_openrpc

    with _refusing(UNUSABLE, f"{file}: "):
        methods = of_openrpc.read(file.read_bytes())
    _finish_legacy(choice, methods, bus_name, f"xcp-gateway scaffold openrpc {file.name}", upstream=upstream)


@_source
def methods(
    *,
    url: Annotated[
        str, positional("URL", "The legacy service: http://, https:// or http+unix://%2Frun%2Fsocket/path.")
    ],
    bus_name: BusName,
    codec: Annotated[str, option("CODEC", "The protocol of the server: xmlrpc or jsonrpc.")] = "xmlrpc",
    choice: Choice,
    upstream: UpstreamName = "",
) -> None:
    """Write IDL and a mapping file for a D-Bus service with the methods that a legacy service lists.

    Asks for system.listMethods, system.methodSignature and system.methodHelp.
    At first, all calls go to the legacy service.

    Example: `xcp-gateway scaffold methods http://localhost:8000/RPC2 --bus-name org.example.Shop --output mappings`
    """
    import asyncio
    from urllib.parse import urlsplit

    from gateway.scaffold import legacy_service

    if codec not in ("xmlrpc", "jsonrpc"):
        fail(f"--codec: expected xmlrpc or jsonrpc, got '{codec}'", UNUSABLE)
    with _refusing(FAILED), err.status(f"asking {url}") as status:

        def progress(asked: int, of: int) -> None:
            status.update(f"asking {url}: {asked} of {of} methods")

        found = asyncio.run(legacy_service.ask(url, codec, progress))
    command, endpoints = f"xcp-gateway scaffold methods {url}", ((urlsplit(url).path or "/", codec),)
    _finish_legacy(choice, found, bus_name, command, upstream=upstream or OF_SERVICE, endpoints=endpoints)


@_source
def recording(
    *,
    file: Annotated[Path, positional("FILE", "A recording of `xcp-gateway record`.")],
    bus_name: BusName,
    choice: Choice,
    upstream: UpstreamName = "",
) -> None:
    """Write IDL and a mapping file for a D-Bus service with the methods of a recording.

    Example: `xcp-gateway scaffold recording calls.jsonl --bus-name org.example.Shop --output mappings`
    """
    from gateway.scaffold import recording as of_recording

    with _refusing(UNUSABLE, f"{file}: "), file.open("rb") as lines:
        found = of_recording.read(lines)
    more = {"upstream": upstream or OF_SERVICE, "endpoints": found.endpoints, "complete": False}
    _finish_legacy(choice, found.methods, bus_name, f"xcp-gateway scaffold recording {file.name}", **more)


def _finish_legacy(choice: Choice, methods: Any, bus_name: str, command: str, **more: Any) -> None:
    """Write the files for methods of a legacy service."""
    from gateway.core.dbus import names
    from gateway.scaffold import legacy

    parsed(names.bus_name, bus_name, "--bus-name: ")
    described = legacy.describe(bus_name, _service(bus_name, choice), methods)
    if not described.interfaces:
        fail("there is no method but those that the gateway answers itself (system.*, rpc.*)", UNUSABLE)
    _finish(choice, described, command, **more)


def _service(bus_name: str, choice: Choice) -> str:
    """The name of the service: as chosen, or the last word of the bus name."""
    from gateway.scaffold.guesses import snake

    word = re.sub(r"[0-9]+$", "", bus_name.rpartition(".")[2])
    service = choice.service or snake(word).replace("_", "")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", service) is None:
        fail(f"--service: expected a name of letters, digits, _ . and -, got {service!a}", UNUSABLE)
    return service


def _address(config: Path, name: str) -> str:
    """The address of the bus of the config that has the service."""
    from fnmatch import fnmatchcase

    from gateway.config import ConfigError, load

    try:
        buses = load(config).bus
    except (ConfigError, OSError) as error:
        fail(f"{error_text(error)}; or name the bus with --address", UNUSABLE)
    fitting = [
        (not any(wildcard in pattern for wildcard in "*?["), len(pattern), bus.address)
        for bus in buses.values()
        for pattern in bus.services
        if fnmatchcase(name, pattern)
    ]
    if not fitting:
        fail(f"no bus of {config} has {name}: add it to `services` of a [bus.NAME] section, or use --address", UNUSABLE)
    return max(fitting)[2]


def _finish(
    choice: Choice,
    found: Any,
    command: str,
    *,
    object_path: str = "",
    by_name: bool = False,
    upstream: str = "",
    endpoints: tuple[tuple[str, str], ...] = (),
    complete: bool = True,
) -> None:
    """Write the files of a described service, or show what would change.

    `complete`: what the description does not have, the service does not have.
    """
    from ruamel.yaml.error import YAMLError

    from gateway.core.dbus.introspection_xml import IdlError
    from gateway.mapping.rewrite import RewriteError
    from gateway.scaffold import SourceError, files
    from gateway.scaffold.mapping import Settings

    service = _service(found.bus_name, choice)
    upstream = service if upstream == OF_SERVICE else upstream
    where = f"idl/{found.bus_name}.xml"
    settings = Settings(service, where, command, choice.listener, object_path, by_name, upstream, endpoints)
    idl, mapping = files.paths(settings, choice.directory)
    try:
        if choice.force:
            plan = files.new_files(found, settings, choice.directory)
        else:
            plan = files.updated_files(found, settings, choice.directory, complete=complete)
    except IdlError as error:
        fail(f"{idl}:{error.line}:{error.column}: {error}; --force replaces it", FAILED)
    except SourceError as error:
        fail(str(error), FAILED)
    except RewriteError as error:
        fail(f"{mapping} cannot be updated: {error}; --force replaces it", FAILED)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        fail(f"{mapping}: {error_text(error)}", FAILED)
    _write(plan, force=choice.force or choice.update, as_json=choice.as_json, dry_run=choice.dry_run)


def _write(plan: Any, *, force: bool, as_json: bool, dry_run: bool = False) -> None:
    """Write the files of a plan, or show what would change. At a terminal a person is asked about those that exist."""
    changed: dict[Path, str] = plan.changed
    if not as_json:
        for note in plan.notes:
            err.print(f"note: {note}")
        there = [str(path) for path in changed if path in plan.before]
        if there and not force and not dry_run and sys.stdin.isatty():
            force = typer.confirm(f"Update {' and '.join(there)}?")
    existing = next((path for path in changed if path.exists()), None)
    if existing is not None and not force and not dry_run:
        fail(
            f"{existing} exists: --dry-run shows what would change, --update changes it and keeps what is written "
            "by hand, --force replaces it, --output names another directory",
            FAILED,
        )
    with _refusing(FAILED):
        for path, text in () if dry_run else changed.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    if as_json:
        diff = "\n".join(plan.diff()) if dry_run else ""
        print_json({"files": list(map(str, changed)), "written": not dry_run, "notes": plan.notes, "diff": diff})
    elif dry_run or changed:
        for line in plan.diff() if dry_run else map(str, changed):
            out.print(line)
    else:
        err.print("nothing to change")
