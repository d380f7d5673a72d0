"""`classes` of a mapping file: a stanza that binds a legacy class to D-Bus becomes method entries."""
