from __future__ import annotations

import pytest

from gateway.core.model import Peer
from gateway.core.peers import caller


@pytest.mark.parametrize(
    ("peer", "word"),
    [
        (Peer("tcp:127.0.0.1:4711"), "tcp:127.0.0.1"),
        (Peer("tcp:[::1]:4711"), "tcp:[::1]"),
        (Peer("unix:/run/rpc", uid=1000, gid=5, pid=7), "uid 1000"),
        (Peer("xenstore:/run/socket", domid=0), "domid 0"),
        (Peer("control"), "control"),
        (Peer(), ""),
    ],
)
def test_a_caller_has_one_word_for_all_its_connections(peer: Peer, word: str) -> None:
    assert caller(peer) == word
