"""The longest request where nobody asks for one.

vLLM takes what the configuration says the model reaches, except of models that LongRoPE stretches: from
0.11.1 on it starts those at the length they were trained at, since the factors for long contexts, which then
hold for every request, make short ones worse (``_get_and_verify_max_len``). SGLang takes the whole reach.
Where YaRN was added to a configuration whose ``max_position_embeddings`` stayed, vLLM before 0.30 takes the
stretched length; later ones and SGLang what is written.
"""

from __future__ import annotations

from kvplan.sizing.serving import engine_version
from kvplan.specs.schema import ModelSpec
from kvplan.units import format_tokens

UNNAMED = 2048
"""Context that vLLM takes where neither the question nor the model names one; of SGLang it is assumed."""

UNSTRETCHED = (0, 11, 1)
"""vLLM from here on starts models of LongRoPE at the length before it is stretched."""

AS_WRITTEN = (0, 30, 0)
"""vLLM from here on takes ``max_position_embeddings`` of YaRN as written, before it the stretched length."""


def default_context(model: ModelSpec, kind: str, version: str | None) -> int:
    """The longest request where nothing is asked for.

    Args:
        kind: the engine; version: its version as text, None for the newest known.

    Raises:
        UsageError: not a version.
    """
    if starts_unstretched(model, kind, version):
        assert model.unstretched_context is not None
        return model.unstretched_context
    return longest_context(model, kind, version) or UNNAMED


def longest_context(model: ModelSpec, kind: str, version: str | None) -> int | None:
    """The longest request the engine takes without being forced; None where the model names none.

    Args and Raises: as :func:`default_context`.
    """
    if kind == "vllm" and model.yarn_context is not None and engine_version(kind, version) < AS_WRITTEN:
        return model.yarn_context
    return model.max_context


def reach(model: ModelSpec) -> int | None:
    """The longest request that any engine takes without being forced; None where the model names none."""
    return max(model.max_context or 0, model.yarn_context or 0) or None


def starts_unstretched(model: ModelSpec, kind: str, version: str | None) -> bool:
    """Whether the engine takes less of the model than it reaches unless told."""
    if kind != "vllm" or model.unstretched_context is None:
        return False
    return engine_version(kind, version) >= UNSTRETCHED


def unasked_words(model: ModelSpec, kind: str, version: str | None, option: str) -> str | None:
    """What to know of the context that is taken where nobody asks for one; None where the model says it.

    Args:
        option: what asks for one, up to the number: ``"--ctx "``.
    """
    if starts_unstretched(model, kind, version):
        first = format_tokens(model.unstretched_context or 0)
        return (
            f"vLLM starts {model.name} at {first} tokens unless told: "
            f"{option}{model.max_context} has all that LongRoPE stretches it to"
        )
    if longest_context(model, kind, version) is None:
        return (
            f"nothing says how long requests of {model.name} may be: {UNNAMED:,} tokens are taken, "
            f"as vLLM does; {option}N says it"
        )
    return None
