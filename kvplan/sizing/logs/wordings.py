"""The wordings of memory lines in vLLM and SGLang start-up logs, by what they say.

A wording is literal text with ``{fields}`` for numbers, ``{field:word}`` for words, ``<any>`` for anything;
a space also matches none, because versions differ in ``79.15GiB`` and ``79.15 GiB``. A field's name says its
unit. Of several wordings under one name the first that matches is taken, so fuller ones come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_FIELD = re.compile(r"\\\{(\w+)(:word)?\\\}")


@dataclass(frozen=True, slots=True)
class Wording:
    """One wording: what it says, who prints it ('': either), text every match contains, the expression."""

    name: str
    engine: str
    cue: str
    expression: re.Pattern[str]
    words: frozenset[str]


def _compile(name: str, engine: str, template: str) -> Wording:
    chunks = re.split(r"\{\w+(?::word)?\}|<any>| ", template)
    cue = max(chunks, key=len).casefold()
    words = frozenset(re.findall(r"\{(\w+):word\}", template))

    def field(match: re.Match[str]) -> str:
        return f"(?P<{match.group(1)}>{'[0-9A-Za-z_.+-]+' if match.group(2) else _NUMBER})"

    escaped = re.escape(template).replace(r"\ ", r"\s*").replace("<any>", ".*?")
    return Wording(name, engine, cue, re.compile(_FIELD.sub(field, escaped), re.IGNORECASE), words)


_VLLM = (
    ("version", "vLLM API server version {version:word}"),
    ("version", "LLM engine (v{version:word})"),
    ("version", "vLLM version {version:word}"),
    ("max_model_len", "Using max model len {context_tokens}"),
    ("step_budget", "Chunked prefill is enabled with max_num_batched_tokens={step_tokens}"),
    ("weights", "Model loading took {weights_gib} GiB"),
    ("weights", "Model loading took {weights_gib} GB"),
    ("weights", "Loading model weights took {weights_gib} GB"),
    ("weights", "Loading model weights took {weights_mib} MB"),
    (
        "profile",
        (
            "Memory profiling results:<any>total_gpu_memory={total_gib} GiB<any>"
            "non_torch_memory={runtime_gib} GiB, kv_cache_size={pool_gib} GiB, "
            "gpu_memory_utilization={utilization}"
        ),
    ),
    (
        "profile",
        (
            "Memory profiling results:<any>total_gpu_memory={total_gib} GiB<any>"
            "non_torch_memory={runtime_gib} GiB kv_cache_size={pool_gib} GiB "
            "gpu_memory_utilization={utilization}"
        ),
    ),
    (
        "budget",
        "total_gpu_memory ({total_gib} GiB) x gpu_memory_utilization ({utilization}) = {budget_gib} GiB",
    ),
    (
        "bill",
        (
            "model weights take {weights_gib} GiB; non_torch_memory takes {runtime_gib} GiB; "
            "PyTorch activation peak memory takes {activation_gib} GiB"
        ),
    ),
    ("pool", "memory reserved for KV Cache is {pool_gib} GiB"),
    ("pool", "Available KV cache memory: {pool_gib} GiB"),
    ("graph_estimate", "Estimated CUDA graph memory: {graph_gib} GiB"),
    (
        "graph_sizes",
        "Profiling CUDA graph memory: PIECEWISE={piecewise_graphs}<any>FULL={full_graphs}",
    ),
    ("graph_sizes", "Profiling CUDA graph memory: PIECEWISE={piecewise_graphs}"),
    (
        "utilization_shift",
        (
            "current --gpu-memory-utilization={utilization} is equivalent to "
            "--gpu-memory-utilization={effective_utilization} without CUDA graph memory profiling<any>"
            "increase --gpu-memory-utilization to {restoring_utilization}"
        ),
    ),
    (
        "utilization_hint",
        (
            "increase --gpu-memory-utilization from {utilization} to {later_utilization} "
            "to maintain the same effective KV cache size"
        ),
    ),
    ("blocks", "# GPU blocks: {blocks}, # CPU blocks: {cpu_blocks}"),
    ("blocks", "# cuda blocks: {blocks}, # CPU blocks: {cpu_blocks}"),
    ("blocks", "# rocm blocks: {blocks}, # CPU blocks: {cpu_blocks}"),
    ("blocks", "# GPU blocks: {blocks}"),
    ("tokens", "GPU KV cache size: {pool_tokens} tokens"),
    ("concurrency", "Maximum concurrency for {context_tokens} tokens per request: {concurrency}x"),
    ("graphs", "Graph capturing finished in {seconds} secs, took {graph_gib} GiB"),
    ("graphs", "Graph capturing finished in {seconds} secs."),
    (
        "graph_pool",
        "CUDA graph pool memory: {graph_gib} GiB (actual), {graph_estimate_gib} GiB (estimated)",
    ),
    (
        "usage",
        (
            "({free_gib}/{total_gib} GiB) on startup. Desired GPU memory utilization is "
            "({utilization}, {budget_gib} GiB). Actual usage is {weights_gib} GiB for weight, "
            "{activation_gib} GiB for peak activation, {runtime_gib} GiB for non-torch memory, and "
            "{graph_gib} GiB for CUDAGraph memory"
        ),
    ),
    (
        "usage_consumed",
        (
            "({free_gib}/{total_gib} GiB) on startup. Desired GPU memory utilization is "
            "({utilization}, {budget_gib} GiB). Actual usage is {consumed_gib} GiB for consumed memory"
        ),
    ),
    (
        "not_free",
        (
            "({free_gib}/{total_gib} GiB) on startup is less than desired GPU memory utilization "
            "({utilization}, {budget_gib} GiB)"
        ),
    ),
    ("no_pool", "No available memory for the cache blocks"),
    (
        "too_long",
        (
            "max seq len ({context_tokens}), ({needed_gib} GiB KV cache is needed, which is larger than the "
            "available KV cache memory ({pool_gib} GiB)"
        ),
    ),
    (
        "too_long",
        (
            "max seq len ({context_tokens}), {needed_gib} GiB KV cache is needed, which is larger than the "
            "available KV cache memory ({pool_gib} GiB)"
        ),
    ),
    (
        "too_long",
        (
            "max seq len ({context_tokens}) is larger than the maximum number of tokens that can be "
            "stored in KV cache ({pool_tokens})"
        ),
    ),
    ("longest", "estimated maximum model length is {longest_tokens}"),
    ("hybrid_block", "Setting attention block size to {block_tokens} tokens"),
    ("page_padding", "Padding mamba page size by {padding_percent}%"),
    ("padding_layers", "Add {padding_layers} padding layers, may waste at most {padding_percent}%"),
    ("blocks_override", "Overriding num_gpu_blocks={found_blocks} with num_gpu_blocks_override={blocks}"),
    ("kv_dtype", "Using {kv_dtype:word} data type to store kv cache"),
    ("kv_dtype", "Using DeepSeek's {kv_dtype:word} KV cache format"),
)

_SGLANG = (
    ("load_begin", "Load weight begin. avail mem={free_gib} GB"),
    ("load_end", "Load weight end.<any>avail mem={after_gib} GB, mem usage={weights_gib} GB"),
    ("load_end", "Load weight end.<any>avail mem={after_gib} GB"),
    *(
        ("sglang_pool", f"KV Cache is allocated.{dtype}{tokens}{size}")
        for dtype, tokens in (
            ("<any>dtype: torch.{pool_dtype:word}, ", "#tokens: {pool_tokens}, "),
            ("<any>", "#tokens: {pool_tokens}, "),
            (" ", ""),
        )
        for size in ("K size: {k_gib} GB, V size: {v_gib} GB", "KV size: {pool_gib} GB")
    ),
    (
        "sglang_window_pool",
        "SWAKVPool mem usage: {pool_gib} GB, swa size: {window_tokens}, full size: {pool_tokens}",
    ),
    (
        "sglang_state",
        "max_mamba_cache_size: {state_slots}, conv_state size: {conv_gib} GB, ssm_state size: {state_gib} GB",
    ),
    ("pool_end", "Memory pool end. avail mem={after_gib} GB"),
    ("no_pool", "Not enough memory. Please try to increase --mem-fraction-static"),
    ("kv_dtype", "Using KV cache dtype: torch.{kv_dtype:word}"),
    ("graph_begin", "Capture cuda graph begin.<any>avail mem={before_gib} GB"),
    ("sglang_graphs", "Capture cuda graph end.<any>mem usage={graph_gib} GB<any>avail mem={after_gib} GB"),
    ("sglang_graphs", "Capture cuda graph end.<any>avail mem={after_gib} GB"),
    (
        "sglang_limits",
        (
            "max_total_num_tokens={pool_tokens}, chunked_prefill_size={step_tokens}<any>"
            "max_running_requests={max_running}, context_len={context_tokens}"
        ),
    ),
    (
        "sglang_limits",
        (
            "max_total_num_tokens={pool_tokens}<any>"
            "max_running_requests={max_running}, context_len={context_tokens}"
        ),
    ),
    ("sglang_limits", "max_total_num_tokens={pool_tokens}"),
)

_EITHER = (
    *(
        (
            "oom",
            (
                f"out of memory. Tried to allocate {{asked_{asked.lower()}}} {asked}. GPU {{device}} has a "
                f"total capacity of {{total_gib}} GiB of which {{left_{left.lower()}}} {left} is free"
            ),
        )
        for asked in ("GiB", "MiB")
        for left in ("GiB", "MiB")
    ),
    ("oom", "CUDA out of memory"),
    ("oom", "CUDA error: out of memory"),
)
"""What torch says, whichever engine calls it."""

WORDINGS: tuple[Wording, ...] = (
    *(_compile(name, "vllm", template) for name, template in _VLLM),
    *(_compile(name, "sglang", template) for name, template in _SGLANG),
    *(_compile(name, "", template) for name, template in _EITHER),
)

OPTIONS: dict[str, re.Pattern[str]] = {
    "model": re.compile(r"(?:\bmodel|'model'|model_path|'model_tag')\s*[=:]\s*'([^']{1,300})'"),
    "tp": re.compile(r"(?<!\w)(?:tensor_parallel_size|tp_size)'?\s*[=:]\s*(\d+)"),
    "pp": re.compile(r"(?<!\w)(?:pipeline_parallel_size|pp_size)'?\s*[=:]\s*(\d+)"),
    "max_model_len": re.compile(r"(?<!\w)(?:max_model_len|max_seq_len|context_length)'?\s*[=:]\s*(\d+)"),
    "kv_dtype": re.compile(r"kv_cache_dtype'?\s*[=:]\s*'?(\w+)"),
    "quantization": re.compile(r"\bquantization'?\s*[=:]\s*'?(\w+)"),
    "dtype": re.compile(r"\bdtype'?\s*[=:]\s*'?(?:torch\.)?(\w+)"),
    "utilization": re.compile(r"(?:gpu_memory_utilization|mem_fraction_static)'?\s*[=:]\s*(\d\.\d+)"),
    "max_num_seqs": re.compile(r"(?<!\w)max_num_seqs'?\s*[=:]\s*(\d+)"),
    "max_num_batched_tokens": re.compile(r"(?<!\w)max_num_batched_tokens'?\s*[=:]\s*(\d+)"),
}
"""Options inside a printed configuration, as both engines spell them."""

OPTION_WORDS = frozenset(("model", "kv_dtype", "quantization", "dtype"))

CONFIGURATIONS = (
    ("non-default args", "vllm"), ("args: namespace(", "vllm"), ("llm engine (v", "vllm"),
    ("llm engine with config", "vllm"),
    ("serverargs(", "sglang"),
)  # fmt: skip
"""Text that marks a line as a printed configuration, and the engine it marks."""
