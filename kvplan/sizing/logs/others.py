"""Logs that nothing is read of: whose they are, so that a refusal can say it."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.errors import DataError

_OTHERS = (
    ("tensorrt-llm", "TensorRT-LLM"),
    ("[trt-llm]", "TensorRT-LLM"),
    ("lmdeploy", "LMDeploy"),
    ("[tm][", "LMDeploy"),
    ("text_generation_launcher", "Text Generation Inference"),
    ("text_generation_router", "Text Generation Inference"),
    ("mlc_llm", "MLC LLM"),
    ("llama runner", "Ollama"),
    ("ollama", "Ollama"),
    ("llama_kv_cache", "llama.cpp"),
    ("llama_model_loader", "llama.cpp"),
    ("ggml_", "llama.cpp"),
)
"""What other engines' lines contain, and their names; what wraps another engine comes before it."""

_AT_WORK = (
    ("avg prompt throughput", "vLLM"),
    ("decode batch", "SGLang"),
    ("prefill batch", "SGLang"),
)
"""What vLLM and SGLang say while they serve."""

_REQUESTS = ("received request ", " details: prompt: ", "receive: obj=", "finish: obj=", '"post /', '"get /')
"""What stands before what clients say, which may be anything."""

_SERVING = (*(cue for cue, _ in _AT_WORK), *_REQUESTS)
"""What stands in the lines of a server at work, which say nothing of memory: most of a long log."""

_SAMPLED = 2_000
"""Lines that are looked through: an engine names itself in its first ones."""


def refusal(unread: Iterable[tuple[int, str]], *, stray: bool) -> DataError | None:
    """Why a log of these lines is not read; ``None`` where one of them was, but torch's (``stray``)."""
    lines = [text.casefold() for number, text in unread if number <= _SAMPLED]
    other = _named(_OTHERS, lines)
    if other is not None:
        return DataError(
            f"this is a log of {other}, of which no line is understood",
            hint="the start-up logs of vLLM and SGLang are read",
        )
    if stray:
        return None
    engine = _named(_AT_WORK, lines)
    if engine is not None:
        return DataError(
            f"this is a log of {engine} at work: no line of its start-up is in it to be understood",
            hint="give the log from its beginning, the engine's configuration, to the first request",
        )
    return DataError(
        "no line of this log was understood",
        hint=(
            "paste the start-up of vLLM or SGLang, from the engine's configuration to the first request; "
            "other engines' logs are not read"
        ),
    )


def asked(lowered: str) -> bool:
    """Whether a line may hold what a client said."""
    return any(cue in lowered for cue in _REQUESTS)


def at_work(lowered: str) -> bool:
    """Whether a line is one of a server that has started."""
    return any(cue in lowered for cue in _SERVING)


def _named(cues: tuple[tuple[str, str], ...], lines: list[str]) -> str | None:
    return next((name for cue, name in cues if any(cue in line for line in lines)), None)
