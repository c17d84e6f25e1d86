"""The bill of memory of one GPU: weights + activations + runtime + graphs + cache pool = what may be used.

vLLM plans with a share of *total* memory: ``budget = total x gpu_memory_utilization``, and the pool is what
weights, activation peak, runtime and (since 0.20) CUDA graphs leave of it. Before 0.20 graphs are captured
in the memory outside the budget.

SGLang plans with a share of what is *free* once the process is up: ``pool = free x mem_fraction_static -
weights``; activations and graphs live in the rest. Where it sizes the pool after it has captured graphs and
measured what is left, the graphs' estimate takes the measurement's place.

With pipeline stages every GPU has a bill of its own; the stage that affords the fewest tokens decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvplan.sizing.activations import ActivationPeak, activation_peak
from kvplan.sizing.overheads import graph_bytes, graphs_in_budget, runtime_bytes
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import Serving
from kvplan.sizing.sglang.reserve import image_cache_bytes
from kvplan.sizing.stages import stages
from kvplan.sizing.weights import WeightBill, stage_weights
from kvplan.specs.schema import GpuSpec, ModelSpec


@dataclass(frozen=True, slots=True)
class MemoryBill:
    """One GPU's memory, in bytes. ``kv_pool_bytes`` is negative when the rest alone is too much.

    Law: ``weights + activations + runtime + graphs (when in the budget) + images + pool == budget_bytes``,
    and with ``outside_bytes`` the budget makes ``total_bytes``.
    """

    stage: int
    layers: range
    total_bytes: int
    budget_bytes: int
    weights: WeightBill
    activation: ActivationPeak
    activation_bytes: int
    runtime_bytes: int
    graph_bytes: int
    graphs_in_budget: bool
    activation_in_budget: bool
    kv_pool_bytes: int
    drafter_bytes: int = 0
    """Weights of a draft model beside the model's own."""
    images_bytes: int = 0
    """Kept beside the pool for embeddings of images (SGLang)."""

    @property
    def weights_bytes(self) -> int:
        """What the engine will say loading took."""
        return self.weights.total_bytes + self.drafter_bytes

    @property
    def outside_bytes(self) -> int:
        """Memory the engine leaves alone; graphs and activations that are not in the budget live here."""
        return self.total_bytes - self.budget_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left outside the budget once everything that lives there has its place."""
        inside = (0 if self.graphs_in_budget else self.graph_bytes) + (
            0 if self.activation_in_budget else self.activation_bytes
        )
        return self.outside_bytes - inside


def memory_bill(
    model: ModelSpec,
    gpu: GpuSpec,
    serving: Serving,
    *,
    parallel: Parallel,
    stage: int = 0,
    max_model_len: int,
    weights_format: str | None = None,
    dtype: str | None = None,
    expert_parallel: bool = False,
    draft: bool = False,
    drafter: ModelSpec | None = None,
) -> MemoryBill:
    """The bill of one GPU of pipeline stage ``stage``.

    Args:
        draft: load the model's own multi-token-prediction layers too (on the last stage).
        drafter: a draft model beside it, cut over the same ``tp`` ranks, on the last stage.

    Raises:
        UnknownName: the weight format; UsageError: ``tp`` does not divide the model.
    """
    layers = stages(model.num_layers, parallel.pp, serving.kind, serving.version)[stage]
    last = stage == parallel.pp - 1
    weights = stage_weights(
        model,
        weights_format=weights_format,
        tp=parallel.tp,
        pp=parallel.pp,
        ep=parallel.tp if expert_parallel else 1,
        stage=stage,
        draft=draft,
        attention_ranks=parallel.attention_ranks,
        engine=serving.kind,
        version=serving.version,
    )
    beside = 0
    if drafter is not None and last:
        beside = stage_weights(
            drafter, tp=parallel.tp, attention_ranks=parallel.attention_ranks, engine=serving.kind
        ).total_bytes
    taken = weights.total_bytes + beside
    stepped = serving
    if serving.kind == "sglang" and parallel.dp_attention:  # ranks share a chunk
        stepped = replace(
            serving,
            max_num_batched_tokens=max(serving.max_num_batched_tokens // parallel.attention_ranks, 1),
        )
    activation = activation_peak(
        model, stepped, tp=parallel.tp, first_stage=stage == 0, last_stage=last, layers=layers,
        max_model_len=max_model_len, sm_count=gpu.sm_count or 0, dtype=dtype,
    )  # fmt: skip
    runtime = runtime_bytes(serving, gpu, parallel.tp)
    graphs = graph_bytes(serving, len(layers))
    total = gpu.usable_memory_bytes
    inside = graphs_in_budget(serving)
    if serving.kind == "sglang":
        budget = runtime + int((total - runtime) * serving.utilization)
        images = image_cache_bytes(serving.version, gpu, model)
        pool = budget - runtime - taken - images
        if serving.after_capture_bytes is not None:
            left = max(total - budget, serving.after_capture_bytes)
            budget = min(budget, total - left - graphs)
            pool = budget - runtime - taken - images
    else:
        images = 0
        budget = int(total * serving.utilization)
        pool = budget - taken - activation.bytes - runtime - (graphs if inside else 0)
    return MemoryBill(
        stage=stage,
        layers=layers,
        total_bytes=total,
        budget_bytes=budget,
        weights=weights,
        activation=activation,
        activation_bytes=activation.bytes,
        runtime_bytes=runtime,
        graph_bytes=graphs,
        graphs_in_budget=inside,
        activation_in_budget=serving.kind == "vllm",
        kv_pool_bytes=pool,
        drafter_bytes=beside,
        images_bytes=images,
    )
