"""`scaffold`: write IDL and a mapping file from the description of an API."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct

from gateway.cli.app import DEFAULT_CONFIG, FAILED, UNUSABLE, Commands, ConfigOption, JsonOption, error_text, fail
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


@scaffold.command()
def xenapi(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The datamodel: the JSON that xapi ships (xenapi.json), or a subset of it."
        ),
    ],
    directory: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Write the files there.")] = Path(),
    bus_name: Annotated[
        str, typer.Option(metavar="NAME", help="The bus name of the service; the interfaces begin with it.")
    ] = "org.xen.xcp.xapi",
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for the classes of a XenAPI datamodel.

    DIR/idl/NAME.classes.xml has an interface for each class, with its fields as properties and its messages as methods.
    DIR/xapi.yaml binds the classes to it; add the check of sessions, and what your service does differently.

    Example: `xcp-gateway scaffold xenapi xenapi.json --bus-name org.xen.xcp.xapi --output mappings`
    """
    from gateway.core.dbus import names
    from gateway.scaffold import datamodel, files
    from gateway.scaffold import xenapi as of_xenapi

    try:
        path = "/" + names.bus_name(bus_name).replace(".", "/")
    except ValueError as error:
        fail(f"--bus-name: {error}", UNUSABLE)
    try:
        classes = datamodel.read(file.read_bytes())
    except datamodel.DatamodelError as error:
        fail(f"{file}: {error}", UNUSABLE)
    except OSError as error:
        fail(error_text(error), UNUSABLE)
    idl = Path("idl") / f"{bus_name}.classes.xml"
    made = of_xenapi.make(classes, of_xenapi.Names(bus_name, path, str(idl)))
    _write(files.Plan({directory / idl: made.idl, directory / "xapi.yaml": made.mapping}), force=force, as_json=as_json)


class _Choice(Struct, frozen=True):
    """Options that several commands have."""

    directory: Path
    service: str
    listener: str
    dry_run: bool
    update: bool
    force: bool
    as_json: bool
    by_name: bool = False
    upstream: str = ""


Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The directory of the mapping file.")]
ServiceName = Annotated[
    str, typer.Option("--service", metavar="NAME", help="Name of the service and its file; default: from the bus name.")
]
Listener = Annotated[str, typer.Option(metavar="NAME", help="The listener of the config where clients call.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing; show what would change, as a diff.")]
Update = Annotated[
    bool, typer.Option("--update", help="Change files that exist, and keep what is written in them by hand.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist; what is written in them is lost.")]


