"""How far positions were stretched after the model was trained, and the context that gives.

Of ``linear``, ``dynamic`` and other stretched positions the file's ``max_position_embeddings`` is the length
before, and both engines multiply it (vLLM ``_get_and_verify_max_len``, SGLang ``get_context_length``). Of
YaRN, Llama 3 and LongRoPE it is the length after; so it is of Gemma 3, whose files say ``linear``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvplan.specs.base import MAX_COUNT
from kvplan.specs.huggingface.config import Config

LONG_ROPE = ("longrope", "su")
"""What files call it; ``su`` is its older name."""

YARN = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")

STRETCHED_ALREADY = (*LONG_ROPE, *YARN, "llama3")
"""Kinds whose files say the length after stretching."""


def max_context(config: Config) -> int | None:
    """Tokens the model reaches, stretched; None where the file does not say.

    Raises:
        SpecError: a factor that is no positive number, or a reach beyond any model's.
    """
    positions = config.optional("max_position_embeddings")
    if positions is None or "gemma3" in config.model_type:
        return positions
    factor = 1.0
    for scaling in _scalings(config):
        if _kind(scaling) not in STRETCHED_ALREADY:
            factor = _factor(config, scaling) if "factor" in scaling else factor
    return _reach(config, positions * factor)


def yarn_context(config: Config) -> int | None:
    """The length YaRN was trained at times its factor; None where that is ``max_position_embeddings``.

    They differ where somebody added YaRN to a file and left the rest: Qwen's instructions do.

    Raises:
        SpecError: as :func:`max_context`.
    """
    for scaling in _scalings(config):
        original = scaling.get("original_max_position_embeddings")
        if _kind(scaling) != "yarn" or original is None:
            continue
        if isinstance(original, bool) or not isinstance(original, int) or original < 1:
            found = str(original)[:40]
            raise config.error(f"expected tokens before stretching, found {found!r}", "rope_scaling")
        reach = _reach(config, original * _factor(config, scaling))
        return None if reach == config.optional("max_position_embeddings") else reach
    return None


def unstretched_context(config: Config) -> int | None:
    """Tokens before LongRoPE stretches them; None where it does not, or the file says it beside its factors.

    vLLM looks for it at the top of the configuration only (``original_max_position_embeddings``).
    """
    if not any(_kind(scaling) in LONG_ROPE for scaling in _scalings(config)):
        return None
    before = config.optional("original_max_position_embeddings")
    reach = config.optional("max_position_embeddings")
    return None if reach is None or before == reach else before


def _scalings(config: Config) -> Iterator[Mapping[str, Any]]:
    """What the file says of positions: once, or for each type of layer."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(scaling, Mapping):
        return
    nested = [part for part in scaling.values() if isinstance(part, Mapping)]
    yield from nested if nested and _kind(scaling) is None else [scaling]


def _kind(scaling: Mapping[str, Any]) -> Any:
    return scaling.get("rope_type", scaling.get("type"))


def _factor(config: Config, scaling: Mapping[str, Any]) -> float:
    factor = scaling.get("factor")
    if factor is None:
        return 1.0
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor <= MAX_COUNT:
        found = str(factor)[:40]
        raise config.error(f"expected a positive number as factor, found {found!r}", "rope_scaling")
    return float(factor)


def _reach(config: Config, tokens: float) -> int:
    if not 1 <= tokens <= MAX_COUNT:
        raise config.error(f"a context of {tokens:,.0f} tokens is none", "rope_scaling",
                           hint="see factor beside max_position_embeddings")  # fmt: skip
    return int(tokens)
