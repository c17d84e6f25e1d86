"""The clock of an engine that drafts: what verifying and drafting take, and that parts add up."""

from __future__ import annotations

from functools import cache

import pytest

from kvplan.engine.protocols import StepBatch, together
from kvplan.latency.build import build_latency
from kvplan.latency.clock import Clock
from kvplan.latency.drafting import DraftingLatency, drafting_clock, own_drafter
from kvplan.latency.parts import Explained
from kvplan.latency.profile import ProfileLatency
from kvplan.latency.roofline import Roofline
from kvplan.sizing.parallel import Parallel
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format


@cache
def clock(name: str, kind: str = "roofline", tp: int = 8, rows: int = 1) -> Clock:
    """Of a model, or with ``+`` before its name of the layer it drafts with."""
    model = load_model(name.removeprefix("+"))
    drafts = name.startswith("+")
    return build_latency(
        {"model": kind}, model=own_drafter(model) if drafts else model, gpu=load_gpu("h100-sxm"),
        parallel=Parallel(tp=tp), kv_format=kv_format("bf16"), weights_format=None, block_size=64,
        decode_tokens=rows, projected=drafts,
    )  # fmt: skip


def verifying(requests: int, context: int, drafts: int, drafting: int = 0) -> StepBatch:
    tokens = requests * (1 + drafts)
    return StepBatch(tokens, requests * context, requests, requests * context, [], requests, drafting)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_rows_of_a_request_share_its_cache(kind: str) -> None:
    """Eight heads of queries for each of keys, and four tokens: 32 rows still fit the tile that one token fills."""
    model = "llama-3.1-70b"
    one, four = (clock(model, kind, rows=rows).model for rows in (1, 4))
    assert isinstance(one, Explained)
    assert isinstance(four, Explained)
    for requests, context in ((1, 8_000), (32, 8_000), (64, 1_000)):
        batch = verifying(requests, context, 0)
        alone, together = one.parts(batch).decode_s, four.parts(batch).decode_s
        assert alone <= together < 2.0 * alone


def test_a_profile_that_timed_no_verification_says_so() -> None:
    said = {
        rows: {item.name for item in clock("llama-3.1-70b", "profile", rows=rows).assumptions}
        for rows in (1, 4)
    }
    assert said[4] - said[1] == {"latency.verification"}


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_rows_of_latents_are_bound_by_arithmetic(kind: str) -> None:
    """128 heads of one latent are near the ridge already: four tokens take about four times as long."""
    model = "deepseek-v3"
    one, four = (clock(model, kind, tp=1, rows=rows).model for rows in (1, 4))
    assert isinstance(one, Explained)
    assert isinstance(four, Explained)
    batch = verifying(64, 16_000, 0)
    assert 2.0 < four.parts(batch).decode_s / one.parts(batch).decode_s < 4.5


def test_prompts_do_not_feel_the_rows() -> None:
    model = "llama-3.1-70b"
    batch = StepBatch(2000, 0, 0, 0, [(0, 2000)], 1)
    for kind in ("roofline", "profile"):
        seconds = {clock(model, kind, rows=rows).model.step_seconds(batch) for rows in (1, 4)}
        assert len(seconds) == 1


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_a_draft_is_a_pass_of_the_drafter(kind: str) -> None:
    target = "deepseek-v3"
    drafter = clock(f"+{target}", kind)
    both = drafting_clock(clock(target, kind, rows=4), drafter)
    model, passes = both.model, drafter.model
    assert isinstance(model, DraftingLatency)
    assert isinstance(passes, Explained)
    batches = [verifying(16, 4_000, 3, drafting) for drafting in (0, 1, 2, 3)]
    seconds = [model.step_seconds(batch) for batch in batches]
    # Without a draft to make the drafter still writes what the step has computed into its cache.
    assert seconds[0] == seconds[1] < seconds[2] < seconds[3]
    assert seconds[3] - seconds[2] == pytest.approx(seconds[2] - seconds[1])
    one = passes.parts(verifying(16, 4_000, 0))
    assert seconds[2] - seconds[1] == pytest.approx(one.seconds - one.overhead_s)
    for batch, whole in zip(batches, seconds, strict=True):
        parts = model.parts(batch)
        assert parts.seconds == pytest.approx(whole)
        assert parts.drafting_s > 0
    assert model.step_seconds(StepBatch()) == model.target.step_seconds(StepBatch())


