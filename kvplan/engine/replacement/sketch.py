"""How often something was seen lately, in a few bits each: a count-min sketch behind a doorkeeper.

Counters of 4 bits (a byte each here) in 4 rows: an estimate is never below the count since the last
halving but for the cut at 15, and above it only by collisions. A first sighting costs one bit in the
doorkeeper (a Bloom filter) and no counter. After ten sightings per expected item all counters are halved
and the doorkeeper is emptied, so that old fame fades (Einziger, Friedman and Manes, TinyLFU, 2017).
"""

from __future__ import annotations

ROWS = 4
MOST = 15
SAMPLES_PER_ITEM = 10

_HALVED = bytes(value >> 1 for value in range(256))


class FrequencySketch:
    """Approximate counts of 64-bit fingerprints.

    Args:
        items: how many different ones are expected to matter (the cache's capacity in items).
    """

    def __init__(self, items: int) -> None:
        items = max(16, items)
        width = 1 << (2 * items - 1).bit_length()
        self._mask = width - 1
        self._rows = [bytearray(width) for _ in range(ROWS)]
        self._door = bytearray(width)
        self._sample = SAMPLES_PER_ITEM * items
        self._seen = 0

    def add(self, fingerprint: int, times: int = 1) -> None:
        """It was seen ``times`` more times."""
        mask, door = self._mask, self._door
        step = fingerprint >> 32 | 1
        a, b = fingerprint & mask, fingerprint + step & mask
        c, d = fingerprint + 2 * step & mask, fingerprint + 3 * step & mask
        self._seen += times
        if not (door[a] and door[b] and door[c] and door[d]):
            door[a] = door[b] = door[c] = door[d] = 1
            times -= 1
        if times:  # written out: this is the policy's inner loop
            first, second, third, fourth = self._rows
            first[a] = count if (count := first[a] + times) < MOST else MOST
            second[b] = count if (count := second[b] + times) < MOST else MOST
            third[c] = count if (count := third[c] + times) < MOST else MOST
            fourth[d] = count if (count := fourth[d] + times) < MOST else MOST
        if self._seen >= self._sample:
            self._age()

    def estimate(self, fingerprint: int) -> int:
        """Times seen lately, 0 to 16."""
        mask, door = self._mask, self._door
        step = fingerprint >> 32 | 1
        a, b = fingerprint & mask, fingerprint + step & mask
        c, d = fingerprint + 2 * step & mask, fingerprint + 3 * step & mask
        first, second, third, fourth = self._rows
        known = 1 if door[a] and door[b] and door[c] and door[d] else 0
        return known + min(first[a], second[b], third[c], fourth[d])

    def _age(self) -> None:
        self._rows = [row.translate(_HALVED) for row in self._rows]
        self._door = bytearray(len(self._door))
        self._seen //= 2
