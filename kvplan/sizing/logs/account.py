"""From the facts of a log to one account: what was there, what took it, what the pool holds.

Ranks repeat lines, and a pool is the smallest of its ranks: the account takes the largest weights and the
smallest pool, in bytes, blocks, tokens and concurrency alike, and the bill of that pool's rank. Nothing is
filled in: what the log does not say stays ``None``; a remainder that follows by subtraction is called one.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.sizing.logs.failures import ended, last_error
from kvplan.sizing.logs.lines import Fact
from kvplan.sizing.logs.pools import Workers, pool_gib, workers
from kvplan.units import GIB

_BOOLEANS = {"True": True, "False": False}


@dataclass(frozen=True, slots=True)
class Account:
    """What the log says, in bytes, tokens and requests; ``None`` where it is silent.

    Weights and pool are those of the model that is served; what a draft model takes beside them stands apart.
    ``pool_tokens`` are of layers without a window, ``window_tokens`` of those with one where they differ.

    Attributes:
        pool_option: the option that set the pool's size, where the share of the memory did not decide it.
        least_utilization: the share above which the engine says it would start.
        draft_is_loaded_first: a draft model's weights are loaded before any pool, and out of its share.
        state_bytes: what SGLang allocates for recurrent layers beside the pool.
        left_bytes: what is free once SGLang is up.
        planned_graph_bytes: what vLLM took out of the budget for CUDA graphs, where its activation peak does
            not hold them already (``graphs_in_activation``).
        cp: ranks that share the tokens of one request.
        block_tokens: tokens of a block, where the engine says that it chose them.
        speculation: how vLLM drafts; a draft model's layers share its pool.
        device: what the engine runs on, in its own word: cuda, cpu, tpu, xpu, hpu, ...
        device_name: the GPU as its driver calls it, where the engine looked for kernels tuned on it.
        draft_tokens: how many tokens it drafts a step.
        dp: ranks with a pool each; with ``dp_attention`` they share one model's GPUs.
        host_bytes: memory of the host for what leaves the pool, of one rank or all, as the engine counts it.
        error: the error that ended it, if it says one, where no line says that memory was why.
        prefix_caching: as it was asked for, or settled; None where the log does not say.
    """

    engine: str | None
    version: str | None
    model: str | None
    total_bytes: int | None
    utilization: float | None
    budget_bytes: int | None
    weights_bytes: int | None
    activation_bytes: int | None
    runtime_bytes: int | None
    graph_bytes: int | None
    pool_bytes: int | None
    pool_tokens: int | None
    blocks: int | None
    context_tokens: int | None
    concurrency: float | None
    free_bytes: int | None
    tp: int | None
    kv_dtype: str | None
    restoring_utilization: float | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    refused: str | None
    window_tokens: int | None = None
    draft_weights_bytes: int | None = None
    draft_pool_bytes: int | None = None
    draft_is_loaded_first: bool = False
    longest_tokens: int | None = None
    pool_option: str | None = None
    least_utilization: float | None = None
    most_sequences: int | None = None
    pp: int | None = None
    state_bytes: int | None = None
    left_bytes: int | None = None
    planned_graph_bytes: int | None = None
    graphs_in_activation: bool = False
    dp: int | None = None
    dp_attention: bool = False
    prefix_caching: bool | None = None
    cp: int | None = None
    block_tokens: int | None = None
    speculation: str | None = None
    device_name: str | None = None
    device: str | None = None
    host_bytes: int | None = None
    draft_tokens: int | None = None
    error: str | None = None

    @property
    def capacity_tokens(self) -> int | None:
        """Tokens of requests of full length: concurrency x context, whatever the token line means."""
        if self.concurrency is None or self.context_tokens is None:
            return None
        return round(self.concurrency * self.context_tokens)

    @property
    def bytes_per_token(self) -> float | None:
        """Pool bytes over the tokens the log names; a rate only where every layer is alike."""
        if not self.pool_bytes or not self.pool_tokens or self.pool_bytes <= 0:
            return None
        return self.pool_bytes / self.pool_tokens

    @property
    def remainder_bytes(self) -> int | None:
        """Budget less everything the log itemises and the pool: what it does not name."""
        if self.budget_bytes is None or self.weights_bytes is None or self.pool_bytes is None:
            return None
        others = (self.activation_bytes, self.runtime_bytes, self.planned_graph_bytes)
        return self.budget_bytes - self.weights_bytes - sum(size or 0 for size in others) - self.pool_bytes


DTYPES: dict[str, str | None] = {
    "auto": None, "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2", "fp8": "fp8_e4m3", "fp8_inc": "fp8_e4m3", "float8_e4m3fnuz": "fp8_e4m3",
    "float8_e5m2fnuz": "fp8_e5m2", "fp4_e2m1": "nvfp4",
}  # fmt: skip
"""Engines' words for the cache's number format -> kvplan's."""


