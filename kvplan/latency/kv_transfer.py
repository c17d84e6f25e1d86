"""Bytes of a request's cache in the number format that it travels in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.specs.formats import KvFormat
    from kvplan.specs.schema import ModelSpec


def wire_ratio(
    model: ModelSpec, stored: KvFormat | str | None, wire: KvFormat | str, *, tokens: int = 65_536
) -> float:
    """Bytes of a request's cache in format ``wire`` per byte in format ``stored`` (None: the model's own)."""
    return _cache_bytes(model, tokens, wire, 16) / _cache_bytes(model, tokens, stored, 16)


def _cache_bytes(model: ModelSpec, tokens: int, form: KvFormat | str | None, block_size: int) -> int:
    from kvplan.sizing.size import size_model

    report = size_model(model, context_tokens=tokens, kv=form, block_size=block_size)
    return report.kv_bytes_per_sequence + report.state_bytes_per_sequence
