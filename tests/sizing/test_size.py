"""Sizes: laws first, then golden integers that follow from the published shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import UnknownName, UsageError
from kvplan.sizing.attention import _STORES, Keeping, attention_stores
from kvplan.sizing.capacity import fit_model
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.retention import parse_retention
from kvplan.sizing.size import SizeReport, size_model
from kvplan.sizing.stages import stages
from kvplan.sizing.state import _PARTS, state_bytes
from kvplan.specs import attention as variants
from kvplan.specs.attention import FullAttention, LatentAttention, SelfAttention, SlidingAttention
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import format_names, kv_format
from kvplan.specs.model import Block, ModelSpec, Segment
from kvplan.specs.state import GatedDeltaNetState, Mamba2State, State


def model(*rows: tuple[int, Block], **fields: Any) -> ModelSpec:
    """A model of the given blocks, each repeated."""
    blocks = {f"b{index}": block for index, (_, block) in enumerate(rows)}
    layout = [Segment(repeat=count, blocks=(f"b{index}",)) for index, (count, _) in enumerate(rows)]
    given_fields = {"hidden_size": 1024, "vocab_size": 1000, **fields}
    return ModelSpec.model_validate(
        {
            "name": "m",
            "family": "f",
            "source": {"url": "u"},
            "blocks": blocks,
            "layout": layout,
            **given_fields,
        }
    )


def full(heads: int = 8, dim: int = 128, queries: int = 64) -> Block:
    return Block(attention=FullAttention(query_heads=queries, kv_heads=heads, head_dim=dim))


def sliding(window: int, heads: int = 8, dim: int = 128) -> Block:
    return Block(attention=SlidingAttention(query_heads=64, kv_heads=heads, head_dim=dim, window=window))


MLA = Block(
    attention=LatentAttention(
        query_heads=128, kv_lora_rank=512, rope_head_dim=64, nope_head_dim=128, v_head_dim=128
    )
)
GDN = Block(
    state=GatedDeltaNetState(
        key_heads=16, value_heads=32, key_head_dim=128, value_head_dim=128, conv_kernel=4
    )
)
RETENTIONS = ["ideal", "transformers", "vllm", "sglang", "streaming:4+1020", "h2o:0.2"]
HEAD_FORMATS = [name for name in format_names() if "ds_mla" not in name]


def size(spec: ModelSpec, tokens: int = 4096, **options: Any) -> SizeReport:
    return size_model(spec, context_tokens=tokens, **options)


def test_every_attention_variant_has_its_function() -> None:
    members = get_args(get_args(SelfAttention)[0])
    assert set(members) == set(_STORES)
    assert {
        cls for cls in vars(variants).values() if isinstance(cls, type) and cls.__name__.endswith("Attention")
    } >= set(members)


def test_every_state_has_its_function() -> None:
    assert set(get_args(get_args(State)[0])) == set(_PARTS)


# Laws


@given(st.integers(1, 90), st.integers(1, 20_000), st.sampled_from(HEAD_FORMATS), st.sampled_from(RETENTIONS))
def test_bytes_are_linear_in_layers(layers: int, tokens: int, form: str, retention: str) -> None:
    one = size(model((1, full())), tokens, kv=form, retention=retention)
    many = size(model((layers, full())), tokens, kv=form, retention=retention)
    ends = min(2 * kv_format(form).plain_ends, layers // 2 * 2) if retention == "vllm" else 0
    plain = size(model((1, full())), tokens, retention=retention)
    inner, outer = (layers - ends) * one.kv_bytes_per_sequence, ends * plain.kv_bytes_per_sequence
    assert many.kv_bytes_per_sequence == inner + outer
    if not ends:
        assert many.allocated_bytes_per_sequence == layers * one.allocated_bytes_per_sequence


@given(
    st.integers(1, 300_000), st.sampled_from(RETENTIONS), st.sampled_from(["bf16", "fp8", "nvfp4", "int4"])
)
def test_bytes_never_fall_as_the_context_grows(tokens: int, retention: str, form: str) -> None:
    spec = model((2, full()), (4, sliding(1024)), (2, GDN))
    shorter, longer = (size(spec, n, kv=form, retention=retention) for n in (tokens, tokens + 1))
    assert longer.kv_bytes_per_sequence >= shorter.kv_bytes_per_sequence
    assert longer.allocated_bytes_per_sequence >= shorter.allocated_bytes_per_sequence
    assert longer.state_bytes_per_sequence == shorter.state_bytes_per_sequence


@given(st.integers(1, 100_000), st.integers(1, 64), st.sampled_from(RETENTIONS))
def test_what_is_allocated_holds_what_is_kept(tokens: int, block: int, retention: str) -> None:
    spec = model((2, full()), (4, sliding(1024)))
    report = size(spec, tokens, block_size=block, retention=retention)
    assert report.allocated_bytes_per_sequence >= report.kv_bytes_per_sequence


@given(st.integers(1, 200_000))
def test_retention_orders_as_its_meaning_says(tokens: int) -> None:
    spec = model((2, full()), (4, sliding(1024)))
    kept = {name: size(spec, tokens, retention=name).kv_bytes_per_sequence for name in RETENTIONS}
    assert kept["ideal"] <= kept["transformers"] <= kept["vllm"] <= kept["sglang"]
    assert kept["streaming:4+1020"] <= kept["ideal"]
    assert kept["h2o:0.2"] <= kept["ideal"]


@given(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]))
def test_shards_sum_to_the_whole_plus_the_stated_copies(tp: int, pp: int, heads: int) -> None:
    spec = model((5, full(heads=heads)))
    whole = size(spec, retention="transformers")
    sharded = size(spec, retention="transformers", parallel=Parallel(tp=tp, pp=pp))
    copies = max(tp // heads, 1)
    assert tp * sum(sharded.gpu_bytes_by_stage) == copies * whole.total_bytes
    if tp > 1:
        words = " ".join(sharded.sharding)
        assert (f"kept by {copies} GPUs" in words) if copies > 1 else (f"{heads // tp} per GPU" in words)


@given(st.integers(1, 200), st.integers(1, 16))
def test_pipeline_stages_partition_the_layers(layers: int, pp: int) -> None:
    if pp > layers:
        return
    found = stages(layers, pp)
    assert [index for stage in found for index in stage] == list(range(layers))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert len(found[-1]) == layers // pp


@given(st.integers(16, 100_000))
def test_halving_the_bits_halves_the_bytes(tokens: int) -> None:
    spec = model((4, full()))
    sizes = [
        size(spec, tokens, kv=name, retention="transformers").kv_bytes_per_sequence
        for name in ("fp32", "bf16", "fp8")
    ]
    assert sizes[0] == 2 * sizes[1] == 4 * sizes[2]


@given(st.integers(1, 4096), st.integers(1, 16))
def test_the_batch_multiplies_and_data_parallelism_deals(batch: int, dp: int) -> None:
    spec = model((2, full()))
    one = size(spec)
    report = size(spec, batch=batch, parallel=Parallel(dp=dp))
    assert report.total_bytes == batch * one.total_bytes
    assert report.bytes_per_gpu == -(-batch // dp) * one.bytes_per_gpu


@given(st.integers(1, 8))
def test_a_latent_is_copied_under_tp_and_dealt_under_dp_attention(batch: int) -> None:
    spec = model((61, MLA))
    one = size(spec).bytes_per_gpu
    assert size(spec, batch=batch, parallel=Parallel(tp=8)).bytes_per_gpu == batch * one
    assert (
        size(spec, batch=batch, parallel=Parallel(tp=8, attention_ranks=8)).bytes_per_gpu
        == -(-batch // 8) * one
    )
    assert "keeps a copy" in size(spec, parallel=Parallel(tp=8)).sharding[0]


@given(st.sampled_from([1, 2, 4, 8]))
def test_state_shards_sum_to_the_whole_plus_copied_groups(tp: int) -> None:
    keeping = Keeping("vllm", kv_format("bf16"))
    delta = GDN.state
    assert delta is not None
    assert tp * state_bytes(delta, keeping, tp) == state_bytes(delta, keeping)
    mamba = Mamba2State(heads=64, head_dim=64, groups=1, state_size=128, conv_kernel=4)
    copied = (tp - 1) * 2 * 128 * 3 * 2  # every rank needs the one group's B and C
    assert tp * state_bytes(mamba, keeping, tp) == state_bytes(mamba, keeping) + copied


def test_context_parallelism_divides_the_context_and_copies_windows() -> None:
    spec = model((1, full()), (1, sliding(512)))
    options: dict[str, Any] = {"retention": "transformers"}
    whole, part = size(spec, 4096, **options), size(spec, 4096, parallel=Parallel(cp=4), **options)
    window = 511 * 4096
    assert part.bytes_per_gpu == (whole.total_bytes - window) // 4 + window


@settings(max_examples=60)
@given(
    st.integers(1, 64), st.sampled_from([2, 4, 8, 16]), st.integers(1, 300), st.sampled_from([1, 2, 8]),
    st.sampled_from([full(), MLA]),
)  # fmt: skip
def test_ring_attention_needs_total_over_ranks_and_one_chunk(
    layers: int, cp: int, blocks: int, tp: int, block: Block
) -> None:
    """A chunk is the share of one layer that comes round from the neighbour."""
    tokens = blocks * 16 * cp
    one = size(model((layers, block)), tokens, parallel=Parallel(tp=tp))
    ring = size(model((layers, block)), tokens, parallel=Parallel(tp=tp, cp=cp))
    total = one.bytes_per_gpu
    chunk = total // layers // cp
    assert ring.ring_chunk_bytes == chunk
    assert ring.bytes_per_gpu + ring.ring_chunk_bytes == total // cp + chunk
    terms = {term.name: term.value for term in ring.terms}
    assert terms["per GPU with ring chunk"] == total // cp + chunk
    assert one.ring_chunk_bytes == 0


def test_only_what_is_divided_goes_round_the_ring() -> None:
    spec = model((1, full()), (3, sliding(512)))
    assert size(spec, 4096, parallel=Parallel(cp=4)).ring_chunk_bytes == 1024 * 4096
    assert size(model((1, sliding(512))), 4096, parallel=Parallel(cp=4)).ring_chunk_bytes == 0


# Golden values


@pytest.mark.parametrize(
    ("layers", "block", "tokens", "form", "expected"),
    [
        (80, full(), 131_072, "fp16", 42_949_672_960),
        (80, full(), 131_072, "fp8", 21_474_836_480),
        (61, MLA, 1, "bf16", 70_272),
        (61, MLA, 1, "fp8_ds_mla", 61 * 656),
        (32, full(heads=32, queries=32), 1, "fp16", 524_288),
    ],
)
def test_known_sizes(layers: int, block: Block, tokens: int, form: str, expected: int) -> None:
    assert size(model((layers, block)), tokens, kv=form).kv_bytes_per_sequence == expected


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        ("ideal", 1023),
        ("transformers", 1023),
        ("vllm", 1023 + 16_384),
        ("sglang", 1024 + 16_384),
        ("streaming:4+508", 512),
    ],
)
def test_what_a_window_keeps(retention: str, kept: int) -> None:
    report = size(model((1, sliding(1024))), 131_072, retention=retention)
    assert report.kv_bytes_per_sequence == kept * 4096


def test_vllm_adds_a_block_because_a_window_may_start_inside_one() -> None:
    report = size(model((1, sliding(1024))), 131_072, max_num_batched_tokens=8192, async_scheduling=False)
    assert report.layout is not None
    assert report.layout.blocks_per_request == 577  # published by vLLM 0.33 for this window and budget


def test_streaming_and_heavy_hitters_bound_the_context() -> None:
    spec = model((1, full()))
    assert size(spec, 100_000, retention="streaming:4+1020").kv_bytes_per_sequence == 1024 * 4096
    assert size(spec, 100_000, retention="streaming:4+1020").kv_bytes_per_token == 0
    assert size(spec, 100_001, retention="h2o:0.2").kv_bytes_per_sequence == 20_001 * 4096


def test_a_hybrid_raises_the_block_until_a_page_holds_a_state() -> None:
    spec = model((10, full(heads=2, dim=256, queries=16)), (30, GDN))
    report = size(spec, 65_536)
    assert report.layout is not None
    attention, *states = report.layout.groups
    state = 8192 * 3 * 2 + 32 * 128 * 128 * 2
    assert attention.block_tokens == 16 * -(-state // (16 * 2048))
    assert attention.page_bytes == states[0].page_bytes >= state
    assert [group.blocks_per_request for group in states] == [2, 2, 2]
    assert any("raises the block size" in message for message in report.warnings)


def test_layer_groups_are_made_equal_with_padding() -> None:
    spec = model((7, full()), (16, sliding(128)))
    report = size(spec, 8192)
    assert report.layout is not None
    assert [(group.layers, group.padding_layers) for group in report.layout.groups] == [
        (7, 0),
        (7, 1),
        (7, 2),
        (7, 2),
    ]


def test_shared_layers_keep_nothing() -> None:
    shared = Block(attention=variants.SharedAttention(query_heads=8, kv_heads=2, head_dim=64))
    assert attention_stores(shared.attention, Keeping("vllm", kv_format("bf16"))) == ()
    assert size(model((2, full()), (8, shared))).kv_bytes_per_token == 2 * 4096


def test_separate_value_dimensions() -> None:
    block = Block(attention=FullAttention(query_heads=64, kv_heads=4, head_dim=192, v_head_dim=128))
    assert size(model((1, block))).kv_bytes_per_token == 4 * (192 + 128) * 2


def test_every_number_explains_itself() -> None:
    report = size(model((80, full())), 131_072, kv="fp8", parallel=Parallel(tp=4))
    terms = {term.name: term for term in report.terms}
    assert terms["KV per token"].value == report.kv_bytes_per_token
    assert "8 heads x 128" in terms["b0: K and V per token"].formula
    assert terms["per GPU"].value == report.bytes_per_gpu
    assert terms["static scales"].value == 80 * 2 * 4


def test_the_document_is_plain_and_complete() -> None:
    import json

    document = size(model((4, full()), (2, GDN))).to_dict()
    for key in (
        "schema", "model", "inputs", "kv_bytes_per_token", "kv_bytes_per_sequence", "state_bytes_per_sequence",
        "allocated_bytes_per_sequence", "total_bytes", "bytes_per_gpu", "layers", "terms", "warnings",
    ):  # fmt: skip
        assert key in document
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == "kvplan.size/1"
    assert all(isinstance(document[key], int) for key in document if "bytes" in key and "stage" not in key)


# Refusals


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tokens": 0}, "context_tokens must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 1.5}, "batch must be a whole number, got 1.5"),
        ({"tokens": "128k"}, "context_tokens must be a whole number, got '128k'"),
        ({"block_size": -1}, "block_size must be at least 1"),
        ({"parallel": Parallel(tp=3)}, "tp 3 does not divide the 64 query heads"),
        ({"parallel": Parallel(tp=0)}, "tp must be at least 1"),
        ({"parallel": Parallel(pp=9)}, "pp 9 is more than the 4 layers"),
        ({"kv": "fp8_ds_mla"}, "stores MLA latents"),
        ({"draft": True}, "no multi-token-prediction layers"),
        ({"retention": "h2o:1.5"}, "at most 1"),
        ({"retention": "streaming:4"}, "needs sink and window"),
    ],
)
def test_impossible_questions_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        size(model((4, full())), **options)


def test_degrees_are_named_up_to_those_of_a_rack() -> None:
    """Of a model with absurdly many heads, too: not one by one up to their number."""
    heads = 9 * 10**11
    with pytest.raises(UsageError, match="does not divide") as caught:
        size(model((4, full(heads, queries=heads))), parallel=Parallel(tp=7))
    assert caught.value.hint == (
        "use tp 1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 18, 20, 24, 25, 30, 32, 36, 40, 45, 48, 50, 60, 64"
    )


@pytest.mark.parametrize(("name", "states"), [("falcon-mamba-7b", 1), ("qwen3-next-80b-a3b", 2)])
def test_a_sequence_takes_as_many_states_as_the_engine_gives_it(name: str, states: int) -> None:
    """vLLM caches no prefixes of a model without attention; a hybrid's allocation says why it is so large."""
    spec = load_model(name)
    report = size_model(spec, context_tokens=2048)
    fit = fit_model(
        spec, load_gpu("h100-sxm"), parallel=Parallel(tp=1 if states == 1 else 4), max_model_len=2048
    )
    held = {group.blocks_per_request for group in report.layout.groups if group.reach[0] == "state"}
    assert held == {states}
    formula = next(term.formula for term in report.terms if term.name == "allocated per sequence")
    assert ("2 states a layer" in formula) == (states == 2)
    if states == 1:
        assert report.allocated_bytes_per_sequence == fit.binding.pool.request_bytes(2048)


