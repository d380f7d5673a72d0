"""The transports, by the name a config may use for them."""

from collections.abc import Callable
from typing import Any

from adapters.transports import http, xenstore

TRANSPORTS: dict[str, Callable[..., Any]] = {"http": http.Transport, "xenstore": xenstore.Transport}
