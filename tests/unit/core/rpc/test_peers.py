from __future__ import annotations

import struct

import pytest

from gateway.core.rpc.model import CREDENTIALS_SIZE, Peer, caller, credentials, is_loopback, share_owner


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


@pytest.mark.parametrize(
    ("peer", "owner"),
    [
        (Peer("tcp:192.0.2.1:4711"), "tcp:192.0.2.1"),
        (Peer("tcp:[2001:db8:0:1:2:3:4:5]:4711"), "tcp:[2001:db8:0:1::/64]"),
        (Peer("tcp:[2001:db8:0:1:ffff::]:1"), "tcp:[2001:db8:0:1::/64]"),
        (Peer("tcp:[::ffff:192.0.2.1]:1"), "tcp:192.0.2.1"),
        (Peer("tcp:[fe80::1%eth0]:1"), "tcp:[fe80::/64]"),
        (Peer("tcp:[::1]:1"), "tcp:[::1]"),
        (Peer("unix:/run/rpc", uid=1000), "uid 1000"),
        (Peer("tcp:unknown:0"), "tcp:unknown"),
    ],
)
def test_one_user_one_address_and_one_ipv6_network_share_a_quota(peer: Peer, owner: str) -> None:
    assert share_owner(peer) == owner


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp:127.0.0.1:1", True),
        ("tcp:127.9.9.9:1", True),
        ("tcp:[::1]:1", True),
        ("tcp:[::ffff:127.0.0.1]:1", True),
        ("tcp:192.0.2.1:1", False),
        ("tcp:unknown:0", False),
        ("unix:/run/rpc", False),
    ],
)
def test_loopback_is_told(address: str, local: bool) -> None:
    assert is_loopback(Peer(address)) is local


def test_users_have_no_sign() -> None:
    told = struct.pack("iII", 7, 2**32 - 2, 2**31)
    assert len(told) == CREDENTIALS_SIZE
    assert credentials(told) == (7, 2**32 - 2, 2**31)
