"""Blocks that a step gave away: what was not stored of whoever had them before is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvplan.engine.live import Status
from kvplan.engine.numbered.cache import WHOLE
from kvplan.engine.numbered.request import NumberedRequest
from kvplan.engine.offloading.grouped.layout import GroupLayout
from kvplan.engine.offloading.grouped.offloaded import Offloaded
from kvplan.engine.reference.pool import NULL_BLOCK


def given_blocks(
    groups: Sequence[GroupLayout],
    grown: Mapping[NumberedRequest, tuple[int, ...] | None],
    known: Mapping[NumberedRequest, Offloaded],
    open_requests: Iterable[NumberedRequest],
) -> set[int]:
    """Blocks that somebody was given in this step.

    Args:
        groups: of the cache.
        grown: who was given some, and how long its tables were before, or ``WHOLE``.
        known: what is stored of requests; those that run learn of their new blocks.
        open_requests: of whose blocks some may be given away before they are stored: they lose these.
    """
    given: set[int] = set()
    seen: dict[NumberedRequest, list[int]] = {}
    for request, lengths in grown.items():
        had = seen[request] = []
        for group, table in zip(groups, request.state.blocks, strict=True):
            blocks = table if lengths is WHOLE else table[lengths[group.index] :]
            given.update(blocks)
            if request.status is Status.RUNNING:
                had.append(known[request].see(group, blocks, anew=lengths is WHOLE))
    given.discard(NULL_BLOCK)
    if given:
        for request in open_requests:
            _lose(groups, known[request], given, seen.get(request))
    return given


def _lose(groups: Sequence[GroupLayout], known: Offloaded, given: set[int], had: list[int] | None) -> None:
    for group in groups:
        if group.window_chunks is None or group.hands_on:
            continue
        index = group.index
        view = known.views[index]
        for place in range(known.offered[index] * group.chunk_blocks, had[index] if had else len(view)):
            if view[place] in given:
                view[place] = NULL_BLOCK
