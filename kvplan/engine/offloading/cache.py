"""What the host has: chunks, who reads and writes them, and which go.

A chunk is *idle* (it may go), *read* by so many loads, or *pending*: it is there for others to wait for, but
not written yet. ``idle + read + pending == resident <= capacity``.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.offloading.order import EvictionPolicy, make_order
from kvplan.engine.offloading.use import Use


class HostCache:
    """Chunks in host memory; vLLM's ``CPUOffloadingManager``.

    Args:
        capacity: chunks.
        policy: which go first.

    Attributes:
        version: changes whenever something does that a refused store or a look-up could notice.
        stored, evicted: chunks that came and went; peak: most at a time.
    """

    def __init__(self, capacity: int, policy: EvictionPolicy) -> None:
        self.capacity = capacity
        self.idle: set[int] = set()
        self.order = make_order(policy, capacity, self.idle)
        self.pending: set[int] = set()
        self.read: dict[int, int] = {}
        self.version = self.stored = self.evicted = self.peak = 0

    @property
    def resident(self) -> int:
        """Chunks that are there, or being written."""
        return len(self.idle) + len(self.pending) + len(self.read)

    def __contains__(self, name: int) -> bool:
        return name in self.idle or name in self.pending or name in self.read

    def prefix(self, names: Sequence[int], first: int) -> tuple[int, bool]:
        """How many of them, from the ``first`` on, are there without a gap, and whether one is pending."""
        found, pending = 0, False
        for place in range(first, len(names)):
            name = names[place]
            if name in self.pending:
                pending = True
            elif name not in self.idle and name not in self.read:
                break
            found += 1
        return found, pending

    def pin(self, names: Sequence[int], use: Use, first: int) -> None:
        """A load reads these, the ``first`` of its prompt and those after it; they do not go meanwhile."""
        self.version += 1
        for name in names:
            self.idle.discard(name)
            self.read[name] = self.read.get(name, 0) + 1
        self._meet(dict(zip(names, range(first, first + len(names)), strict=True)), names, use)

    def unpin(self, names: Sequence[int]) -> None:
        """A load has ended."""
        self.version += 1
        free = []
        for name in names:
            self.read[name] -= 1
            if not self.read[name]:
                del self.read[name]
                free.append(name)
        self.idle.update(free)
        self.order.settled(free)

    def offer(self, names: Sequence[int], use: Use, first: int) -> list[int] | None:
        """Take in those of a prompt's chunks, the ``first`` and those after it, that are missing.

        Returns the missing ones, which are pending now; None where they do not all find room.
        """
        idle, pending, read = self.idle, self.pending, self.read
        missing = [name for name in names if name not in idle and name not in pending and name not in read]
        unknown = [name for name in missing if name not in use.missed] if use.missed else missing
        if unknown:
            self.order.missed(unknown)
            use.missed.update(unknown)
        depths = {name: first + place for place, name in enumerate(names) if name not in self.pending}
        self._meet(depths, [name for name in depths if name in idle or name in read], use)
        if not missing:
            return []
        excess = len(missing) + self.resident - self.capacity
        if excess > 0:
            going = self.order.evict(excess, set(names)) if excess <= len(self.idle) else None
            if going is None:
                return None
            self.idle.difference_update(going)
            self.evicted += len(going)
        self.version += 1
        self.order.insert(missing, use)
        self.pending.update(missing)
        use.inserted.update(missing)
        self.stored += len(missing)
        self.peak = max(self.peak, self.resident)
        return missing

    def written(self, names: Sequence[int]) -> None:
        """A store has ended."""
        self.version += 1
        self.pending.difference_update(names)
        self.idle.update(names)
        self.order.settled(names)

    def ended(self, use: Use) -> None:
        """A request is over: what it used was used now."""
        self.order.ended(use)

    def _meet(self, depths: dict[int, int], reused: Sequence[int], use: Use) -> None:
        new = [name for name in depths if name not in use.depths]
        if new:
            use.depths.update(depths if len(new) == len(depths) else {name: depths[name] for name in new})
            self.order.met(new, use)
        use.reused.update(name for name in reused if name not in use.inserted)
