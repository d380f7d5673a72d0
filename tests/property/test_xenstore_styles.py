"""Whatever stands in a store and whatever is answered: no style fails, none writes outside the place that was asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.codecs.xenstore import Codec
from adapters.xenstore.styles.base import Request, Write, WriteStep
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, Outcome, Reply
from gateway.core.xenstore.paths import MAX_PATH, StateWords, is_path, unpack
from tests.kit.values import anything
from tests.kit.xenstore_clients import Tried

WORDS = StateWords(commit="READY", in_progress="TAKEN", done="DONE", failed="FAILED", truncated="CUT", limit=4)
DOMAIN = "/local/domain/{domid}"
BELOW = "/local/domain/5"

# Each with a request's node, and below what it may write.
STYLES = {
    "tree": (Tried("tree", f"{DOMAIN}/svc"), f"{BELOW}/svc/rpc/request/f/1", f"{BELOW}/svc/rpc/response/f/1"),
    "chunked": (Tried("chunked", f"{DOMAIN}/svc"), f"{BELOW}/svc/query/1", f"{BELOW}/svc/reply/1"),
    "mailbox": (Tried("mailbox", f"{DOMAIN}/dm", answers=(("f", WORDS),)), f"{BELOW}/dm", f"{BELOW}/dm"),
    "word": (Tried("word", f"{DOMAIN}/control/w"), f"{BELOW}/control/w", f"{BELOW}/control/w"),
    "deletion": (Tried("deletion", f"{DOMAIN}/control/w", states=WORDS), f"{BELOW}/control/w", f"{BELOW}/control"),
    "directory": (Tried("directory", f"{DOMAIN}/control", states=WORDS), f"{BELOW}/control", f"{BELOW}/control"),
}
NAMES = st.sampled_from(["cmd", "submit", "data00", "state", "command", "parameter", "a", "@2e", "0"])
PATHS = st.lists(NAMES, max_size=3).map("/".join)
VALUES = st.binary(max_size=8) | st.sampled_from([b"", b"1", b"READY", b"TAKEN", b"f", b"../..", b"/", b"\0", b"@"])
TREES = st.none() | st.dictionaries(PATHS, VALUES, max_size=6)
OUTCOMES: st.SearchStrategy[Outcome] = st.builds(Reply, anything()) | st.builds(
    Fault, st.sampled_from(FaultCode), st.text(max_size=20), st.text(max_size=5), anything()
)


def written(steps: list[WriteStep], below: str) -> None:
    """Every step stays where it may, and every path is one, if it is not too long for any store."""
    for step in steps:
        assert step.path == below or step.path.startswith(f"{below}/"), step
        assert is_path(step.path) or len(step.path) > MAX_PATH, step


@pytest.mark.parametrize("name", STYLES)
@given(tree=TREES, beside=st.lists(st.none() | VALUES, min_size=4, max_size=4), outcome=OUTCOMES)
def test_no_style_fails_or_writes_outside(
    name: str, tree: dict[str, bytes] | None, beside: list[bytes | None], outcome: Outcome
) -> None:
    tried, node, below = STYLES[name]
    match = tried.match(node)
    wanted = tried.style.read_set(match)
    nodes = {path: value for path, value in zip(wanted.nodes, beside, strict=False) if value is not None}
    asked = tried.style.parse(match, nodes) or Request("f")
    if asked.conditions and wanted.tree is not None:
        asked = tried.style.complete(match, asked, tree or {})
    written(list(tried.style.start(match, asked)), below)
    items = unpack(Codec().encode(Envelope((Call("f"),)), [outcome]))
    pairs = [(path.decode(), value) for path, value in zip(items[::2], items[1::2], strict=True)]
    steps = tried.style.respond(match, asked, pairs)
    if not isinstance(steps, Fault):
        written(list(steps), below)
        assert all(isinstance(step.value, bytes) for step in steps if isinstance(step, Write))
