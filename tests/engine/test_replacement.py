"""Books of the engine under every eviction policy, and each policy's own idea on a few blocks."""

from __future__ import annotations

import dataclasses

import pytest
from audited import Audited
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from workloads import cases

from kvplan.engine.blocks import Segment
from kvplan.engine.cache_replay import collect, replay
from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Recorder
from kvplan.engine.replacement.catalog import ONLINE, POLICIES
from kvplan.engine.replacement.choice import prefix_index
from kvplan.engine.replacement.clairvoyant import ClairvoyantReplica
from kvplan.engine.replacement.foresight import NEVER, Foresight
from kvplan.engine.replacement.index import RankedIndex
from kvplan.engine.replacement.sketch import FrequencySketch
from kvplan.errors import DataError, UnknownName, UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request, count_tokens

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
RANKED = POLICIES[1:]


class AuditedPolicy(Audited):
    """The same books, where a policy instead of a queue orders what nobody references."""

    def _queue(self) -> list[Segment]:
        index = self.scheduler.index
        pool = index.ranked
        segments = list(self._segments(index.root))
        free = [segment for segment in segments if segment.ref == 0]
        assert pool.segments == len(free)
        assert all(segment.ticket == 0 for segment in segments if segment.ref)
        # Whatever may be evicted stands in an order, and no order remembers more than there is.
        assert all(segment.ticket for segment in free if segment.evictable)
        assert not free or any(segment.evictable for segment in free)
        policy = pool.policy
        orders = getattr(policy, "_orders", None) or [policy._order]
        assert all(len(order._heap) <= 2 * pool.segments + 65 for order in orders)
        if hasattr(policy, "_blocks"):
            parts = [0] * len(policy._blocks)
            for segment in free:
                parts[segment.part] += segment.blocks
            assert parts == policy._blocks
        if hasattr(policy, "_ghosts"):
            assert sum(policy._ghosts.values()) == policy._ghost_blocks <= pool.usable
        return free

    def _no_gaps(self, queue: list[Segment]) -> None:
        """Every cached block has a cached predecessor: the walk found a copy of every node's parent."""


class AuditedClairvoyant(AuditedPolicy, ClairvoyantReplica):
    pass


@examples(60)
@given(case=cases())
@pytest.mark.parametrize("policy", RANKED)
def test_books_are_kept_under_every_policy(policy: str, case: tuple[EngineConfig, list[Request]]) -> None:
    config, requests = with_policy(case[0], policy), case[1]
    kind = AuditedClairvoyant if policy == "belady" else AuditedPolicy
    engine = kind(config, CLOCK, Recorder(on_decision=lambda line: None))
    engine.run(requests)
    engine.audit()
    assert engine.scheduler.pool.blank + engine.scheduler.pool.cached == config.usable_blocks


def with_policy(config: EngineConfig, policy: str) -> EngineConfig:
    return dataclasses.replace(config, eviction=policy)


# -- what each policy evicts ------------------------------------------------------------------------------


class Cache:
    """A cache of one-token blocks, asked for one prompt (a word) at a time."""

    def __init__(self, blocks: int, policy: str, future: list[str] | None = None) -> None:
        foresight = None
        if future is not None:
            foresight = Foresight(1)
            for number, word in enumerate(future):
                live = LiveRequest(asking(word, number), None)  # type: ignore[arg-type]
                foresight.add(live.request.id, live.content, len(word))
        self.index = prefix_index(policy, 1, blocks, foresight)
        self.count = 0

    def ask(self, word: str, priority: int = 0) -> int:
        """Serve a prompt; how many of its blocks were there."""
        live = LiveRequest(asking(word, self.count, priority), self.index.root)
        self.count += 1
        match = self.index.match(live.content, len(word))
        self.index.hold(live, match)
        self.index.take(len(word) - match.blocks)
        self.index.publish(live, len(word))
        self.index.release(live, len(word))
        return match.blocks

    def has(self, word: str) -> int:
        """How many blocks of a prompt are there; nothing changes."""
        live = LiveRequest(asking(word, 0), self.index.root)
        return self.index.match(live.content, len(word)).blocks


def asking(word: str, number: int, priority: int = 0) -> Request:
    # 10 apart: no two letters are consecutive tokens, so that every block is a run of its own.
    prompt = tuple((10 * ord(letter), 1) for letter in word)
    return Request(str(number), float(number), prompt, count_tokens(prompt), (), 1, priority)


def test_lfu_keeps_what_was_used_most() -> None:
    cache = Cache(4, "lfu")
    for word in ("ab", "ab", "cd", "xy"):
        cache.ask(word)
    assert (cache.has("ab"), cache.has("cd"), cache.has("xy")) == (2, 0, 2)


