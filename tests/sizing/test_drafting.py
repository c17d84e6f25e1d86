"""Draft layers and draft models, data-parallel attention, and images: what they add, exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvplan.errors import UsageError
from kvplan.sizing.capacity import fit_model
from kvplan.sizing.flags import engine_flags
from kvplan.sizing.sharding import Parallel
from kvplan.sizing.size import size_model
from kvplan.sizing.weights import parameter_count, stage_weights
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.schema import ModelSpec

Hand = Callable[[str], ModelSpec]


def test_mtp_layers_bring_their_weights_and_their_kv() -> None:
    model, gpu = load_model("deepseek-v3"), load_gpu("h200-sxm")
    parallel = Parallel(tp=8)
    plain = fit_model(model, gpu, parallel=parallel, max_model_len=32768)
    drafting = fit_model(model, gpu, parallel=parallel, max_model_len=32768, draft=True)
    assert parameter_count(model, draft=True) / 1e9 == pytest.approx(682.6, abs=0.1)
    more = drafting.weights_bytes - plain.weights_bytes
    whole = stage_weights(model, draft=True).stored_bytes - stage_weights(model).stored_bytes
    assert whole / 8 < more < 1.2 * whole / 8
    assert drafting.request_bytes * 61 == plain.request_bytes * 62
    flags = engine_flags(drafting)
    assert '--speculative-config \'{"method":"mtp","num_speculative_tokens":1}\'' in str(flags["vllm"])
    assert (
        "--speculative-algorithm NEXTN --speculative-num-steps 1 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 2"
    ) in str(flags["sglang"])
    assert "--speculative-num-steps 3" in str(
        engine_flags(
            fit_model(
                model,
                gpu,
                parallel=parallel,
                max_model_len=32768,
                draft=True,
                draft_tokens=3,
                engine="sglang",
            )
        )["sglang"]
    )


def test_a_draft_model_lies_beside_its_target(hand_model: Hand) -> None:
    target, drafter, gpu = hand_model("llama-3.1-70b"), hand_model("llama-3.1-8b"), load_gpu("h100-sxm")
    plain = fit_model(target, gpu, parallel=Parallel(tp=4), max_model_len=8192)
    both = fit_model(target, gpu, parallel=Parallel(tp=4), max_model_len=8192, drafter=drafter)
    assert both.weights_bytes - plain.weights_bytes == stage_weights(drafter, tp=4).total_bytes
    assert both.kv_pool_bytes == plain.kv_pool_bytes - stage_weights(drafter, tp=4).total_bytes
    assert both.request_bytes == plain.request_bytes * 112 // 80  # 80 + 32 layers of the same width
    assert "meta-llama/Llama-3.1-8B" in str(engine_flags(both)["vllm"])


def test_a_draft_model_has_a_logged_pool_of_its_own_layers(hand_model: Hand) -> None:
    """EAGLE: one more layer in the pool; a published start-up holds 410,128 tokens in 51.63 GiB."""
    from kvplan.specs.schema import Segment

    target = hand_model("llama-3.1-8b")
    head = target.model_copy(update={"layout": (Segment(repeat=1, blocks=("layer",)),)})
    report = fit_model(
        target, load_gpu("h100-sxm"), version="0.9.1", drafter=head, kv_pool_bytes=int(51.63 * 2**30)
    )
    assert report.kv_tokens == pytest.approx(410_128, rel=0.003)


def test_drafting_layers_that_are_not_there_are_refused(hand_model: Hand) -> None:
    with pytest.raises(UsageError, match="no multi-token-prediction layers"):
        fit_model(hand_model("llama-3.1-8b"), load_gpu("h100-sxm"), draft=True)


def test_data_parallel_attention_copies_weights_and_parts_sequences() -> None:
    model, gpu = load_model("deepseek-v3"), load_gpu("h200-sxm")
    cut = fit_model(model, gpu, parallel=Parallel(tp=8), max_model_len=32768, expert_parallel=True)
    dealt = fit_model(
        model, gpu, parallel=Parallel(tp=8, attention_ranks=8), max_model_len=32768, expert_parallel=True
    )
    # A latent is copied to every rank or lives on one of them: the same bytes a request, eight pools.
    assert dealt.request_bytes == cut.request_bytes
    whole = stage_weights(model, tp=8, ep=8, attention_ranks=8).by_component["attention"]
    assert whole == stage_weights(model).by_component["attention"]
    assert dealt.weights_bytes > cut.weights_bytes
    assert dealt.total_concurrency > 5 * cut.total_concurrency
    flags = engine_flags(dealt)
    assert "--data-parallel-size 8 --enable-expert-parallel" in str(flags["vllm"])
    assert "--dp-size 8 --enable-dp-attention" in str(flags["sglang"])


def test_images_stand_in_the_context() -> None:
    model = load_model("gemma-3-4b")
    plain = size_model(model, context_tokens=4096, retention="transformers")
    shown = size_model(model, context_tokens=4096, images=2, retention="transformers")
    assert shown.request.context_tokens == 4096 + 2 * 256
    assert shown.kv_bytes_per_sequence - plain.kv_bytes_per_sequence == 512 * plain.kv_bytes_per_token


def test_the_tokens_of_an_image_are_given_where_resolution_decides() -> None:
    model = load_model("qwen3-vl-8b")
    with pytest.raises(UsageError, match="its resolution decides"):
        size_model(model, context_tokens=4096, images=1)
    assert size_model(model, context_tokens=4096, images=3, image_tokens=1000).request.context_tokens == 7096
    with pytest.raises(UsageError, match="takes no images"):
        size_model(load_model("llama-3.1-8b"), context_tokens=4096, images=1)


@pytest.mark.parametrize(
    ("name", "per_token", "cross"),
    [
        ("whisper-large-v3", 163_840, 245_760_000),
        ("whisper-large-v3-turbo", 20_480, 30_720_000),
        ("whisper-tiny", 6_144, 9_216_000),
    ],
)
def test_whisper_keeps_thirty_seconds_beside_its_tokens(name: str, per_token: int, cross: int) -> None:
    report = size_model(load_model(name), context_tokens=448, kv="bf16", retention="transformers")
    assert report.kv_bytes_per_token == per_token
    assert report.encoder_bytes_per_sequence == cross
    assert report.kv_bytes_per_sequence == 448 * per_token + cross


def test_several_drafts_are_captured_and_named() -> None:
    model, gpu = load_model("deepseek-v3"), load_gpu("h200-sxm")
    one, three = (
        fit_model(model, gpu, parallel=Parallel(tp=8), draft=True, draft_tokens=drafts) for drafts in (1, 3)
    )
    assert (one.serving.decode_tokens, three.serving.decode_tokens) == (2, 4)
    assert 'num_speculative_tokens":3' in str(engine_flags(three)["vllm"])
    assert fit_model(model, gpu, parallel=Parallel(tp=8), draft_tokens=3).serving.decode_tokens == 1


@pytest.mark.parametrize(("caching", "states"), [(True, 3), (False, 1)])
def test_every_draft_has_a_state_of_its_own(caching: bool, states: int) -> None:
    model, gpu = load_model("qwen3.5-27b"), load_gpu("h200-sxm")

    def held(drafts: int) -> int:
        found = fit_model(
            model,
            gpu,
            prefix_caching=caching,
            max_model_len=32_768,
            draft=drafts > 0,
            draft_tokens=max(1, drafts),
        )
        layout = found.binding.pool.layout(32_768)
        (count,) = {group.blocks_per_request for group in layout.groups if group.reach[0] == "state"}
        return count

    assert [held(drafts) for drafts in (0, 1, 4)] == [states, states + 1, states + 4]


def test_a_draft_has_a_column_in_every_state_of_vllm() -> None:
    spec = load_model("qwen3-next-80b-a3b")

    def state(retention: str, draft: bool) -> int:
        return size_model(
            spec, context_tokens=8192, retention=retention, draft=draft
        ).state_bytes_per_sequence

    assert state("vllm", True) - state("vllm", False) == 36 * 8192 * 2
    for other in ("sglang", "transformers"):
        assert state(other, True) == state(other, False)
