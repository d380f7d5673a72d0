"""Writes IDL and mapping files from descriptions of an API: a start that a person completes."""


class SourceError(Exception):
    """The description of an API cannot be read, or nothing of it can be mapped; the text says where and why."""
