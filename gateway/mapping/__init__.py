"""Mapping files and IDL -> routes. Reads files, opens no socket."""
