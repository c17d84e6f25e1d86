"""What an SGLang decode server gives sliding windows and recurrent states: it has no radix cache.

Where a limit on running requests is given, both pools are as large as these may need, and other memory is
for tokens of the full pool (``SWARequestCapPoolConfigurator``, ``mamba_pool.from_max_running_requests`` of
0.5.23). Without a limit they have their share of memory, as on a server that does both.
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.sizing.pool import RankPool


def window_cap(span: int, interval: int, page: int, requests: int, extra_slots: int) -> int:
    """Tokens of the pool for windows of as many requests, whole pages (``compute_swa_request_cap``).

    Args:
        span: tokens before a token that layers look at.
        interval: tokens that leave a window before a request gives any back.
        requests, extra_slots: that may run, and that may have room beside them.
    """
    each = span + interval + page + page
    tokens = each * requests + (span + page) * extra_slots
    return -(-tokens // page) * page


def tokens_beside_windows(pool: RankPool, pool_bytes: int, windows: int) -> int:
    """Tokens of the full pool, whole pages, beside so many of the one for windows."""
    full, window = pool.bytes_apart
    return _pages(pool_bytes - windows * window, full, pool.block_size)


def tokens_beside_states(pool: RankPool, pool_bytes: int, slots: int) -> int:
    """Tokens, whole pages, beside so many slots for states and one that nobody is given."""
    return _pages(Fraction(pool_bytes - (slots + 1) * pool.state_bytes), pool.token_bytes, pool.block_size)


def _pages(left: Fraction, token_bytes: Fraction, page: int) -> int:
    return max(0, int(left / token_bytes) // page * page)
