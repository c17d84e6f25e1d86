"""The warps of several programs on one multiprocessor: when each of their instructions goes.

Exact are the order of instructions, their stalls and what waits for what, as the assembler wrote them; units are busy
as long as ``units`` says; memory has a latency, and gives the multiprocessor its share of a bandwidth. Unknown to it:
caches, stalls of instruction fetch, how the hardware picks among warps that could go (here: who has waited longest).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from tests.kernels.sass.cubin import NONE, Instruction
from tests.kernels.sass.units import BARRIER, Use, use

SCHEDULERS = 4


@dataclass(slots=True)
class _Warp:
    program: int
    scheduler: int
    at: int = 0
    turn: int = 0
    ready: list[float] = field(default_factory=lambda: [0.0] * 6)
    groups: list[float] = field(default_factory=list)
    copied: float = 0.0
    products: float = 0.0
    turns: list[float] = field(default_factory=list)


class Multiprocessor:
    """Runs a loop.

    Args:
        body: the loop's instructions. warps: of a program. programs: that share the multiprocessor.
        bandwidth: bytes of memory in a cycle; ``None`` for any.
        read: bytes that all copies ahead of one iteration read of memory; several may ask for the same.
        latency: cycles until memory answers, instead of what ``units`` says.
        conflicts: see ``units.use``.
    """

    def __init__(self, body: list[Instruction], warps: int, programs: int, *, bandwidth: float | None = None,
                 read: float = 0.0, latency: int | None = None, conflicts: float = 1.0) -> None:  # fmt: skip
        self.body, self.warps, self.programs, self.bandwidth, self.latency = (
            body,
            warps,
            programs,
            bandwidth,
            latency,
        )
        self.uses: list[Use] = [use(item.text, conflicts) for item in body]
        asked = sum(needs.bytes for needs in self.uses) * warps
        self.apiece = read / asked if asked else 0.0
        self.busy: dict[tuple[str, int], float] = {}
        self.memory = 0.0
        self.waiting: dict[int, list[tuple[float, int]]] = {}

    def cycles(self, turns: int = 24) -> float:
        """Cycles of one iteration of every program, after the first half of ``turns``; of a single one, until all are
        through it."""
        held = [_Warp(p, w % SCHEDULERS) for p in range(self.programs) for w in range(self.warps)]
        # Programs do not begin together.
        queue = [(float(warp.program * 97), float(warp.program * 97), i) for i, warp in enumerate(held)]
        heapq.heapify(queue)
        while queue:
            now, since, i = heapq.heappop(queue)
            warp = held[i]
            item, needs = self.body[warp.at], self.uses[warp.at]
            ready = max([now, self._waited(warp, item), *(warp.ready[c] for c in item.waits)])
            may = max(ready, self._free("issue", warp))
            # A queue of a few instructions stands before what all schedulers share: only they wait, not the warp.
            unit = needs.unit
            may = max(may, self._free(unit, warp) - (64 if unit == "shared" else 0))
            if may > now:
                heapq.heappush(queue, (may, ready if ready > now else since, i))
                continue
            self._issue(warp, item, needs, now)
            after = now + item.stall
            warp.at += 1
            if warp.at == len(self.body):
                warp.at, warp.turn = 0, warp.turn + 1
                warp.turns.append(now)
                if warp.turn == turns:
                    continue
            if item.name.startswith("BAR.SYNC"):
                self._meet(warp.program, after, i, queue)
            else:
                heapq.heappush(queue, (after, after, i))
        if turns == 1:
            return max(warp.turns[0] for warp in held)
        half = turns // 2
        spans = [(warp.turns[-1] - warp.turns[half]) / (turns - 1 - half) for warp in held]
        return sum(spans) / len(spans)

    def _free(self, unit: str, warp: _Warp) -> float:
        return self.busy.get((unit, 0 if unit == "shared" else warp.scheduler), 0.0)

    def _issue(self, warp: _Warp, item: Instruction, needs: Use, now: float) -> None:
        self.busy[("issue", warp.scheduler)] = now + 1
        begun = now
        if needs.unit != "none":
            place = (needs.unit, 0 if needs.unit == "shared" else warp.scheduler)
            begun = max(now, self.busy.get(place, 0.0))
            self.busy[place] = begun + needs.cycles
        latency = self.latency if self.latency is not None and needs.latency >= 500 else needs.latency
        done = begun + needs.cycles + latency
        if needs.bytes:
            if self.bandwidth:
                self.memory = max(self.memory, begun) + needs.bytes * self.apiece / self.bandwidth
                done = max(done, self.memory + latency)
            warp.copied = max(warp.copied, done)
        kind = item.name.split(".")[0]
        if kind == "HGMMA":
            warp.products = max(warp.products, done)
        if kind == "LDGDEPBAR":
            warp.groups.append(warp.copied)
            warp.copied = 0.0
        elif item.sets != NONE:
            warp.ready[item.sets] = max(warp.ready[item.sets], done)
        if item.reads != NONE:
            warp.ready[item.reads] = max(warp.ready[item.reads], begun + needs.cycles + 8)

    def _waited(self, warp: _Warp, item: Instruction) -> float:
        if item.name.startswith("WARPGROUP.DEPBAR"):
            return warp.products
        if not item.name.startswith("DEPBAR"):
            return 0.0
        left = int(item.text.split(",")[1], 16)
        due = warp.groups[: len(warp.groups) - left] if left else warp.groups
        if due:
            del warp.groups[: len(due) - 1]
        return max(due, default=0.0)

    def _meet(self, program: int, now: float, i: int, queue: list[tuple[float, float, int]]) -> None:
        there = self.waiting.setdefault(program, [])
        there.append((now, i))
        if len(there) == self.warps:
            last = max(at for at, _ in there) + BARRIER
            for _, other in there:
                heapq.heappush(queue, (last, last, other))
            there.clear()
