"""Sparse attention: what an indexer chose is read, and choosing it is timed."""

from dataclasses import replace

import pytest

from kvplan.engine.protocols import StepBatch
from kvplan.latency.attention_work import CHOOSING, INDEXER, WHOLE
from kvplan.latency.datasheet import Datasheet
from kvplan.latency.efficiency import COMMON
from kvplan.latency.work import step_work
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format


def work_of(model, *, tp=1, engine="vllm"):
    return step_work(load_model(model), parallel=Parallel(tp=tp), kv_format=kv_format("bf16"), engine=engine)


def scores(work):
    return [item for item in work.attentions if item.kind == INDEXER]


def decode(requests, context):
    return StepBatch(requests, requests * context, requests, requests * context, [], requests)


def prompt(before, new):
    return StepBatch(new, 0, 0, 0, [(before, new)], 0)


def test_compressed_layers_read_the_chosen_entries_alone():
    """DeepSeek-V4-Flash: 512 entries of 4 tokens, in 21 of its layers."""
    limits = {
        item.ratio: item.limit for item in work_of("deepseek-v4-flash").attentions if item.kind != INDEXER
    }
    assert limits == {1: 128, 4: 2048, 128: None}


def test_every_key_is_scored_by_every_rank():
    (item,) = scores(work_of("deepseek-v3.2", tp=8))[:1]
    assert (item.q_heads, item.kv_heads, item.limit, item.ratio) == (64, 1, None, 1)
    assert item.kv_bytes_per_token == 132
    assert item.decode_flops == 2 * 64 * 128
    assert sum(found.layers for found in scores(work_of("deepseek-v3.2"))) == 61


def test_ranks_of_vllm_share_a_prompts_rows_and_those_of_sglang_do_not():
    shared, whole = (
        scores(work_of("deepseek-v3.2", tp=8, engine=engine))[0] for engine in ("vllm", "sglang")
    )
    assert shared.prefill_flops == whole.prefill_flops / 8
    assert shared.decode_flops == whole.decode_flops


def test_a_layer_that_takes_an_earlier_ones_choice_scores_nothing():
    own = {name: sum(item.layers for item in scores(work_of(name))) for name in ("glm-5", "glm-5.2")}
    assert own["glm-5"] == 78
    assert own["glm-5.2"] == 21


def test_decode_takes_what_reading_all_keys_does(clock_of):
    """61 layers of 132 bytes a token: 48 sequences of 120,000 tokens are 46 GB beyond those of 2,048."""
    clock = clock_of("roofline", "deepseek-v3.2", "h200-sxm", tp=8)
    long, short = (clock.model.step_seconds(decode(48, context)) for context in (122_048, 2_048))
    least = 61 * 132 * 48 * 120_000 / load_gpu("h200-sxm").bandwidth_bytes_per_s
    assert least < long - short < 2 * least


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_prompt_takes_what_scoring_all_keys_does(engine):
    """Behind 100,000 tokens 8,192 more meet 8,192 x 100,000 keys beyond those behind 4,096."""
    from kvplan.latency.roofline import Roofline, RooflineConstants

    gpu, work = load_gpu("h200-sxm"), work_of("deepseek-v3.2", tp=8, engine=engine)
    clock = Roofline(replace(work, all_reduces=0), gpu, None, RooflineConstants())
    more = clock.step_seconds(prompt(104_096, 8_192)) - clock.step_seconds(prompt(4_096, 8_192))
    ranks = 8 if engine == "vllm" else 1
    least = 61 * 8_192 * 100_000 * 2 * 64 * 128 / ranks / gpu.peak_flops["fp8"]
    assert least < more < 2 * least


def test_prompts_read_chosen_latents_as_they_are(clock_of):
    """16 heads of a rank are padded to the 64 of the kernel; up to ``topk`` tokens all are read instead."""
    model = load_model("deepseek-v3.2")
    clock = clock_of("roofline", model, "h200-sxm", tp=8).model
    short, long = (clock.parts(prompt(0, new)).prefill_s for new in (2_048, 2_049))
    least = 61 * 2_048 * 1_024 * 64 * 2 * (2 * 512 + 64) / load_gpu("h200-sxm").peak_flops["bf16"]
    assert short < least < long


def test_blackwell_multiplies_a_few_heads_by_themselves():
    found = {
        (gpu, heads): Datasheet(load_gpu(gpu), COMMON).sparse_heads(heads)
        for gpu in ("h200-sxm", "b200") for heads in (8, 16, 32, 128)
    }  # fmt: skip
    assert [found["h200-sxm", heads] for heads in (8, 16, 32, 128)] == [64, 64, 64, 128]
    assert [found["b200", heads] for heads in (8, 16, 32, 128)] == [16, 16, 64, 128]


def test_heads_read_the_chosen_blocks_and_ranks_divide_their_scores():
    """MiniMax-M3: 16 blocks of 128 tokens in 57 of 60 layers, whose four index heads are cut as KV heads are."""
    found = work_of("minimax-m3", tp=4).attentions
    kinds = {(item.kind, item.limit, item.layers) for item in found}
    assert kinds == {("full", 2048, 57), ("full", None, 3), (INDEXER, None, 57)}
    item = next(item for item in found if item.kind == INDEXER)
    assert (item.q_heads, item.kv_bytes_per_token, item.narrow) == (1, 256, False)
    assert item.prefill_flops == item.decode_flops == 2 * 128


def test_sparse_attention_of_unknown_width_is_said_to_read_all():
    model = load_model("minimax-m3")
    blocks = {
        name: block.model_copy(
            update={
                "attention": block.attention.model_copy(update={"indexer": unknown(block.attention.indexer)})
            }
        )
        for name, block in model.blocks.items()
    }
    work = step_work(
        model.model_copy(update={"blocks": blocks}), parallel=Parallel(), kv_format=kv_format("bf16")
    )
    assert work.notes == (WHOLE,)
    assert not scores(work)


def unknown(indexer):
    return None if indexer is None else indexer.model_copy(update={"topk": None})


def test_a_profile_says_that_scores_are_not_timed():
    timed = work_of("deepseek-v3.2")
    work = timed.without_scores()
    assert not scores(work)
    assert timed.notes == (CHOOSING,)
    assert work.notes == ("a sparse indexer is not timed",)
    dense = work_of("deepseek-v3")
    assert dense.without_scores() is dense
