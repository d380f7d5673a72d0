"""A listener whose requests are nodes."""
