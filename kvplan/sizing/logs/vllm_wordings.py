"""What vLLM prints of memory while it starts, and why it does not: names and wordings (``wordings``)."""

from __future__ import annotations

VLLM: tuple[tuple[str, str], ...] = (
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
    ("weights", "Loading model weights took {weights_gib} GiB"),
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
    (
        "startup_plan",
        (
            "Applying persisted startup plan<any>({pool_gib} GiB), "
            "recorded free-memory baseline {baseline_gib} GiB, current {free_gib} GiB"
        ),
    ),
    (
        "weights_elsewhere",
        (
            "Weights are held outside this process: of the {budget_gib} GiB utilization budget, "
            "{weights_gib} GiB is externally held and {own_gib} GiB remains"
        ),
    ),
    ("cpu_space", "Explicitly set ({pool_gib}/{total_gib}) GiB for KV cache on node"),
    (
        "pool",
        (
            "Auto set ({pool_gib}/{total_gib}) GiB for KV cache on node<any>with {budget_gib} GiB requested "
            "memory for the worker. {consumed_gib} GiB memory was consumed by non-kv usages"
        ),
    ),
    ("cpu_space", "VLLM_CPU_KVCACHE_SPACE<any> not set, using {pool_gib} by default"),
    ("cpu_space", "VLLM_CPU_KVCACHE_SPACE not set. Using {pool_gib} GiB for KV cache"),
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
    ("blocks", "# {device:word} blocks: {blocks}, # CPU blocks: {cpu_blocks}"),
    ("blocks", "# {device:word} blocks: {blocks}"),
    ("blocks", "cache_config_info with initialization after num_gpu_blocks is: {blocks}"),
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
            "({free_gib}/{total_gib} GiB) on startup is less than desired {device:word} memory utilization "
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
    *(
        (
            "pool_not_free",
            (
                "({free_gib}/{total_gib} GiB) on kv cache allocation is less than requested memory for kv "
                f"({{asked_gib}}{rest} GiB)"
            ),
        )
        for rest in ("", "/{budget_gib}")
    ),
    (
        "freed",
        (
            "Error in memory profiling. Initial free memory {free_gib} GiB, "
            "current free memory {later_free_gib} GiB"
        ),
    ),
    ("freed", "Error in memory profiling. Initial "),
    (
        "grew",
        (
            "Free memory grew by {grown_gib} GiB during profiling (initial {free_gib} GiB, "
            "current {later_free_gib} GiB)"
        ),
    ),
    (
        "plan_unused",
        (
            "Startup plan not applied: current free memory ({free_gib} GiB) is below the recorded baseline "
            "({baseline_gib} GiB)"
        ),
    ),
    (
        "no_pool",
        (
            "The worker already uses {consumed_gib} GiB (model weights and runtime), more than the "
            "{budget_gib} GiB of CPU memory<any>to more than {least_utilization}, or"
        ),
    ),
    (
        "images_cap",
        (
            "frontend multimodal GPU decoding reserves {reserved_gib} GiB<any>"
            "but only {pool_gib} GiB is available for the KV cache"
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
    ("host_pool", "Created mmap file<any>({host_gb} GB)"),
    ("host_pool", "SimpleCPUOffloadWorker:<any>allocating<any>CPU blocks ({host_gib} GB)"),
    ("host_pool", "SimpleCPUOffloadWorker [CPU]:<any>CPU blocks ({host_gib} GB)"),
    ("asleep", "Sleep mode freed {freed_gib} GiB memory, {held_gib} GiB memory is still in use"),
    ("killed", "Failed core proc(s):<any>: -9"),
    ("killed", "died unexpectedly (exit code: -9)"),
    ("stopped", "EngineCore failed to start"),
    ("stopped", "EngineCore encountered a fatal error"),
    ("stopped", "WorkerProc failed to start"),
    ("stopped", "WorkerProc hit an exception"),
    ("stopped", "Engine process failed to start"),
    ("stopped", "Engine core initialization failed"),
    ("prefixes_off", "disabling prefix caching"),
    ("prefixes_off", "without support for prefix caching: disabling"),
    ("prefixes_off", "chunked prefill and prefix caching to be disabled"),
    ("prefixes_off", "support chunked prefill nor prefix caching; disabling both"),
    ("prefixes_off", "Prefix caching is not supported for<any>; disabling it"),
    ("prefixes_off", "[V1][TPU] Disable prefix caching"),
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
    ("kv_dtype", "Using {kv_dtype:word} kv-cache for"),
    ("kv_dtype", "Using {kv_dtype:word} KV cache for"),
    ("kv_dtype", "support<any> KV cache type, cast to {kv_dtype:word}."),
)
