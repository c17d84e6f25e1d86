"""What the weights of a model take on one GPU, by storage format, tensor, pipeline and expert parallelism.

What an engine reports as "model loading took" is more than parameters times bytes:

* a quantized checkpoint leaves parts unquantized (embeddings, output head, routers, norms) and adds scales;
* replicated tensors (norms, routers, MLA down-projections, KV heads beyond the tensor-parallel size) stay
  whole on every rank;
* the rotary table is ``max_context x rotary dimensions`` in the model's dtype;
* MLA keeps its up-projection twice, packed for prefill and per head for decode;
* MXFP4 experts are padded to what their kernels take (GPT-OSS: 2,880 becomes 3,072 and 2,944);
* 4-bit integer weights are repacked for the Marlin kernels, and the copy of the largest matrix stays counted;
* the caching allocator rounds big tensors up (:mod:`kvplan.sizing.allocator`).

All are counted here, so that the total can be compared with a log to the hundredth of a GiB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from kvplan.errors import UsageError
from kvplan.sizing.allocator import allocated_bytes
from kvplan.sizing.family_weights import family_parameters
from kvplan.sizing.parameters import Split, absorbed_copies, attention_tensors, block_tensors, mlp_tensors
from kvplan.sizing.sglang.names import Version
from kvplan.sizing.sharding import tp_dividing
from kvplan.sizing.stages import StageTables, everywhere, stages, whole_beside_dealt_tokens
from kvplan.sizing.tensor import Tensor, matrix, share, vector
from kvplan.sizing.weight_formats import WeightFormat, weight_format
from kvplan.specs.model import Vision
from kvplan.specs.schema import Block, Component, LatentAttention, ModelSpec, SharedAttention

UNQUANTIZED: frozenset[Component] = frozenset(("embeddings", "lm_head", "router", "vision", "extra"))
"""Parts that quantized checkpoints leave in the model's dtype unless they say otherwise."""

VOCAB_PADDING = 64
"""Engines pad the vocabulary so that its shards are aligned."""
CUT_EMBEDDINGS = (0, 5, 9)
"""SGLang from here on cuts embeddings over the GPUs of an attention rank; before, each had all of them."""


@dataclass(frozen=True, slots=True)
class WeightBill:
    """Bytes of weights on one rank of pipeline stage ``stage``, which holds ``layers`` decoder layers.

    ``total_bytes`` is what the engine reports; the other terms add up to it.
    """

    stage: int
    layers: int
    format: str
    by_component: dict[str, int]
    rotary_bytes: int
    copies_bytes: int
    rounding_bytes: int
    repack_bytes: int

    @property
    def stored_bytes(self) -> int:
        """Parameters and their scales, without tables, copies and rounding."""
        return sum(self.by_component.values())

    @property
    def total_bytes(self) -> int:
        """What the engine will say loading took."""
        return (
            self.stored_bytes
            + self.rotary_bytes
            + self.copies_bytes
            + self.rounding_bytes
            + self.repack_bytes
        )


def parameter_count(model: ModelSpec, *, draft: bool = False) -> int:
    """Parameters of the whole model; ``draft`` adds its multi-token-prediction layers."""
    norms = family_parameters(model)
    hosted = sum(extra.parameters for extra in model.extra_weights if extra.in_host_memory)
    return (
        norms
        + hosted
        + sum(
            tensor.parameters * count
            for tensor, count in _tensors(model, Split(), range(model.num_layers), _WHOLE_MODEL, draft)
        )
    )


