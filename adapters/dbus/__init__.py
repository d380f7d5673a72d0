"""The backend that calls D-Bus services."""
