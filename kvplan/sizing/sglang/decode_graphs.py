"""Of how many sequences SGLang captures a decode as one CUDA graph.

Read from ``cuda_graph_runner.py`` and ``server_args.py`` of 0.5.1 to 0.5.3, ``cuda_graph_hook.py`` and
``base_cuda_graph_runner.py`` of 0.5.23. While drafting, small batches are padded less, since each sequence
pads with all its drafts. No graph is larger than the requests that may run, and one is as large.
"""

from __future__ import annotations

from kvplan.sizing.sglang.names import Version

TWELVE = (0, 5, 3)
"""A graph of 12 sequences; while drafting steps of 4 from 40 to 60 and of 8 from 72 on."""
SIXTY_FOUR = (0, 5, 5)
"""While drafting a graph of 64 sequences, too."""
LARGEST = (0, 5, 10)
"""The largest is captured whatever its size."""


def decode_graphs(version: Version, largest: int, running: int, *, drafts: bool) -> tuple[int, ...]:
    """Sequences of every graph, rising.

    Args:
        largest: sequences of the largest that is asked for.
        running: requests that may run at a time.
        drafts: whether a decode verifies drafts.
    """
    sizes = _drafting(version) if drafts else _plain(version)
    captured = {size for size in sizes if size <= largest}
    if version >= LARGEST:
        captured.add(largest)
    if running < max(captured):
        captured.add(running)
    return tuple(sorted(size for size in captured if size <= running))


def _plain(version: Version) -> list[int]:
    few = [1, 2, 4, 8] if version < TWELVE else [1, 2, 4, 8, 12]
    return [*few, *range(16, 257, 8), *range(272, 512, 16), *range(512, 4096, 32)]


def _drafting(version: Version) -> list[int]:
    if version < TWELVE:
        sparse = [*range(40, 64, 8), *range(80, 161, 16), *range(160, 257, 8)]
    else:
        sparse = [*range(40, 65 if version >= SIXTY_FOUR else 64, 4), *range(72, 257, 8)]
    return [*range(1, 9), *range(10, 33, 2), *sparse, *range(272, 4096, 16)]
