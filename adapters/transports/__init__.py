"""The transports, by the name a config may use for them."""

from adapters.transports import http

TRANSPORTS = {"http": http.Transport}
