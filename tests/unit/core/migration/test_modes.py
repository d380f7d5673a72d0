from __future__ import annotations

import pytest

from gateway.core.migration.modes import BUCKETS, Mode, Setting, Side, percent, share
from tests.kit.cases import each_case


@each_case(
    ("text", "buckets"),
    [("0%", 0), ("100%", BUCKETS), ("10%", 10_000), ("12.5", 12_500), (1, 1_000), ("0.01%", 10), ("0.001%", 1)],
)
def test_a_share_is_read_in_thousandths_of_a_per_cent(text: str | float, buckets: int) -> None:
    assert share(text) == buckets
    assert share(percent(buckets)) == buckets


@each_case("text", ["", "%", "-1%", "100.001%", "0.0001%", "ten", "nan", "inf"])
def test_what_is_no_share_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="expected a share from 0% to 100%"):
        share(text)


@each_case(
    ("setting", "words"),
    [
        (Setting(Mode.LEGACY), "legacy"),
        (Setting(Mode.SHADOW), "shadow"),
        (Setting(Mode.SHADOW, control=Side.DBUS), "shadow of dbus"),
        (Setting(Mode.CANARY, buckets=10), "canary 0.01%"),
        (Setting(Mode.DBUS, observe=True), "dbus observed"),
        (Setting(Mode.SHADOW, noise=True), "shadow noise"),
    ],
)
def test_a_setting_says_itself_in_words(setting: Setting, words: str) -> None:
    assert str(setting) == words
