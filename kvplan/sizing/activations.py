"""The activation peak of vLLM's profiling run: what the pool cannot have because one step may need it.

vLLM measures it by running ``max_num_batched_tokens`` dummy tokens through the model and sampling for
``max_num_seqs`` sequences. The peak is the larger of two moments:

* **a layer's body**, with T tokens in flight on one rank: three hidden-sized tensors (residual, input,
  output) beside the widest intermediate: ``T x (3 h + 2 I + I)`` for a gated MLP, the expert workspaces
  for a mixture of experts, projections for attention;
* **the sampler**, on the last pipeline stage: hidden states of all T tokens, still alive, plus
  ``S x vocabulary`` elements in several copies. Tensor parallelism does not divide it, because logits are
  gathered on every rank.

A vision tower adds a third: as many images as the step's budget holds, encoded at once, and their embeddings
stay while the other two happen.

The bytes per logit are what changed between versions:

============== ============================================================== =====================
vLLM           copies alive at once                                           bytes per logit
============== ============================================================== =====================
before 0.17    logits, fp32 copy, sorted values, int64 indices, sort buffers, logits' dtype + 36
               probabilities
0.17 - 0.24    logits, fp32 copy, probabilities, exponential noise (top-k and logits' dtype + 12
               top-p no longer sort); one fp32 row per SM as a work buffer
0.25 on        logits and an fp32 copy (model runner V2 samples in place);    logits' dtype + 4
               mixture-of-experts and hybrid models from 0.30
============== ============================================================== =====================

Measured against start-up logs: 5.64 GiB for a 14B model on 0.15, 2.23 GiB on 0.17 (computed 5.58, 2.18).
"""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.sizing.serving import Serving
from kvplan.sizing.tensor import share
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs import state as kinds
from kvplan.specs.schema import (
    Block,
    CompressedAttention,
    CrossAttention,
    DenseMlp,
    LatentAttention,
    Mlp,
    ModelSpec,
    MoeMlp,
    SelfAttention,
    State,
    Vision,
)

HIDDEN_COPIES = 3
"""Hidden-sized tensors alive beside a layer's widest intermediate: residual, input, output."""

LARGEST_IMAGE_TOKENS = 16384
"""Tokens of the largest image where resolution decides (Qwen-VL processors: 16,777,216 pixels)."""

MLA_WORKSPACE_TOKENS = 65536
"""Most old context that MLA's chunked prefill expands at once; shorter where 8 x ``max_model_len`` is."""


@dataclass(frozen=True, slots=True)
class ActivationPeak:
    """The moments of the profiling run; the largest is the peak. 0 where this rank does not have one.

    ``embeddings_bytes``: what the vision tower hands over, alive beside body and sampler.
    """

    body_bytes: int
    sampler_bytes: int
    vision_bytes: int
    embeddings_bytes: int
    body_formula: str
    sampler_formula: str
    vision_formula: str

    @property
    def bytes(self) -> int:
        """What the profiling run finds."""
        return max(self.vision_bytes, self.embeddings_bytes + max(self.body_bytes, self.sampler_bytes))

    @property
    def formula(self) -> str:
        """The formula of the largest."""
        if self.vision_bytes == self.bytes:
            return self.vision_formula
        words = self.sampler_formula if self.sampler_bytes >= self.body_bytes else self.body_formula
        return f"{words} + image embeddings" if self.embeddings_bytes else words


