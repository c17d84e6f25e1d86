"""Does it fit, and how many? Blocks, tokens, concurrency, longest context.

:func:`fit_model` is the library's entry point; ``kvplan fit`` prints what it returns, and the scenario runner
takes the number of blocks from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from kvplan.errors import UsageError
from kvplan.sizing.attention import Keeping, default_format
from kvplan.sizing.computing import activation_dtype, loaded_format
from kvplan.sizing.context import default_context, longest_context, reach
from kvplan.sizing.memory import MemoryBill, memory_bill
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.parallel import attention_ranks as ranks_among
from kvplan.sizing.pool import PoolCapacity, RankPool, longest, pool_capacity, rank_pool
from kvplan.sizing.serving import BLACKWELL, Serving, resolve_serving
from kvplan.sizing.sglang.format import sparse_format
from kvplan.sizing.sglang.pool import running_requests
from kvplan.sizing.sharding import check_parallel
from kvplan.sizing.sparse_latents import keeps_rows, unasked_format
from kvplan.sizing.stages import stages
from kvplan.sizing.weights import check_widths
from kvplan.specs.formats import KvFormat, kv_format
from kvplan.specs.schema import Block, GpuSpec, ModelSpec
from kvplan.units import MAX_GPUS, check_count

LONGEST_CONTEXT = 1 << 24
"""Where the search for the longest context ends when the model names no limit."""


@dataclass(frozen=True, slots=True)
class StageFit:
    """One pipeline stage: its GPU's bill, what its layers keep, and what that affords.

    ``pool_bytes`` is what the bill leaves, or what was given outright; SGLang's stages take what is left on
    the fullest GPU.
    """

    bill: MemoryBill
    pool: RankPool
    capacity: PoolCapacity
    pool_bytes: int

    def holds(self, tokens: int) -> bool:
        """Whether a request that may grow to ``tokens`` tokens fits alone."""
        if self.parted:
            return bool(self.capacity.sequences) and tokens <= self.capacity.kv_tokens
        return self.pool.request_bytes(tokens) <= self.pool_bytes - self.pool.reserved_bytes

    def longest(self, limit: int) -> int:
        """The longest request, of at most ``limit`` tokens, that fits alone; 0 where none does."""
        if self.parted:
            return min(limit, self.capacity.kv_tokens) if self.capacity.sequences else 0
        return longest(self.pool.request_bytes, self.pool_bytes - self.pool.reserved_bytes, limit)

    @property
    def parted(self) -> bool:
        """Whether states and tokens have pools of their own: one cannot use what the other has left."""
        return self.capacity.sequences is not None and bool(self.pool.token_bytes)

    @property
    def missing_slots(self) -> str | None:
        """What a pool of states lacks that has none for a single request, in words."""
        if self.capacity.sequences != 0:
            return None
        slots = self.capacity.states or 0
        return (
            f"its pool has {slots} slot{'s'[: slots != 1]} for states of recurrent layers, and a request "
            f"takes {self.pool.state_slots}"
        )


@dataclass(frozen=True, slots=True)
class FitReport:
    """The answer for one deployment of one model. All bytes are of one GPU of the binding stage.

    ``stages`` has one entry per pipeline stage; ``binding`` is the one that affords the least. ``kv_asked``:
    the KV format was said and not left to what is computed in.
    """

    model: ModelSpec
    gpu: GpuSpec
    serving: Serving
    parallel: Parallel
    max_model_len: int
    kv_format: KvFormat
    weights_format: str
    stages: tuple[StageFit, ...]
    kv_asked: bool = False
    expert_parallel: bool = False
    draft: bool = False
    drafter: ModelSpec | None = None
    lookup: bool = False

    @property
    def binding(self) -> StageFit:
        """The stage whose pool affords the fewest requests; one without KV binds by its weights only."""
        empty = [stage for stage in self.stages if not stage.pool.pages and stage.pool_bytes >= 0]
        stages = [stage for stage in self.stages if stage not in empty] or self.stages
        return min(stages, key=lambda stage: (stage.capacity.concurrency, stage.bill.kv_pool_bytes))

    @property
    def fits(self) -> bool:
        """Whether weights fit and at least one request of ``max_model_len`` tokens does."""
        return all(stage.holds(self.max_model_len) for stage in self.stages)

    @property
    def weights_bytes(self) -> int:
        """Weights on the binding GPU."""
        return self.binding.bill.weights_bytes

    @property
    def activation_bytes(self) -> int:
        """Activation peak on the binding GPU."""
        return self.binding.bill.activation_bytes

    @property
    def graph_bytes(self) -> int:
        """CUDA graphs on the binding GPU."""
        return self.binding.bill.graph_bytes

    @property
    def runtime_bytes(self) -> int:
        """Runtime and communication buffers on the binding GPU."""
        return self.binding.bill.runtime_bytes

    @property
    def kv_pool_bytes(self) -> int:
        """Memory for the cache pool; negative when weights and overheads alone exceed the budget."""
        return self.binding.bill.kv_pool_bytes

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool (of a GPU; all ranks have the same number)."""
        return self.binding.capacity.num_blocks

    @property
    def block_size(self) -> int:
        """Tokens of one block, as the engine resolves it."""
        if self.serving.kind == "sglang":
            return self.binding.pool.block_size
        return self.binding.pool.layout(self.max_model_len).block_size

    @property
    def kv_tokens(self) -> int:
        """ "GPU KV cache size: N tokens", in the meaning of the engine's version."""
        return self.binding.capacity.kv_tokens

    @property
    def max_num_seqs(self) -> int:
        """Sequences that run at a time, of every rank that has its own.

        SGLang's limit follows from its pools (``max_running_requests`` in its log).
        """
        serving, capacity = self.serving, self.binding.capacity
        if serving.kind != "sglang":
            return serving.max_num_seqs
        asked = None
        if "max_num_seqs" in serving.given or serving.decode_tokens > 1:
            asked = serving.rank_seqs
        limits = [capacity.sequences] if capacity.sequences is not None else []
        if capacity.kv_tokens:
            tokens = capacity.kv_tokens
            limits.append(running_requests(serving.version, tokens, self.max_model_len, given=asked))
        return min(limits, default=serving.max_num_seqs)

    @property
    def layer_groups(self) -> int:
        """Groups of layers that take blocks of their own from the pool (vLLM); one elsewhere."""
        if self.serving.kind == "sglang":
            return 1
        return len(self.binding.pool.layout(self.max_model_len).groups)

    @property
    def max_concurrency(self) -> Fraction:
        """Requests of ``max_model_len`` tokens that one replica holds at once."""
        return self.binding.capacity.concurrency

    @property
    def total_concurrency(self) -> Fraction:
        """The same over all replicas, and over the ranks that have sequences of their own."""
        return self.max_concurrency * self.parallel.sequence_shards

    @property
    def request_bytes(self) -> int:
        """Pool bytes one request of ``max_model_len`` tokens takes on the binding GPU."""
        return self.binding.pool.request_bytes(self.max_model_len)

    @property
    def context_limit(self) -> int | None:
        """The longest request the engine takes without being forced; None where the model names none."""
        return longest_context(self.model, self.serving.kind, self.serving.version_text)

    def longest_context(self) -> int:
        """The longest request one replica could hold alone, up to the model's limit or the asked one."""
        limit = max(self.context_limit or LONGEST_CONTEXT, self.max_model_len)
        return min(stage.longest(limit) for stage in self.stages)