def test_modules_of_their_own_have_a_pass_each_over_all_tokens() -> None:
    target, drafter = clock("deepseek-v3", rows=4), clock("+deepseek-v3")
    once, thrice = drafting_clock(target, drafter), drafting_clock(target, drafter, whole=3)
    prompt, decode = StepBatch(2000, 0, 0, 0, [(0, 2000)], 1), verifying(16, 4_000, 3, 3)
    for batch in (prompt, decode):
        model = thrice.model
        seconds = model.step_seconds(batch)
        (one,) = {once.model.step_seconds(batch) for _ in (0,)}
        assert seconds > one
        assert model.parts(batch).seconds == pytest.approx(seconds)  # type: ignore[attr-defined]
    plain = once.model.drafter.parts(prompt)  # type: ignore[attr-defined]
    single = plain.seconds - plain.overhead_s
    thrice.model.step_seconds(prompt)
    assert prompt.drafting_s == pytest.approx(3 * single)


@pytest.mark.parametrize("kind", ["roofline", "profile"])
def test_ranks_make_drafts_together(kind: str) -> None:
    """Experts of the drafter work for the tokens of all ranks, in each of its passes."""
    target, drafter = (
        build_latency(
            {"model": kind}, model=model, gpu=load_gpu("h100-sxm"), parallel=Parallel(tp=8, attention_ranks=8),
            kv_format=kv_format("bf16"), weights_format=None, block_size=64, decode_tokens=rows,
            projected=rows == 1, expert_parallel=True,
        )
        for model, rows in ((load_model("deepseek-v3"), 4), (own_drafter(load_model("deepseek-v3")), 1))
    )  # fmt: skip
    both, passes = drafting_clock(target, drafter).model, drafter.model
    assert isinstance(both, DraftingLatency)
    assert isinstance(passes, Roofline | ProfileLatency)

    def step(drafting: int, others: int) -> StepBatch:
        """A rank of which each of 16 requests verifies three drafts; seven others have so many requests."""
        mine = StepBatch(64, 64_000, 16, 64_000, [], 16, drafting)
        together([mine, *[StepBatch(4 * others, sampled_requests=others) for _ in range(7)]], 8)
        return mine

    def single(batch: StepBatch) -> float:
        parts = passes.parts(batch)
        return parts.seconds - parts.overhead_s

    steps = [step(drafting, 16) for drafting in (0, 1, 2, 3)]
    seconds = [both.step_seconds(batch) for batch in steps]
    after = StepBatch(16, 64_000, 16, 64_000, [], 16)
    together([after, *[StepBatch(16, sampled_requests=16) for _ in range(7)]], 8)
    first, next_one = single(steps[0]), single(after)
    assert 0.0 < next_one < first
    assert seconds[0] == seconds[1] == both.target.step_seconds(steps[0]) + first
    assert [batch.drafting_s for batch in steps] == pytest.approx([
        first, first, first + next_one, first + 2 * next_one,
    ])  # fmt: skip
    assert seconds[3] - seconds[0] == pytest.approx(2 * next_one)
    # More tokens on other ranks: experts take longer in each pass.
    assert both.step_seconds(step(3, 64)) - both.target.step_seconds(step(3, 64)) > seconds[3] - seconds[
        0
    ] + (both.target.step_seconds(steps[0]) - seconds[0])
    # Nobody of this rank samples: it passes with the others all the same.
    chunk = StepBatch(64, prefill_chunks=[(0, 64)], drafting=3)
    together([chunk, StepBatch(16, 64_000, 16, 64_000, [], 16, 3)], 8)
    alone = StepBatch(64, prefill_chunks=[(0, 64)], drafting=3)
    together([alone], 8)
    assert both.step_seconds(chunk) > both.step_seconds(alone)


def test_members_of_the_ensemble_are_off_together() -> None:
    both = drafting_clock(clock("deepseek-v3", rows=4), clock("+deepseek-v3"))
    assert both.perturbed is not None
    batch = verifying(8, 2_000, 1, 1)
    for draw in range(6):
        member = both.perturbed(draw)
        assert isinstance(member, DraftingLatency)
        changes = [
            other.step_seconds(batch) / own.step_seconds(batch)
            for other, own in ((member.target, both.model.target), (member.drafter, both.model.drafter))  # type: ignore[attr-defined]
        ]
        assert (changes[0] > 1.0) == (changes[1] > 1.0) or abs(changes[0] - changes[1]) < 0.1


def test_the_drafter_of_a_model_is_one_of_its_layers() -> None:
    model = load_model("deepseek-v3")
    drafter = own_drafter(model)
    assert (drafter.num_layers, drafter.hidden_size, drafter.vocab_size) == (1, 7168, 129_280)
    assert drafter.draft is None
    work = clock("+deepseek-v3").model.work  # type: ignore[attr-defined]
    (projection,) = [item for item in work.linears if item.name == "draft_projection"]
    # Two hidden states in, one out, whole on every rank, in the activations' dtype.
    assert (projection.outputs, projection.inputs) == (7168, 2 * 7168)
    assert projection.weight_bytes == 2 * 7168 * 7168 * 2
    assert not [item for item in clock("deepseek-v3").model.work.linears if item.name == projection.name]  # type: ignore[attr-defined]
