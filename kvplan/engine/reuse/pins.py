"""Pinned prefixes: the beginning of a prompt that stays in the cache while it keeps being asked for.

What providers sell as prompt caching: once enough requests began with the same tokens, those blocks are kept
for a time to live that begins anew with every use, whatever else needs memory, up to a share of the pool.
A pin holds blocks as a request does, so no eviction policy can take them.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace

from kvplan.engine.live import LiveRequest, Status
from kvplan.engine.prefix_hash import PrefixIndex
from kvplan.errors import UsageError

_NEVER = float("inf")
_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PinRule:
    """Which prefixes are pinned.

    Attributes:
        tokens: how many tokens of a prompt's beginning, at least; rounded down to whole blocks or units.
        ttl_s: seconds a pin lives after its last use; also how long a use counts towards ``min_uses``.
        min_uses: how many requests must have begun with it, each within ``ttl_s`` of the one before.
    """

    tokens: int
    ttl_s: float
    min_uses: int = 2

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.min_uses < 1:
            raise UsageError(f"a pinned prefix has {self.tokens} tokens and {self.min_uses} uses; at least 1")
        if not 0.0 < self.ttl_s < _NEVER:
            raise UsageError(f"the time to live of a pinned prefix is {self.ttl_s} s; it must be positive")


class Pin:
    """One pinned prefix; ``holder`` holds its blocks, ``prints`` are the fingerprints of its units."""

    __slots__ = ("blocks", "expires_s", "holder", "key", "prints", "used_s")

    def __init__(
        self, key: _Key, holder: LiveRequest, blocks: int, prints: list[int], now: float, ttl_s: float
    ) -> None:
        self.key = key
        self.holder = holder
        self.blocks = blocks
        self.prints = prints
        self.used_s = now
        self.expires_s = now + ttl_s


class PinCounters:
    """What happened to pins."""

    __slots__ = (
        "expired", "given_up", "hit_tokens", "hits", "peak_blocks", "peak_pins", "pinned", "refused", "time",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pinned = self.expired = self.refused = self.given_up = 0
        self.hits = self.hit_tokens = 0
        self.peak_blocks = self.peak_pins = 0
        self.time = 0.0
        """Blocks times seconds pinned."""


class Pins:
    """All pins of one engine.

    Args:
        rules: what to pin.
        budget: most blocks held by pins together; a block that several of them hold counts once.
        index: the prefix index the blocks are in.
        unit: blocks that are published, and so pinned, together.
    """

    def __init__(
        self, rules: tuple[PinRule, ...], budget: int, index: PrefixIndex[LiveRequest], unit: int = 1
    ) -> None:
        self._index = index
        self._unit = unit
        self.budget = budget
        self.counters = PinCounters()
        self.pins: dict[_Key, Pin] = {}
        size = index.block_size * unit
        # Longest first: a request is served by the longest pinned prefix it begins with.
        order = sorted(range(len(rules)), key=lambda number: -rules[number].tokens)
        self._rules = [(number, rules[number], rules[number].tokens // size * unit) for number in order]
        self._seen: dict[_Key, tuple[int, float]] = {}
        self._sweep_at = 1024
        self._wanted: dict[LiveRequest, list[tuple[_Key, PinRule, int]]] = {}
        self._held: dict[int, int] = {}
        """Fingerprint of the prefix up to each held unit -> pins that hold it."""
        self._timers: list[tuple[float, int, Pin]] = []
        self._timer = 0
        self._counted_s = 0.0

    @property
    def blocks(self) -> int:
        """Blocks that pins hold."""
        return len(self._held) * self._unit

    # -- use --------------------------------------------------------------------------------------------

    def used(self, request: LiveRequest, now: float) -> None:
        """A request was admitted for the first time; ``cached_tokens`` says what it found."""
        size = self._index.block_size
        served = False
        for number, rule, blocks in self._rules:
            if not 0 < blocks * size <= request.prompt_tokens:
                continue
            key = (number, request.content.fingerprint(blocks * size))
            pin = self.pins.get(key)
            if pin is not None:
                pin.used_s = now
                pin.expires_s = now + rule.ttl_s
                if not served and request.cached_tokens:
                    served = True
                    self.counters.hits += 1
                    self.counters.hit_tokens += min(request.cached_tokens, blocks * size)
                continue
            uses, last = self._seen.get(key, (0, -_NEVER))
            uses = uses + 1 if now - last <= rule.ttl_s else 1
            self._seen[key] = (uses, now)
            if uses >= rule.min_uses:
                self._wanted.setdefault(request, []).append((key, rule, blocks))
        if len(self._seen) > self._sweep_at:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Uses that cannot count any more; what is left is looked through again when it has doubled."""
        lives = {number: rule.ttl_s for number, rule, _ in self._rules}
        self._seen = {key: use for key, use in self._seen.items() if now - use[1] <= lives[key[0]]}
        self._sweep_at = max(1024, 2 * len(self._seen))

    def pin_published(self, now: float) -> None:
        """Pin what was wanted and has been computed by now."""
        if not self._wanted:
            return
        for request in list(self._wanted):
            if request.status is Status.FINISHED:  # it has published all it could
                del self._wanted[request]
                continue
            left = [want for want in self._wanted[request] if not self._pin(request, *want, now)]
            if left:
                self._wanted[request] = left
            else:
                del self._wanted[request]

    def _pin(self, request: LiveRequest, key: _Key, rule: PinRule, blocks: int, now: float) -> bool:
        """Pin a prefix if all of it is in the index; False where it is not there yet."""
        index = self._index
        if key in self.pins:
            return True
        if request.published < blocks:
            return False
        match = index.match(request.content, blocks)
        if match.blocks < blocks:
            return False
        held, unit = self._held, self._unit
        if self.blocks + blocks - self._held_of(request, blocks) > self.budget:
            self.counters.refused += 1
            return True
        self._count_time(now)
        size, fingerprint = index.block_size, request.content.fingerprint
        prints = [fingerprint(block * size) for block in range(unit, blocks + 1, unit)]
        for print_ in prints:
            held[print_] = held.get(print_, 0) + 1
        holder = LiveRequest(request.request, index.root)
        holder.status = Status.RUNNING
        holder.blocks = blocks
        index.hold(holder, match)
        pin = self.pins[key] = Pin(key, holder, blocks, prints, now, rule.ttl_s)
        self._seen.pop(key, None)
        self._timer += 1
        heappush(self._timers, (pin.expires_s, self._timer, pin))
        counters = self.counters
        counters.pinned += 1
        counters.peak_pins = max(counters.peak_pins, len(self.pins))
        counters.peak_blocks = max(counters.peak_blocks, self.blocks)
        return True

    def _held_of(self, request: LiveRequest, blocks: int) -> int:
        """How many of the first ``blocks`` blocks pins hold: with a unit they hold all before it."""
        held, unit, size = self._held, self._unit, self._index.block_size
        fingerprint = request.content.fingerprint
        low, high = 0, blocks // unit
        while low < high:
            middle = (low + high + 1) // 2
            if fingerprint(middle * unit * size) in held:
                low = middle
            else:
                high = middle - 1
        return low * unit

    # -- end --------------------------------------------------------------------------------------------

    def next_expiry(self) -> float:
        """When the next pin expires unless it is used before; infinity without pins."""
        timers = self._timers
        while timers:
            at, number, pin = timers[0]
            if self.pins.get(pin.key) is not pin:
                heappop(timers)
            elif pin.expires_s > at:
                heapreplace(timers, (pin.expires_s, number, pin))
            else:
                return at
        return _NEVER

    def expire(self, now: float) -> int:
        """Let go of what was not used in time; returns how many pins that were."""
        ended = 0
        while self.pins and (at := self.next_expiry()) <= now:
            self._unpin(self._timers[0][2], at)
            ended += 1
        self.counters.expired += ended
        return ended

    def give_up(self, now: float) -> bool:
        """Let go of the pin used least recently, because a request cannot go on; False without pins."""
        if not self.pins:
            return False
        self._unpin(min(self.pins.values(), key=lambda pin: pin.used_s), now)
        self.counters.given_up += 1
        return True

    def _unpin(self, pin: Pin, now: float) -> None:
        self._count_time(now)
        del self.pins[pin.key]
        held = self._held
        for print_ in pin.prints:
            if held[print_] == 1:
                del held[print_]
            else:
                held[print_] -= 1
        self._index.release(pin.holder, pin.blocks)

    def _count_time(self, now: float) -> None:
        """Up to ``now``, before the number of pinned blocks changes."""
        self.counters.time += self.blocks * max(0.0, now - self._counted_s)
        self._counted_s = max(now, self._counted_s)

    def close(self, now: float) -> None:
        """Bring the counters up to date."""
        self._count_time(now)
