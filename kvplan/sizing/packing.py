"""Into how many groups layers are dealt where a block may hold pages of different sizes side by side.

Layers that need the same token slots come as one *bucket*. A bucket with equally many layers of every page
size is a pattern that repeats; such buckets are cut into groups of equally many repeats, so that every group
fills a block alike. Buckets of state or windows, which ask for few blocks, are cut further until a group is
no wider than a block has to be anyway. Rules of vLLM 0.33 (``_get_packed_kv_cache_groups``).
"""

from __future__ import annotations

from collections.abc import Sequence

Bucket = Sequence[tuple[int, int]]
"""(page bytes, layers) of each page size of a bucket."""


def deal(buckets: Sequence[Bucket], small: Sequence[bool], recurrent: Sequence[bool]) -> list[int]:
    """Groups of each bucket.

    Args:
        small: buckets of windows, which are cut only where no pattern repeats.
        recurrent: buckets of state or of rings.
    """
    repeats = _repeats(buckets)
    numbers = [-(-_most(bucket) // repeats) if repeats and _is_pattern(bucket) else 1 for bucket in buckets]
    shrinks = [state or (not repeats and few) for few, state in zip(small, recurrent, strict=True)]
    block = max(
        _width(bucket, sum(layers for _, layers in bucket) if shrink else number)
        for bucket, number, shrink in zip(buckets, numbers, shrinks, strict=True)
    )
    for index, (bucket, shrink) in enumerate(zip(buckets, shrinks, strict=True)):
        if shrink:
            fitting = max(block // bucket[0][0], 1)
            numbers[index] = max(numbers[index], -(-sum(layers for _, layers in bucket) // fitting))
    return numbers


def _repeats(buckets: Sequence[Bucket]) -> int:
    """Repeats of the pattern in one group; 0 where no bucket has a pattern of several page sizes."""
    least = max((_most(item) for item in buckets if len(item) > 1 and _is_pattern(item)), default=0)
    if not least:
        return 0
    counts = [_most(item) for item in buckets if _is_pattern(item)]
    # The size that leaves the least unfilled; of several the largest.
    return min(range(least, max(counts) + 1), key=lambda size: (sum(-n % size for n in counts), -size))


def _most(bucket: Bucket) -> int:
    return max(layers for _, layers in bucket)


def _is_pattern(bucket: Bucket) -> bool:
    return len({layers for _, layers in bucket}) == 1


def _width(bucket: Bucket, number: int) -> int:
    """Bytes of the widest of ``number`` groups."""
    return sum(-(-layers // number) * page for page, layers in bucket)