def active_parameters(model: ModelSpec) -> int:
    """Parameters one token passes through: of the experts only those it is routed to, of tables one row."""
    total = parameter_count(model)
    for group in model.groups():
        mlp = group.block.mlp
        if mlp is not None and mlp.kind == "moe":
            experts = sum(
                t.parameters for t in mlp_tensors(mlp, model.hidden_size) if t.component == "experts"
            )
            copies = _copies(group.block, group.count, routed=True)
            total -= copies * (experts - experts * mlp.experts_per_token // mlp.experts)
    if not model.tie_embeddings:
        total -= (model.embedding_size or model.hidden_size) * (model.vocab_size - 1)
    return total - sum(extra.parameters for extra in model.extra_weights if not extra.active)


def stage_weights(
    model: ModelSpec,
    *,
    weights_format: str | None = None,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    stage: int = 0,
    draft: bool = False,
    attention_ranks: int = 1,
    engine: str = "vllm",
    version: Version | None = None,
) -> WeightBill:
    """The weights of one rank.

    Args:
        weights_format: format of the quantizable matrices; ``None`` = what the checkpoint has. An
            unquantized one (``fp32``) is also the dtype of everything else.
        ep: ranks over which whole experts are dealt out (1 = experts are cut by ``tp``).
        draft: also load the multi-token-prediction layers.
        attention_ranks: with data-parallel attention, groups of the ``tp`` GPUs that hold it and the
            embeddings each for itself, of vLLM's also everything else but the experts.
        engine, version: whose stages (default of ``version``: its newest).

    Raises:
        UnknownName: no such format; UsageError: a dense MLP does not divide over ``tp``.
    """
    held = stages(model.num_layers, pp, engine, version)[stage]
    formats = _formats(model, weights_format)
    split = split_of(model, tp=tp, ep=ep, attention_ranks=attention_ranks, engine=engine, version=version)
    check_widths(model, split.dense_tp)
    ends = _ends(pp, stage, everywhere(model, engine, version))
    tensors = list(_tensors(model, split, held, ends, draft, engine))
    by_component: Counter[str] = Counter()
    allocated = 0
    for tensor, count in tensors:
        size = _tensor_bytes(tensor, formats)
        by_component[tensor.component] += size * count
        allocated += allocated_bytes(size) * count
    norms = family_parameters(model) * len(held) // model.num_layers
    by_component["extra"] += _dtype_bytes(formats) * norms
    blocks = model.layers()
    copies = _dtype_bytes(formats) * sum(
        absorbed_copies(blocks[index].attention, split.mixer_tp) for index in held
    )
    stored = sum(by_component.values())
    return WeightBill(
        stage=stage,
        layers=len(held),
        format=weights_format or model.weights.format,
        by_component=dict(by_component),
        rotary_bytes=_rotary_bytes(model, _dtype_bytes(formats)),
        copies_bytes=copies,
        rounding_bytes=allocated + _dtype_bytes(formats) * norms - stored,
        repack_bytes=_repack_bytes([tensor for tensor, _ in tensors], formats),
    )


def split_of(
    model: ModelSpec, *, tp: int, ep: int, attention_ranks: int, engine: str, version: Version | None = None
) -> Split:
    """How an engine cuts the layers of a model; the arguments are those of :func:`stage_weights`."""
    own = attention_ranks > 1 and engine == "vllm"
    whole: frozenset[Component] = frozenset()
    if attention_ranks > 1 and engine == "sglang" and (version or CUT_EMBEDDINGS) < CUT_EMBEDDINGS:
        whole = frozenset({"embeddings"})
    elif own and ep > 1 and tp > attention_ranks:
        whole = whole_beside_dealt_tokens(model)
    return Split(tp, ep, attention_ranks, own, whole)


def check_widths(model: ModelSpec, tp: int) -> None:
    """Refuse a tensor-parallel size that does not divide a dense MLP (heads: ``sharding.check_parallel``).

    Raises:
        UsageError: naming the width and what would work.
    """
    for group in model.groups():
        mlp = group.block.mlp
        if mlp is not None and mlp.kind == "dense" and mlp.intermediate_size % tp:
            raise UsageError(
                f"tp {tp} does not divide the MLP width {mlp.intermediate_size} of {model.name}",
                hint=f"use one of {tp_dividing(mlp.intermediate_size)}",
            )


def _formats(model: ModelSpec, wanted: str | None) -> dict[Component | None, WeightFormat]:
    """Format of every component that differs; under ``None`` the default, under ``extra`` the dtype."""
    chosen = weight_format(wanted or model.weights.format)
    dtype = weight_format(model.dtype) if chosen.quantized else chosen
    formats: dict[Component | None, WeightFormat] = {None: chosen}
    formats.update(dict.fromkeys(UNQUANTIZED, dtype))
    if wanted is None:
        formats.update({part: weight_format(name) for part, name in model.weights.overrides.items()})
        formats["extra"] = dtype
    return formats


def _repack_bytes(tensors: list[Tensor], formats: dict[Component | None, WeightFormat]) -> int:
    """Scratch of repacking: the codes of the largest dense matrix in a 4-bit integer format."""
    sizes = [
        tensor.parameters // 2
        for tensor in tensors
        if tensor.quantizable
        and tensor.stack == 1
        and formats.get(tensor.component, formats[None]).name.startswith("int4")
    ]
    return max(sizes, default=0)


def _dtype_bytes(formats: dict[Component | None, WeightFormat]) -> int:
    return formats["extra"].bits // 8


def _tensor_bytes(tensor: Tensor, formats: dict[Component | None, WeightFormat]) -> int:
    if not tensor.quantizable:
        return tensor.parameters * _dtype_bytes(formats)
    fmt = formats.get(tensor.component, formats[None])
    outputs, inputs = tensor.outputs, tensor.inputs
    if fmt.name == "mxfp4" and tensor.component == "experts":
        # The expert kernels want the hidden size in multiples of 256 and the intermediate size of 128
        # (two halves of the fused up-projection); engines pad the weights as they load them.
        outputs = _round_up(outputs, 256)
        inputs = _round_up(inputs, 256 if tensor.name == "experts_up" else 128)
    return fmt.matrix(outputs, inputs) * tensor.stack


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True, slots=True)
class _Ends:
    """What a stage has beside its layers: what is before the first, behind the last, and either table."""

    first: bool
    last: bool
    embeddings: bool
    head: bool
    towers: bool


_WHOLE_MODEL = _Ends(first=True, last=True, embeddings=True, head=True, towers=True)


