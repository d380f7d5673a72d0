"""The dialects, by their names in mapping files; each is created for the codec that it is used with."""

from collections.abc import Callable

from adapters.dialects import plain, xapi_idl, xenapi
from gateway.core.interfaces import Dialect

DIALECTS: dict[str, Callable[[str], Dialect]] = {
    "plain": plain.Dialect,
    "xenapi": xenapi.Dialect,
    "xapi_idl": xapi_idl.Dialect,
}
