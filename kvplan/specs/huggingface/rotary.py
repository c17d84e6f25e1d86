"""How far positions were stretched after the model was trained."""

from __future__ import annotations

from collections.abc import Mapping

from kvplan.specs.huggingface.config import Config

LONG_ROPE = ("longrope", "su")
"""What files call it; ``su`` is its older name."""


def unstretched_context(config: Config) -> int | None:
    """Tokens before LongRoPE stretches them; None where it does not, or the file says it beside its factors.

    vLLM looks for it at the top of the configuration only (``original_max_position_embeddings``).
    """
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(scaling, Mapping):
        return None
    if scaling.get("rope_type", scaling.get("type")) not in LONG_ROPE:
        return None
    before = config.optional("original_max_position_embeddings")
    reach = config.optional("max_position_embeddings")
    return None if reach is None or before == reach else before
