"""What ``size_model`` is asked and what it answers: the question, one row per kind of layer, the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from kvplan.sizing.pages import Layout, MambaMode
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.retention import Retention, parse_retention
from kvplan.sizing.stores import Store
from kvplan.sizing.terms import Term
from kvplan.specs.formats import KvFormat

SCHEMA = "kvplan.size/1"


@dataclass(frozen=True, slots=True)
class SizeRequest:
    """The resolved question. Defaults are vLLM 0.33's."""

    context_tokens: int
    form: KvFormat
    batch: int = 1
    block_size: int = 16
    parallel: Parallel = field(default_factory=Parallel)
    retention: Retention = field(default_factory=lambda: parse_retention("vllm"))
    max_num_batched_tokens: int = 8192
    async_scheduling: bool = True
    encoder_tokens: int = 0
    draft: bool = False
    mamba_mode: MambaMode = "align"

    @property
    def in_flight(self) -> int:
        """Tokens scheduled but not settled: one batch per concurrent step (vLLM 0.33)."""
        concurrent = self.parallel.pp + (1 if self.async_scheduling else 0)
        return self.max_num_batched_tokens * concurrent


@dataclass(frozen=True, slots=True)
class LayerRow:
    """All layers of one kind. Bytes are of one layer unless ``count`` says otherwise."""

    name: str
    kind: str
    count: int
    bytes_per_token: Fraction
    window_bytes_per_token: Fraction
    kept_bytes: int
    encoder_bytes: int
    state_bytes: int
    stores: tuple[Store, ...]

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``layers``: what one layer adds per token, keeps, and carries as state."""
        return {
            "name": self.name,
            "kind": self.kind,
            "count": self.count,
            "bytes_per_token": number(self.bytes_per_token),
            "window_bytes_per_token": number(self.window_bytes_per_token),
            "kv_bytes_per_sequence": self.kept_bytes + self.encoder_bytes,
            "state_bytes_per_sequence": self.state_bytes,
            "stores": [
                {
                    "name": store.name,
                    "reach": store.reach,
                    "limit": store.limit,
                    "tokens_per_entry": store.tokens_per_entry,
                    "bytes_per_token": number(store.bytes_per_token()),
                    "formula": store.content.formula,
                }
                for store in self.stores
            ],
        }


@dataclass(frozen=True, slots=True)
class SizeReport:
    """The answer; ``to_dict`` is ``kvplan.size/1``.

    ``bytes_per_gpu`` is what a GPU keeps; ring attention adds ``ring_chunk_bytes`` for as long as it works on
    a prompt (0 without context parallelism).
    """

    model: str
    request: SizeRequest
    rows: tuple[LayerRow, ...]
    allocated_bytes_per_sequence: int
    bytes_per_gpu: int
    gpu_bytes_by_stage: tuple[int, ...]
    layout: Layout | None
    sharding: tuple[str, ...]
    static_scale_bytes: int
    ring_chunk_bytes: int
    terms: tuple[Term, ...]
    warnings: tuple[str, ...]

    @property
    def kv_bytes_per_token(self) -> int:
        """One more token at a very long context, all layers, unsharded, to the nearest byte."""
        return round(sum((row.count * row.bytes_per_token for row in self.rows), Fraction(0)))

    @property
    def kv_bytes_per_sequence(self) -> int:
        """What is kept of the context (and of the encoder), before block rounding."""
        return sum(row.count * (row.kept_bytes + row.encoder_bytes) for row in self.rows)

    @property
    def encoder_bytes_per_sequence(self) -> int:
        """The part of it that cross attention keeps."""
        return sum(row.count * row.encoder_bytes for row in self.rows)

    @property
    def state_bytes_per_sequence(self) -> int:
        """Constant state, all layers."""
        return sum(row.count * row.state_bytes for row in self.rows)

    @property
    def total_bytes(self) -> int:
        """Allocated bytes of the whole batch, unsharded."""
        return self.allocated_bytes_per_sequence * self.request.batch

    def to_dict(self) -> dict[str, Any]:
        """``kvplan.size/1``: raw integers, stable key order."""
        ask = self.request
        return {
            "schema": SCHEMA,
            "model": self.model,
            "inputs": {
                "context_tokens": ask.context_tokens,
                "dtype": ask.form.name,
                "batch": ask.batch,
                "block_size": ask.block_size,
                "parallel": ask.parallel.to_dict(),
                "retention": ask.retention.name,
                "max_num_batched_tokens": ask.max_num_batched_tokens,
                "async_scheduling": ask.async_scheduling,
                "encoder_tokens": ask.encoder_tokens,
                "draft": ask.draft,
                "mamba_cache_mode": ask.mamba_mode,
            },
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes_per_sequence": self.kv_bytes_per_sequence,
            "encoder_kv_bytes_per_sequence": self.encoder_bytes_per_sequence,
            "state_bytes_per_sequence": self.state_bytes_per_sequence,
            "allocated_bytes_per_sequence": self.allocated_bytes_per_sequence,
            "total_bytes": self.total_bytes,
            "bytes_per_gpu": self.bytes_per_gpu,
            "bytes_per_gpu_by_stage": list(self.gpu_bytes_by_stage),
            "static_scale_bytes": self.static_scale_bytes,
            "ring_chunk_bytes": self.ring_chunk_bytes,
            "layers": [row.to_dict() for row in self.rows],
            "page_groups": self._groups(),
            "sharding": list(self.sharding),
            "terms": [term.to_dict() for term in self.terms],
            "warnings": list(self.warnings),
        }

    def _groups(self) -> dict[str, Any] | None:
        if self.layout is None:
            return None
        return {
            "block_size": self.layout.block_size,
            "blocks_per_request": self.layout.blocks_per_request,
            "block_bytes": self.layout.block_bytes,
            "groups": [
                {
                    "name": group.name,
                    "layers": group.layers,
                    "padding_layers": group.padding_layers,
                    "block_tokens": group.block_tokens,
                    "page_bytes": group.page_bytes,
                    "blocks_per_request": group.blocks_per_request,
                }
                for group in self.layout.groups
            ],
        }


def number(value: Fraction) -> int | float:
    """An integer when it is one; otherwise the (dyadic, hence exact) float."""
    return value.numerator if value.denominator == 1 else float(value)
