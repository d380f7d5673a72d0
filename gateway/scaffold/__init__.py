"""Writes IDL and mapping files from descriptions of an API: a start that a person completes."""
