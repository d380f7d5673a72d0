"""TODO package gateway/core/dbus."""
