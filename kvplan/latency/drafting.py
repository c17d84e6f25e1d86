"""The clock of an engine that drafts: steps of the model that verifies, each followed by a drafter's passes.

::

    t = step(all tokens, drafts among them)
        + drafter(all tokens)                         the first draft; fills the drafter's cache
        + (drafts - 1) * drafter(one token for every request that samples)

Where modules of their own make the drafts, each has a pass over all tokens of a step.

The drafter's passes are launched by the engine's own step: its overheads are not counted again. Where no
draft of a step could ever be verified none is made, but the drafter's cache is filled. Ranks of data-parallel
attention pass together, those whose requests do not sample, too.

SGLang makes the first draft behind a step and the others before the next one verifies them: they are counted
with the step that verifies, and a prefill is followed by one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kvplan.engine.protocols import LatencyModel, StepBatch
from kvplan.latency.assumption import Assumption
from kvplan.latency.clock import Clock
from kvplan.latency.graphs import Launching
from kvplan.latency.normals import Draw
from kvplan.latency.parts import StepParts
from kvplan.latency.profile import ProfileLatency
from kvplan.latency.roofline import Roofline
from kvplan.specs.model import ModelSpec, Segment


class DraftingLatency:
    """Steps of ``target``, and the passes of ``drafter`` behind each.

    Args:
        target: knows of ``1 + drafts`` tokens of a request in a step. drafter: of one.
        whole: passes over all tokens of a step.
    """

    __slots__ = ("drafter", "target", "whole")

    def __init__(
        self, target: Roofline | ProfileLatency, drafter: Roofline | ProfileLatency, whole: int = 1
    ) -> None:
        self.target, self.drafter, self.whole = target, drafter, whole

    @property
    def launching(self) -> Launching:
        """How the host launches the target's kernels."""
        return self.target.launching

    def with_constants(self, values: Mapping[str, float]) -> DraftingLatency:
        """Both with other constants."""
        target, drafter = self.target.with_constants(values), self.drafter.with_constants(values)
        return DraftingLatency(target, drafter, self.whole)

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of the step and of making the drafts for the next one, which are also written down."""
        batch.drafting_s = self._drafting(batch)
        return self.target.step_seconds(batch) + batch.drafting_s

    def parts(self, batch: StepBatch) -> StepParts:
        """The same step, by cause."""
        return replace(self.target.parts(batch), drafting_s=self._drafting(batch))

    def _drafting(self, batch: StepBatch) -> float:
        if not batch.scheduled_tokens:
            return 0.0
        seconds = self.whole * self._pass(batch)
        more = batch.drafting - self.whole
        whole = batch.together
        if more > 0 and (batch.sampled_requests if whole is None else whole.sampled):
            seconds += more * self._pass(_one_token_each(batch))
        return seconds

    def _pass(self, batch: StepBatch) -> float:
        parts = self.drafter.parts(batch)
        return parts.seconds - parts.overhead_s


def _one_token_each(batch: StepBatch) -> StepBatch:
    """A pass in which every request that samples has one more token, at the step's mean context."""
    count, whole = batch.sampled_requests, batch.together
    contexts = batch.decode_kv_tokens + sum(before + new for before, new in batch.prefill_chunks)
    held = round(contexts * count / (batch.decode_requests + len(batch.prefill_chunks)))
    together = None if whole is None else whole.one_token_each()
    return StepBatch(count, held, count, held, [], count, together=together)


def drafting_clock(clock: Clock, drafter: Clock, *, whole: int = 1) -> Clock:
    """The clock of a model whose drafts come from another one's passes.

    Args:
        clock, drafter: both of them know what a step is made of. whole: passes over all tokens of a step.
    """
    target, model = clock.model, drafter.model
    assert isinstance(target, Roofline | ProfileLatency)
    assert isinstance(model, Roofline | ProfileLatency)
    notes = tuple(item for item in drafter.assumptions if item.name == "latency.not_timed")
    return replace(
        clock,
        model=DraftingLatency(target, model, whole),
        perturbed=_members(clock.perturbed, drafter.perturbed, whole),
        assumptions=(
            *clock.assumptions, *notes,
            Assumption("latency.drafter", "one pass a draft", "its kernels are timed as the model's own"),
        ),
        warnings=(*clock.warnings, *(words for words in drafter.warnings if words not in clock.warnings)),
    )  # fmt: skip


def _members(
    target: Callable[[Draw], LatencyModel] | None, drafter: Callable[[Draw], LatencyModel] | None, whole: int
) -> Callable[[Draw], DraftingLatency] | None:
    """Members of the ensemble whose two clocks are off together."""
    if target is None or drafter is None:
        return None

    def perturbed(draw: Draw) -> DraftingLatency:
        first, second = target(draw), drafter(draw)
        assert isinstance(first, Roofline | ProfileLatency)
        assert isinstance(second, Roofline | ProfileLatency)
        return DraftingLatency(first, second, whole)

    return perturbed


def own_drafter(model: ModelSpec) -> ModelSpec:
    """One multi-token-prediction layer of a model, as a model."""
    assert model.draft is not None
    return model.model_copy(
        update={
            "name": f"{model.name}-mtp", "blocks": {"draft": model.draft.block},
            "layout": (Segment(blocks=("draft",), repeat=1),), "draft": None, "encoder": None, "vision": None,
            "extra_weights": (), "parameters": None,
        }
    )  # fmt: skip


def whole_passes(model: ModelSpec, drafts: int) -> int:
    """Passes over all tokens of a step where a model's own layers draft: one a draft if there are several."""
    assert model.draft is not None
    return drafts if min(model.draft.layers, drafts) > 1 else 1
