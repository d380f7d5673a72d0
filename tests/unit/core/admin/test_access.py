from __future__ import annotations

import pytest

from gateway.core.admin.access import AccessRules, Caller, Principals, Right, denial

ALICE, BOB, CAROL = Caller(1001, frozenset({100}), "alice"), Caller(1002, frozenset({200})), Caller(1003)
RIGHTS = AccessRules(own=990, read=Principals(uids=frozenset({1001})), change=Principals(gids=frozenset({200})))


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize("uid", [0, 990])
def test_root_and_the_gateways_own_user_may_do_everything(uid: int, right: Right) -> None:
    assert RIGHTS.have(Caller(uid), right)


def test_a_list_names_users_and_groups() -> None:
    assert RIGHTS.have(ALICE, Right.READ)
    assert RIGHTS.have(BOB, Right.CHANGE)
    assert not RIGHTS.have(CAROL, Right.READ)


def test_who_may_change_may_read_and_not_the_reverse() -> None:
    assert RIGHTS.have(BOB, Right.READ)
    assert not RIGHTS.have(ALICE, Right.CHANGE)


def test_without_lists_there_is_nobody_else() -> None:
    assert not AccessRules(own=990).shared
    assert not AccessRules(own=990).have(ALICE, Right.READ)
    assert RIGHTS.shared


def test_a_refusal_says_who_was_refused_what_and_where_that_is_said() -> None:
    assert denial(ALICE, Right.CHANGE) == (
        "alice (uid 1001) may not change anything here: neither root, nor the gateway's user, nor in admin.change"
    )
    assert denial(BOB, Right.READ).startswith("uid 1002 may not ask here")
