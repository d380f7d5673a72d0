"""The transports, by the name a config may use for them."""

from adapters.transports import http
from gateway.core import ports

TRANSPORTS: dict[str, type[ports.Transport]] = {"http": http.Transport}
