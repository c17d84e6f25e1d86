"""Windows that vLLM computes again behind a prefix hit instead of keeping them in its prefix cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport


def replayed_windows(fit: FitReport, config: EngineConfig) -> Iterator[str]:
    """What to know of DeepSeek-V4.1's on NVIDIA (``swa_bounded_replay``), here cached like others."""
    from kvplan.specs.attention import CompressedAttention

    if not config.enable_prefix_caching or fit.gpu.vendor != "nvidia":
        return
    attentions = [group.block.attention for group in fit.model.groups()]
    if any(isinstance(one, CompressedAttention) and one.keys_from_entries for one in attentions):
        yield (
            f"vLLM computes the windows of {fit.model.name} again behind a prefix hit; they are simulated as "
            "cached, which they are with --no-swa-bounded-replay"
        )
