"""The styles of asking over a xenstore, by their name in mapping files."""

from collections.abc import Mapping

from adapters.transports import (
    xenstore_chunked,
    xenstore_deletion,
    xenstore_directory,
    xenstore_mailbox,
    xenstore_tree,
    xenstore_word,
)
from adapters.transports.xenstore_style import Style

STYLES: Mapping[str, type[Style]] = {
    "tree": xenstore_tree.Style,
    "chunked": xenstore_chunked.Style,
    "mailbox": xenstore_mailbox.Style,
    "word": xenstore_word.Style,
    "deletion": xenstore_deletion.Style,
    "directory": xenstore_directory.Style,
}
