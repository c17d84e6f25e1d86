"""SGLang's pools: for windows, for recurrent state, and how many requests run."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.overheads import captured_sizes
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.sglang.pool import running_requests, state_slots, window_ratio
from kvplan.specs.catalog import load_gpu, load_model

POOL = 20 << 30


def fit(model: str, version: str = "0.5.23", gpu: str = "h200-sxm", **options: object) -> FitReport:
    return fit_model(
        load_model(model), load_gpu(gpu), engine="sglang", version=version, kv_pool_bytes=POOL,
        **{"max_model_len": 8192, **options},
    )  # fmt: skip


def test_only_some_models_have_a_pool_for_windows() -> None:
    """Layers of others keep the whole context, whatever they attend to."""
    layers = load_model("gpt-oss-20b").layers()
    cell = 2 * 8 * 64 * 2  # K and V of one token in one layer, all layers alike
    full = sum(block.attention.kind == "full" for block in layers if block.attention is not None)
    windows = len(layers) - full
    apart = fit("gpt-oss-20b")
    assert apart.kv_tokens == int(POOL / (cell * (full + Fraction(4, 5) * windows)))
    gemma = fit("gemma-3-12b")
    attention = load_model("gemma-3-12b").layers()[0].attention
    assert attention is not None
    whole = 48 * 2 * attention.kv_heads * attention.head_dim * 2  # type: ignore[union-attr]
    assert gemma.kv_tokens == POOL // whole


@pytest.mark.parametrize(
    ("model", "before", "since"), [("llama-4-scout", "0.5.7", "0.5.8"), ("gemma-4-31b", "0.5.10", "0.5.11")]
)
def test_a_pool_for_windows_came_with_a_version(model: str, before: str, since: str) -> None:
    options = {"parallel": Parallel(tp=4)}
    assert fit(model, before, **options).kv_tokens < fit(model, since, **options).kv_tokens


def test_state_slots_by_version() -> None:
    """Of its share of memory; with one of padding since 0.5.17; 512 before 0.5.4."""
    options = {"parallel": Parallel(tp=4)}
    reports = {v: fit("qwen3-next-80b-a3b", v, **options) for v in ("0.5.3", "0.5.13", "0.5.16", "0.5.23")}
    state = reports["0.5.23"].binding.pool.state_bytes
    cell = reports["0.5.23"].binding.pool.token_bytes
    share = POOL * 9 // 19 // state
    for version, taken in (("0.5.3", 512), ("0.5.13", share), ("0.5.16", share), ("0.5.23", share)):
        assert reports[version].kv_tokens == int((POOL - taken * state) / cell)
    short = {
        v: fit("qwen3-next-80b-a3b", v, max_model_len=64, **options).max_concurrency
        for v in ("0.5.3", "0.5.13", "0.5.16", "0.5.23")
    }
    assert short == {"0.5.3": 512, "0.5.13": share // 3, "0.5.16": share // 5, "0.5.23": (share - 1) // 5}


@pytest.mark.parametrize(
    ("drafts", "each", "state", "memory", "running", "expected"),
    [
        (0, 3, 2_106_022, 58_545_703_641, 48, (13_167, 27_732_097_696)),
        (2, 4, 44_046_411, 32_378_570_262, 8, (196, 9_866_396_064)),
        (2, 3, 60_823_794, 86_684_324_486, 8, (335, 22_079_037_222)),
        (5, 4, 18_878_116, 123_919_372_063, 256, (1_240, 52_537_796_828)),
        (2, 5, 2_105_796, 107_252_599_037, 2_048, (15_076, 44_693_414_304)),
        (2, 5, 15_734_303, 94_407_102_943, 48, (1_773, 30_225_596_063)),
        (2, 4, 62_914_912, 116_677_854_394, 8, (499, 33_156_158_624)),
    ],
)
def test_states_of_drafts_come_out_of_the_share(
    drafts: int, each: int, state: int, memory: int, running: int, expected: tuple[int, int]
) -> None:
    """What ``_handle_max_mamba_cache`` of 0.5.23 itself says, given as much memory (to a byte or two)."""
    serving = replace(
        fit("qwen3-next-80b-a3b", "0.5.23", parallel=Parallel(tp=4)).serving,
        decode_tokens=1 + drafts, max_num_seqs=running,
    )  # fmt: skip
    slots, taken = state_slots(serving, memory, state, each)
    assert slots == expected[0]
    assert taken == pytest.approx(expected[1], abs=2)


@pytest.mark.parametrize("version", [(0, 5, 3), (0, 5, 10), (0, 5, 13), (0, 5, 23)])
def test_ranks_share_the_requests_that_states_are_kept_for(version: tuple[int, int, int]) -> None:
    """``max_running_requests // attn_dp_size``: what each of four ranks has, it has of a quarter of them alone."""
    made = fit("qwen3-next-80b-a3b", "0.5.23", parallel=Parallel(tp=4)).serving
    given = frozenset({"max_num_seqs"})
    alone = replace(made, version=version, decode_tokens=4, max_num_seqs=12, given=given)
    ranks = replace(alone, max_num_seqs=50, ranks=4)
    assert state_slots(ranks, 19_000_000, 10_000, 5) == state_slots(alone, 19_000_000, 10_000, 5)
    assert captured_sizes(ranks) == captured_sizes(alone)


