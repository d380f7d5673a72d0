"""The styles whose requests are words in a few nodes: `word`, `deletion`, `mailbox`, `directory`.

`word` (`control/shutdown`, `control/sysrq`): the value of the node PATH is a request. The node becomes empty when the
call is done. There is no word for an error. After one the node is removed: a toolstack that waits for the empty string
takes that as an end, and no request stays that would be executed later.

`deletion` (the snapshots that a guest requests): the node `action` is removed when the call is done. Nodes in the same
folder are parameters, `status` and result.

`mailbox` (qemu-traditional, the device model): PATH/command and PATH/parameter are a request, with one command at a
time, and a word in PATH/state is the response. The client restores the state that it found. The gateway removes the
command when it is done, so that a command that exists always has to be executed.

`directory` (`control/batcmd`): the nodes of the directory PATH are a request once its state node has the commit word.
The state shows when the request is taken and when it is done. The results are written into the same directory, which
the client removes. A request that is taken is executed once: after a crash of the gateway its outcome is unknown, and
the state becomes the word for a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from adapters.xenstore.styles.base import (
    Pairs,
    ReadSet,
    Remove,
    Request,
    Style,
    Write,
    WriteStep,
    error_of,
    only_value,
    pairs_below,
)
from gateway.core.rpc.model import Fault, FaultCode
from gateway.core.xenstore.paths import Match, StateWords, element, member, text_of

VALUE = "value"  # the parameter that gets the word when the mapping names the method


def word(value: bytes) -> str:
    """The value of a node as the path element of a method. Bytes that are not UTF-8 name no method."""
    return element(value.decode("utf-8", "replace"))


def _results(folder: str, pairs: Pairs, nodes: str) -> list[WriteStep] | Fault:
    """The steps that write an answer below a folder with nodes of other domains: each belongs to the caller alone.

    A fault where the answer is a single value. `nodes`: what its members would have become.
    """
    values = dict(pairs)
    if "" in values:
        return Fault(FaultCode.UNREPRESENTABLE, f"$: expected a struct, whose members become {nodes}")
    steps: list[WriteStep] = []
    for top in dict.fromkeys(path.partition("/")[0] for path in values):
        steps.append(Write(f"{folder}/{top}", values.get(top, b""), owned=True))
        steps += [Write(f"{folder}/{path}", value) for path, value in pairs if path.startswith(f"{top}/")]
    return steps


class Word(Style):
    """The word is the method, or the parameter `value` of the method that the mapping names."""

    def read_set(self, match: Match) -> ReadSet:
        """The node itself."""
        return ReadSet((match.node,))

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A node that is not empty."""
        value = nodes.get(match.node, b"")
        if not value:
            return None
        if self.exposure.method:
            return Request(element(self.exposure.method), [(VALUE, value)], {match.node: value})
        return Request(word(value), (), {match.node: value})

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """Empty the node, or remove it after an error. A result is dropped."""
        return [Remove(match.node) if error_of(pairs) else Write(match.node, b"")]


class Deletion(Style):
    """The word is the method unless the mapping names a method."""

    def shared_folder(self, match: Match) -> str:
        """The folder of the word."""
        return match.node.rpartition("/")[0]

    def read_set(self, match: Match) -> ReadSet:
        """The word, and the nodes in the same folder that the mapping names as parameters."""
        folder = self.shared_folder(match)
        return ReadSet((match.node, *(f"{folder}/{name}" for name in self.exposure.parameters)))

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A node that is not empty."""
        value, folder = nodes.get(match.node, b""), self.shared_folder(match)
        if not value:
            return None
        beside = {name: nodes.get(f"{folder}/{name}") for name in self.exposure.parameters}
        pairs = [(member(name), each) for name, each in beside.items() if each is not None]
        method = element(self.exposure.method) if self.exposure.method else word(value)
        return Request(method, pairs, {match.node: value, **{f"{folder}/{name}": beside[name] for name in beside}})

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """Result or error in the same folder, then the state, then the removal of the word, in one transaction."""
        folder, words = self.shared_folder(match), self.exposure.states or StateWords()
        results = _results(folder, pairs, "nodes beside the word")
        if isinstance(results, Fault):
            return results
        status = words.failed if error_of(pairs) else words.done
        if status:
            results.append(Write(f"{folder}/{words.node}", status.encode(), owned=True))
        return [*results, Remove(match.node)]


class Mailbox(Style):
    """The mapping has the state words for success and failure of each method."""

    def owner_node(self, match: Match) -> str:
        """The command node."""
        return f"{match.node}/command"

    def read_set(self, match: Match) -> ReadSet:
        """The command and the parameter."""
        return ReadSet((f"{match.node}/command", f"{match.node}/parameter"))

    def parse(self, match: Match, nodes: Mapping[str, bytes]) -> Request | None:
        """A command node that is not empty."""
        command, parameter = (nodes.get(f"{match.node}/{name}") for name in ("command", "parameter"))
        if not command:
            return None
        pairs = [] if parameter is None else [("parameter", parameter)]
        conditions = {f"{match.node}/command": command, f"{match.node}/parameter": parameter}
        return Request(word(command), pairs, conditions)

    def respond(self, match: Match, request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """A result is written into `parameter`, then the state. An error changes only the state, if it has a word."""
        words = dict(self.exposure.answers).get(text_of(request.method), StateWords())
        steps: list[WriteStep] = []
        state = words.failed if error_of(pairs) else words.done
        if pairs and not error_of(pairs):
            value = only_value([("", each) for path, each in pairs if path == "parameter"] or pairs)
            if value is None:
                why = "$: expected one text, for the node 'parameter'; got a struct or array"
                return Fault(FaultCode.UNREPRESENTABLE, why)
            steps.append(Write(f"{match.node}/parameter", value, owned=True))
        if state:
            steps.append(Write(f"{match.node}/state", state.encode()))
        return [*steps, Remove(f"{match.node}/command")]


class Directory(Style):
    """The commit word is the method unless the mapping names a method."""

    @property
    def _words(self) -> StateWords:
        return self.exposure.states or StateWords()

    def owner_node(self, match: Match) -> str:
        """The state node, which commits the request."""
        return f"{match.node}/{self._words.node}"

    def shared_folder(self, match: Match) -> str:
        """The directory itself."""
        return match.node

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
        if request.started or not self._words.in_progress:
            return ()
        return [Write(self.owner_node(match), self._words.in_progress.encode())]

    def respond(self, match: Match, _request: Request, pairs: Pairs) -> Sequence[WriteStep] | Fault:
        """The results, cut to the length limit of the mapping, and then the state."""
        words = self._words
        limit = words.limit or None
        results = _results(match.node, [(path, value[:limit]) for path, value in pairs], "the nodes of the directory")
        if isinstance(results, Fault):
            return results
        is_cut = limit is not None and any(len(value) > limit for _, value in pairs)
        state = words.failed if error_of(pairs) else (is_cut and words.truncated) or words.done
        if state:
            results.append(Write(self.owner_node(match), state.encode()))
        return results
