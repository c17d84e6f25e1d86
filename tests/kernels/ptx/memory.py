"""A GPU's global memory: the tensors a kernel was given, and nothing beside them."""

from __future__ import annotations

import ctypes
from bisect import bisect_right

import numpy as np
import torch


class Fault(AssertionError):
    """What a GPU would end a kernel for, or what it would silently get wrong."""


class GlobalMemory:
    """Bytes of tensors at their own addresses; a tensor is seen from its first element to its last.

    Tensors that share memory, or lie next to each other in it, become one range.
    """

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        spans = sorted(_span(t) for t in tensors if t.numel())
        self.starts: list[int] = []
        ends: list[int] = []
        for start, end in spans:
            if ends and start < ends[-1]:
                ends[-1] = max(ends[-1], end)
            else:
                self.starts.append(start)
                ends.append(end)
        self.ends = ends
        self.bytes = [
            np.frombuffer((ctypes.c_uint8 * (end - start)).from_address(start), dtype=np.uint8)
            for start, end in zip(self.starts, ends, strict=True)
        ]

    def read(self, addresses: np.ndarray, count: int, aligned: int) -> np.ndarray:
        """``count`` bytes from each address: uint8 [len(addresses), count]."""
        found = np.empty((len(addresses), count), dtype=np.uint8)
        for region, rows, index in self._places(addresses, count, aligned):
            found[rows] = self.bytes[region][index]
        return found

    def write(self, addresses: np.ndarray, values: np.ndarray, aligned: int) -> None:
        """Bytes uint8 [n, count] to each of n addresses, in the order of threads."""
        for region, rows, index in self._places(addresses, values.shape[1], aligned):
            self.bytes[region][index] = values[rows]

    def _places(
        self, addresses: np.ndarray, count: int, aligned: int
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        if not len(addresses):
            return []
        if bool((addresses % np.uint64(aligned)).any()):
            bad = int(addresses[np.flatnonzero(addresses % np.uint64(aligned))[0]])
            raise Fault(f"misaligned: {count} bytes at {bad:#x}, which is no multiple of {aligned}")
        held = addresses.astype(np.int64)
        low, high = int(held.min()), int(held.max()) + count
        region = bisect_right(self.starts, low) - 1
        if region >= 0 and high <= self.ends[region]:
            index = (held - self.starts[region])[:, None] + np.arange(count)
            return [(region, np.arange(len(held)), index)]
        which = np.searchsorted(np.asarray(self.starts), held, side="right") - 1
        places = []
        for region in np.unique(which):
            rows = np.flatnonzero(which == region)
            end = self.ends[region] if region >= 0 else 0
            if region < 0 or bool((held[rows] + count > end).any()):
                bad = int(held[rows][-1] if region < 0 else held[rows].max())
                raise Fault(f"out of bounds: {count} bytes at {bad:#x}, {bad + count - end} behind a tensor")
            index = (held[rows] - self.starts[region])[:, None] + np.arange(count)
            places.append((int(region), rows, index))
        return places


def _span(t: torch.Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()
