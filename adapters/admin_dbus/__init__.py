"""TODO package adapters/admin_dbus."""
