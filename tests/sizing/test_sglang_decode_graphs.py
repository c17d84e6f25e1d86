"""Which decodes SGLang captures, and how many requests it says may run."""

from __future__ import annotations

import pytest

from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.overheads import captured_sizes
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.sglang.decode_graphs import decode_graphs
from kvplan.specs.catalog import load_gpu, load_model

NEWEST = (0, 5, 23)


def fit(model: str = "deepseek-v3", gpus_: int = 8, **options: object) -> FitReport:
    options = {"parallel": Parallel(tp=gpus_), "engine": "sglang"} | options
    return fit_model(load_model(model), load_gpu("h200-sxm"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "drafts", "first"),
    [
        ((0, 5, 2), False, (1, 2, 4, 8, 16)), (NEWEST, False, (1, 2, 4, 8, 12, 16)),
        (NEWEST, True, (1, 2, 3, 4, 5, 6, 7, 8, 10)),
    ],
)  # fmt: skip
def test_small_batches_pad_less_while_drafting(
    version: tuple[int, int, int], drafts: bool, first: tuple[int, ...]
) -> None:
    assert decode_graphs(version, 256, 2048, drafts=drafts)[: len(first)] == first


def test_medium_batches_of_drafts_by_version() -> None:
    def between(version: tuple[int, int, int]) -> list[int]:
        return [size for size in decode_graphs(version, 256, 2048, drafts=True) if 40 <= size <= 100]

    assert between((0, 5, 2)) == [40, 48, 56, 80, 96]
    assert between((0, 5, 4)) == [40, 44, 48, 52, 56, 60, 72, 80, 88, 96]
    assert between((0, 5, 5)) == [40, 44, 48, 52, 56, 60, 64, 72, 80, 88, 96]


@pytest.mark.parametrize("version", [(0, 5, 1), (0, 5, 9), NEWEST])
@pytest.mark.parametrize("drafts", [False, True])
def test_no_graph_is_larger_than_what_runs_and_one_is_as_large(
    version: tuple[int, int, int], drafts: bool
) -> None:
    for running in (1, 3, 37, 48, 255):
        sizes = decode_graphs(version, 256, running, drafts=drafts)
        assert sizes[-1] == running
        assert list(sizes) == sorted(set(sizes))


def test_drafting_runs_48_requests_at_a_time_unless_told() -> None:
    drafted = fit(draft=True, draft_tokens=2)
    assert drafted.max_num_seqs == 48
    assert captured_sizes(drafted.serving)[1][-1] == 48 * 3
    assert drafted.serving.graph_max_batch == 512, "the share of memory was fixed before"
    assert drafted.graph_bytes < fit().graph_bytes
    assert fit(draft=True, draft_tokens=2, max_num_seqs=96).max_num_seqs == 96


def test_ranks_share_a_limit() -> None:
    dealt = {"parallel": Parallel(tp=8, attention_ranks=8), "expert_parallel": True}
    assert fit(draft=True, **dealt).max_num_seqs == 48 // 8
    assert fit(max_num_seqs=100, **dealt).max_num_seqs == 12


def test_the_limit_follows_from_the_pools() -> None:
    assert fit().max_num_seqs == 2048
    assert fit("llama-3.1-8b", 8, max_model_len=8192).max_num_seqs == 4096
    states = fit("qwen3-next-80b-a3b", 2)
    assert states.max_num_seqs == states.binding.capacity.sequences < 2048
