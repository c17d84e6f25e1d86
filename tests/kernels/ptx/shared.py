"""Shared memory of one block, with what a race or a missing fence would get wrong.

Between two barriers a byte may be written by one warp, or read by any, not both. A byte must have been written before
it is read. Copies from global memory land when they are waited for. What the matrix unit reads by itself must have
been fenced after it was written.
"""

from __future__ import annotations

import numpy as np

from tests.kernels.ptx.memory import Fault
from tests.kernels.ptx.traffic import Traffic

BASE = 1024
"""Address of the first byte: not 0, so that an address is not taken for an offset, and as aligned as swizzling
asks."""
NOBODY, MANY = -1, -2


class SharedMemory:
    """``size`` bytes from ``BASE``.

    Attributes:
        traffic: where what threads read, write and copy is counted; ``None`` for nowhere.
    """

    def __init__(self, size: int, traffic: Traffic | None = None) -> None:
        self.bytes = np.zeros(size, dtype=np.uint8)
        self.traffic = traffic
        self.epoch = 1
        self.fence = 0
        self.moment = 1
        # Of every byte: who wrote and read it last, and in which epoch; 0 for never.
        self.writer = np.full(size, NOBODY, dtype=np.int16)
        self.written = np.zeros(size, dtype=np.int64)
        self.reader = np.full(size, NOBODY, dtype=np.int16)
        self.read_in = np.zeros(size, dtype=np.int64)
        self.changed = np.zeros(size, dtype=np.int64)
        # How many matrix products that nobody has waited for read this byte.
        self.busy = np.zeros(size, dtype=np.int32)
        self.products: list[np.ndarray] = []
        self.groups: list[list[np.ndarray]] = []
        self.copies: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
        self.open: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def barrier(self) -> None:
        """``bar.sync`` by the whole block."""
        self.epoch += 1

    def fenced(self) -> None:
        """``fence.proxy.async``: what was written so far may be read by the matrix unit."""
        self.fence = self.moment
        self.moment += 1

    def read(self, addresses: np.ndarray, count: int, warps: np.ndarray) -> np.ndarray:
        """``count`` bytes from each address: uint8 [len(addresses), count]; ``warps`` of the readers."""
        index = self._index(addresses, count)
        if self.traffic:
            self.traffic.count(addresses, count, warps)
        who = np.broadcast_to(warps[:, None], index.shape)
        foreign = (self.written[index] == self.epoch) & (self.writer[index] != who)
        if bool(foreign.any()):
            raise Fault(
                f"race: shared byte {int(index[foreign][0])} is read before a barrier after its write"
            )
        if bool((self.writer[index] == NOBODY).any()):
            bad = int(index[self.writer[index] == NOBODY][0])
            raise Fault(f"shared byte {bad} is read and was never written")
        self._note_readers(index, who)
        return self.bytes[index]

    def write(
        self, addresses: np.ndarray, values: np.ndarray, warps: np.ndarray, copied: bool = False
    ) -> None:
        """Bytes uint8 [n, count] to each of n addresses.

        Args:
            copied: by ``cp.async``, which compilers and libraries let the matrix unit read without a fence.
        """
        index = self._index(addresses, values.shape[1])
        if self.traffic and not copied:
            self.traffic.count(addresses, values.shape[1], warps)
        who = np.broadcast_to(warps[:, None], index.shape)
        foreign = (self.read_in[index] == self.epoch) & (self.reader[index] != who)
        if bool(foreign.any()):
            raise Fault(
                f"race: shared byte {int(index[foreign][0])} is written before a barrier after a read"
            )
        both = (self.written[index] == self.epoch) & (self.writer[index] != who)
        if bool(both.any()) and not _alike(self.bytes[index], np.where(both, values, self.bytes[index])):
            raise Fault(f"race: shared byte {int(index[both][0])} is written by two warps")
        if bool(self.busy[index].any()):
            raise Fault("race: shared memory is written while the matrix unit may still read it")
        self.bytes[index] = values
        if not _alike(self.bytes[index], values):
            raise Fault("two threads write different values to the same shared byte")
        self.writer[index] = who
        self.written[index] = self.epoch
        self.changed[index] = 0 if copied else self.moment
        self.moment += 1

    def operand(self, addresses: np.ndarray) -> np.ndarray:
        """16-bit elements the matrix unit reads by itself, by a whole group of warps; uint16 [len]."""
        index = self._index(addresses, 2)
        if bool((self.changed[index] > self.fence).any()):
            raise Fault("the matrix unit reads shared memory that no fence has made visible to it")
        if bool((self.writer[index] == NOBODY).any()):
            raise Fault("the matrix unit reads shared memory that was never written")
        # All four warps read: foreign to each other's writes unless a barrier lies between.
        if bool((self.written[index] == self.epoch).any()):
            raise Fault("race: the matrix unit reads shared memory before a barrier after its write")
        self._note_readers(index, np.full(index.shape, MANY, dtype=np.int16))
        self.busy[index] += 1
        self.products.append(index)
        return np.ascontiguousarray(self.bytes[index]).view(np.uint16)[:, 0]

    def copy(self, addresses: np.ndarray, values: np.ndarray, warps: np.ndarray) -> None:
        """``cp.async``: to be written when its group is waited for."""
        self._index(addresses, values.shape[1])
        if self.traffic:
            self.traffic.count(addresses, values.shape[1], warps)
        self.open.append((addresses, values, warps))

    def commit(self) -> None:
        """``cp.async.commit_group``."""
        self.copies.append(self.open)
        self.open = []

    def wait(self, left: int) -> None:
        """``cp.async.wait_group``: all but the last ``left`` groups land."""
        while len(self.copies) > left:
            for addresses, values, warps in self.copies.pop(0):
                self.write(addresses, values, warps, copied=True)

    def commit_products(self) -> None:
        """``wgmma.commit_group``."""
        self.groups.append(self.products)
        self.products = []

    def wait_products(self, left: int) -> None:
        """``wgmma.wait_group``: all but the last ``left`` groups of products are done."""
        while len(self.groups) > left:
            for index in self.groups.pop(0):
                self.busy[index] -= 1

    def _note_readers(self, index: np.ndarray, who: np.ndarray) -> None:
        again = (self.read_in[index] == self.epoch) & (self.reader[index] != who)
        told = np.where(again, MANY, who)
        self.reader[index] = told
        # Several warps in one instruction: the last one written stands there.
        self.reader[index[self.reader[index] != told]] = MANY
        self.read_in[index] = self.epoch

    def _index(self, addresses: np.ndarray, count: int) -> np.ndarray:
        held = addresses.astype(np.int64) - BASE
        if bool((held % count).any()) and count in (1, 2, 4, 8, 16):
            raise Fault(f"misaligned: {count} bytes of shared memory at {int(held[held % count != 0][0])}")
        if len(held) and (int(held.min()) < 0 or int(held.max()) + count > len(self.bytes)):
            raise Fault(
                f"out of bounds: shared memory has {len(self.bytes)} bytes, asked at {int(held.max())}"
            )
        return held[:, None] + np.arange(count)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether bytes are the same, or float32 numbers that differ by rounding alone.

    Both halves of a butterfly hold a sum; where one product is fused with it they differ in the last bit, and which
    of the two is kept does not matter.
    """
    if bool((a == b).all()):
        return True
    if a.shape[1] % 4:
        return False
    x, y = (np.ascontiguousarray(v).view(np.float32) for v in (a, b))
    # Sums may cancel: their rounding is that of their parts.
    return bool(np.abs(x - y).max() <= 1e-6 * np.abs(x).max())
