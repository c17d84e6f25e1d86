"""What chunks of a request's content are called: equal prefixes have equal names."""

from __future__ import annotations

from kvplan.engine.content import BlockKey, Content


class ChunkNames:
    """Numbers for chunks, the same for the same tokens after the same chunks.

    Args:
        tokens: of one chunk.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._names: dict[tuple[int, BlockKey], int] = {}

    def extend(self, names: list[int], content: Content, chunks: int) -> None:
        """Make a list of a content's first names at least ``chunks`` long; it must have as many tokens."""
        known, tokens = self._names, self.tokens
        above = names[-1] if names else -1
        for chunk in range(len(names), chunks):
            above = known.setdefault((above, content.block_key(chunk * tokens, tokens)), len(known))
            names.append(above)
