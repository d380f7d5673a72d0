"""Style `directory`: the nodes of the directory PATH ask once its state node has a certain word; `control/batcmd`.

The state tells when the request is taken and when it is done; results are written into the same directory, which the
client removes. A request that is taken is done once: after a crash it has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapters.xenstore.styles.base import (
    Pairs,
    ReadSet,
    Request,
    Simple,
    Write,
    WriteStep,
    error_of,
    handed,
    named_only,
    pairs_below,
    unsayable,
)
from adapters.xenstore.styles.mailbox import word
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import StateWords
from gateway.core.xenstore.paths import Match, element


class Directory(Simple):
    """The word that commits is the method unless the mapping names one."""

    @property
    def _words(self) -> StateWords:
        return self.exposure.states or StateWords()

    def signed(self, match: Match) -> str:
        """The state, which commits."""
        return f"{match.node}/{self._words.node}"

    def wanted(self, match: Match) -> ReadSet:
        """The state, and then all that is in the directory."""
        return ReadSet((self.signed(match),), match.node)

    def asks(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A directory whose state is the word that commits, or the one that says it was taken."""
        words = self._words
        state = nodes.get(self.signed(match), b"").decode("utf-8", "replace")
        begun = bool(words.in_progress) and state == words.in_progress
        if not state or (state != words.commit and not begun):
            return None
        method = element(self.exposure.method) if self.exposure.method else word(words.commit.encode())
        return Request(method, (), {self.signed(match): state.encode()}, begun=begun)

    def request(self, match: Match, asked: Request, tree: Mapping[str, bytes]) -> Request:
        """Its nodes; once its state says that it is taken, what the client does to them is no matter."""
        words = self._words
        pairs = [(path, value) for path, value in pairs_below(tree) if path != words.node]
        conditions = {} if words.in_progress else {f"{match.node}/{path}": value for path, value in pairs}
        state = (words.in_progress or words.commit).encode()
        return replace(asked, pairs=pairs, conditions={**conditions, self.signed(match): state})

    def begin(self, match: Match, request: Request) -> Sequence[WriteStep]:
        """The state says that it is taken."""
        words = self._words
        if request.begun or not words.in_progress:
            return ()
        return [Write(f"{match.node}/{words.node}", words.in_progress.encode())]

    def answer(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The results, cut where the mapping says how long they may be, and then the state."""
        words = self._words
        if not named_only(pairs):
            return unsayable("$: expected a struct, whose members become the nodes of the directory")
        limit = words.limit or None
        cut = any(len(value) > words.limit for _, value in pairs) if limit else False
        done = words.truncated if cut and words.truncated else words.done
        said = words.failed if error_of(pairs) else done
        nodes = handed(match.node, [(path, value[:limit]) for path, value in pairs])
        return [*nodes, *([Write(f"{match.node}/{words.node}", said.encode())] if said else [])]

    def beside(self, match: Match) -> str | None:
        """The directory."""
        return match.node