def account(facts: tuple[Fact, ...]) -> Account:
    """Put the facts of one start together."""
    spoken = {fact.engine for fact in facts}
    engine = next((name for name in ("sglang", "vllm") if name in spoken), None)
    options = {key: value for fact in facts if fact.name == "options" for key, value in fact.values.items()}
    total = _gib(_last(facts, "total_gib"))
    utilization = _last(facts, "utilization", skip=("options",)) or _float(options.get("utilization"))
    budget = _gib(_last(facts, "budget_gib"))
    if budget is None and total is not None and utilization is not None and engine == "vllm":
        budget = round(total * utilization)
    ranks = _by_rank(facts)
    sglang = [workers(said) for said in ranks]
    weights = [
        *(value for fact in facts if fact.name != "load_end" for value in _values(fact, "weights_gib")),
        *(mib / 1024 for mib in _numbers(facts, "weights_mib")),
        *_known(sglang, "weights_gib"),
    ]
    vllm_pools = [pool_gib(fact) for fact in facts if "pool_gib" in fact.values and fact.engine == "vllm"]
    pool = _least([*vllm_pools, *_known(sglang, "pool_gib")])
    used = _used_share(facts, options)
    limiting = _limiting(facts, pool)
    tokens = _least(
        [
            *(
                value
                for fact in facts
                if fact.name not in _ALLOCATIONS
                for value in _values(fact, "pool_tokens")
            ),
            *_known(sglang, "tokens"),
        ]
    )
    blocks = _least([v for fact in facts if fact.name != "blocks_override" for v in _values(fact, "blocks")])
    context = _last(facts, "context_tokens") or _float(options.get("max_model_len"))
    concurrency = _least(_numbers(facts, "concurrency"))
    if tokens is None and blocks and concurrency is not None and context is not None:
        # V0 printed blocks alone; concurrency was blocks x block size / context, which gives the block size.
        tokens = blocks * round(concurrency * context / blocks)
    in_activation = any(fact.name == "usage_consumed" for fact in facts)
    planned = any(fact.name == "utilization_shift" for fact in facts) and not in_activation
    refused = _refusal(facts, pool)
    draft_weights, draft_pools = _known(sglang, "draft_weights_gib"), _known(sglang, "draft_pool_gib")
    return Account(
        engine=engine,
        version=_word(facts, "version"),
        device_name=_word(facts, "device_name"),
        device=str(options["device"]) if "device" in options else None,
        host_bytes=_host_bytes(ranks),
        model=str(options["model"]) if "model" in options else None,
        total_bytes=total,
        utilization=utilization,
        budget_bytes=budget,
        weights_bytes=_gib(max(weights, default=None)),
        activation_bytes=_gib(_last(limiting, "activation_gib")),
        runtime_bytes=_gib(_runtime_gib(limiting, max(weights, default=None))),
        graph_bytes=_gib(
            max(_known(sglang, "graph_gib"), default=None)
            if engine == "sglang"
            else _first_known(_last(limiting, "graph_gib"), _last(limiting, "planned_graph_gib"))
        ),
        pool_bytes=_gib(pool if pool is None else pool * used),
        pool_tokens=_whole(tokens),
        blocks=_whole(blocks),
        context_tokens=_whole(context),
        concurrency=concurrency,
        free_bytes=_gib(_least([free[0] for rank in ranks if (free := _free(rank))])),
        tp=_integer(options.get("tp")),
        kv_dtype=DTYPES.get(word := _word(facts, "kv_dtype") or _pool_dtype(facts) or "auto", word) or None,
        restoring_utilization=_last(facts, "restoring_utilization"),
        max_num_seqs=_integer(options.get("max_num_seqs")),
        max_num_batched_tokens=_integer(options.get("max_num_batched_tokens") or _last(facts, "step_tokens")),
        refused=refused,
        error=last_error(facts) if refused == "error" else None,
        window_tokens=_whole(_least(_known(sglang, "window_tokens"))),
        draft_weights_bytes=_gib(max(draft_weights, default=None)),
        draft_pool_bytes=_gib(_least(draft_pools)),
        draft_is_loaded_first=any(one.draft_is_loaded_first for one in sglang),
        longest_tokens=_whole(_least(_numbers(facts, "longest_tokens") or _longest_said(facts))),
        pool_option=_pool_option(facts, options, tokens),
        least_utilization=max(_numbers(facts, "least_utilization"), default=None),
        most_sequences=_whole(_least(_numbers(facts, "most_sequences"))),
        pp=_integer(options.get("pp")),
        state_bytes=_gib(max(_known(sglang, "state_gib"), default=None)),
        left_bytes=_gib(_least(_known(sglang, "left_gib"))),
        planned_graph_bytes=_gib(max(_numbers(facts, "planned_graph_gib"), default=None))
        if planned
        else None,
        graphs_in_activation=in_activation,
        dp=_integer(options.get("dp")),
        cp=_integer(options.get("cp")) or _whole(_last(facts, "shards")),
        speculation=str(options["speculation"]) if "speculation" in options else None,
        draft_tokens=_integer(options.get("draft_tokens")),
        block_tokens=next(
            (int(fact.number("block_tokens")) for fact in facts if fact.name == "block_size"), None
        ),
        dp_attention=options.get("dp_attention") == "True",
        prefix_caching=False
        if any(fact.name == "prefixes_off" for fact in facts)
        else _BOOLEANS.get(str(options.get("prefix_caching"))),
    )


