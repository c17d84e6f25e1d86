"""Logs of what is no GPU, of hosts' memory, and of starts that take their pool from elsewhere: what they come to."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.logs.account import Account, account
from kvplan.sizing.logs.explanation import explained_lines, reasons
from kvplan.sizing.logs.gpus import logged_gpu
from kvplan.sizing.logs.lines import read_log
from kvplan.sizing.logs.remedies import enlargements

CONFIG = (
    "INFO 01-02 10:00:02 llm_engine.py:234] Initializing an LLM engine (v{}) with config: model='a/b', "
    "dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=1, kv_cache_dtype=auto, device_config={}\n"
)
SGLANG = "[10:00:00] server_args=ServerArgs(model_path='a/b', tp_size=2, device='cuda', mem_fraction_static=0.86)\n"

LOGS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a CPU's blocks stand alone before V1": (
        CONFIG.format("0.6.6", "cpu") + "INFO 01-02 10:00:08 cpu_executor.py:186] # CPU blocks: 9362\n",
        {"blocks": 9362, "device": "cpu"},
        [],
    ),
    "a TPU's": (
        CONFIG.format("0.6.6", "tpu") + "INFO tpu_executor.py:91] # TPU blocks: 11032, # CPU blocks: 2048\n",
        {"blocks": 11032, "device": "tpu"},
        [],
    ),
    "OpenVINO's": (
        CONFIG.format("0.6.6", "cpu") + "INFO openvino_executor.py:91] OpenVINO CPU: # device blocks: 3182; # swap blocks: 0\n",
        {"blocks": 3182},
        [],
    ),
    "blocks that V1's front end says": (
        "INFO [loggers.py:236] Engine 000: vllm cache_config_info with initialization after num_gpu_blocks is: 24761\n",
        {"blocks": 24761},
        [],
    ),
    "a CPU's pool is a variable's": (
        CONFIG.format("0.8.5", "cpu")
        + "WARNING [cpu.py:54] Environment variable VLLM_CPU_KVCACHE_SPACE (GiB) for CPU backend is not set, using 4 by "
        "default.\nINFO [kv_cache_utils.py:634] GPU KV cache size: 149,760 tokens\n",
        {"pool_gib": 4.0, "pool_option": "VLLM_CPU_KVCACHE_SPACE", "pool_tokens": 149760},
        ["4.00 GiB are the cache's, set by hand with VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_KVCACHE_SPACE"],
    ),
    "a CPU that has not enough free": (
        CONFIG.format("0.33.0", "cpu")
        + "ERROR [core.py:1100] ValueError: Available memory on node 0 (20.11/31.20 GiB) on startup is less than desired "
        "CPU memory utilization (0.92, 28.7 GiB). Decrease --gpu-memory-utilization\n",
        {"refused": "not_free", "total_gib": 31.2, "free_gib": 20.11, "utilization": 0.92},
        ["8.59 GiB of the budget were not free", "end the processes that hold the memory"],
    ),
    "a CPU whose pool is not free": (
        CONFIG.format("0.20.0", "cpu")
        + "ERROR [core.py:1100] ValueError: Available memory on node 0 (10.10/31.20 GiB) on kv cache allocation is less "
        "than requested memory for kv (16.0 GiB). Decrease --kv-cache-memory-bytes\n",
        {"refused": "pool_not_free"},
        ["larger than what was free", "a smaller --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE"],
    ),
    "memory of an Intel GPU that ran out": (
        CONFIG.format("0.11.2", "xpu")
        + "ERROR [core.py:842] torch.OutOfMemoryError: XPU out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total "
        "capacity of 15.91 GiB. Of the allocated memory 15.70 GiB is allocated by PyTorch\n",
        {"refused": "oom"},
        ["ran out of GPU memory while weights were loaded"],
    ),
    "a pool that an earlier start measured": (
        ("INFO [startup_plan.py:153] Applying persisted startup plan (fingerprint 9ab3): kv_cache_memory_bytes=53687091200 "
        "(50.00 GiB), recorded free-memory baseline 78.60 GiB, current 78.61 GiB. Memory profiling will be skipped.\n"
        "INFO [gpu_worker.py:302] Initial free memory 78.61 GiB, reserved 50.00 GiB memory for KV Cache as specified by "
        "kv_cache_memory_bytes config and skipped memory profiling.\n"),
        {"pool_gib": 50.0, "free_gib": 78.61},
        ["50.00 GiB of 78.61 GiB that were free are the cache's, as an earlier start measured it",
         "VLLM_ENABLE_STARTUP_PLAN=0"],
    ),
    "weights that another process holds": (
        ("INFO [utils.py:751] Weights are held outside this process: of the 72.85 GiB utilization budget, 15.3 GiB is "
        "externally held and 57.55 GiB remains for the engine's own allocations.\n"
        "INFO [gpu_worker.py:760] Available KV cache memory: 54.4 GiB\n"),
        {"weights_gib": 15.3, "budget_gib": 72.85},
        ["72.85 GiB - 15.30 GiB weights - 3.15 GiB the log does not itemise"],
    ),
    "prompts that are looked up no more": (
        ("INFO non-default args: {'model': 'a/b', 'enable_prefix_caching': True}\n"
        "INFO [config.py:312] Hybrid or mamba-based model detected without support for prefix caching: disabling.\n"
        "INFO [gpu_worker.py:358] Available KV cache memory: 27.22 GiB\n"),
        {"prefix_caching": False},
        [],
    ),
    "a format that a CPU takes instead": (
        CONFIG.format("0.8.5", "cpu")
        + "WARNING [cpu.py:60] CPU backend doesn't support fp8_e4m3 KV cache type, cast to fp8_e5m2.\n",
        {"kv_dtype": "fp8_e5m2"},
        [],
    ),
    "memory of the host below SGLang": (
        SGLANG
        + "[10:00:20 TP0] KV Cache is allocated. #tokens: 294912, K size: 18.00 GB, V size: 18.00 GB\n"
        "[10:00:20 TP1] Allocating 72.00 GB host memory for hierarchical KV cache.\n"
        "[10:00:20 TP0] Allocating 72.00 GB host memory for hierarchical KV cache.\n",
        {"host_bytes": 72_000_000_000},
        ["67.06 GiB of the host keep what leaves the pool"],
    ),
    "its pools by name": (
        SGLANG
        + "[10:00:20 TP0] KV Cache is allocated. #tokens: 294912, K size: 18.00 GB, V size: 18.00 GB\n"
        "[10:00:20 TP0] Allocating MHA hierarchical KV host pool: 589824 tokens, 72.00 GB host memory.\n"
        "[10:00:20 TP0] Allocating 3.00 GB host memory for hierarchical Mamba cache (layout=layer_first).\n",
        {"host_bytes": 75_000_000_000},
        [],
    ),
    "and below vLLM": (
        ("INFO [gpu_worker.py:440] Available KV cache memory: 36.4 GiB\n"
        "INFO [shared_offload_region.py:88] Created mmap file /dev/shm/vllm_offload_abc.mmap (64.00 GB)\n"),
        {"host_bytes": 64_000_000_000},
        [],
    ),
    "a host with less than that": (
        SGLANG + "ValueError: Not enough host memory available. Requesting 72.00 GB but only have 31.50 GB free. Please\n",
        {"refused": "no_host_memory"},
        ["the host has less memory free", "a smaller --hicache-size or --hicache-ratio"],
    ),
    "a GPU that somebody else uses": (
        SGLANG
        + "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes. "
        "min_per_gpu_memory=40.11, local_gpu_memory=78.20, local_gpu_memory * 0.9=70.38\n",
        {"refused": "unbalanced"},
        ["another process holds memory of one of its GPUs", "end the processes that hold the GPU"],
    ),
    "of which SGLang may only warn": (
        SGLANG
        + "[10:00:01 TP0] The memory capacity is unbalanced. Some GPUs may be occupied by other processes. "
        "pre_model_load_memory=40.11, local_gpu_memory=78.20, local_gpu_memory * 0.9=70.38\n"
        "[10:00:20 TP0] KV Cache is allocated. #tokens: 294912, K size: 18.00 GB, V size: 18.00 GB\n",
        {"refused": None},
        [],
    ),
    "how much a pool lacks": (
        ("INFO [gpu_worker.py:349] Available KV cache memory: -1.21 GiB\n"
        "ERROR [core.py:842] ValueError: No available memory for the cache blocks. Try increasing it\n"),
        {"refused": "no_pool"},
        ["nothing was left for the cache, 1.21 GiB short of it"],
    ),
}  # fmt: skip


def value(log: Account, name: str) -> Any:
    if not name.endswith("_gib"):
        return getattr(log, name)
    return round(getattr(log, f"{name[:-4]}_bytes") / 2**30, 2)


@pytest.mark.parametrize("name", LOGS)
def test_what_a_log_says(name: str) -> None:
    text, expected, phrases = LOGS[name]
    reading = read_log(text.splitlines())
    log = account(reading.facts)
    assert {key: value(log, key) for key in expected} == expected
    assert not reading.unread
    assert all(line.means for line in explained_lines(reading.facts))
    said = [*reasons(log), *(change.change for change in enlargements(log))]
    for phrase in phrases:
        assert any(phrase in sentence for sentence in said), said


@pytest.mark.parametrize("device", ["cpu", "xpu", "hpu"])
def test_memory_of_what_is_no_gpu_of_kvplan_s_is_not_taken_for_one(device: str) -> None:
    text = CONFIG.format("0.33.0", device) + (
        "ERROR ValueError: Available memory on node 0 (20.11/31.74 GiB) on startup is less than desired CPU memory "
        "utilization (0.92, 28.7 GiB).\n"
    )
    assert logged_gpu(account(read_log(text.splitlines()).facts)) is None


def test_running_out_and_retracting_is_no_end() -> None:
    """SGLang 0.3 calls it so when requests have to give way."""
    text = (
        SGLANG + "[10:00:20 TP0] max_total_num_tokens=443612, max_running_requests=2049, context_len=131072\n"
    )
    text += "[10:00:39 TP0] Decode out of memory happened. #retracted_reqs: 2, #new_token_ratio: 0.5971 -> 0.8533\n"
    assert account(read_log(text.splitlines()).facts).refused is None


@pytest.mark.parametrize("total", ["-1.50", "0.00"])
def test_a_memory_that_no_gpu_has_names_none(total: str) -> None:
    text = f"INFO worker.py:241] the current vLLM instance can use total_gpu_memory ({total}GiB) x gpu_memory_utilization (0.90) = 21.22GiB\n"
    assert logged_gpu(account(read_log([text]).facts)) is None
