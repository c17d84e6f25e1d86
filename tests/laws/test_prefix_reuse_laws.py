"""Laws of prefix reuse: units and pins change nothing where they must not, and nothing is lost or stuck."""

from __future__ import annotations

import dataclasses

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from test_fast_equals_reference import CLOCK, play
from workloads import cases, requests

from kvplan.engine.cache_replay import collect, replay
from kvplan.engine.config import EngineConfig
from kvplan.engine.live import LiveRequest
from kvplan.engine.recorder import Recorder
from kvplan.engine.replacement.catalog import ONLINE
from kvplan.engine.replica import Replica
from kvplan.engine.reuse.pins import PinRule
from kvplan.engine.reuse.replica import ReuseReplica
from kvplan.engine.reuse.units import unit_index
from kvplan.traces.request import Request

Case = tuple[EngineConfig, list[Request]]

often = examples(100)
units = st.sampled_from([1, 2, 3, 5])
policies = st.sampled_from(ONLINE)


@st.composite
def pinnings(draw: st.DrawFn) -> dict[str, object]:
    """Rules that pin much of the small pools of ``cases``, for times of a few steps up to the whole run."""
    rules = tuple(
        PinRule(
            draw(st.integers(1, 24)), draw(st.sampled_from([0.004, 0.03, 0.2, 5.0])), draw(st.integers(1, 3))
        )
        for _ in range(draw(st.integers(1, 3)))
    )
    return {"unit": draw(units), "rules": rules, "budget": draw(st.integers(1, 40))}


def caching(case: Case, **changes: object) -> EngineConfig:
    return dataclasses.replace(case[0], enable_prefix_caching=True, **changes)  # type: ignore[arg-type]


@often
@given(cases(), policies)
def test_a_unit_of_one_block_is_the_plain_index(case: Case, policy: str) -> None:
    config = caching(case, eviction=policy)
    one, plain = play(Unit1, config, case[1], log=True), play(Replica, config, case[1], log=True)
    assert (one.lines, one.told) == (plain.lines, plain.told)


class Unit1(ReuseReplica):
    """Goes through ``UnitIndex`` although its units are blocks."""

    def __init__(self, config: EngineConfig, latency: object, recorder: Recorder) -> None:
        super().__init__(config, latency, recorder)  # type: ignore[arg-type]
        scheduler = self.scheduler
        scheduler.index = unit_index(config.eviction, config.block_size, config.usable_blocks, 1)
        scheduler.pool = scheduler.index.pool


@often
@given(cases(), units)
def test_where_memory_is_no_object_units_are_larger_blocks(case: Case, unit: int) -> None:
    """Memory is given out in blocks and reused in units; with enough of it only the units are left."""
    fine = caching(case, num_blocks=4000)
    coarse = dataclasses.replace(fine, block_size=unit * fine.block_size, groups=())
    in_units = play(ReuseReplica, fine, case[1], log=False, unit=unit).told
    in_blocks = play(Replica, coarse, case[1], log=False).told
    assert in_units[0] == in_blocks[0]
    assert in_units[1]["hit_tokens"] == in_blocks[1]["hit_tokens"]