def test_fifo_forgets_the_first_however_often_it_was_used() -> None:
    cache = Cache(4, "fifo")
    for word in ("ab", "cd", "ab", "ab", "xy"):
        cache.ask(word)
    assert (cache.has("ab"), cache.has("cd"), cache.has("xy")) == (0, 2, 2)


def test_size_aware_evicts_the_longer_of_two_paths_used_as_often() -> None:
    cache = Cache(8, "size-aware")
    for word in ("abcde", "xy", "p", "qr"):  # 5 + 2 + 1 fill it; two blocks are needed
        cache.ask(word)
    assert (cache.has("abcde"), cache.has("xy"), cache.has("p")) == (3, 2, 1)


def test_priority_evicts_the_least_urgent_first() -> None:
    cache = Cache(4, "priority")
    cache.ask("ab", priority=0)
    cache.ask("cd", priority=5)
    cache.ask("xy", priority=1)
    assert (cache.has("ab"), cache.has("cd")) == (2, 0)
    cache.ask("pq", priority=9)
    assert (cache.has("ab"), cache.has("xy")) == (2, 0)


def test_an_urgent_user_makes_a_segment_urgent() -> None:
    cache = Cache(4, "priority")
    cache.ask("ab", priority=5)
    cache.ask("ab", priority=0)
    cache.ask("cd", priority=3)
    cache.ask("xy", priority=9)
    assert (cache.has("ab"), cache.has("cd")) == (2, 0)


def test_tail_first_cuts_the_deepest_path_and_no_further_than_the_next() -> None:
    step = 512  # one-token blocks: a step of depth
    cache = Cache(4 * step, "tail-first")
    long, short = "l" * (3 * step), "s" * step
    cache.ask(long)
    cache.ask(short)
    cache.ask("n" * step)
    assert (cache.has(long), cache.has(short)) == (2 * step, step)


def test_slru_protects_what_was_used_again_from_a_scan() -> None:
    cache = Cache(8, "slru")
    for word in ("ab", "ab", "cd", "ef", "gh", "ij", "kl", "mn"):
        cache.ask(word)
    assert cache.has("ab") == 2
    assert Cache(8, "lru").ask("ab") == 0


def test_slru_lets_go_of_what_was_protected_longest_when_too_much_is() -> None:
    cache = Cache(10, "slru")
    for word in ("ab", "cd", "ef", "gh", "ij"):
        cache.ask(word)
        cache.ask(word)
    cache.ask("xy")  # ten blocks are protected, eight may be: the oldest two go to probation, and out
    assert (cache.has("ab"), cache.has("cd")) == (0, 2)


def test_s3_fifo_remembers_what_it_just_evicted() -> None:
    cache = Cache(10, "s3-fifo")
    for word in ("ab", "cd", "ef", "gh", "ij", "kl"):
        cache.ask(word)
    assert cache.has("ab") == 0
    cache.ask("ab")  # a ghost: it enters the main queue
    for word in ("mn", "op", "qr", "st", "uv", "wx"):
        cache.ask(word)
    assert cache.has("ab") == 2
    assert cache.has("mn") == 0


def test_s3_fifo_moves_on_what_was_used_twice_more() -> None:
    cache = Cache(6, "s3-fifo")
    for word in ("ab", "ab", "ab", "cd", "ef", "gh", "ij", "kl"):
        cache.ask(word)
    assert cache.has("ab") == 2


def test_w_tinylfu_turns_newcomers_away_that_are_asked_for_less() -> None:
    cache = Cache(8, "w-tinylfu")
    for word in ("ab", "cd", "ef", "gh") * 3:
        cache.ask(word)
    for word in ("ij", "kl", "mn", "op"):
        cache.ask(word)
    # A newcomer is computed, which costs somebody's blocks once; after that newcomers replace each other.
    assert sum(cache.has(word) for word in ("ab", "cd", "ef", "gh")) == 6
    assert cache.has("op") == 2


def test_belady_evicts_what_is_needed_last() -> None:
    future = ["ab", "cd", "xy", "cd", "ab"]
    cache = Cache(4, "belady", future)
    hits = [cache.ask(word) for word in future]
    assert hits == [0, 0, 0, 2, 0]
    future = ["abc", "x", "yzw", "ab"]  # c and x are never needed again; then the end of ab must go
    cache = Cache(4, "belady", future)
    assert [cache.ask(word) for word in future] == [0, 0, 0, 1]