STARTUP_PLAN = "VLLM_ENABLE_STARTUP_PLAN=0"
"""What undoes a pool whose size is an earlier start's."""

_REFUSALS = (
    "no_pool", "too_long", "too_many", "not_free", "pool_not_free", "no_host_memory", "unbalanced", "oom",
    "freed", "killed", "exhausted", "states_exhausted", "window_cap",
    "images_cap",
)  # fmt: skip
"""Lines after which no server is up."""

_WARNINGS = ("unbalanced",)
"""Refusals that may also be a warning, after which a server goes on."""


def _refusal(facts: tuple[Fact, ...], pool: float | None) -> str | None:
    """Why the server did not start or went down, if it says so; ``error`` for another reason than memory."""
    said = [fact.name for fact in facts if fact.name in _REFUSALS]
    found = next((name for name in said if pool is None or name not in _WARNINGS), None)
    return "error" if found is None and ended(facts, up=pool is not None) else found


def _longest_said(facts: tuple[Fact, ...]) -> list[float]:
    """The tokens that a pool holds, as its engine says that a request is longer than them."""
    return [value for fact in facts if fact.name == "too_long" for value in _values(fact, "pool_tokens")]


def _host_bytes(ranks: list[list[Fact]]) -> int | None:
    """What one rank takes of the host, in one part or several; of ranks alike the first."""
    sizes = [
        sum(
            value * unit
            for fact in facts
            if fact.name == "host_pool"
            for key, unit in (("host_gb", 1e9), ("host_gib", float(GIB)))
            for value in _values(fact, key)
        )
        for facts in ranks
        if any(fact.name == "host_pool" for fact in facts)
    ]
    return round(max(sizes)) if sizes else None


_ALLOCATIONS = ("sglang_pool", "sglang_window_pool", "resized_shares", "resized_tokens", "resized_pool")
"""Lines of which one pool may have several."""


