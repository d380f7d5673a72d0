"""The styles of requests in a xenstore, by their name in mapping files."""

from collections.abc import Mapping

from adapters.xenstore.styles import chunked, directory, mailbox, tree, value
from adapters.xenstore.styles.base import Style

STYLES: Mapping[str, type[Style]] = {
    "tree": tree.Tree,
    "chunked": chunked.Chunked,
    "mailbox": mailbox.Mailbox,
    "word": value.Word,
    "deletion": value.Deletion,
    "directory": directory.Directory,
}