@examples(200)
@given(requests(longest=40), units, st.integers(1, 30), policies)
def test_the_cache_alone_in_units_is_one_of_larger_blocks(
    found: list[Request], unit: int, capacity: int, policy: str
) -> None:
    size = 2
    references = collect(found, size * unit)
    index = unit_index(policy, size, capacity * unit, unit)
    hits = 0
    for request in references.prompts:
        live = LiveRequest(request, index.root)
        wanted = min(request.prompt_tokens // size, capacity * unit)
        match = index.match(live.content, wanted)
        index.hold(live, match)
        index.take(wanted - match.blocks)
        index.publish(live, wanted)
        index.release(live, wanted)
        hits += match.blocks
        assert index.pool.blank + index.pool.cached == capacity * unit
    # Two count in steps of tokens, which are other blocks here; the ghosts of s3-fifo are first blocks, in which
    # units can agree that differ later.
    if policy in ("w-tinylfu", "tail-first", "s3-fifo"):
        assert hits <= unit * references.bound.hit_blocks
    else:
        assert hits == unit * replay(references, capacity, policy).hit_blocks


@often
@given(cases(), pinnings())
def test_where_nothing_is_evicted_pins_change_nothing(case: Case, pinning: dict) -> None:
    config = caching(case, num_blocks=4000)
    pinning["budget"] = 3999
    pinned = play(ReuseReplica, config, case[1], log=False, **pinning)
    plain = play(ReuseReplica, config, case[1], log=False, unit=pinning["unit"])
    assert pinned.told[0] == plain.told[0]
    assert pinned.told[3] == plain.told[3]


@examples(300)
@given(cases(), pinnings(), policies)
def test_nobody_is_lost_and_nothing_hangs(case: Case, pinning: dict, policy: str) -> None:
    config = caching(case, eviction=policy)
    rows, _, _, rejections = play(Replica, caching(case), case[1], log=False).told
    run = play(ReuseReplica, config, case[1], log=False, **pinning)
    assert {row.id for row in run.told[0]} == {row.id for row in rows}
    assert run.told[3] == rejections
    for row in run.told[0]:
        assert row.arrival_s <= row.scheduled_s < row.first_token_s <= row.finish_s
        assert row.cached_tokens < row.prompt_tokens
        assert row.cached_tokens % (pinning["unit"] * config.block_size) == 0
    again = play(ReuseReplica, config, case[1], log=True, **pinning)
    assert again.told == run.told


@examples(150)
@given(cases(), pinnings(), policies)
def test_what_is_left_at_the_end_is_what_is_pinned(case: Case, pinning: dict, policy: str) -> None:
    recorder = Recorder()
    engine = ReuseReplica(caching(case, eviction=policy), CLOCK, recorder, **pinning)
    engine.run(case[1])
    engine.close()
    pins, pool = engine.scheduler.pins, engine.scheduler.pool
    assert engine.used_blocks == pins.blocks <= pins.budget
    assert pins.counters.peak_blocks <= pins.budget
    found = pins.counters
    assert found.pinned == found.expired + found.given_up + len(pins.pins)
    pins.expire(float("inf"))
    assert pins.blocks == 0
    assert pool.blank + pool.cached == pool.usable
    figures = {metric.name: metric.value for metric in recorder.sections["pinned prefixes"]}
    assert figures["mean_blocks"] <= found.peak_blocks
    assert figures["hit_tokens"] <= recorder.totals.hit_tokens


# -- what a pin is for --------------------------------------------------------------------------------------


def flood(start: float, *, prefix_at: float, prompt: int = 40) -> list[Request]:
    """Two requests with one beginning, many without, and one that begins so again."""
    system = (0, 16)
    shared = [
        Request(f"s{n}", at, (system, (1000 + 10 * n, 4)), 20, ((5000 + n, 2),), 2)
        for n, at in enumerate((0.0, 0.5, prefix_at))
    ]
    others = [
        Request(f"o{n}", start + 0.2 * n, ((10_000 + 100 * n, prompt),), prompt, ((90_000 + n, 2),), 2)
        for n in range(20)
    ]
    return sorted([*shared, *others], key=lambda request: request.arrival_s)


CONFIG = EngineConfig(num_blocks=41, block_size=4, max_model_len=64, max_num_seqs=4)


def cached_tokens(work: list[Request], config: EngineConfig = CONFIG, **options: object) -> dict[str, int]:
    kind = ReuseReplica if options else Replica
    return {row.id: row.cached_tokens for row in play(kind, config, work, log=False, **options).told[0]}  # type: ignore[arg-type]


RULE = PinRule(tokens=16, ttl_s=10.0, min_uses=2)


def test_a_pinned_prefix_survives_a_flood() -> None:
    work = flood(1.0, prefix_at=8.0)
    assert cached_tokens(work)["s2"] == 0
    assert cached_tokens(work, rules=(RULE,), budget=4)["s2"] == 16


def test_a_pin_ends_with_its_time_to_live_and_begins_anew_with_a_use() -> None:
    work = flood(1.0, prefix_at=8.0)
    short = dataclasses.replace(RULE, ttl_s=2.0)
    assert cached_tokens(work, rules=(short,), budget=4)["s2"] == 0
    use = Request("use", 2.4, ((0, 16), (777, 4)), 20, ((888, 2),), 2)
    once_more = sorted([*work, use, use._replace(id="use2", arrival_s=4.3),
                        use._replace(id="use3", arrival_s=6.2)], key=lambda r: r.arrival_s)  # fmt: skip
    assert cached_tokens(once_more, rules=(short,), budget=4)["s2"] == 16


@pytest.mark.parametrize("ttl_s", [0.02, 0.05, 0.1, 0.3, 1.0])
def test_a_queue_is_served_to_its_end_while_pins_come_and_go(ttl_s: float) -> None:
    """All arrive at once: what moves the clock from then on is the queue, and timers are in its way."""
    work = [
        Request(f"r{n:03d}", 0.0, ((100 * (n % 7), 12), (10_000 + 20 * n, 8)), 20, ((90_000 + 9 * n, 5),), 5)
        for n in range(120)
    ]
    rules = (PinRule(12, ttl_s, 1), PinRule(4, 2 * ttl_s, 2))
    for depth in (True, False):
        config = dataclasses.replace(CONFIG, async_scheduling=depth)
        assert len(cached_tokens(work, config, rules=rules, budget=12)) == len(work)


def test_too_few_uses_or_no_room_in_the_budget_pin_nothing() -> None:
    work = flood(1.0, prefix_at=8.0)
    assert cached_tokens(work, rules=(dataclasses.replace(RULE, min_uses=3),), budget=4)["s2"] == 0
    recorder = Recorder()
    engine = ReuseReplica(CONFIG, CLOCK, recorder, rules=(RULE,), budget=3)
    engine.run(work)
    engine.close()
    figures = {metric.name: metric.value for metric in recorder.sections["pinned prefixes"]}
    assert figures["pinned"] == 0
    assert figures["refused"] == 2


def test_a_request_that_needs_the_pinned_blocks_gets_them() -> None:
    """37 of 40 blocks are asked for while 4 are pinned: the pin is given up, and the run ends."""
    work = [
        *flood(1.0, prefix_at=1.5)[:4],
        Request("big", 2.0, ((500_000, 140),), 140, ((600_000, 8),), 8),
    ]
    config = dataclasses.replace(CONFIG, max_model_len=160)
    recorder = Recorder()
    engine = ReuseReplica(config, CLOCK, recorder, rules=(dataclasses.replace(RULE, ttl_s=1e6),), budget=8)
    engine.run(work)
    engine.close()
    assert recorder.totals.finished == len(work)
    figures = {metric.name: metric.value for metric in recorder.sections["pinned prefixes"]}
    assert figures["given_up"] == 1
    assert recorder.totals.makespan_s < 100.0


def test_shared_blocks_count_once_in_the_budget() -> None:
    nested = (RULE, dataclasses.replace(RULE, tokens=8))
    recorder = Recorder()
    engine = ReuseReplica(CONFIG, CLOCK, recorder, rules=nested, budget=4)
    engine.run(flood(1.0, prefix_at=8.0))
    engine.close()
    figures = {metric.name: metric.value for metric in recorder.sections["pinned prefixes"]}
    assert figures["pinned"] == 2
    assert figures["peak_blocks"] == 4
    assert figures["refused"] == 0


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_to_live_is_a_time(seconds: float) -> None:
    with pytest.raises(Exception, match="time to live"):
        PinRule(16, seconds)