def _limiting(facts: tuple[Fact, ...], pool: float | None) -> tuple[Fact, ...]:
    """The facts with those of the rank behind the others that has the smallest pool, as the last ones count.

    A bill that stands in the line of that pool is its own, whoever prints it.
    """
    smallest = [fact for fact in facts if "pool_gib" in fact.values and fact.number("pool_gib") == pool]
    if not smallest:
        return facts
    rank, line = smallest[-1].rank, smallest[-1].line
    return tuple(sorted(facts, key=lambda fact: (fact.line == line, fact.rank == rank)))


def _runtime_gib(facts: tuple[Fact, ...], weights: float | None) -> float | None:
    """What lies outside PyTorch; of what is consumed in one number, what weights do not take."""
    said, consumed = _last(facts, "runtime_gib"), _last(facts, "consumed_gib")
    if said is None and consumed is not None and weights is not None:
        return max(0.0, consumed - weights)
    return said


def _used_share(facts: tuple[Fact, ...], options: dict[str, float | str]) -> float:
    """How much of the memory for the cache an option for its blocks leaves in use.

    The line that says so is also printed while CUDA graphs are measured, with blocks that nobody set.
    """
    for fact in reversed(facts):
        if fact.name == "blocks_override" and "blocks" in options and fact.number("found_blocks"):
            return min(1.0, fact.number("blocks") / fact.number("found_blocks"))
    return 1.0


def _pool_option(
    facts: tuple[Fact, ...], options: dict[str, float | str], tokens: float | None
) -> str | None:
    """The option that decided how large the pool is, if one did."""
    if any(fact.name == "startup_plan" for fact in facts):
        return STARTUP_PLAN
    if any(fact.name == "cpu_space" for fact in facts):
        return "VLLM_CPU_KVCACHE_SPACE"
    if any(fact.name == "pool_by_hand" for fact in facts):
        return "--kv-cache-memory-bytes"
    if "blocks" in options:
        return "--num-gpu-blocks-override"
    most = _float(options.get("max_total_tokens"))
    # A page is rounded off.
    if most is not None and tokens is not None and 0.99 * most <= tokens <= most:
        return "--max-total-tokens"
    return None


def _by_rank(facts: tuple[Fact, ...]) -> list[list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.rank, []).append(fact)
    return list(found.values())


def _free(rank: list[Fact]) -> list[float]:
    """What was free, first before anything was loaded; a draft model that is loaded later finds less."""
    lines = ("load_begin", "pool_by_hand", "usage", "usage_consumed", "not_free")
    return [value for fact in rank if fact.name in lines for value in _values(fact, "free_gib")]


def _known(ranks: list[Workers], name: str) -> list[float]:
    return [value for rank in ranks if (value := getattr(rank, name)) is not None]


def _values(fact: Fact, key: str) -> list[float]:
    return [fact.number(key)] if key in fact.values else []


def _least(values: list[float]) -> float | None:
    return min(values, default=None)


def _numbers(facts: tuple[Fact, ...], key: str) -> list[float]:
    return [value for fact in facts for value in _values(fact, key)]


def _last(facts: tuple[Fact, ...], key: str, *, skip: tuple[str, ...] = ()) -> float | None:
    for fact in reversed(facts):
        if key in fact.values and fact.name not in skip:
            return fact.number(key)
    return None


def _word(facts: tuple[Fact, ...], key: str) -> str | None:
    for fact in reversed(facts):
        value = fact.values.get(key)
        if isinstance(value, str) and value != "auto":
            return value
    return None


def _pool_dtype(facts: tuple[Fact, ...]) -> str | None:
    """The format that SGLang allocates the pool in: the first one's, as a draft model's comes behind it."""
    return next((str(fact.values["pool_dtype"]) for fact in facts if "pool_dtype" in fact.values), None)


def _first_known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _float(value: float | str | None) -> float | None:
    return value if isinstance(value, float) else None


def _integer(value: float | str | None) -> int | None:
    return int(value) if isinstance(value, float) else None


def _gib(value: float | None) -> int | None:
    return None if value is None else round(value * GIB)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