@scaffold.command()
def bus(
    name: Annotated[str, typer.Argument(metavar="BUS_NAME", help="The bus name of the running service.")],
    address: Annotated[
        str, typer.Option("--address", "-a", help="The address of the bus; default: that of the config.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    directory: Output = Path(),
    service: ServiceName = "",
    listener: Listener = "rpc",
    objects: Annotated[
        list[str] | None, typer.Option("--object", metavar="PATH", help="Look at this object too; may be repeated.")
    ] = None,
    max_objects: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Look at no more objects.")] = 1000,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Call methods that read by their names and return objects.")
    ] = False,
    by_name: Annotated[
        bool,
        typer.Option(
            "--by-name", help="Clients name an object by a property, where it makes the paths of all objects."
        ),
    ] = False,
    dry_run: DryRun = False,
    update: Update = False,
    force: Force = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for a running D-Bus service.

    Looks at the objects that introspection, object managers and properties show; it changes nothing of the service.

    Example: `xcp-gateway scaffold bus org.bluez --address unix:path=/run/dbus/system_bus_socket --output mappings`
    """
    import asyncio

    from gateway.core.dbus import names
    from gateway.scaffold import bus as of_bus

    try:
        names.bus_name(name)
        paths = [names.object_path(path) for path in objects or ()]
    except ValueError as error:
        fail(str(error), UNUSABLE)
    where = of_bus.Where(address or _address(config, name), name, paths, follow=follow, max_objects=max_objects)
    try:
        with err.status(f"looking at {name}") as status:
            found = asyncio.run(
                of_bus.look(where, lambda objects, interfaces: status.update(_progress(name, objects, interfaces)))
            )
    except of_bus.ServiceError as error:
        fail(str(error), FAILED)
    choice = _Choice(
        directory, service, listener, dry_run=dry_run, update=update, force=force, as_json=as_json, by_name=by_name
    )
    _finish(found, choice, f"xcp-gateway scaffold bus {name}", complete=False)


@scaffold.command()
def introspection(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Introspection XML.")],
    bus_name: Annotated[
        str, typer.Option(metavar="NAME", help="The bus name of the service; default: from the interfaces.")
    ] = "",
    object_path: Annotated[
        str, typer.Option(metavar="PATH", help="The object of interfaces for which the files name none.")
    ] = "",
    directory: Output = Path(),
    service: ServiceName = "",
    listener: Listener = "rpc",
    *,
    dry_run: DryRun = False,
    update: Update = False,
    force: Force = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for the interfaces in introspection XML.

    Example: `xcp-gateway scaffold introspection org.example.Shelf1.xml --object-path /org/example/shelf`
    """
    from gateway.core.dbus import names
    from gateway.scaffold import description

    try:
        found = description.from_files(sources, names.bus_name(bus_name) if bus_name else "")
        object_path = names.object_path(object_path) if object_path else ""
    except (ValueError, OSError) as error:
        fail(error_text(error), UNUSABLE)
    except description.FileError as error:
        fail(str(error), UNUSABLE)
    command = f"xcp-gateway scaffold introspection {' '.join(each.name for each in sources)}"
    choice = _Choice(directory, service, listener, dry_run=dry_run, update=update, force=force, as_json=as_json)
    _finish(found, choice, command, object_path, complete=True)


BusName = Annotated[str, typer.Option(metavar="NAME", help="The bus name that the service shall have.")]
UpstreamName = Annotated[
    str, typer.Option("--upstream", metavar="NAME", help="The [upstream.NAME] of the config with the legacy service.")
]


@scaffold.command()
def openrpc(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An OpenRPC document, or the answer to `rpc.discover`.")],
    bus_name: BusName,
    directory: Output = Path(),
    service: ServiceName = "",
    listener: Listener = "rpc",
    upstream: UpstreamName = "",
    *,
    dry_run: DryRun = False,
    update: Update = False,
    force: Force = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for a D-Bus service with the methods of an OpenRPC document.

    Example: `xcp-gateway scaffold openrpc openrpc.json --bus-name org.example.Shop --output mappings`
    """
    from gateway.scaffold import legacy
    from gateway.scaffold import openrpc as of_openrpc

    try:
        methods = of_openrpc.read(file.read_bytes())
    except (legacy.LegacyError, OSError) as error:
        fail(f"{file}: {error_text(error)}", UNUSABLE)
    choice = _Choice(
        directory, service, listener, dry_run=dry_run, update=update, force=force, as_json=as_json, upstream=upstream
    )
    _finish_legacy(methods, bus_name, choice, f"xcp-gateway scaffold openrpc {file.name}", (), complete=True)


@scaffold.command()
def methods(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="The legacy service: http://, https:// or http+unix://%2Frun%2Fsocket/path."
        ),
    ],
    bus_name: BusName,
    codec: Annotated[
        str, typer.Option(metavar="CODEC", help="The protocol of the server: xmlrpc or jsonrpc.")
    ] = "xmlrpc",
    directory: Output = Path(),
    service: ServiceName = "",
    listener: Listener = "rpc",
    upstream: UpstreamName = "",
    *,
    dry_run: DryRun = False,
    update: Update = False,
    force: Force = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for a D-Bus service with the methods that a legacy service lists.

    Asks for system.listMethods, system.methodSignature and system.methodHelp.
    At first, all calls go to the legacy service.

    Example: `xcp-gateway scaffold methods http://localhost:8000/RPC2 --bus-name org.example.Shop --output mappings`
    """
    import asyncio
    from urllib.parse import urlsplit

    from gateway.scaffold import legacy, legacy_service

    if codec not in ("xmlrpc", "jsonrpc"):
        fail(f"--codec: expected xmlrpc or jsonrpc, got '{codec}'", UNUSABLE)
    try:
        with err.status(f"asking {url}") as status:
            found = asyncio.run(
                legacy_service.ask(
                    url, codec, lambda asked, of: status.update(f"asking {url}: {asked} of {of} methods")
                )
            )
    except legacy.LegacyError as error:
        fail(str(error), FAILED)
    choice = _Choice(
        directory,
        service,
        listener,
        dry_run=dry_run,
        update=update,
        force=force,
        as_json=as_json,
        upstream=upstream or OF_SERVICE,
    )
    endpoints = ((urlsplit(url).path or "/", codec),)
    _finish_legacy(found, bus_name, choice, f"xcp-gateway scaffold methods {url}", endpoints, complete=True)


@scaffold.command()
def recording(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording of `xcp-gateway record`.")],
    bus_name: BusName,
    directory: Output = Path(),
    service: ServiceName = "",
    listener: Listener = "rpc",
    upstream: UpstreamName = "",
    *,
    dry_run: DryRun = False,
    update: Update = False,
    force: Force = False,
    as_json: JsonOption = False,
) -> None:
    """Write IDL and a mapping file for a D-Bus service with the methods of a recording.

    Example: `xcp-gateway scaffold recording calls.jsonl --bus-name org.example.Shop --output mappings`
    """
    from gateway.scaffold import legacy
    from gateway.scaffold import recording as of_recording

    try:
        with file.open("rb") as lines:
            found = of_recording.read(lines)
    except (legacy.LegacyError, OSError) as error:
        fail(f"{file}: {error_text(error)}", UNUSABLE)
    choice = _Choice(
        directory,
        service,
        listener,
        dry_run=dry_run,
        update=update,
        force=force,
        as_json=as_json,
        upstream=upstream or OF_SERVICE,
    )
    _finish_legacy(
        found.methods, bus_name, choice, f"xcp-gateway scaffold recording {file.name}", found.endpoints, complete=False
    )


def _finish_legacy(
    methods: Any,
    bus_name: str,
    choice: _Choice,
    command: str,
    endpoints: tuple[tuple[str, str], ...],
    *,
    complete: bool,
) -> None:
    """Write the files for methods of a legacy service."""
    from gateway.core.dbus import names
    from gateway.scaffold import legacy

    try:
        names.bus_name(bus_name)
    except ValueError as error:
        fail(f"--bus-name: {error}", UNUSABLE)
    described = legacy.describe(bus_name, _service(bus_name, choice), methods)
    if not described.interfaces:
        fail("there is no method but those that the gateway answers itself (system.*, rpc.*)", UNUSABLE)
    _finish(described, choice, command, endpoints=endpoints, complete=complete)


def _service(bus_name: str, choice: _Choice) -> str:
    """The name of the service: as chosen, or the last word of the bus name."""
    from gateway.scaffold.guesses import snake

    word = re.sub(r"[0-9]+$", "", bus_name.rpartition(".")[2])
    service = choice.service or snake(word).replace("_", "")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", service) is None:
        fail(f"--service: expected a name of letters, digits, _ . and -, got {service!a}", UNUSABLE)
    return service


def _progress(name: str, objects: int, interfaces: int) -> str:
    return f"looking at {name}: {count(objects, 'object')}, {count(interfaces, 'interface')}"


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
    found: Any,
    choice: _Choice,
    command: str,
    object_path: str = "",
    *,
    endpoints: tuple[tuple[str, str], ...] = (),
    complete: bool,
) -> None:
    """Write the files of a described service, or show what would change.

    `complete`: what the description does not have, the service does not have.
    """
    from ruamel.yaml.error import YAMLError

    from gateway.core.dbus.introspection_xml import IdlError
    from gateway.mapping.rewrite import RewriteError
    from gateway.scaffold import files
    from gateway.scaffold.mapping import Settings

    service = _service(found.bus_name, choice)
    upstream = service if choice.upstream == OF_SERVICE else choice.upstream
    where = f"idl/{found.bus_name}.xml"
    settings = Settings(service, where, command, choice.listener, object_path, choice.by_name, upstream, endpoints)
    idl, mapping = files.paths(settings, choice.directory)
    try:
        if choice.force:
            plan = files.new_files(found, settings, choice.directory)
        else:
            plan = files.updated_files(found, settings, choice.directory, complete=complete)
    except IdlError as error:
        fail(f"{idl}:{error.line}:{error.column}: {error}; --force replaces it", FAILED)
    except files.NothingMappedError as error:
        fail(str(error), FAILED)
    except RewriteError as error:
        fail(f"{mapping} cannot be updated: {error}; --force replaces it", FAILED)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        fail(f"{mapping}: {error_text(error)}", FAILED)
    force = choice.force or choice.update
    _write(plan, force=force, as_json=choice.as_json, dry_run=choice.dry_run)


def _write(plan: Any, *, force: bool, as_json: bool, dry_run: bool = False) -> None:
    """Write the files of a plan, or show what would change."""
    if not as_json:
        for note in plan.notes:
            err.print(f"note: {note}")
    changed = plan.changed
    if not dry_run:
        _write_files(changed, force=force or (not as_json and _confirmed(plan)))
    if as_json:
        diff = "\n".join(plan.diff()) if dry_run else ""
        print_json({"files": list(map(str, changed)), "written": not dry_run, "notes": plan.notes, "diff": diff})
    elif dry_run or changed:
        for line in plan.diff() if dry_run else map(str, changed):
            out.print(line)
    else:
        err.print("nothing to change")


def _confirmed(plan: Any) -> bool:
    """Ask a person at a terminal whether files that exist may be updated."""
    existing = [str(path) for path in plan.changed if path in plan.before]
    return bool(existing) and sys.stdin.isatty() and typer.confirm(f"Update {' and '.join(existing)}?")


def _write_files(files: dict[Path, str], *, force: bool) -> None:
    """Write files; end the command when one exists, unless `force`, or cannot be written."""
    for path in files:
        if path.exists() and not force:
            fail(
                f"{path} exists: --dry-run shows what would change, --update changes it and keeps what is written "
                "by hand, --force replaces it, --output names another directory",
                FAILED,
            )
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    except OSError as error:
        fail(error_text(error), FAILED)
