"""Configurations that an engine prints at its start: which lines are ones, and the options in them."""

from __future__ import annotations

import re

from kvplan.sizing.logs.wordings import possible

CONFIGURATIONS = (
    ("non-default args", "vllm"), ("args: namespace(", "vllm"), ("llm engine (v", "vllm"),
    ("llm engine with config", "vllm"),
    ("serverargs(", "sglang"), ("server_args={", "sglang"),
)  # fmt: skip
"""Text that marks a line as a printed configuration, and the engine it marks."""

DUMPED = "dumping input data"
"""What stands before the configuration that an engine prints once more when it breaks down: no start."""

_NESTED = re.compile(r"_config'?\s*[:=]\s*(?:\{[^{}]*\}|\w{0,60}\([^()]*\))")
"""A configuration inside a configuration, as a draft model's."""

_MAX_DEPTH = 4
"""How deep configurations are nested."""

_OPTIONS: dict[str, re.Pattern[str]] = {
    "model": re.compile(r"(?<!\w)(?:model|model_path|model_tag)'?\s*[=:]\s*'([^']{1,300})'"),
    "tp": re.compile(r"(?<!\w)(?:tensor_parallel_size|tp_size)'?\s*[=:]\s*(\d+)"),
    "pp": re.compile(r"(?<!\w)(?:pipeline_parallel_size|pp_size)'?\s*[=:]\s*(\d+)"),
    "dp": re.compile(r"(?<!\w)(?:data_parallel_size|dp_size)'?\s*[=:]\s*(\d+)"),
    "dp_attention": re.compile(r"(?<!\w)enable_dp_attention'?\s*[=:]\s*(\w+)"),
    "max_model_len": re.compile(r"(?<!\w)(?:max_model_len|max_seq_len|context_length)'?\s*[=:]\s*(\d+)"),
    "kv_dtype": re.compile(r"(?<!\w)kv_cache_dtype'?\s*[=:]\s*'?(\w+)"),
    "quantization": re.compile(r"(?<!\w)quantization'?\s*[=:]\s*'?(\w+)"),
    "dtype": re.compile(r"(?<!\w)dtype'?\s*[=:]\s*'?(?:torch\.)?(\w+)"),
    "utilization": re.compile(r"(?<!\w)(?:gpu_memory_utilization|mem_fraction_static)'?\s*[=:]\s*(\d\.\d+)"),
    "device": re.compile(r"(?<!\w)device(?:_config)?'?\s*[=:]\s*(?:device\(type=)?'?(\w+)"),
    "cp": re.compile(r"(?<!\w)decode_context_parallel_size'?\s*[=:]\s*(\d+)"),
    "blocks": re.compile(r"(?<!\w)num_gpu_blocks_override'?\s*[=:]\s*(\d+)"),
    "max_total_tokens": re.compile(r"(?<!\w)max_total_tokens'?\s*[=:]\s*(\d+)"),
    "prefix_caching": re.compile(r"(?<!\w)enable_prefix_caching'?\s*[=:]\s*(\w+)"),
    "max_num_seqs": re.compile(r"(?<!\w)max_num_seqs'?\s*[=:]\s*(\d+)"),
    "max_num_batched_tokens": re.compile(r"(?<!\w)max_num_batched_tokens'?\s*[=:]\s*(\d+)"),
}
"""Options inside a printed configuration, as both engines spell them."""

_SPECULATION = re.compile(
    r"speculative_config'?\s*[=:][^{(]{0,40}[{(].{0,400}?method'?\s*[=:]\s*'(\w{1,60})'"
)
"""How vLLM drafts, in the configuration of its draft."""

_DRAFTS = re.compile(
    r"speculative_config'?\s*[=:][^{(]{0,40}[{(].{0,400}?num_spec(?:ulative)?_tokens'?\s*[=:]\s*(\d{1,4})\b"
)
"""How many tokens it drafts a step."""

_WORDS = frozenset(("model", "device", "dp_attention", "prefix_caching", "kv_dtype", "quantization", "dtype"))


def configuration(text: str) -> tuple[str, str] | None:
    """The text that marks a line as a printed configuration, and whose; ``None`` of any other line."""
    lowered = text.casefold()
    return next((mark for mark in CONFIGURATIONS if mark[0] in lowered), None)


def options(text: str) -> dict[str, float | str]:
    """The server's options; those of a draft model, nested in them, have the same names and are left out."""
    found: dict[str, float | str] = {}
    speculation, drafts = _SPECULATION.search(text), _DRAFTS.search(text)
    for _ in range(_MAX_DEPTH):
        text, count = _NESTED.subn("", text)
        if not count:
            break
    if speculation is not None:
        found["speculation"] = speculation.group(1)
    if drafts is not None:
        found["draft_tokens"] = float(drafts.group(1))
    for name, expression in _OPTIONS.items():
        match = expression.search(text)
        if match is not None and match.group(1) not in ("None", "auto"):
            value = match.group(1) if name in _WORDS else float(match.group(1))
            if possible(name, value):
                found[name] = value
    return found
