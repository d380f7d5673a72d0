"""Removes answers that nobody takes away: those that were there at two looks, so much time apart. Answers nothing."""

from __future__ import annotations

from adapters.transports import xenstore_reading
from adapters.transports.xenstore_packets import StoreError
from adapters.transports.xenstore_shared import Shared
from adapters.transports.xenstore_steps import do
from adapters.transports.xenstore_store import LostError, Store
from adapters.transports.xenstore_style import Style
from gateway.core.exposure import DOM0
from gateway.core.nodes import Match, Template


async def collect(style: Style, shared: Shared, after: float) -> None:
    """Look every so many seconds, until cancelled."""
    template = style.answers
    assert template is not None
    before: frozenset[str] = frozenset()
    while True:
        await shared.sleep(after)
        try:
            there = await _answers(shared.store, template)
            for node in sorted(before & there.keys()):
                await _remove(shared.store, style, there.pop(node))
            before = frozenset(there)
        except (StoreError, LostError) as error:
            shared.tell(f"answers at {template} cannot be collected: {error}")


async def _answers(store: Store, template: Template) -> dict[str, Match]:
    return {match.node: match for match in await xenstore_reading.places(store, template, template.root)}


async def _remove(store: Store, style: Style, answer: Match) -> None:
    await store.transaction(lambda nodes: do(nodes, style.leftovers(answer), DOM0))
