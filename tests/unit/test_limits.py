from __future__ import annotations

import pytest

from adapters.limits import Quota, Reservation


def test_a_room_is_full_when_either_of_its_limits_is_reached() -> None:
    assert not Quota(max_calls=1, max_buffered=1).is_full
    calls, buffered = Quota(max_calls=1), Quota(max_buffered=10)
    calls.calls = 1
    buffered.buffered = 10
    assert calls.is_full
    assert buffered.is_full


def test_what_a_request_holds_is_given_back_whatever_happens() -> None:
    quota = Quota(max_buffered=10)
    with pytest.raises(LookupError), Reservation(quota) as held:  # noqa: PT012
        held.resize(7)
        assert quota.buffered == 7
        raise LookupError
    assert quota.buffered == 0


def test_a_request_may_trade_what_it_holds_for_what_it_needs() -> None:
    quota = Quota(max_buffered=10)
    with Reservation(quota) as one, Reservation(quota) as other:
        one.resize(6)
        other.resize(3)
        assert one.fits(7)
        assert not one.fits(8)
        one.resize(2)
        assert quota.buffered == 5
    assert quota.buffered == 0
