"""What answers calls: name in config -> class."""

from adapters.backends import dbus, memory

BACKENDS = {"dbus": dbus.Backend, "memory": memory.Backend}