def activation_peak(
    model: ModelSpec,
    serving: Serving,
    *,
    tp: int = 1,
    first_stage: bool = True,
    last_stage: bool = True,
    layers: range | None = None,
    max_model_len: int = 0,
    sm_count: int = 0,
    dtype: str | None = None,
) -> ActivationPeak:
    """Activation peak of one rank under ``serving``.

    Args:
        first_stage: whether this rank holds the vision tower, if there is one.
        last_stage: whether this rank samples.
        layers: decoder layers of this rank (default: all).
        sm_count: streaming multiprocessors of the GPU (sizes the sampler's work buffer).
        dtype: dtype of activations when it is not the model's.
    """
    element = weight_format(dtype or model.dtype).bits // 8
    tokens = serving.max_num_batched_tokens
    names = model.layer_names()
    held = {names[index] for index in (layers if layers is not None else range(len(names)))}
    width, what = max(_body_width(model.blocks[name], model.hidden_size, tp) for name in held)
    hidden = HIDDEN_COPIES * model.hidden_size
    body = tokens * (width + hidden) * element
    body_formula = f"{tokens:,} tokens x ({width:,} {what} + 3 x {model.hidden_size:,} hidden) x {element} B"
    workspace = _mla_workspace(model, max_model_len, tp) * element
    if workspace:
        body += workspace
        body_formula += f" + {workspace:,} B MLA workspace"
    vision, embeddings, vision_formula = (
        _vision_peak(model.vision, model.hidden_size, tokens, tp, element)
        if model.vision is not None and first_stage and serving.kind == "vllm"
        else (0, 0, "")
    )
    if not last_stage:
        return ActivationPeak(body, 0, vision, embeddings, body_formula, "", vision_formula)
    sequences = min(serving.max_num_seqs, tokens)
    if serving.kind == "sglang":
        sequences = min(sequences, serving.graph_max_batch)
    per_logit = element + _sampler_bytes(serving, model)
    sampler = tokens * model.hidden_size * element + sequences * model.vocab_size * per_logit
    formula = f"{sequences:,} sequences x {model.vocab_size:,} logits x {per_logit} B + hidden states"
    if _has_row_buffer(serving, model):
        sampler += 4 * sm_count * model.vocab_size
    return ActivationPeak(body, sampler, vision, embeddings, body_formula, formula, vision_formula)


