"""Regular expressions of mapping files, restricted so that matching a text takes a bounded time.

Python's `re` backtracks: `(a+)+b` needs 2^n steps. Here a repetition stands after a single character or class only, and
the product of all choices is limited. A text that is longer than MAX_TEXT is not matched at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

MAX_PATTERN = 256  # characters
MAX_TEXT = 1024  # characters of a text that is matched
MAX_COST = 2**21  # choices that a match may try

_TOKEN = re.compile(
    r"""(?P<escape>\\.)
    | (?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<open>\((?:\?P<[A-Za-z_][A-Za-z0-9_]*>|\?:)?)
    | (?P<close>\))
    | (?P<repeat>[*+]|\{(?P<low>[0-9]*)(?P<range>,(?P<high>[0-9]*))?\})
    | (?P<choice>[|?])
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
# At the end of a pattern: `.*` takes what is left, without a choice. A dot behind a backslash is itself.
_REST = re.compile(r"(?<!\\)\.\*\)*\$?$")


class TextPattern(Struct, frozen=True):
    """A pattern that matches from the beginning of a text; `.` matches every character."""

    expression: re.Pattern[str]

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the names of the groups."""
        return tuple(self.expression.groupindex)

    def match(self, text: str) -> Mapping[str, str] | None:
        """Return the named groups of a match; None for a text that does not match or is too long."""
        found = self.expression.match(text) if len(text) <= MAX_TEXT else None
        return None if found is None else {name: value or "" for name, value in found.groupdict().items()}


def pattern(text: str) -> TextPattern:
    """Compile a pattern; raises ValueError for one that is invalid or may take too long."""
    if len(text) > MAX_PATTERN:
        raise ValueError(f"expected a pattern of at most {MAX_PATTERN} characters, got {len(text)}")
    try:
        expression = re.compile(text, re.DOTALL)
    except (re.error, OverflowError) as error:
        raise ValueError(f"invalid pattern: {error}") from None
    if _cost(_REST.sub("", text)) > MAX_COST:
        raise ValueError("the pattern may take too long: use fewer repetitions and alternatives")
    return TextPattern(expression)


def _cost(text: str) -> int:
    """Return the most choices that a match tries; raises ValueError for what is not supported."""
    cost, before = 1, ""
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup or ""
        kind = "repeat" if kind in ("range", "high", "low") else kind
        written = token[0]
        if kind == "open" and text.startswith("?", token.end()):
            raise ValueError(f"unsupported in a pattern: '{text[token.start() : token.end() + 2]}'")
        if kind == "escape" and written[1].isdigit():
            raise ValueError(f"unsupported in a pattern: '{written}'")
        if kind == "repeat":
            if before == "close":
                raise ValueError(f"'{written}' after a group is unsupported: repeat a character or a class")
            if token["high"]:
                cost *= min(MAX_TEXT, max(1, int(token["high"]) - int(token["low"] or 0) + 1))
            elif token["range"] or written in "*+":
                cost *= MAX_TEXT
        elif kind == "choice" and before != "repeat":  # after a repetition, `?` makes it lazy
            cost *= 2
        before = kind
    return cost
