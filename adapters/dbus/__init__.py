"""TODO package adapters/dbus."""
