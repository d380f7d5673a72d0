"""Style `directory`: the nodes of the directory PATH are a request once its state node has the commit word.

`control/batcmd` worked like this. The state shows when the request is taken and when it is done. The results are
written into the same directory, which the client removes. A request that is taken is executed once: after a crash of
the gateway its outcome is unknown, and the state becomes the word for a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from adapters.xenstore.styles.base import (
    BaseStyle,
    Pairs,
    ReadSet,
    Request,
    Write,
    WriteStep,
    error_of,
    named_only,
    owned_nodes,
    pairs_below,
    unrepresentable,
)
from adapters.xenstore.styles.mailbox import word
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.exposure import StateWords
from gateway.core.xenstore.paths import Match, element


class Directory(BaseStyle):
    """The commit word is the method unless the mapping names a method."""

    @property
    def _words(self) -> StateWords:
        return self.exposure.states or StateWords()

    def owner_node(self, match: Match) -> str:
        """The state node, which commits the request."""
        return f"{match.node}/{self._words.node}"

    def read_set(self, match: Match) -> ReadSet:
        """The state node, and then the whole directory."""
        return ReadSet((self.owner_node(match),), match.node)

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A directory whose state is the commit word, or the word for a request that is taken."""
        words = self._words
        state = nodes.get(self.owner_node(match), b"").decode("utf-8", "replace")
        started = bool(words.in_progress) and state == words.in_progress
        if not state or (state != words.commit and not started):
            return None
        method = element(self.exposure.method) if self.exposure.method else word(words.commit.encode())
        return Request(method, (), {self.owner_node(match): state.encode()}, started=started)

    def complete(self, match: Match, request: Request, tree: Mapping[str, bytes]) -> Request:
        """Add the nodes. Once the state shows that the request is taken, the client may change them."""
        words = self._words
        pairs = [(path, value) for path, value in pairs_below(tree) if path != words.node]
        conditions = {} if words.in_progress else {f"{match.node}/{path}": value for path, value in pairs}
        state = (words.in_progress or words.commit).encode()
        return replace(request, pairs=pairs, conditions={**conditions, self.owner_node(match): state})

    def start(self, match: Match, request: Request) -> Sequence[WriteStep]:
        """Write the word for a request that is taken, if there is one."""
        words = self._words
        if request.started or not words.in_progress:
            return ()
        return [Write(f"{match.node}/{words.node}", words.in_progress.encode())]

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The results, cut to the length limit of the mapping, and then the state."""
        words = self._words
        if not named_only(pairs):
            return unrepresentable("$: expected a struct, whose members become the nodes of the directory")
        limit = words.limit or None
        cut = any(len(value) > words.limit for _, value in pairs) if limit else False
        done = words.truncated if cut and words.truncated else words.done
        state = words.failed if error_of(pairs) else done
        nodes = owned_nodes(match.node, [(path, value[:limit]) for path, value in pairs])
        return [*nodes, *([Write(f"{match.node}/{words.node}", state.encode())] if state else [])]

    def shared_folder(self, match: Match) -> str | None:
        """The directory itself."""
        return match.node
