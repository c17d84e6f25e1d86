"""How often shared memory is accessed, which is what narrow formats may be bound by before memory itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BANKS = 32
"""Of four bytes each; one access serves every bank once."""
SECTOR = 32
"""Bytes of global memory that are read together."""


@dataclass(slots=True)
class Traffic:
    """Accesses of threads, as the hardware makes them: of 4 bytes by a whole warp at once, of 8 by half of it, of 16
    by a quarter. Operands that the matrix unit reads by itself are not among them.

    Attributes:
        accesses: each serves 128 bytes at most. smallest: of them, those that would be left without threads that ask
            one bank for different words.
        sectors: of 32 bytes of global memory that warps read, once for every instruction that asks for one: what the
            L2 serves where no L1 stands before it.
    """

    accesses: int = 0
    smallest: int = 0
    sectors: int = 0

    def read(self, addresses: np.ndarray, size: int, warps: np.ndarray) -> None:
        """One instruction's threads: ``size`` bytes of global memory at each address, aligned to their size."""
        sectors = addresses.astype(np.int64) // SECTOR
        for warp in np.unique(warps):
            self.sectors += len(np.unique(sectors[warps == warp]))

    def count(self, addresses: np.ndarray, size: int, warps: np.ndarray) -> None:
        """One instruction's threads: ``size`` bytes at each address."""
        together = 32 if size <= 4 else 4 * BANKS // size
        for warp in np.unique(warps):
            mine = addresses[warps == warp].astype(np.int64)
            for first in range(0, len(mine), together):
                some = mine[first : first + together, None] + np.arange(0, max(size, 4), 4)
                words = np.unique(some // 4)
                self.accesses += int(np.bincount(words % BANKS).max())
                self.smallest += 1
