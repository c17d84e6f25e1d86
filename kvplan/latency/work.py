"""What one engine step must do, per rank: matrices to read and multiply, KV to read, tensors to exchange.

Derived once from the model; the latency models turn it into seconds. All sizes are those of one rank of a
tensor-parallel group, and of all pipeline stages together: a step passes through every stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvplan.errors import UsageError
from kvplan.latency.attention_work import CHOOSING, INDEXER, Attention, attention_work, cross_work, of_rows
from kvplan.latency.grouped import assignment_elements
from kvplan.latency.routing import EXCHANGE_KEY, GATHERED, SKEW, SUMMED, Routing
from kvplan.sizing.attention import Keeping
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.parameters import Split, block_tensors
from kvplan.sizing.state import state_bytes
from kvplan.sizing.tensor import share
from kvplan.sizing.weight_formats import WeightFormat, weight_format
from kvplan.sizing.weights import UNQUANTIZED, split_of
from kvplan.specs.formats import KvFormat
from kvplan.specs.schema import (
    ModelSpec,
    MoeMlp,
)


@dataclass(frozen=True, slots=True)
class Linear:
    """``count`` matrices of ``outputs`` x ``inputs`` that every token multiplies.

    ``joint``: with data-parallel attention, the tokens of all ranks do. ``dealt``: GPUs of a rank each of
    which multiplies its share of the rank's tokens.
    """

    name: str
    outputs: int
    inputs: int
    weight_bytes: int
    format: WeightFormat
    count: int
    joint: bool = False
    dealt: int = 1


@dataclass(frozen=True, slots=True)
class Experts:
    """``layers`` layers of routed experts.

    ``inner``: elements of a row that goes in, ``width``: of an expert's hidden row on this rank, which comes
    out of ``up`` twice as wide where it is ``gated``.
    ``expert_bytes`` and ``flops_per_assignment`` are those of one expert (all of its matrices);
    ``assignment_bytes``: activations that one assignment reads and writes (``kvplan.latency.grouped``).
    """

    layers: int
    routing: Routing
    expert_bytes: int
    flops_per_assignment: float
    assignment_bytes: float
    format: WeightFormat
    inner: int
    width: int
    gated: bool


@dataclass(frozen=True, slots=True)
class StepWork:
    """Everything a step does on one rank.

    ``all_reduces``: of a step's tokens over the ``ranks``; with data-parallel attention of the tokens of all
    ``attention_ranks``, and ``own_reduces`` of the tokens of one of these over its GPUs; ``own_gathers``: of
    those tokens, where its GPUs have dealt them among them before a layer of experts. ``expert_layers``:
    layers whose tokens are sent to their experts' ranks and back, in the way that ``expert_exchange`` names.
    ``expert_ranks``: ranks that experts are dealt to.
    """

    hidden_size: int
    activation_bytes: int
    layers: int
    linears: tuple[Linear, ...]
    experts: tuple[Experts, ...]
    attentions: tuple[Attention, ...]
    head: Linear
    state_bytes_per_sequence: int
    state_layers: int
    all_reduces: int
    own_reduces: int
    own_gathers: int
    expert_layers: int
    stage_hops: int
    ranks: int
    attention_ranks: int
    context_ranks: int
    expert_ranks: int
    expert_exchange: str
    notes: tuple[str, ...]

    @property
    def joint(self) -> bool:
        """Whether attention is data-parallel: a rank has tokens of its own there, and all ranks work for all
        tokens in joint matrices, in experts and in what they exchange."""
        return self.attention_ranks > 1

    def without_scores(self) -> StepWork:
        """For clocks whose kernels are measured ones: no table has an indexer's."""
        read = tuple(item for item in self.attentions if item.kind != INDEXER)
        if len(read) == len(self.attentions):
            return self
        notes = (*(note for note in self.notes if note != CHOOSING), "a sparse indexer is not timed")
        return replace(self, attentions=read, notes=notes)

    def untimed(self) -> tuple[str, ...]:
        """Parts of a step that no kernel table of dense models covers, in words."""
        kinds = {item.kind for item in self.attentions}
        found = {
            "experts": bool(self.experts),
            "attention over latents": "mla" in kinds,
            "attention over compressed entries": "compressed" in kinds,
            "attention to an encoder": "cross" in kinds,
            "state-space layers": bool(self.state_layers),
        }
        return tuple(name for name, there in found.items() if there)