def fit_model(
    model: ModelSpec,
    gpu: GpuSpec,
    *,
    max_model_len: int | None = None,
    parallel: Parallel | None = None,
    kv_dtype: str | KvFormat | None = None,
    weights_dtype: str | None = None,
    engine: str = "vllm",
    version: str | None = None,
    utilization: float | None = None,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    block_size: int | None = None,
    cuda_graphs: bool = True,
    async_scheduling: bool | None = None,
    prefix_caching: bool | None = None,
    expert_parallel: bool = False,
    kv_pool_bytes: int | None = None,
    draft: bool = False,
    drafter: ModelSpec | None = None,
    draft_tokens: int = 1,
    lookup: bool = False,
) -> FitReport:
    """Plan the memory of one deployment.

    Args:
        max_model_len: longest request in tokens; default what the engine takes of the model.
        parallel: tp, pp, cp, dp; default one GPU. ``dp`` replicas share the requests.
        kv_dtype: KV number format; default what the checkpoint asks for, else the activations' dtype.
        weights_dtype: weight format; default the checkpoint's. ``fp32`` also makes the activations fp32.
        engine: ``vllm`` or ``sglang``, in any case of letters.
        version: whose rules (default: the newest known).
        utilization, max_num_batched_tokens, max_num_seqs, block_size, async_scheduling, prefix_caching: the
            engine's options; default the engine's own on this GPU.
        expert_parallel: deal whole experts out to the tensor-parallel ranks.
        kv_pool_bytes: a pool given outright (``--kv-cache-memory-bytes``) instead of what is left over.
        draft: draft with the model's own multi-token-prediction layers: their weights, their KV in the pool.
        drafter: draft with another model: its weights, and its KV in the pool.
        draft_tokens: drafts of a step, where there are any; vLLM captures graphs of steps with them.
        lookup: drafts are looked up in the prompt, which takes no memory of the GPU's.

    Raises:
        UnknownName: a format; UsageError: parallelism the model cannot be cut by, an impossible option.
    """
    parallel = parallel or Parallel()
    check_parallel(model, parallel)
    engine = engine.strip().casefold()
    check_widths(model, parallel.attention_tp if engine == "vllm" else parallel.tp)
    drafting = _drafting(model, parallel, draft, drafter)
    context = max_model_len or default_context(model, engine, version)
    serving = resolve_serving(
        engine, gpu, max_model_len=context, version=version, utilization=utilization,
        max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs, cuda_graphs=cuda_graphs,
        block_size=block_size, async_scheduling=async_scheduling, prefix_caching=prefix_caching,
        tp=parallel.tp, pp=parallel.pp, ranks=parallel.attention_ranks, model=model,
        drafts="model" if drafter is not None else "layers" if draft else "none",
        draft_tokens=draft_tokens, lookup=lookup, context_said=max_model_len is not None,
    )  # fmt: skip
    dtype = activation_dtype(model, weights_dtype, gpu, serving.kind)
    weights_dtype = loaded_format(model, weights_dtype, dtype)
    form = _kv_format(model, serving, kv_dtype, dtype)
    # From Blackwell on SGLang's sparse attention reads plain fp8 latents.
    raw = serving.capability >= BLACKWELL if serving.kind == "sglang" else keeps_rows(serving)
    keeping = Keeping(serving.kind, form, dtype, raw)
    held = stages(model.num_layers, parallel.pp, serving.kind, serving.version)
    bills = [
        memory_bill(
            model, gpu, serving, parallel=parallel, stage=stage, max_model_len=context,
            weights_format=weights_dtype, dtype=dtype, expert_parallel=expert_parallel,
            draft=draft, drafter=drafter,
        )
        for stage in range(parallel.pp)
    ]  # fmt: skip
    least = min(bill.kv_pool_bytes for bill in bills) if serving.kind == "sglang" else None
    pools = [rank_pool(model, layers, keeping, parallel, serving, drafters=drafting) for layers in held]
    fits = []
    for bill, pool in zip(bills, pools, strict=True):
        available = kv_pool_bytes
        if available is None:
            available = bill.kv_pool_bytes if least is None else least
        fits.append(StageFit(bill, pool, pool_capacity(pool, available, context), available))
    return FitReport(
        model=model,
        gpu=gpu,
        serving=serving,
        parallel=parallel,
        max_model_len=context,
        kv_format=form,
        weights_format=weights_dtype or model.weights.format,
        stages=tuple(fits),
        kv_asked=kv_dtype not in (None, "auto"),
        expert_parallel=expert_parallel,
        draft=draft,
        drafter=drafter,
        lookup=lookup,
    )


