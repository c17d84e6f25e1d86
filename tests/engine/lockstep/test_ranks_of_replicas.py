"""What a cluster sees of a replica that is a group of ranks: all of them."""

from __future__ import annotations

from kvplan.engine.arrivals import Arrivals
from kvplan.engine.cluster import Cluster
from kvplan.engine.config import EngineConfig
from kvplan.engine.impatient import Impatient
from kvplan.engine.lockstep.strategy import DataParallelAttention
from kvplan.engine.patience import Patience
from kvplan.engine.recorder import Recorder
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)
CONFIG = EngineConfig(
    num_blocks=100, block_size=4, max_model_len=64, max_num_seqs=8, max_num_batched_tokens=64
)
RANKS = DataParallelAttention(2, "round-robin")


def asked(name: str, arrival_s: float, content: int, prompt: int, answer: int) -> Request:
    return Request(name, arrival_s, ((content, prompt),), prompt, ((10**6 + 100 * content, answer),), answer)


def test_a_router_sees_requests_and_blocks_of_all_ranks_and_the_best_cache() -> None:
    group = RANKS.engine(CONFIG, CLOCK, Recorder())
    # To ranks 0, 1, 0 and 1; the first prompt has its blocks in both ranks, the second in the other one only.
    prompts = [(0, 16), (0, 16), (1000, 8), (2000, 20)]
    for number, (content, tokens) in enumerate(prompts):
        group.push(asked(f"{number}", 0.0, content, tokens, 9))
    assert group.requests == 4
    group.advance(0.02)
    first, second = group.ranks
    assert (first.requests, second.requests, group.requests) == (2, 2, 4)
    assert first.used_blocks != second.used_blocks
    assert group.used_blocks == first.used_blocks + second.used_blocks
    found = {content: group.cached_blocks_of(asked("next", 1.0, content, 21, 1)) for content, _ in prompts}
    assert found == {0: 4, 1000: 2, 2000: 5}
    point = group.point(0.02)
    assert point[1:] == tuple(map(sum, zip(first.point(0.02)[1:], second.point(0.02)[1:], strict=True)))


def test_the_next_request_goes_where_all_ranks_have_least() -> None:
    """Whatever a replica's first rank has: a replica whose second rank is full is no idle one."""
    lines: list[str] = []
    cluster = Cluster(2, "least-loaded", CONFIG, CLOCK, Recorder(on_decision=lines.append), RANKS)
    short, long = (0, 4, 1), (500, 4, 40)
    # Replicas 0, 1, 0, 1: one short answer and a long one at replica 0, two short ones at replica 1.
    cluster.run(
        [
            asked("a", 0.0, *short), asked("b", 0.0, *short), asked("c", 0.0, *long), asked("d", 0.0, *short),
            asked("e", 0.1, *short), asked("f", 0.1, *short),
        ]
    )  # fmt: skip
    begun = {line.split("\t")[0] for line in lines if "e=" in line or "f=" in line}
    assert begun == {"1"}


def test_clients_of_every_rank_give_up() -> None:
    gone: list[str] = []
    recorder = Recorder(on_timed_out=lambda name, _: gone.append(name))
    cluster = Cluster(2, "round-robin", CONFIG, CLOCK, recorder, RANKS)
    requests = [asked(f"{number}", 0.0, 1000 * number, 8, 40) for number in range(4)]
    cluster.run(Impatient(Arrivals(requests), Patience(0.05)))
    cluster.close()
    assert sorted(gone) == ["0", "1", "2", "3"]
