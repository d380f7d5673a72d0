"""The codecs by their name in mapping files."""

from collections.abc import Callable

from adapters.codecs import jsonrpc, xenstore, xmlrpc
from gateway.core.ports import Codec

CODECS: dict[str, Callable[..., Codec]] = {
    "xmlrpc": xmlrpc.Codec,
    "jsonrpc": jsonrpc.Codec,
    "xenstore": xenstore.Codec,
}