def _ends(pp: int, stage: int, tables: StageTables) -> _Ends:
    first, last = stage == 0, stage == pp - 1
    return _Ends(first, last, first or tables.embeddings, last or tables.head, first or tables.towers)


def _tensors(
    model: ModelSpec, split: Split, layers: range, ends: _Ends, draft: bool, engine: str = "vllm"
) -> Iterator[tuple[Tensor, int]]:
    """(tensor, how many alike) of the layers ``layers`` and what stands before and after them, on a GPU."""
    hidden = model.hidden_size
    padded = -(-model.vocab_size // VOCAB_PADDING) * VOCAB_PADDING if split != Split() else model.vocab_size
    rows, width = share(padded, split.embedding_tp), model.embedding_size or hidden
    if ends.embeddings or (ends.head and model.tie_embeddings):
        yield matrix("embeddings", "embeddings", rows, width), 1
    if ends.head and not model.tie_embeddings:
        yield matrix("lm_head", "lm_head", share(padded, split.dense_tp), width), 1
    if ends.first:
        yield from _before(model, split)
    if ends.towers and model.vision is not None:
        yield _tower(model.vision, split), 1
    if ends.last:
        yield vector("final_norm", "extra", hidden), 1
        if width != hidden:
            yield matrix("output_projection", "extra", width, hidden), 1
        if draft and model.draft is not None:
            yield matrix("draft_projection", "draft", hidden, 2 * hidden), model.draft.layers
            yield vector("draft_norms", "extra", 2 * hidden), model.draft.layers
            for tensor in block_tensors(model.draft.block, hidden, split):
                yield tensor, model.draft.layers
            own = 2 if not model.draft.shared_embeddings else 0 if ends.first or engine != "vllm" else 1
            if own:
                yield matrix("draft_embeddings", "embeddings", rows, hidden), own
    names = model.layer_names()
    for name, count in Counter(names[index] for index in layers).items():
        yield from _layer(model.blocks[name], hidden, split, count)


def _layer(block: Block, hidden: int, split: Split, count: int) -> Iterator[tuple[Tensor, int]]:
    for tensor in block_tensors(block, hidden, split):
        routed = tensor.component == "experts" or tensor.name.startswith("router")
        yield tensor, _copies(block, count, state=tensor.component == "state", routed=routed)


def _copies(block: Block, count: int, *, state: bool = False, routed: bool = False) -> int:
    """Sets of weights behind ``count`` layers; layers that share attention and MLP have own state weights."""
    if block.weights_shared and not state:
        return min(block.weight_sets, count)
    if routed and block.mlp is not None and block.mlp.kind == "moe":
        count = -(-count // block.mlp.layers_per_set)
    return -(-count // block.passes)


def _before(model: ModelSpec, split: Split) -> Iterator[tuple[Tensor, int]]:
    """Position tables, extra tables and encoder: all on the first stage."""
    hidden = model.hidden_size
    width = model.embedding_size or hidden
    if width != hidden:
        yield matrix("input_projection", "extra", hidden, width), 1
    if model.learned_positions:
        yield vector("positions", "extra", model.learned_positions * hidden), 1
    for extra in model.extra_weights:
        if extra.in_host_memory:
            continue
        yield vector(extra.name, "extra", -(-extra.parameters // split.mixer_tp)), 1
    if (encoder := model.encoder) is not None:
        for tensor in attention_tensors(encoder.attention, encoder.hidden_size, split.mixer_tp):
            yield tensor, encoder.layers
        for tensor in mlp_tensors(encoder.mlp, encoder.hidden_size, split):
            yield tensor, encoder.layers - encoder.expert_layers
        if encoder.experts is not None:
            for tensor in mlp_tensors(encoder.experts, encoder.hidden_size, split):
                yield tensor, encoder.expert_layers
        yield vector("encoder_norms", "extra", 2 * encoder.hidden_size), encoder.layers


def _tower(vision: Vision, split: Split) -> Tensor:
    parameters = vision.parameters
    if parameters is None:
        ways = 3 if vision.gated else 2
        layer = vision.hidden_size * (4 * vision.hidden_size + ways * vision.intermediate_size)
        parameters = vision.layers * layer
    if not vision.whole:
        parameters = share(parameters, split.mixer_tp)
    return Tensor("vision", "vision", parameters, 1)


def _rotary_bytes(model: ModelSpec, dtype_bytes: int) -> int:
    """Cosine and sine tables: one per distinct rotary dimension, ``max_context`` rows, on every rank.

    LongRoPE has those of the context before it is stretched besides, with the factors that hold there.
    """
    if model.learned_positions or model.max_context is None:
        return 0
    dims: set[int] = set()
    for group in model.groups():
        attention = group.block.attention
        if isinstance(attention, LatentAttention):
            dims.add(attention.rope_head_dim)
        elif attention is not None and not isinstance(attention, SharedAttention):
            dims.add(getattr(attention, "rope_head_dim", attention.head_dim))
    rows = (model.yarn_context or model.max_context) + (model.unstretched_context or 0)
    return rows * sum(dims) * dtype_bytes
