"""Paths, templates and permissions of xenstore nodes."""
