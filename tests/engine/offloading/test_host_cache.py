"""The host's cache against lists that are searched from end to end: the same chunks in the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile

from fuzzing import fuzz
from host_chunks import standing
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.content import Content
from kvplan.engine.offloading.arc import Arc
from kvplan.engine.offloading.cache import HostCache
from kvplan.engine.offloading.chunk import ABSENT, ChunkRun
from kvplan.engine.offloading.lru import Lru
from kvplan.engine.offloading.order import EvictionPolicy
from kvplan.engine.offloading.spans import Span
from kvplan.engine.offloading.turn import Row
from kvplan.engine.offloading.use import Use


class Asker:
    """What a slow cache knows of a request."""

    def __init__(self, path: list[int]) -> None:
        self.path = path
        self.began = 0
        self.met: list[int] = []
        self.put: list[int] = []
        self.again: list[int] = []
        self.missed: list[int] = []


class SlowHost:
    """Chunks and their states in a dictionary; who goes is looked for among all of them."""

    def __init__(self, capacity: int, policy: str) -> None:
        self.capacity, self.policy = capacity, policy
        self.state: dict[int, int] = {}
        """-1: being written; else how many read it."""
        self.used: dict[int, tuple[int, int]] = {}
        self.clock = 0
        self.once: list[int] = []
        self.often: list[int] = []
        self.gone_once: list[int] = []
        self.gone_often: list[int] = []
        self.share = 0.0

    def meet(self, asker: Asker, names: list[int]) -> None:
        new = [name for name in names if name not in asker.met]
        asker.met += new
        if not new:
            return
        if not asker.began:
            self.clock += 1
            asker.began = self.clock
        for name in new:
            place = (asker.began, -asker.path.index(name))
            if name in self.used and self.used[name] < place:
                self.used[name] = place

    def offer(self, asker: Asker, names: list[int]) -> list[int] | None:
        missing = [name for name in names if name not in self.state]
        for name in reversed([name for name in missing if name not in asker.missed]):
            asker.missed.append(name)
            if name in self.gone_once:
                self.share = min(
                    self.share + max(1, len(self.gone_often) / len(self.gone_once)), self.capacity
                )
                self.gone_once.append(self.gone_once.pop(self.gone_once.index(name)))
            elif name in self.gone_often:
                self.share = max(self.share - max(1, len(self.gone_once) / len(self.gone_often)), 0)
                self.gone_often.append(self.gone_often.pop(self.gone_often.index(name)))
        ready = [name for name in names if self.state.get(name, -1) >= 0]
        self.meet(asker, [name for name in names if name in missing or name in ready])
        asker.again += [name for name in ready if name not in asker.put]
        excess = len(self.state) + len(missing) - self.capacity
        if missing and excess > 0:
            going = self.victims(excess, names)
            if len(going) < excess:
                return None
            for name in going:
                self.drop(name)
            self.gone_once = self.gone_once[-self.capacity :] if self.capacity else []
            self.gone_often = self.gone_often[-self.capacity :] if self.capacity else []
        for name in missing:
            self.state[name] = -1
            self.used[name] = (asker.began, -asker.path.index(name))
            self.once.append(name)
            for gone in (self.gone_once, self.gone_often):
                if name in gone:
                    gone.remove(name)
        asker.put += missing
        return missing

    def victims(self, count: int, keep: list[int]) -> list[int]:
        free = [name for name, state in self.state.items() if state == 0 and name not in keep]
        if self.policy == "lru":
            return sorted(free, key=self.used.__getitem__)[:count]
        once, often = [n for n in self.once if n in free], [n for n in self.often if n in free]
        found, left = [], len(self.once)
        while len(found) < count and (once or often):
            if once and (left >= int(self.share) or not often):
                found.append(once.pop(0))
                left -= 1
            else:
                found.append(often.pop(0))
        return found

    def drop(self, name: int) -> None:
        del self.state[name], self.used[name]
        if name in self.once:
            self.once.remove(name)
            self.gone_once.append(name)
        else:
            self.often.remove(name)
            self.gone_often.append(name)

    def ended(self, asker: Asker) -> None:
        for name in sorted(asker.met, key=lambda name: -asker.path.index(name)):
            if name not in self.state:
                continue
            self.clock += 1
            self.used[name] = (self.clock, 0)
            again = name in asker.again
            if not again and name not in asker.put:
                continue
            line = self.often if name in self.often else self.once
            line.remove(name)
            (self.often if again or line is self.often else self.once).append(name)


actions = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "offer", "written", "written", "load", "loaded", "end"]),
        st.integers(0, 9), st.integers(0, 6), st.integers(1, 7),
    ),
    min_size=1, max_size=80,
)  # fmt: skip

trunks = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=8)


def paths(drawn: list[tuple[int, int, int]]) -> list[list[int]]:
    """Prompts as names of chunks, each going on where an earlier one was cut."""
    found: list[list[int]] = [[]]
    fresh = 0
    for parent, cut, more in drawn:
        found.append(found[parent % len(found)][:cut] + list(range(fresh, fresh + more)))
        fresh += more
    return found[1:]


def content_of(names: list[int], stride: int) -> Content:
    """Two tokens a chunk; those of consecutive chunks are consecutive where the stride is 2."""
    second = stride // 2
    return Content(tuple((stride * name + each, 1) for name in names for each in (0, second)), ())


def name_at(content: Content, place: int, stride: int) -> int:
    """Which chunk stands there."""
    key = content.block_key(2 * place, 1)
    assert isinstance(key, int)
    return (key + 2 * place) // stride


def expanded(spans: list[Span]) -> list[int]:
    return [place for start, end in spans for place in range(start, end)]


def states(run: ChunkRun, stride: int) -> Iterator[tuple[int, int]]:
    """Each chunk below a run that is there, and how many read it."""
    for child in run.children.values():
        if child.readers != ABSENT:
            for place in range(child.start, child.end):
                yield name_at(child.content, place, stride), child.readers
        yield from states(child, stride)


@fuzz(300)
@given(trunks, st.integers(0, 9), st.sampled_from(["lru", "arc"]), actions, st.sampled_from([2, 7]))
def test_the_cache_equals_lists_of_chunks(
    drawn: list[tuple[int, int, int]], capacity: int, policy: EvictionPolicy,
    steps: list[tuple[str, int, int, int]], stride: int,
) -> None:  # fmt: skip
    cache, slow = HostCache(capacity, 2, policy), SlowHost(capacity, policy)
    prompts = paths(drawn)
    uses = [Use(content_of(path, stride)) for path in prompts]
    askers = [Asker(path) for path in prompts]
    writing: list[tuple[Use, list[Span], list[int]]] = []
    reading: list[tuple[Use, Span, list[int]]] = []

    def names_in(row: Row) -> list[int]:
        return [name_at(content, place, stride) for content, place in standing(row)]

    for what, which, first, length in steps:
        which %= len(prompts)
        prompt, use = prompts[which], uses[which]
        names = prompt[first : first + length]
        if what == "offer" and names:
            spans, missing = cache.offer(use, first, first + len(names)), slow.offer(askers[which], names)
            assert missing == (None if spans is None else [prompt[place] for place in expanded(spans)])
            if spans and missing:
                writing.append((use, spans, missing))
        elif what == "written" and writing:
            by, spans, done = writing.pop(which % len(writing))
            cache.written(by, spans)
            for name in done:
                slow.state[name] = 0
        elif what == "load" and names:
            found, pending, read = cache.prefix(use, first, len(prompt))
            there = list(takewhile(slow.state.__contains__, prompt[first:]))
            assert found == len(there)
            assert pending == any(slow.state[name] < 0 for name in there)
            assert read == any(slow.state[name] > 0 for name in there)
            if found and not pending:
                cache.pin(use, first, first + found)
                for name in there:
                    slow.state[name] += 1
                slow.meet(askers[which], there)
                askers[which].again += [name for name in there if name not in askers[which].put]
                reading.append((use, (first, first + found), there))
        elif what == "loaded" and reading:
            by, span, done = reading.pop(which % len(reading))
            cache.unpin(by, *span)
            for name in done:
                slow.state[name] -= 1
        elif what == "end":
            cache.ended(use)
            slow.ended(askers[which])
            uses[which], askers[which] = Use(use.content), Asker(prompt)
        assert dict(states(cache.tree.root, stride)) == slow.state
        counts = Counter(min(state, 1) for state in slow.state.values())
        assert (cache.pending, cache.idle, cache.read) == (counts[-1], counts[0], counts[1])
        assert cache.resident == len(slow.state) <= capacity
        assert cache.stored - cache.evicted == cache.resident
        order = cache.order
        if isinstance(order, Lru):
            assert names_in(order.row) == sorted(slow.used, key=slow.used.__getitem__)
        else:
            assert isinstance(order, Arc)
            assert [names_in(order.recent), names_in(order.frequent)] == [slow.once, slow.often]
            assert names_in(order.left_recent) == slow.gone_once
            assert names_in(order.left_frequent) == slow.gone_often
            assert order.share == slow.share
