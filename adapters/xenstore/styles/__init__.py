"""The styles of requests in a xenstore, by their name in mapping files."""

from collections.abc import Mapping

from adapters.xenstore.styles import queries, words
from adapters.xenstore.styles.base import Style

STYLES: Mapping[str, type[Style]] = {
    "tree": queries.Tree,
    "chunked": queries.Chunked,
    "mailbox": words.Mailbox,
    "word": words.Word,
    "deletion": words.Deletion,
    "directory": words.Directory,
}
