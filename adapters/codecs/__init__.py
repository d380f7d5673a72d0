"""The codecs, by their names in mapping files."""

from collections.abc import Callable
from functools import partial

from adapters.codecs import jsonrpc, xenstore, xmlrpc
from gateway.core.interfaces import Codec

CODECS: dict[str, Callable[..., Codec]] = {
    "xmlrpc": xmlrpc.Codec,
    "jsonrpc": jsonrpc.Codec,
    "xenstore": xenstore.Codec,
}

# The codecs of upstreams: those above, and variants that differ in what they write as a client.
UPSTREAM_CODECS: dict[str, Callable[..., Codec]] = {**CODECS, "jsonrpc1": partial(jsonrpc.Codec, one=True)}