def test_ranks_have_a_share_of_fixed_slots() -> None:
    made = replace(fit("qwen3-next-80b-a3b", "0.5.23", parallel=Parallel(tp=4)).serving, version=(0, 5, 3))
    assert state_slots(replace(made, ranks=4), 10**9, 10) == (128, 1280)


def test_states_of_drafts_by_version() -> None:
    """Padded since 0.5.17; before 0.5.13 they came first, for all that may run."""
    made = fit("qwen3-next-80b-a3b", "0.5.23", parallel=Parallel(tp=4)).serving
    serving = replace(made, decode_tokens=4, max_num_seqs=10)
    found = {
        patch: state_slots(replace(serving, version=(0, 5, patch)), 190_000, 100, 5) for patch in (10, 13, 17)
    }
    # 900 states fit into the share; 10 requests have four more each, and so has the padding.
    assert found[13] == (500, 50_000 + 10 * 400)
    assert found[17] == (497, 49_800 + 11 * 400)
    assert found[10] == ((190_000 - 4_000) * 9 // 1_900, (190_000 - 4_000) * 9 // 1_900 * 100 + 4_000)


def test_some_window_pools_are_a_tenth_of_the_full_one() -> None:
    model = load_model("gpt-oss-20b")
    assert window_ratio(model, (0, 5, 23)) == Fraction(4, 5)
    assert window_ratio(model.model_copy(update={"family": "inkling"}), (0, 5, 23)) == Fraction(1, 10)
    assert window_ratio(load_model("deepseek-v4-flash"), (0, 5, 23)) == Fraction(1, 10)


def test_tokens_are_whole_pages() -> None:
    report = fit("llama-3.1-8b", gpu="b200")
    assert report.kv_tokens == POOL // 131072 // 64 * 64


@pytest.mark.parametrize(
    ("version", "tokens", "context", "given", "limit"),
    [
        ((0, 5, 23), 400_000, 131_072, None, 2048), ((0, 5, 23), 4_000_000, 131_072, None, 4096),
        ((0, 5, 23), 400_000, 65_536, None, 3125), ((0, 5, 23), 1000, 8192, None, 500),
        ((0, 5, 9), 1000, 8192, None, 2048), ((0, 5, 9), 1000, 8192, 900, 900),
        ((0, 5, 10), 1000, 8192, 900, 900), ((0, 5, 14), 1000, 8192, 900, 500),
        ((0, 5, 13), 100_000, 131_072, 9000, 2048), ((0, 5, 14), 100_000, 131_072, 9000, 9000),
    ],
)  # fmt: skip
def test_how_many_requests_run(
    version: tuple[int, int, int], tokens: int, context: int, given: int | None, limit: int
) -> None:
    assert running_requests(version, tokens, context, given=given) == limit
