"""The dialects by their name in mapping files; each is made for the codec it will ride on."""

from collections.abc import Callable

from adapters.dialects import plain, xapi_idl, xenapi
from gateway.core.interfaces import Dialect

DIALECTS: dict[str, Callable[[str], Dialect]] = {
    "plain": plain.Dialect,
    "xenapi": xenapi.Dialect,
    "xapi_idl": xapi_idl.Dialect,
}
