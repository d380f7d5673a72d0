"""What answers calls: name in config -> class."""

from adapters.backends import dbus, legacy, memory

BACKENDS = {"dbus": dbus.Backend, "legacy": legacy.Backend, "memory": memory.Backend}