def test_no_policy_cuts_a_prefix_from_under_what_hangs_on_it() -> None:
    for policy in POLICIES:
        words = ["abc", "abd", "abc", "xyz", "abd"]
        cache = Cache(5, policy, words if policy == "belady" else None)
        for word in words:
            cache.ask(word)
        index = cache.index
        for node in (index.root, *index.root.children.values()):
            assert all(child.copies for child in node.children.values()), policy


# -- parts ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=200))
def test_a_sketch_never_underestimates_before_it_ages(seen: list[int]) -> None:
    sketch = FrequencySketch(64)
    for item in seen:
        sketch.add(item * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    for item in set(seen):
        estimate = sketch.estimate(item * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
        assert min(seen.count(item), 16) <= estimate <= 16


def test_a_sketch_forgets() -> None:
    sketch = FrequencySketch(16)
    sketch.add(1 << 40, 12)
    assert sketch.estimate(1 << 40) == 12
    for item in range(400):
        sketch.add((item + 7) * 0xD6E8FEB86659FD93 & (1 << 64) - 1)
    assert sketch.estimate(1 << 40) < 12


def test_foresight_counts_arrivals_and_skips_the_admitted() -> None:
    foresight = Foresight(1)
    lives = [LiveRequest(asking(word, n), None) for n, word in enumerate(("ab", "abc", "x", "ab"))]  # type: ignore[arg-type]
    for live in lives:
        foresight.add(live.request.id, live.content, live.prompt_tokens)
    content = lives[1].content
    assert [foresight.next_use(content, block) for block in range(3)] == [0, 0, 1]
    assert foresight.alike_from(content, 1) == 0
    assert foresight.alike_from(content, 2) == 2
    foresight.admitted("0")
    foresight.admitted("not announced")
    assert [foresight.next_use(content, block) for block in range(3)] == [1, 1, 1]
    foresight.admitted("1")
    assert [foresight.next_use(content, block) for block in range(3)] == [3, 3, NEVER]
    with pytest.raises(DataError, match="two requests"):
        foresight.add("2", content, 1)


@given(st.lists(st.text("ab", min_size=1, max_size=5), max_size=8), st.sets(st.integers(0, 7)))
def test_foresight_is_what_a_search_finds(words: list[str], admitted: set[int]) -> None:
    foresight = Foresight(1)
    lives = [LiveRequest(asking(word, n), None) for n, word in enumerate(words)]  # type: ignore[arg-type]
    for live in lives:
        foresight.add(live.request.id, live.content, live.prompt_tokens)
    for number in admitted:
        foresight.admitted(str(number))
    for live, word in zip(lives, words, strict=True):
        readers = [
            [n for n, other in enumerate(words) if other.startswith(word[: block + 1])]
            for block in range(len(word))
        ]
        for block, known in enumerate(readers):
            coming = [n for n in known if n not in admitted]
            assert foresight.next_use(live.content, block) == (coming[0] if coming else NEVER)
            assert foresight.alike_from(live.content, block) == readers.index(known)


def test_foresight_is_bounded() -> None:
    foresight = Foresight(1, most=3)
    content = LiveRequest(asking("ab", 0), None).content  # type: ignore[arg-type]
    for number in range(3):
        foresight.add(str(number), content, 2)
    with pytest.raises(UsageError, match="too much memory"):
        foresight.add("3", content, 2)


# -- choosing a policy ------------------------------------------------------------------------------------


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="slur") as caught:
        EngineConfig(num_blocks=10, eviction="slur")
    assert "slru" in str(caught.value)


def test_what_cannot_have_the_policy_says_so() -> None:
    config = EngineConfig(num_blocks=10, eviction="lfu")
    with pytest.raises(UsageError, match="fast engine"):
        make_engine("reference", config, CLOCK, Recorder())
    with pytest.raises(UsageError, match="before the first one arrives"):
        prefix_index("belady", 16, 10)
    with pytest.raises(UsageError, match="before the first one arrives"):
        make_engine("fast", with_policy(config, "belady"), CLOCK, Recorder(), replicas=2)


def test_lru_is_the_engine_s_own_queue() -> None:
    assert not isinstance(prefix_index("lru", 16, 10), RankedIndex)
    assert set(ONLINE) == set(POLICIES) - {"belady"}


def test_replay_refuses_a_cache_of_nothing() -> None:
    with pytest.raises(UsageError, match="0 blocks"):
        replay(collect([asking("ab", 0)], 1), 0, "lru")


def test_replay_keeps_only_what_fits_in_memory() -> None:
    with pytest.raises(UsageError, match="do not fit"):
        collect([asking("ab", number) for number in range(9)], 1, most_runs=5)
