"""The tiers below the device: stores, hits, and the cascade from each to the next.

::

    device --publish (through) or eviction (back)--> host --put (through) or eviction (back)--> disk --> gone
    device <------------------- fetch -------------- host <--------- promotion on a hit ------- disk

Nothing is copied to a tier that has it; a hit leaves it where it is, and blocks that come from the disk stay
in the host, too. A tier that is full evicts; what leaves the last one is lost, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from kvplan.engine.content import Content
from kvplan.engine.tiers.line import Batch, Carrier, Line
from kvplan.engine.tiers.residency import Place, Residency, Run
from kvplan.engine.tiers.tier import Tier
from kvplan.errors import UsageError

Write: TypeAlias = Literal["through", "back"]


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One tier, as a strategy describes it.

    Attributes:
        name: ``host`` or ``disk``.
        blocks: capacity.
        stored_bytes: bytes of one block there.
        put, get: how long copies to it and from it take, alone on the link.
        write: ``through``: as soon as the tier above has it; ``back``: when it leaves the tier above.
    """

    name: str
    blocks: int
    stored_bytes: int
    put: Carrier
    get: Carrier
    write: Write = "through"

    def __post_init__(self) -> None:
        if self.blocks < 0 or self.stored_bytes < 1:
            raise UsageError(
                f"the {self.name} tier has {self.blocks} blocks of {self.stored_bytes} bytes",
                hint="blocks are at least 0 and bytes at least 1",
            )
        if self.write not in ("through", "back"):
            raise UsageError(f"unknown write policy {self.write!r} of the {self.name} tier")


def check_sizes(specs: tuple[TierSpec, ...]) -> None:
    """Refuse a tier that could not take what the one above it evicts.

    Raises:
        UsageError: a tier with fewer blocks than the one above.
    """
    for above, below in pairwise(specs):
        if below.blocks < above.blocks:
            raise UsageError(
                f"the {below.name} tier holds {below.blocks:,} blocks, the {above.name} tier above it "
                f"{above.blocks:,}",
                where=f"tiers.{below.name}.memory",
                hint="a lower tier is at least as large as the one above",
            )