def _drafting(
    model: ModelSpec, parallel: Parallel, draft: bool, drafter: ModelSpec | None
) -> tuple[Block, ...]:
    """Layers that draft, whose KV lies in the target's pool."""
    if draft and model.draft is None:
        raise UsageError(f"{model.name} has no multi-token-prediction layers to draft with")
    own = (model.draft.block,) * model.draft.layers if draft and model.draft is not None else ()
    if drafter is None:
        return own
    check_parallel(drafter, replace(parallel, pp=1))
    check_widths(drafter, parallel.tp)
    return (*own, *drafter.layers())


def _kv_format(model: ModelSpec, serving: Serving, kv_dtype: str | KvFormat | None, dtype: str) -> KvFormat:
    if isinstance(kv_dtype, KvFormat):
        return kv_dtype
    if kv_dtype is None or kv_dtype == "auto":
        sparse = sparse_format(model, serving) if serving.kind == "sglang" else unasked_format(model, serving)
        return kv_format(sparse or default_format(model, serving.kind, dtype))
    return kv_format(kv_dtype)


def choose_parallel(
    model: ModelSpec, gpus: int, *, tp: int | None = None, pp: int = 1, dp_attention: bool = False,
    attention_ranks: int | None = None,
) -> Parallel:  # fmt: skip
    """Spread a model over ``gpus`` GPUs: ``tp`` as given, else the largest that divides; the rest replicates.

    With ``dp_attention`` heads need not be divided by ``tp``: there are ``attention_ranks`` groups of these
    GPUs with sequences of their own, as many as GPUs where None.

    Raises:
        UsageError: ``gpus`` is no multiple of tp x pp, or ``tp`` does not divide the model.
    """
    for name, value in (("gpus", gpus), ("tp", tp), ("pp", pp), ("attention ranks", attention_ranks)):
        if value is not None:
            check_count(name, value, MAX_GPUS)

    def ranks(tp: int) -> int:
        return ranks_among(tp, dp_attention=dp_attention, given=attention_ranks)

    if tp is None:
        if gpus % pp:
            raise UsageError(f"{gpus} GPUs cannot be divided into {pp} pipeline stages")
        sizes = (size for size in range(gpus // pp, 0, -1) if gpus // pp % size == 0)
        tp = next(
            (size for size in sizes if _divides(model, Parallel(tp=size, attention_ranks=ranks(size)))),
            gpus // pp,  # which is refused below, by its reason
        )
    if gpus % (tp * pp):
        raise UsageError(
            f"{gpus} GPUs are not a multiple of tp {tp} x pp {pp}", hint=f"use {tp * pp} or a multiple of it"
        )
    parallel = Parallel(tp=tp, pp=pp, dp=gpus // (tp * pp), attention_ranks=ranks(tp))
    check_parallel(model, parallel)
    return parallel


def _divides(model: ModelSpec, parallel: Parallel) -> bool:
    try:
        check_parallel(model, parallel)
        check_widths(model, parallel.tp)
    except UsageError:
        return False
    return True


def capacity_curve(
    model: ModelSpec,
    gpu: GpuSpec,
    *,
    kv_dtypes: Sequence[str] = ("bf16", "fp8"),
    contexts: Iterable[int] = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072),
    **options: object,
) -> list[tuple[str, list[tuple[int, float]]]]:
    """Concurrency against context for each KV format: ``[(dtype, [(context_tokens, max_concurrency)])]``.

    Contexts beyond the model's limit are left out. ``options`` are those of :func:`fit_model`.
    """
    limit = reach(model) or LONGEST_CONTEXT
    wanted = [tokens for tokens in contexts if tokens <= limit]
    curves = []
    for dtype in kv_dtypes:
        points = []
        for tokens in wanted:
            report = fit_model(model, gpu, max_model_len=tokens, kv_dtype=dtype, **options)  # type: ignore[arg-type]
            points.append((tokens, float(report.total_concurrency)))
        curves.append((dtype, points))
    return curves
