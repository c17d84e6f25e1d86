"""What SGLang's authors found best for a model on a GPU and made its default there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.sizing.sglang.names import named_since

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

PROFILED = {"qwen3vl": (0, 5, 20)}
"""Models that let prompts in only every so many rounds (``_qwen3vl_hopper_serving_overrides``)."""
ROUNDS = 22
LARGE = 60 << 30


def prefill_decode_interval(fit: FitReport | None) -> int:
    """``--prefill-decode-interval`` where nobody gives it: 0 but for profiled models on a large Hopper."""
    if fit is None or fit.gpu.architecture != "hopper" or fit.gpu.memory_bytes < LARGE:
        return 0
    return ROUNDS if named_since(fit.model, PROFILED, fit.serving.version) else 0
