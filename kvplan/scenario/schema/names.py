"""What engines and benchmarks call the fields of a scenario: refused, and answered with the name here.

Options of theirs that no field stands for are answered with what to do instead.
"""

_DATA_PARALLEL = "parallel.replicas or parallel.attention_ranks"

CALLED_ELSEWHERE = {
    "tensor_parallel": "parallel.tp",
    "tensor_parallel_size": "parallel.tp",
    "tp_size": "parallel.tp",
    "pipeline_parallel_size": "parallel.pp",
    "pp_size": "parallel.pp",
    "prefill_context_parallel_size": "parallel.cp",
    "data_parallel_size": _DATA_PARALLEL,
    "dp": _DATA_PARALLEL,
    "dp_size": _DATA_PARALLEL,
    "ep": "parallel.expert_parallel",
    "ep_size": "parallel.expert_parallel",
    "enable_expert_parallel": "parallel.expert_parallel",
    "enable_dp_attention": "parallel.dp_attention",
    "kv_dtype": "cache.dtype",
    "kv_cache_dtype": "cache.dtype",
    "enable_prefix_caching": "cache.prefix",
    "disable_radix_cache": "cache.prefix",
    "num_gpu_blocks_override": "cache.blocks",
    "sglang.gpu_memory_utilization": "engine.mem_fraction_static",
    "sglang.max_model_len": "engine.context_length",
    "sglang.max_num_batched_tokens": "engine.chunked_prefill_size",
    "sglang.max_num_seqs": "engine.max_running_requests",
    "sglang.policy": "engine.schedule_policy",
    "vllm.chunked_prefill_size": "engine.max_num_batched_tokens",
    "vllm.context_length": "engine.max_model_len",
    "vllm.max_running_requests": "engine.max_num_seqs",
    "vllm.mem_fraction_static": "engine.gpu_memory_utilization",
    "vllm.page_size": "cache.block_size",
    "vllm.schedule_policy": "engine.policy",
    "kv_offloading_size": "tiers.host.memory",
    "kv_offloading_backend": "tiers.host.connector",
    "kv_connector": "tiers.host.connector",
    "hicache_size": "tiers.host.memory",
    "quantization": "weights_dtype",
    "scheduling_policy": "engine.policy",
    "speculative_config": "speculative",
    "speculative_algorithm": "speculative.method",
    "speculative_model": "speculative.model",
    "draft_model": "speculative.model",
    "num_speculative_tokens": "speculative.tokens",
    "speculative_num_steps": "speculative.tokens",
    "request_rate": "workload.rate",
    "rps": "workload.rate",
    "qps": "workload.rate",
    "concurrency": "workload.max_in_flight",
    "max_concurrency": "workload.max_in_flight",
    "num_prompts": "workload.requests",
    "num_requests": "workload.requests",
    "input_len": "workload.prompt_tokens",
    "input_tokens": "workload.prompt_tokens",
    "isl": "workload.prompt_tokens",
    "random_input_len": "workload.prompt_tokens",
    "output_len": "workload.output_tokens",
    "osl": "workload.output_tokens",
    "random_output_len": "workload.output_tokens",
}

_ADAPTERS = "adapters are not simulated"
_DECODE_CONTEXT = (
    "ranks that tensor parallelism has anyway are not dealt a request's tokens: parallel.cp adds GPUs"
)
_REDUNDANT = "experts are not sized or timed twice: leave it out, as the engines do"
_DELAYER = "no rank holds its prompts back for the others; leave it out, as SGLang does"

NOT_SIMULATED = {
    "enable_lora": _ADAPTERS,
    "lora_paths": _ADAPTERS,
    "prefix_match_unit": "hits inside a block are not simulated; leave it out, as vLLM does",
    "mamba_cache_mode": "states are cached where blocks end, or not at all; say cache.prefix: hash or none",
    "disable_hybrid_kv_cache_manager": "say cache.groups: [{kind: full}]",
    "kv_transfer_config": "say tiers.host.connector: offloading, or disaggregation",
    "num_continuous_decode_steps": "SGLang 0.5.23 takes it and does nothing with it: leave it out",
    "scheduler_recv_interval": "requests are taken in before every batch: leave it at 1, as SGLang does",
    "default_priority_value": "requests of which a trace says no priority have 0; say another in the trace",
    "abort_on_priority_when_disabled": "where priorities do not count, requests are served without them",
    "decode_context_parallel_size": _DECODE_CONTEXT,
    "dcp_size": _DECODE_CONTEXT,
    "num_redundant_experts": _REDUNDANT,
    "ep_num_redundant_experts": _REDUNDANT,
    "enable_eplb": "experts stay where they are: leave it out, as the engines do",
    "moe_dense_tp_size": "dense layers are cut as the engine does unasked: leave it out",
    "enable_dp_lm_head": "ranks share the output head, as SGLang's do unasked: leave it out",
    "enable_prefill_delayer": _DELAYER,
    "prefill_delayer_max_delay_passes": _DELAYER,
    "prefill_delayer_token_usage_low_watermark": _DELAYER,
    "prefill_delayer_queue_min_ratio": _DELAYER,
    "swa_full_tokens_ratio": "the pool for windows has SGLang's default share",
    "swa_bounded_replay": "windows are simulated as cached",
}
