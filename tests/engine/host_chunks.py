"""The host's chunks one by one, under vLLM's connector; a helper of tests."""

from __future__ import annotations

from kvplan.engine.content import Content
from kvplan.engine.offloading.turn import Row


def standing(row: Row) -> list[tuple[Content, int]]:
    """Its chunks, first to go first, each as a place in a content."""
    found: list[tuple[Content, int]] = []
    for turn in row.turns:
        chunks = [(run.content, place) for run in turn.runs for place in range(run.start, run.end)]
        found += reversed(chunks) if turn.backwards else chunks
    assert len(found) == row.chunks
    return found
