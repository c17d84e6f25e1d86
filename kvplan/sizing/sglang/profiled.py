"""What SGLang's authors found best for a model on a GPU and made its default there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.sizing.sglang.names import named_since

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

PROFILED = {"qwen3vl": (0, 5, 20)}
"""Models that let prompts in only every so many rounds (``_qwen3vl_hopper_serving_overrides``)."""
ROUNDS = 22
EVICTION = "priority"
LARGE = 60 << 30


def radix_eviction_policy(fit: FitReport | None) -> str:
    """``--radix-eviction-policy`` where nobody gives it: ``lru`` but for the same."""
    return EVICTION if _profiled(fit) else "lru"


def prefill_decode_interval(fit: FitReport | None) -> int:
    """``--prefill-decode-interval`` where nobody gives it: 0 but for profiled models on a large Hopper."""
    return ROUNDS if _profiled(fit) else 0


def _profiled(fit: FitReport | None) -> bool:
    """Whether SGLang has a profile of this model on this GPU."""
    if fit is None or fit.gpu.architecture != "hopper" or fit.gpu.memory_bytes < LARGE:
        return False
    return named_since(fit.model, PROFILED, fit.serving.version)
