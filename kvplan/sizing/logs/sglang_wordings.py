"""What SGLang prints of memory while it starts, and why it does not: names and wordings (``wordings``)."""

from __future__ import annotations

SGLANG: tuple[tuple[str, str], ...] = (
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
    (
        "host_pool",
        "hierarchical KV host pool: {host_tokens} tokens, {host_gb} GB host memory",
    ),
    ("host_pool", "Allocating {host_gb} GB host memory for"),
    (
        "no_host_memory",
        "Not enough host memory<any>. Requesting {asked_gb} GB but only have {left_gb} GB free",
    ),
    *(
        (
            "unbalanced",
            (
                "The memory capacity is unbalanced. Some GPUs may be occupied by other processes. "
                f"{least}={{least_gib}}, local_gpu_memory={{most_gib}},"
            ),
        )
        for least in ("pre_model_load_memory", "min_per_gpu_memory")
    ),
    ("no_host_memory", "No host memory is left for HiCache"),
    ("tokens_capped", "max_total_tokens={asked_tokens} is larger than the profiled value {pool_tokens}."),
    ("window_tokens", "window memory pool (all SWA). swa_layer_tokens={window_layer_tokens}"),
    ("exhausted", "out of memory. Try to lower your batch size"),
    ("exhausted", "alloc_req_slots runs out of memory"),
    ("exhausted", "Out of memory. Please set a smaller number for `--max-running-requests`"),
    ("exhausted", "No space left for only one request"),
    ("states_exhausted", "Not enough space for mamba "),
    ("killed", "died during initialization (exit code: -9)"),
    ("killed", "Scheduler or DataParallelController<any>terminated with -9"),
    ("stopped", "Scheduler hit an exception"),
    ("stopped", "DataParallelController hit an exception"),
    ("stopped", "TpModelWorkerClient hit an exception"),
    ("stopped", "Received sigquit from a child process"),
    ("pool_end", "Memory pool end. avail mem={after_gib} GB"),
    ("no_pool", "Not enough memory. Please try to increase --mem-fraction-static"),
    (
        "no_pool",
        (
            "Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static={utilization}. "
            "Raise --mem-fraction-static above {least_utilization} "
        ),
    ),
    *(
        (
            "window_cap",
            (
                f"SWA pool cap ({{cap_tokens}} tokens, {{asked_gib}} {unit}) leaves no room for the full "
                f"KV pool within the available {{within_gib}} {unit}"
            ),
        )
        for unit in ("GiB", "GB")
    ),
    ("no_pool", "cannot fit ONE worst-case request"),
    ("no_pool", "Memory pool size is too small"),
    ("no_pool", "max_running_request is zero"),
    ("no_pool", "Not enough GPU memory for hybrid (mamba/linear-attention) state cache"),
    ("no_pool", "(mamba/linear-attention) state cache is too small to serve any requests"),
    ("no_pool", "SWA pool ({window_tokens} tokens) cannot hold even one request"),
    ("kv_dtype", "Using KV cache dtype: torch.{kv_dtype:word}"),
    ("kv_dtype", "Setting KV cache dtype to {kv_dtype:word} for"),
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