class TierStack:
    """The host, and a disk below it or none.

    Args:
        block_size: tokens of a block.
        block_bytes: bytes of a block on the device.
        specs: one or two tiers, the nearest first.
    """

    def __init__(self, block_size: int, block_bytes: int, specs: tuple[TierSpec, ...]) -> None:
        check_sizes(specs)
        self.specs = specs
        self.residency = Residency(block_size, len(specs))
        self.residency.on_split, self.residency.on_join = self._split, self._joined
        self.tiers = tuple(Tier(spec.name, index, spec.blocks) for index, spec in enumerate(specs))
        self.host = self.tiers[0]
        self.disk = self.tiers[1] if len(specs) > 1 else None
        self.puts = tuple(
            Line(f"to_{spec.name}", spec.put, above, spec.stored_bytes)
            for spec, above in zip(specs, (block_bytes, specs[0].stored_bytes), strict=False)
        )
        self.gets = tuple(
            Line(f"from_{spec.name}", spec.get, above, spec.stored_bytes)
            for spec, above in zip(specs, (block_bytes, specs[0].stored_bytes), strict=False)
        )
        self._open = [Batch() for _ in specs]
        self._stamp = 0
        self._gone: tuple[Content, int, int] | None = None
        self.lost = 0
        """Blocks that left the last tier: nobody below the device has them any more."""
        self.refused = 0
        """Blocks that were not stored because the tier cannot hold so many at once."""
        self.prefetched = 0

    # -- stores -----------------------------------------------------------------------------------------

    def store(self, content: Content, start: int, end: int) -> None:
        """Put those of blocks ``start .. end`` into the host that it lacks; the others were used.

        A run longer than the tier is cut: its beginning is worth more.
        """
        if self._gone is not None:
            self._store_gone()
        host = self.host
        room = host.capacity - host.reserved
        if end - start > room:
            self.refused += end - start - room
            end = start + room
        if end > start:
            batch = self._open[0]
            batch.blocks += self._put(host, self.residency.cover(content, start, end), batch)

    def gone(self, content: Content, start: int, end: int) -> None:
        """Blocks ``start .. end`` left the device (write-back). Neighbours that leave one by one are stored
        together: the end of a sequence leaves first."""
        gone = self._gone
        if gone is not None and gone[0] is content and gone[1] == end:
            self._gone = (content, start, gone[2])
        else:
            self._store_gone()
            self._gone = (content, start, end)

    def _store_gone(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            self.store(*gone)

    def _put(self, tier: Tier, runs: list[Run], batch: Batch) -> int:
        """Put the runs in, as used now, then evict what is too much; returns the blocks that were missing."""
        self._stamp += 1
        stamp, missing = self._stamp, list[Run]()
        for run in runs:
            if run.places[tier.index] is None:
                tier.put(run, stamp, batch)
                missing.append(run)
            else:
                self._use(run, stamp)
        blocks = sum(run.blocks for run in missing)  # as long as they are these runs
        below = self.disk if tier is self.host else None
        if below is not None and missing and self.specs[below.index].write == "through":
            self._write_down(below, missing)
        self.residency.join(runs)
        self._evict(tier)
        return blocks

    def _use(self, run: Run, stamp: int) -> None:
        """The run was used, from wherever it is nearest: every tier that has it takes note."""
        for tier in self.tiers:
            place = run.places[tier.index]
            if place is not None:
                tier.use(place, stamp)

    def _write_down(self, tier: Tier, runs: list[Run]) -> None:
        """Blocks of the tier above are written to this one."""
        above, batch = self.tiers[tier.index - 1], self._open[tier.index]
        for run in runs:
            place = run.places[above.index]
            assert place is not None
            batch.wait_for(place.batch)
        batch.blocks += self._put(tier, runs, batch)

    def _evict(self, tier: Tier) -> None:
        """Evict until nothing is too much; what leaves goes to the tier below, if there is one."""
        excess = tier.cached + tier.reserved - tier.capacity
        below = self.disk if tier is self.host else None
        while excess > 0:
            place = tier.oldest
            assert place is not None
            run = place.run
            blocks = run.end - run.start
            if blocks > excess:
                if below is None and not run.children and run.only_in(place):
                    self._cut(tier, run, excess)
                    break
                self.residency.split(run, blocks - excess)
                blocks = excess
            if below is not None and run.places[below.index] is None:
                self._hand_down(below, run, place)
            tier.drop(place)
            excess -= blocks
            if not run.anywhere:
                self.lost += blocks
                self.residency.prune(run)
        tier.settle()

    def _hand_down(self, tier: Tier, run: Run, place: Place) -> None:
        """A run that leaves the tier above is written to this one, which makes room for it at once.

        What goes may be the next to leave the tier above, which is then written again.
        """
        batch = self._open[tier.index]
        self._stamp += 1
        tier.put(run, self._stamp, batch)
        batch.blocks += run.end - run.start
        batch.wait_for(place.batch)
        self._evict(tier)

    def _cut(self, tier: Tier, run: Run, blocks: int) -> None:
        """The end of a run leaves the last tier that has it, and nothing hangs below."""
        run.end -= blocks
        tier.cached -= blocks
        tier.evicted += blocks
        self.lost += blocks

    def _split(self, upper: Run, lower: Run) -> None:
        for tier, place, other in zip(self.tiers, upper.places, lower.places, strict=True):
            if place is not None and other is not None:
                tier.part(place, other)

    def _joined(self, upper: Run) -> None:
        for tier, place in zip(self.tiers, upper.places, strict=True):
            if place is not None:
                tier.leave(place)

    # -- hits -------------------------------------------------------------------------------------------

    def lookup(self, content: Content, start: int, limit: int) -> int:
        """Blocks from ``start`` on, up to block ``limit``, that are in some tier without a gap."""
        self._store_gone()
        depth = start
        for run, agreed in self.residency.walk(content, limit):
            if agreed <= start:
                continue
            if not run.anywhere:
                break
            depth = agreed
        return depth - start

    def touch(self, content: Content, end: int) -> None:
        """The first ``end`` blocks were used, wherever from."""
        self._store_gone()
        self._stamp += 1
        runs = self.residency.known(content, 0, end)
        for run in runs:
            self._use(run, self._stamp)
        self.residency.join(runs)

    def fetch(self, content: Content, start: int, end: int, now: float) -> float:
        """Copy blocks ``start .. end``, which ``lookup`` found, to the device; returns when they are there.

        That they are used now the caller has said (``touch``).

        Blocks that left the tiers since, in the same ``schedule()`` call, are still read: their room is not
        used again before that.
        """
        self.flush(now)
        ready, from_disk = now, 0
        if self.disk is not None:
            ready, from_disk = self._promote(content, start, end, now)
            self.disk.hits += from_disk
        self.host.hits += end - start - from_disk
        for run, agreed in self.residency.walk(content, end):
            place = run.places[0]
            if place is not None and agreed > start and place.batch.done_s > ready:
                ready = place.batch.done_s
        return self.gets[0].send(ready, end - start)

    def prefetch(self, content: Content, start: int, end: int, now: float) -> None:
        """Copy what the disk has of blocks ``start .. end``, up to the first gap, to the host."""
        end = start + self.lookup(content, start, end)
        if end > start:
            self.flush(now)
            self.prefetched += self._promote(content, start, end, now)[1]

    def _promote(self, content: Content, start: int, end: int, now: float) -> tuple[float, int]:
        """Read from disk what the host lacks of these blocks; returns when it is there, and how many."""
        disk, host = self.disk, self.host
        if disk is None:
            return now, 0
        runs = self.residency.known(content, start, end)
        ready, blocks = now, 0
        for run in runs:
            place = run.places[1]
            if run.places[0] is None and place is not None:
                ready = max(ready, place.batch.done_s)
                blocks += run.blocks
        if not blocks:
            return now, 0
        arrival = Batch(self.gets[1].send(ready, blocks))
        self._put(host, [run for run in runs if run.anywhere], arrival)
        self.flush(now)  # what had to leave the host for them
        return arrival.done_s, blocks

    # -- room for swapped requests ----------------------------------------------------------------------

    def reserve(self, blocks: int) -> bool:
        """Take blocks of the host out of the cache, evicting what is in them; False if there are too few."""
        self._store_gone()
        host = self.host
        if blocks > host.capacity - host.reserved:
            return False
        host.reserved += blocks
        self._evict(host)
        return True

    def release(self, blocks: int) -> None:
        """Give reserved blocks back to the cache."""
        self.host.reserved -= blocks

    # -- time -------------------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """Begin to write what has been stored since the last flush, as one transfer a link."""
        self._store_gone()
        for tier, (line, batch) in enumerate(zip(self.puts, self._open, strict=True)):
            if batch.blocks:
                begin = now if batch.follows is None else max(now, batch.follows.done_s)
                batch.done_s = line.send(begin, batch.blocks)
                self._open[tier] = Batch()
