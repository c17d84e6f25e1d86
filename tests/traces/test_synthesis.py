"""Drawn workloads: their figures, their streams, and the content of conversations."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice, pairwise

import pytest

from kvplan.errors import UnknownName, UsageError
from kvplan.traces.arrivals import ArrivalProcess
from kvplan.traces.lengths import Constant, Lognormal, Normal, Quantiles, Uniform, parse_lengths
from kvplan.traces.prefixes import SharedTexts, TextPool
from kvplan.traces.request import iterate_tokens
from kvplan.traces.statistics import measure, timing
from kvplan.traces.streams import stream
from kvplan.traces.synthesize import synthesize
from kvplan.traces.workloads import AGENTIC, CHAT, RAG, WORKLOADS, workload

# --- arrivals


@pytest.mark.parametrize(
    ("kind", "shape", "cv"),
    [
        ("poisson", 1.0, 1.0),
        ("gamma", 0.25, 2.0),
        ("gamma", 4.0, 0.5),
        ("weibull", 2.0, 0.523),
        ("constant", 1.0, 0.0),
    ],
)
def test_processes_have_their_rate_and_variation(kind, shape, cv):
    times = list(islice(ArrivalProcess(20.0, kind, shape).times(random.Random(7)), 20_000))
    found = timing(times)
    assert found.rate_per_s == pytest.approx(20.0, rel=0.05)
    assert found.gap_cv == pytest.approx(cv, rel=0.05, abs=1e-9)


@pytest.mark.parametrize(
    "bad", [(0.0, "poisson", 1.0), (1.0, "gamma", 0.0), (float("nan"), "poisson", 1.0), (1.0, "x", 1.0)]
)
def test_processes_out_of_range(bad):
    with pytest.raises(UsageError):
        ArrivalProcess(*bad)


# --- lengths

LENGTHS = [
    Constant(7),
    Uniform(3, 9),
    Normal(500, 50, 1, 1_000),
    Lognormal(200, 1.0, 10, 1_500),
    Quantiles(((0.0, 10.0), (0.5, 100.0), (1.0, 1_000.0))),
]


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda found: type(found).__name__)
def test_drawn_means_are_the_stated_means(lengths):
    draw = lengths.sampler(random.Random(3))
    values = [draw() for _ in range(20_000)]
    assert sum(values) / len(values) == pytest.approx(lengths.mean(), rel=0.03)


@pytest.mark.parametrize("lengths", LENGTHS[1:], ids=lambda found: type(found).__name__)
def test_one_uniform_a_draw(lengths):
    rng, other = random.Random(5), random.Random(5)
    draw = lengths.sampler(rng)
    for _ in range(50):
        draw()
        other.random()
    assert rng.getstate() == other.getstate()


def test_lengths_as_written():
    assert parse_lengths("1k") == Constant(1024)
    assert parse_lengths("uniform:3-9") == Uniform(3, 9)
    assert parse_lengths("normal:512,128") == Normal(512, 128, 1, 51_200)
    assert parse_lengths("lognormal:400,1.1") == Lognormal(400, 1.1, 1, 40_000)
    assert parse_lengths("quantiles:0=10,0.5=200,1=8000") == Quantiles(
        ((0.0, 10.0), (0.5, 200.0), (1.0, 8_000.0))
    )


@pytest.mark.parametrize(
    "text",
    ["", "x", "uniform:9-3", "normal:1", "lognormal:5,99", "quantiles:0=1", "quantiles:0=9,1=3", "poisson:3"],
)
def test_lengths_mistyped(text):
    with pytest.raises(UsageError):
        parse_lengths(text)


# --- shared texts


def test_popularity_follows_zipf():
    pool = TextPool(SharedTexts(100, Constant(50), zipf=1.0), 0, "t", 0)
    pick = pool.picker(random.Random(1))
    counts = dict.fromkeys(pool.runs, 0)
    for _ in range(20_000):
        counts[pick()] += 1
    first, second, tenth = (counts[pool.runs[k]] for k in (0, 1, 9))
    assert first / second == pytest.approx(2, rel=0.15)
    assert first / tenth == pytest.approx(10, rel=0.25)


def test_texts_of_two_pools_share_no_token():
    pools = [TextPool(SharedTexts(10_000, Constant(4_000_000)), 0, "t", shelf) for shelf in (0, 1, 25)]
    ends = [(pool.runs[0][0], pool.runs[-1][0] + pool.runs[-1][1]) for pool in pools]
    assert all(a[1] <= b[0] for a, b in pairwise(ends))
    assert ends[-1][1] <= 1 << 40


# --- workloads


@pytest.mark.parametrize("name", WORKLOADS)
def test_same_seed_same_requests(name):
    first = list(synthesize(name, 300, 20.0, 4))
    assert first == list(synthesize(name, 300, 20.0, 4))
    assert first != list(synthesize(name, 300, 20.0, 5))
    assert first[:100] == list(synthesize(name, 100, 20.0, 4))
    assert [r.id for r in first[:2]] == ["000000", "000001"]
    assert all(0.0 <= a.arrival_s <= b.arrival_s for a, b in pairwise(first))


@pytest.mark.parametrize(
    ("name", "requests", "rate"),
    [("chat", 15_000, 20.0), ("rag", 4_000, 10.0), ("agentic", 15_000, 20.0), ("fixed", 4_000, 20.0)],
)
def test_the_rate_is_the_rate_of_the_whole_trace(name, requests, rate):
    arrivals = [r.arrival_s for r in synthesize(name, requests, rate, 1)]
    assert timing(arrivals).rate_per_s == pytest.approx(rate, rel=0.08)
    half = len(arrivals) // 2
    assert arrivals[half] / arrivals[-1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["chat", "agentic"])
def test_later_prompts_extend_earlier_prompt_and_answer_exactly(name):
    chosen = replace(workload(name), turns=replace(workload(name).turns, max_context=10**9))
    talks: dict[str, list] = {}
    for request in synthesize(chosen, 150, 5.0, 2):
        assert request.prompt_tokens == sum(length for _, length in request.prompt)
        talks.setdefault(request.session, []).append(request)
    followed = 0
    for turns in talks.values():
        for before, after in pairwise(turns):
            said = [*iterate_tokens(before.prompt), *iterate_tokens(before.output)]
            assert list(iterate_tokens(after.prompt))[: len(said)] == said
            assert after.prompt_tokens > len(said)
            followed += 1
    assert followed > 10


def test_contexts_are_compacted_at_their_limit():
    requests = list(synthesize("agentic", 6_000, 10.0, 1))
    assert max(r.prompt_tokens + r.output_tokens for r in requests) <= AGENTIC.turns.max_context
    last: dict[str, int] = {}
    shrunk = 0
    for request in requests:
        shrunk += request.prompt_tokens < last.get(request.session, 0)
        last[request.session] = request.prompt_tokens
    assert 0 < shrunk < 0.05 * len(requests)


def test_no_two_requests_answer_alike():
    requests = list(synthesize("chat", 2_000, 20.0, 1))
    starts = sorted((r.output[0][0], r.output[0][0] + r.output_tokens) for r in requests)
    assert all(a[1] <= b[0] for a, b in pairwise(starts))


def test_rag_shares_passages_and_agents_reuse_most():
    rag = measure(synthesize("rag", 3_000, 10.0, 1), lru=False).reuse.token_hit_ratio
    agentic = measure(synthesize("agentic", 3_000, 10.0, 1), lru=False).reuse.token_hit_ratio
    fixed = measure(synthesize("fixed", 100, 10.0, 1), lru=False).reuse.token_hit_ratio
    assert fixed == 0.0 < 0.15 < rag < 0.5 < 0.9 < agentic < 1.0


def test_think_times_move_no_start_and_no_length():
    def talks(think):
        found: dict[str, list] = {}
        for r in synthesize(replace(CHAT, turns=replace(CHAT.turns, think_ms=think)), 1_500, 5.0, 3):
            found.setdefault(r.session, []).append(r)
        return {name: rows for name, rows in found.items() if name.startswith("s")}

    quick, slow = talks(Constant(2_000)), talks(Lognormal(60_000, 0.5, 1_000, 500_000))
    both = [(quick[name], slow[name]) for name in quick.keys() & slow.keys()]
    assert len(both) > 200
    assert sum(len(rows) > 1 for _, rows in both) > 20
    for one, other in both:
        assert one[0].arrival_s == other[0].arrival_s
        for a, b in zip(one, other, strict=False):
            assert (a.prompt, a.output_tokens) == (b.prompt, b.output_tokens)
            assert a.arrival_s <= b.arrival_s


@pytest.mark.parametrize("feature", ["system", "documents"])
def test_turning_a_feature_on_moves_no_other_stream(feature):
    without = replace(RAG, system=None, documents=None)
    with_it = replace(without, **{feature: SharedTexts(5, Uniform(100, 200))}, documents_per_prompt=1)
    plain, extended = (list(synthesize(found, 200, 5.0, 3)) for found in (without, with_it))
    assert [r.arrival_s for r in plain] == [r.arrival_s for r in extended]
    assert [r.output_tokens for r in plain] == [r.output_tokens for r in extended]
    assert [r.prompt[-1][1] for r in plain] == [r.prompt[-1][1] for r in extended]
    assert all(100 <= b.prompt_tokens - a.prompt_tokens <= 200 for a, b in zip(plain, extended, strict=True))


def test_lengths_can_be_replaced():
    requests = list(synthesize("fixed", 50, 5.0, 0, input_tokens=100, output_tokens="uniform:3-4"))
    assert {r.prompt_tokens for r in requests} == {100}
    assert {r.output_tokens for r in requests} == {3, 4}


def test_requests_of_conversations_are_drawn_lazily():
    assert next(synthesize("chat", 2 * 10**8, 5.0, 0)).arrival_s >= 0.0


@pytest.mark.parametrize("name", ["chat", "agentic"])
def test_more_conversations_than_can_be_drawn_are_refused(name):
    """Those under way at time 0 are drawn too: millions of them took all memory."""
    with pytest.raises(UsageError, match=r"1e\+09 requests a second are more than") as caught:
        next(synthesize(name, 5, 1e9))
    assert "rag and fixed" in caught.value.hint
    assert next(synthesize("rag", 5, 1e9)).arrival_s < 1.0


def test_fewer_conversations_than_can_be_drawn_are_refused_by_the_rate_that_was_given():
    with pytest.raises(
        UsageError, match=r"^1e-09 requests a second are fewer than chat can be drawn at: 4e-09,"
    ):
        next(synthesize("chat", 5, 1e-9))
    assert next(synthesize("fixed", 5, 1e-9)).arrival_s > 0.0


def test_streams_are_the_same_everywhere():
    assert stream(0, "arrivals").random() == 0.24447812383061163
    assert stream(0, "arrivals").random() != stream(0, "question").random() != stream(1, "question").random()


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "chatt"},
        {"requests": 0},
        {"rate": 0.0},
        {"arrivals": "uniform"},
        {"shape": 0.0, "arrivals": "gamma"},
    ],
)
def test_bad_requests_for_workloads(bad):
    options = {"name": "chat", "requests": 5, "rate": 1.0, **bad}
    with pytest.raises(UsageError):
        synthesize(**options)
    if "name" in bad:
        with pytest.raises(UnknownName) as caught:
            synthesize(**options)
        assert caught.value.suggestions == ["chat"]
