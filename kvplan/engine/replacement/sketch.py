"""How often something was seen lately, in a few bits each: a count-min sketch behind a doorkeeper.

Counters of 4 bits, 4 rows, conservative in nothing: an estimate is never below the count since the last
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
        spots = self._spots(fingerprint)
        self._seen += times
        if not self._at_door(spots):
            for spot in spots:
                self._door[spot] = 1
            times -= 1
        if times:
            for row, spot in zip(self._rows, spots, strict=True):
                row[spot] = min(MOST, row[spot] + times)
        if self._seen >= self._sample:
            self._age()

    def estimate(self, fingerprint: int) -> int:
        """Times seen lately, 0 to 16."""
        spots = self._spots(fingerprint)
        counted = min(row[spot] for row, spot in zip(self._rows, spots, strict=True))
        return counted + self._at_door(spots)

    def _spots(self, fingerprint: int) -> list[int]:
        step = fingerprint >> 32 | 1
        mask = self._mask
        return [(fingerprint + row * step) & mask for row in range(ROWS)]

    def _at_door(self, spots: list[int]) -> bool:
        door = self._door
        return all(door[spot] for spot in spots)

    def _age(self) -> None:
        self._rows = [row.translate(_HALVED) for row in self._rows]
        self._door = bytearray(len(self._door))
        self._seen //= 2