def test_unknown_retention_suggests() -> None:
    with pytest.raises(UnknownName):
        parse_retention("vlm")


def test_a_context_beyond_the_model_and_a_window_beyond_the_context_warn() -> None:
    spec = replace_context(model((1, sliding(4096))), 8192)
    assert any("beyond the 8,192" in message for message in size(spec, 10_000).warnings)
    assert any("longer than the context" in message for message in size(spec, 1000).warnings)


def replace_context(spec: ModelSpec, tokens: int) -> ModelSpec:
    return spec.model_copy(update={"max_context": tokens})


def test_parallel_is_a_value() -> None:
    assert replace(Parallel(tp=2), pp=3).gpus == 6


@pytest.mark.parametrize(
    ("name", "tokens", "words"),
    [
        ("llama-3-8b", 5, "has no encoder"),
        ("whisper-large-v3", 5, "always has 1,500 tokens"),
        ("whisper-large-v3", 0, "at least 1"),
        ("bart-large", 4096, "has at most 1,024 tokens"),
    ],
)
def test_encoder_tokens_that_cannot_be_are_refused(name: str, tokens: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        size_model(load_model(name), context_tokens=64, encoder_tokens=tokens)


def test_groups_of_b_and_c_are_divided_or_one() -> None:
    """Engines refuse to build a Mamba-2 mixer whose groups they can neither divide nor copy."""

    def model(groups: int) -> ModelSpec:
        state = {
            "kind": "mamba2",
            "heads": 64,
            "head_dim": 64,
            "groups": groups,
            "state_size": 64,
            "conv_kernel": 4,
        }
        return ModelSpec.model_validate(
            {
                "name": "m", "family": "m", "source": {"url": "x"}, "hidden_size": 1024, "vocab_size": 1000,
                "blocks": {"m": {"state": state}}, "layout": [{"repeat": 2, "blocks": ["m"]}],
            }
        )  # fmt: skip

    for groups, tp in ((1, 8), (8, 8), (8, 4)):
        size_model(model(groups), context_tokens=64, parallel=Parallel(tp))
    with pytest.raises(UsageError, match="groups"):
        size_model(model(2), context_tokens=64, parallel=Parallel(4))
