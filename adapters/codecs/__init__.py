"""The codecs by their name in mapping files."""

from collections.abc import Callable
from functools import partial

from adapters.codecs import jsonrpc, xenstore, xmlrpc
from gateway.core.interfaces import Codec

CODECS: dict[str, Callable[..., Codec]] = {
    "xmlrpc": xmlrpc.Codec,
    "jsonrpc": jsonrpc.Codec,
    "xenstore": xenstore.Codec,
}

# What an upstream may speak besides: codecs that differ only in what they write as a client.
UPSTREAM_CODECS: dict[str, Callable[..., Codec]] = {**CODECS, "jsonrpc1": partial(jsonrpc.Codec, one=True)}