def step_work(
    model: ModelSpec,
    *,
    parallel: Parallel,
    kv_format: KvFormat,
    weights_format: str | None = None,
    expert_parallel: bool = False,
    expert_exchange: str | None = None,
    routing_skew: float = SKEW,
    decode_tokens: int = 1,
    projected: bool = False,
    engine: str = "vllm",
) -> StepWork:
    """Collect the work of a step.

    Args:
        expert_parallel: whole experts are dealt to the tensor-parallel ranks instead of cutting each.
        expert_exchange: how tokens reach experts on other ranks, one of ``kvplan.latency.routing.EXCHANGES``;
            None: summed inside a tensor-parallel group, gathered with data-parallel attention.
        routing_skew: how much the popularity of experts differs; see ``kvplan.latency.routing``.
        decode_tokens: of a request in a step, drafts among them: rows that read its cache together, as so
            many more query heads would.
        projected: layers that draft, whose input is a hidden state beside an embedding.
        engine: whose ranks: with data-parallel attention those of vLLM multiply their own tokens by all but
            experts, those of SGLang all tokens by their part of MLPs.

    Raises:
        UnknownName: ``weights_format`` is not a weight format.
        UsageError: ``expert_parallel`` of a model without routed experts; ``all_reduce`` of experts where
            each rank has tokens of its own.
    """
    tp, hidden = parallel.tp, model.hidden_size
    expert_ranks = tp if expert_parallel else 1
    joint, attention_tp = parallel.dp_attention, parallel.attention_tp
    if joint and expert_exchange == SUMMED:
        raise UsageError(
            "with data-parallel attention a rank has its own tokens alone, which all_reduce does not send",
            where=f"latency.{EXCHANGE_KEY}", hint=f"{GATHERED} is what engines do, or a DeepEP kernel",
        )  # fmt: skip
    # vLLM's ``use_all2all``: inside a tensor-parallel group it sums, whatever backend it is given.
    sums = expert_ranks == 1 or (engine == "vllm" and not joint)
    way = SUMMED if sums else expert_exchange or (GATHERED if joint else SUMMED)
    sent = way != SUMMED
    split = split_of(model, tp=tp, ep=expert_ranks, attention_ranks=parallel.attention_ranks, engine=engine)
    own, dealt = split.own_layers, attention_tp if split.whole else 1
    formats = _Formats(model, weights_format)
    linears: list[Linear] = []
    experts: list[Experts] = []
    attentions: list[Attention] = []
    state = reduces = own_reduces = expert_layers = 0
    notes: list[str] = []
    keeping = Keeping("sglang" if engine == "sglang" else "vllm", kv_format, model.dtype)
    for group in model.groups():
        block, count = group.block, group.count
        for tensor in block_tensors(block, hidden, split):
            if tensor.component == "experts" or not tensor.quantizable:
                continue
            form = formats.of(tensor.component)
            size = form.matrix(tensor.outputs, tensor.inputs) * tensor.stack
            shared = joint and not own and tensor.component in _JOINT
            gpus = dealt if tensor.component in split.whole else 1
            linears.append(
                Linear(tensor.name, tensor.outputs, tensor.inputs, size, form, count, shared, gpus)
            )
        if block.attention is not None:
            attentions += attention_work(block.attention, count, parallel, keeping, notes)
            own_reduces += count
        if block.cross is not None:
            attentions.append(cross_work(block.cross, model, count, parallel, kv_format, notes))
            own_reduces += count
        if block.state is not None:
            held = Keeping("vllm", kv_format, model.dtype)
            state += count * state_bytes(block.state, held, parallel.attention_tp)
            own_reduces += count if block.attention is None else 0
        if block.mlp is not None:
            dense = not isinstance(block.mlp, MoeMlp)
            own_reduces += count if own and dense else 0
            reduces += 0 if own and dense else count
            if isinstance(block.mlp, MoeMlp):
                expert_layers += count
                routing = Routing(block.mlp.experts, block.mlp.experts_per_token, expert_ranks, routing_skew)
                experts.append(_experts(block.mlp, count, split, model, formats.of("experts"), routing))
    if expert_parallel and not experts:
        raise UsageError(
            f"{model.name} has no routed experts to deal to ranks", where="parallel.expert_parallel",
            hint="leave it false: dense layers are cut by tensor parallelism",
        )  # fmt: skip
    if projected:
        form = formats.plain
        linears.append(
            Linear("draft_projection", hidden, 2 * hidden, form.matrix(hidden, 2 * hidden), form, 1)
        )
    attentions = [of_rows(item, decode_tokens) for item in attentions]
    rows = share(-(-model.vocab_size // 64) * 64, split.dense_tp)
    head_format = formats.of("lm_head")
    head = Linear("lm_head", rows, hidden, head_format.matrix(rows, hidden), head_format, 1)
    if model.encoder is not None or model.vision is not None:
        notes.append("encoder and vision towers are not timed")
    return StepWork(
        hidden_size=hidden,
        activation_bytes=weight_format(model.dtype).bits // 8,
        layers=model.num_layers,
        linears=tuple(linears),
        experts=tuple(experts),
        attentions=tuple(attentions),
        head=head,
        state_bytes_per_sequence=state,
        state_layers=sum(group.count for group in model.groups() if group.block.state is not None),
        # Where tokens are sent to experts, a layer of experts sums nothing over ranks.
        all_reduces=_summed(reduces - (expert_layers if sent else 0) + (0 if joint else own_reduces), tp),
        own_reduces=_summed(own_reduces if joint else 0, attention_tp),
        own_gathers=expert_layers if dealt > 1 else 0,
        expert_layers=expert_layers if sent else 0,
        stage_hops=parallel.pp - 1,
        ranks=tp,
        attention_ranks=parallel.attention_ranks,
        context_ranks=parallel.cp,
        expert_ranks=expert_ranks,
        expert_exchange=way,
        notes=tuple(notes),
    )


_JOINT = ("dense_mlp", "shared_experts")
"""Components that work for the tokens of all ranks where attention is data-parallel (SGLang)."""


class _Formats:
    """Which weight format each component is stored in."""

    def __init__(self, model: ModelSpec, wanted: str | None) -> None:
        self.chosen = weight_format(wanted or model.weights.format)
        self.plain = weight_format(model.dtype) if self.chosen.quantized else self.chosen
        # A format that is the checkpoint's own comes with the checkpoint's exceptions.
        own = wanted is None or wanted == model.weights.format
        self.overrides = dict(model.weights.overrides) if own else {}

    def of(self, component: str) -> WeightFormat:
        for name, form in self.overrides.items():
            if name == component:
                return weight_format(form)
        return self.plain if component in UNQUANTIZED else self.chosen


def _experts(
    mlp: MoeMlp, layers: int, split: Split, model: ModelSpec, form: WeightFormat, routing: Routing
) -> Experts:
    width = mlp.intermediate_size if split.ep > 1 else share(mlp.intermediate_size, split.tp)
    inner = mlp.latent_size or model.hidden_size
    elements = assignment_elements(inner, width, gated=mlp.gated)
    up, down = (width * (2 if mlp.gated else 1), inner), (inner, width)
    return Experts(
        layers=layers,
        routing=routing,
        expert_bytes=form.matrix(*up) + form.matrix(*down),
        flops_per_assignment=2.0 * (up[0] * up[1] + down[0] * down[1]),
        assignment_bytes=elements * weight_format(model.dtype).bits / 8,
        format=form,
        inner=inner,
        width=width,
        gated=mlp.gated,
    )


def _summed(times: int, ranks: int) -> int:
    """How often something is summed over ranks: one has nothing to sum."""
    return times if ranks > 1 else 0