def _vision_peak(vision: Vision, hidden: int, budget: int, tp: int, element: int) -> tuple[int, int, str]:
    """(peak of the tower, embeddings it leaves, formula) for as many images as one step may hold.

    The budget is ``max_num_batched_tokens`` or one image, whichever is more; where the resolution decides,
    an image of the largest size is assumed to give ``LARGEST_IMAGE_TOKENS``.
    """
    if vision.tokens_per_image is None:
        tokens = max(budget, LARGEST_IMAGE_TOKENS)
    else:
        tokens = max(budget // vision.tokens_per_image, 1) * vision.tokens_per_image
    patches = tokens * vision.patches_per_token
    width = share(vision.intermediate_size, tp) * (3 if vision.gated else 2)
    per_patch = width + HIDDEN_COPIES * vision.hidden_size
    formula = f"{patches:,} image patches x ({width:,} MLP + 3 x {vision.hidden_size:,} hidden) x {element} B"
    embeddings = tokens * hidden * element
    return patches * per_patch * element + embeddings, embeddings, formula


def _runner_v2(version: tuple[int, int, int], model: ModelSpec) -> bool:
    plain = all(
        group.block.state is None and (group.block.mlp is None or group.block.mlp.kind == "dense")
        for group in model.groups()
    )
    return version >= ((0, 25, 0) if plain else (0, 30, 0))


def _sampler_bytes(serving: Serving, model: ModelSpec) -> int:
    if serving.kind == "sglang":
        return 8  # fp32 logits and probabilities; not profiled, so this only checks the headroom
    if serving.version < (0, 17, 0):
        return 36
    return 4 if _runner_v2(serving.version, model) else 12


def _has_row_buffer(serving: Serving, model: ModelSpec) -> bool:
    if serving.kind == "sglang":
        return False
    return serving.version >= (0, 17, 0) and not _runner_v2(serving.version, model)


def _body_width(block: Block, hidden: int, tp: int) -> tuple[int, str]:
    """Elements per token of the widest moment of one layer, and what it is."""
    widths = [(0, "nothing")]
    if block.attention is not None:
        widths.append((_attention_width(block.attention, tp), "attention"))
    if block.cross is not None:
        widths.append((_cross_width(block.cross, tp), "cross attention"))
    if block.state is not None:
        widths.append((_state_width(block.state, tp), "state"))
    if block.mlp is not None:
        widths.append((_mlp_width(block.mlp, hidden, tp), "MLP" if block.mlp.kind == "dense" else "experts"))
    return max(widths)


def _mlp_width(mlp: Mlp, hidden: int, tp: int) -> int:
    if isinstance(mlp, DenseMlp):
        return share(mlp.intermediate_size, tp) * (3 if mlp.gated else 2)
    return _moe_width(mlp, hidden, tp)


def _moe_width(mlp: MoeMlp, hidden: int, tp: int) -> int:
    """Each token occupies ``experts_per_token`` rows of the fused kernel's two workspaces.

    The first workspace holds the up-projection and later the down-projection, so it is as wide as the wider
    of the two. Router logits are fp32 (two elements).
    """
    inner = mlp.latent_size or hidden
    width = share(mlp.intermediate_size, tp)
    up = width * (2 if mlp.gated else 1)
    routed = mlp.experts_per_token * (max(up, inner) + width) + 2 * mlp.experts
    shared = share(mlp.shared_intermediate_size, tp) * (3 if mlp.gated else 2)
    if mlp.shared_intermediate_size:
        routed += hidden  # the shared experts' output waits for the routed ones
    return max(routed, shared)


def _attention_width(attention: SelfAttention, tp: int) -> int:
    query = share(attention.query_heads, tp)
    if isinstance(attention, LatentAttention):
        qk = attention.nope_head_dim + attention.rope_head_dim
        # q, k (concatenated), expanded k and v, output
        expanded = attention.nope_head_dim + attention.v_head_dim
        return query * (2 * qk + expanded + attention.v_head_dim) + attention.latent_dim
    if isinstance(attention, CompressedAttention):
        return query * attention.head_dim * 2 + attention.q_lora_rank + attention.head_dim
    kv = share(attention.kv_heads, tp)
    v_dim = getattr(attention, "value_dim", attention.head_dim)
    gate = 2 if getattr(attention, "output_gate", False) else 1
    return query * (attention.head_dim * gate + v_dim) + kv * (attention.head_dim + v_dim)


def _cross_width(attention: CrossAttention, tp: int) -> int:
    heads = share(attention.query_heads, tp) + share(attention.kv_heads, tp)
    return 2 * heads * attention.head_dim


def _state_width(state: State, tp: int) -> int:
    """Input projection, convolved copy and output of a recurrent layer."""
    match state:
        case kinds.MambaState() | kinds.RecurrentState():
            return 4 * share(state.inner_size, tp)
        case kinds.Mamba2State():
            return 3 * share(state.inner_size, tp) + 2 * state.conv_channels // tp
        case kinds.GatedDeltaNetState():
            value = share(state.value_heads, tp) * state.value_head_dim
            return 2 * state.conv_channels // tp + 3 * value
        case kinds.KimiDeltaState():
            return 2 * state.conv_channels // tp + 3 * share(state.heads, tp) * state.head_dim
        case kinds.LinearAttentionState() | kinds.MatrixMemoryState():
            return share(state.heads, tp) * (2 * state.key_head_dim + 3 * state.value_head_dim)
        case kinds.RwkvState() | kinds.WkvState():
            return 6 * state.hidden_size // tp
        case kinds.ShortConvState():
            return 5 * share(state.channels, tp)
        case kinds.ConvolvedAttentionState():
            return 2 * share(state.conv_channels, tp)


def _mla_workspace(model: ModelSpec, max_model_len: int, tp: int) -> int:
    """Elements of the expanded K and V that MLA's chunked prefill may hold for old context."""
    widths = [
        share(a.query_heads, tp) * (a.nope_head_dim + a.v_head_dim)
        for a in (group.block.attention for group in model.groups())
        if isinstance(a, LatentAttention)
    ]
    if not widths:
        return 0
    return min(8 * (max_model_len or model.max_context or 0), MLA_WORKSPACE_TOKENS) * max(widths)
