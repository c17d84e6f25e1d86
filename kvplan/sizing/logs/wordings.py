"""The wordings of memory lines in vLLM and SGLang start-up logs, by what they say.

A wording is literal text with ``{fields}`` for numbers, ``{field:word}`` for words, ``<any>`` for anything;
a space also matches none, because versions differ in ``79.15GiB`` and ``79.15 GiB``. A field's name says its
unit. Of several wordings under one name the first that matches is taken, so fuller ones come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANY = 2_000
"""Characters that anything is at most: lists of sizes to capture run to hundreds."""

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_FIELD = re.compile(r"\\\{(\w+)(:word)?\\\}")


@dataclass(frozen=True, slots=True)
class Wording:
    """One wording: what it says, who prints it ('': either), texts every match contains, the expression."""

    name: str
    engine: str
    cues: tuple[str, ...]
    expression: re.Pattern[str]
    words: frozenset[str]


MAX_NUMBER = 1e15
"""Beyond any count or size in a log: such a line was not written by an engine."""


def possible(key: str, value: float | str) -> bool:
    """Whether an engine can have meant it: sizes may be missing (negative), counts may not."""
    return isinstance(value, str) or (
        abs(value) < MAX_NUMBER and (value >= 0 or key.endswith(("gib", "mib")))
    )


def _compile(name: str, engine: str, template: str) -> Wording:
    chunks = re.split(r"\{\w+(?::word)?\}|<any>| ", template)
    cues = tuple(sorted({chunk.casefold() for chunk in chunks if chunk}, key=len, reverse=True))
    words = frozenset(re.findall(r"\{(\w+):word\}", template))

    def field(match: re.Match[str]) -> str:
        return f"(?P<{match.group(1)}>{'[0-9A-Za-z_.+-]+' if match.group(2) else _NUMBER})"

    escaped = re.escape(template).replace(r"\ ", r"\s*").replace("<any>", f".{{0,{_ANY}}}?")
    return Wording(name, engine, cues, re.compile(_FIELD.sub(field, escaped), re.IGNORECASE), words)


_VLLM = (
    ("version", "vLLM API server version {version:word}"),
    ("version", "vLLM server version {version:word}"),
    ("version", "vLLM batch processing API version {version:word}"),
    ("version", "█ version {version:word}"),
    ("version", "LLM engine (v{version:word})"),
    ("version", "vLLM version {version:word}"),
    ("max_model_len", "Using max model len {context_tokens}"),
    ("fitted_length", "Auto-fit max_model_len: full model context length {context_tokens} fits"),
    ("fitted_length", "Auto-fit max_model_len: reduced from {asked_tokens} to {context_tokens} to fit"),
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
    (
        "reserved",
        (
            "Reserving {reserved_gib} GiB of GPU memory for frontend multimodal decoding<any>"
            "KV cache memory reduced to {pool_gib} GiB"
        ),
    ),
    ("pool_by_hand", "Initial free memory {free_gib} GiB, reserved {pool_gib} GiB memory for KV Cache"),
    ("graph_estimate", "Estimated CUDA graph memory: {planned_graph_gib} GiB"),
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
        "increasing --gpu-memory-utilization from {utilization} to {later_utilization}",
    ),
    (
        "utilization_hint",
        (
            "increase --gpu-memory-utilization from {utilization} to {later_utilization} "
            "to maintain the same effective KV cache size"
        ),
    ),
    *(
        ("blocks", f"# {device} blocks: {{blocks}}, # CPU blocks: {{cpu_blocks}}")
        for device in ("GPU", "cuda", "rocm", "hpu", "xpu", "npu", "cpu")
    ),
    ("blocks", "# GPU blocks: {blocks}"),
    ("tokens", "KV cache size: {pool_tokens} tokens"),
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
            "({utilization}, {budget_gib} GiB). Actual usage is {consumed_gib} GiB for consumed memory "
            "(weights + non-torch), {activation_gib} GiB for peak activation, and {graph_gib} GiB for "
            "CUDAGraph memory"
        ),
    ),
    (
        "not_free",
        (
            "({free_gib}/{total_gib} GiB) on startup is less than desired GPU memory utilization "
            "({utilization}, {budget_gib} GiB)"
        ),
    ),
    (
        "not_free",
        (
            "({free_gib}/{total_gib} GiB) on startup is less than the engine's budget after excluding "
            "external process's weights ({utilization}, {budget_gib} GiB)"
        ),
    ),
    ("no_pool", "No available memory for the cache blocks"),
    ("no_pool", "Cannot auto-fit max_model_len: not enough GPU memory"),
    (
        "no_pool",
        "exceed the desired GPU memory utilization ({utilization}, {budget_gib} GiB)",
    ),
    (
        "too_many",
        "max_num_seqs ({max_num_seqs}) exceeds available Mamba cache blocks ({most_sequences})",
    ),
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
            "max seq len ({context_tokens}), ({needed_gib} GB KV cache is needed, which is larger than the "
            "available KV cache memory ({pool_gib} GB)"
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
    ("hybrid_off", "Hybrid KV cache manager is disabled for this hybrid model"),
    ("hybrid_off", "Turning off hybrid kv cache manager"),
    ("hybrid_off", "treating sliding-window layers as full attention"),
    ("block_size", "Setting kv cache block size to {block_tokens} for"),
    ("block_size", "Forcing kv cache block size to {block_tokens} for"),
    ("hybrid_block", "Setting attention block size to {block_tokens} tokens"),
    ("page_padding", "Padding mamba page size by {padding_percent}%"),
    ("padding_layers", "Add {padding_layers} padding layers, may waste at most {padding_percent}%"),
    ("shards", "Multiplying the GPU KV cache size by the dcp_world_size {shards}"),
    ("shards", "Multiplying the GPU KV cache size by the cp_world_size {shards} "),
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
    *(
        (
            "sglang_state",
            f"{slots}conv_state size: {{conv_gib}} GB, ssm_state size: {{state_gib}} GB{speculation}",
        )
        for slots in ("max_mamba_cache_size: {state_slots}, ", "Mamba Cache is allocated. ")
        for speculation in (
            (
                " intermediate_ssm_state_cache size: {draft_state_gib} GB "
                "intermediate_conv_window_cache size: {draft_conv_gib} GB"
            ),
            "",
        )
    ),
    ("share_cut", "reduce --mem-fraction-static to {utilization} "),
    ("share_cut", "adjusted --mem-fraction-static from: {asked_utilization} to: {utilization}"),
    (
        "images_reserved",
        "Reserving {reserved_gib} GB of the KV budget for post-sizing multimodal allocations",
    ),
    ("state_cap", "max_running_requests is capped to {max_running} by the mamba state cache"),
    (
        "layer_tokens",
        "window memory pool. full_layer_tokens={full_layer_tokens}, swa_layer_tokens={window_layer_tokens}",
    ),
    ("too_short", "KV pool holds {pool_tokens} tokens, fewer than --context-length {asked_tokens}"),
    ("set_aside", "KV Cache VA upper bound.<any>#tokens: {most_tokens}, "),
    ("set_aside", "SWAKVPool VA upper bound: {most_gib} GB"),
    (
        "resized_shares",
        "Post-capture KV sizing: full_layer_tokens={pool_tokens}, swa_layer_tokens={window_tokens}",
    ),
    (
        "resized_tokens",
        "Post-capture KV sizing: max_total_num_tokens={pool_tokens}, free memory={after_gib} GB",
    ),
    (
        "resized_pool",
        (
            "Post-capture KV sizing: KV cache allocated. dtype: torch.{pool_dtype:word}, "
            "#tokens: {pool_tokens}, KV size: {pool_gib} GB, avail mem={after_gib} GB"
        ),
    ),
    (
        "resized_draft",
        (
            "Post-capture KV sizing: draft KV cache allocated. dtype: torch.{draft_dtype:word}, "
            "#tokens: {draft_tokens}, KV size: {pool_gib} GB"
        ),
    ),
    ("sglang_unified_pool", "UnifiedKVPool allocated: total_bytes={pool_gib} GB"),
    (
        "sglang_plan",
        (
            "DSV4 memory calculation:<any>bytes_per_full_token={bytes_per_token}, "
            "available_bytes={pool_gib} GB<any>full_token={pool_tokens}"
        ),
    ),
    ("pool_end", "Memory pool end. avail mem={after_gib} GB"),
    ("no_pool", "Not enough memory. Please try to increase --mem-fraction-static"),
    (
        "no_pool",
        (
            "Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static={utilization}. "
            "Raise --mem-fraction-static above {least_utilization} "
        ),
    ),
    ("no_pool", "Not enough GPU memory for hybrid (mamba/linear-attention) state cache"),
    ("no_pool", "(mamba/linear-attention) state cache is too small to serve any requests"),
    ("no_pool", "SWA pool ({window_tokens} tokens) cannot hold even one request"),
    ("kv_dtype", "Using KV cache dtype: torch.{kv_dtype:word}"),
    ("communicators", "Init torch distributed ends.<any>mem usage={communicators_gib} GB"),
    ("graph_begin", "Capture<any>graph begin.<any>avail mem={before_gib} GB"),
    ("sglang_graphs", "Capture<any>graph end.<any>mem usage={graph_gib} GB<any>avail mem={after_gib} GB"),
    ("sglang_graphs", "Capture<any>graph end.<any>avail mem={after_gib} GB. mem usage={graph_gib} GB"),
    ("sglang_graphs", "Capture<any>graph end.<any>avail mem={after_gib} GB"),
    *(
        (
            "sglang_limits",
            (
                f"max_total_num_tokens={{pool_tokens}}{chunk}<any>"
                f"max_running_requests={{max_running}}, context_len={{context_tokens}}{left}"
            ),
        )
        for chunk in (", chunked_prefill_size={step_tokens}", "")
        for left in (", available_gpu_mem={left_gib} GB", "")
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
    # Files of tuned kernels, found or not.
    ("device", "device_name={device_name:word},dtype="),
    ("device", "device_name={device_name:word}.json"),
)
"""What torch says, whichever engine calls it."""

WORDINGS: tuple[Wording, ...] = (
    *(_compile(name, "vllm", template) for name, template in _VLLM),
    *(_compile(name, "sglang", template) for name, template in _SGLANG),
    *(_compile(name, "", template) for name, template in _EITHER),
)
