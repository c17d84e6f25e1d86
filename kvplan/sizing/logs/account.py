"""From the facts of a log to one account: what was there, what took it, what the pool holds.

Ranks repeat lines, and a pool is the smallest of its ranks: the account takes the largest weights and the
smallest pool. Nothing is filled in: what the log does not say stays ``None``; a remainder that follows by
subtraction is called one.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.sizing.logs.lines import Fact, Reading
from kvplan.units import GIB


@dataclass(frozen=True, slots=True)
class Account:
    """What the log says, in bytes, tokens and requests; ``None`` where it is silent."""

    engine: str
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
        named = self.weights_bytes + (self.activation_bytes or 0) + (self.runtime_bytes or 0)
        return self.budget_bytes - named - self.pool_bytes


DTYPES: dict[str, str | None] = {
    "auto": None, "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2", "fp8": "fp8_e4m3",
}  # fmt: skip
"""Engines' words for the cache's number format -> kvplan's."""


def account(reading: Reading) -> Account:
    """Put the facts together."""
    facts = reading.facts
    engine = "sglang" if any(fact.engine == "sglang" for fact in facts) else "vllm"
    options = {key: value for fact in facts if fact.name == "options" for key, value in fact.values.items()}
    total = _gib(_last(facts, "total_gib"))
    utilization = _last(facts, "utilization", skip=("options",)) or _float(options.get("utilization"))
    budget = _gib(_last(facts, "budget_gib"))
    if budget is None and total is not None and utilization is not None and engine == "vllm":
        budget = round(total * utilization)
    weights = [*_numbers(facts, "weights_gib"), *(mib / 1024 for mib in _numbers(facts, "weights_mib"))]
    pools = [value for fact in facts for value in [_pool_gib(fact)] if value is not None]
    tokens = _last(facts, "pool_tokens")
    blocks = _last(facts, "blocks", skip=("blocks_override",))
    context = _last(facts, "context_tokens") or _float(options.get("max_model_len"))
    concurrency = _last(facts, "concurrency")
    if tokens is None and blocks and concurrency is not None and context is not None:
        # V0 printed blocks alone; concurrency was blocks x block size / context, which gives the block size.
        tokens = blocks * round(concurrency * context / blocks)
    return Account(
        engine=engine,
        version=_word(facts, "version"),
        model=str(options["model"]) if "model" in options else None,
        total_bytes=total,
        utilization=utilization,
        budget_bytes=budget,
        weights_bytes=_gib(max(weights)) if weights else None,
        activation_bytes=_gib(_last(facts, "activation_gib")),
        runtime_bytes=_gib(_last(facts, "runtime_gib")),
        graph_bytes=_gib(_last(facts, "graph_gib")),
        pool_bytes=_gib(min(pools)) if pools else None,
        pool_tokens=int(tokens) if tokens is not None else None,
        blocks=int(blocks) if blocks is not None else None,
        context_tokens=int(context) if context is not None else None,
        concurrency=concurrency,
        free_bytes=_gib(_last(facts, "free_gib", only=("load_begin", "usage", "usage_consumed", "not_free"))),
        tp=_integer(options.get("tp")),
        kv_dtype=DTYPES.get(word := _word(facts, "kv_dtype") or "auto", word) or None,
        restoring_utilization=_last(facts, "restoring_utilization"),
        max_num_seqs=_integer(options.get("max_num_seqs")),
        max_num_batched_tokens=_integer(options.get("max_num_batched_tokens") or _last(facts, "step_tokens")),
        refused=next((fact.name for fact in facts if fact.name in ("no_pool", "too_long", "not_free")), None),
    )


def _pool_gib(fact: Fact) -> float | None:
    if "k_gib" in fact.values:
        return fact.number("k_gib") + fact.number("v_gib")
    return fact.number("pool_gib") if "pool_gib" in fact.values else None


def _numbers(facts: tuple[Fact, ...], key: str) -> list[float]:
    return [fact.number(key) for fact in facts if key in fact.values]


def _last(
    facts: tuple[Fact, ...], key: str, *, skip: tuple[str, ...] = (), only: tuple[str, ...] = ()
) -> float | None:
    for fact in reversed(facts):
        if key in fact.values and fact.name not in skip and (not only or fact.name in only):
            return fact.number(key)
    return None


def _word(facts: tuple[Fact, ...], key: str) -> str | None:
    for fact in reversed(facts):
        value = fact.values.get(key)
        if isinstance(value, str) and value != "auto":
            return value
    return None


def _float(value: float | str | None) -> float | None:
    return value if isinstance(value, float) else None


def _integer(value: float | str | None) -> int | None:
    return int(value) if isinstance(value, float) else None


def _gib(value: float | None) -> int | None:
    return None if value is None else round(value * GIB)
