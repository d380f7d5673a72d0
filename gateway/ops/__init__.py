"""The process and its host: log, metrics, systemd, privileges."""
