"""Start-up excerpts as engines of many versions print them: what each says, and what is left unread.

Each excerpt is written in the form of its version with numbers of its own; ``<`` stands for a colour sequence.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import DataError
from kvplan.sizing.logs.account import Account, account
from kvplan.sizing.logs.explanation import explained_lines, reasons
from kvplan.sizing.logs.lines import read_log
from kvplan.sizing.logs.remedies import enlargements
from kvplan.units import GIB

Expected = dict[str, Any]

EXCERPTS: dict[str, tuple[str, Expected, int]] = {
    "vllm 0.3": (
        ("INFO 02-29 19:21:40 llm_engine.py:79] Initializing an LLM engine with config: model='facebook/opt-125m', "
        "dtype=torch.float16, max_seq_len=2048, tensor_parallel_size=1, quantization=None, kv_cache_dtype=auto)\n"
        "INFO 02-29 19:21:45 model_runner.py:90] Loading model weights took 244.61 MB\n"
        "INFO 02-29 19:21:45 llm_engine.py:338] # GPU blocks: 76240, # CPU blocks: 7281\n"),
        {"weights_gib": 0.23888, "blocks": 76240, "model": "facebook/opt-125m", "context_tokens": 2048, "tp": 1},
        0,
    ),
    "vllm 0.4": (
        ("INFO 05-01 10:00:00 llm_engine.py:98] Initializing an LLM engine (v0.4.1) with config: model='org/model-13b', "
        "max_seq_len=4096, tensor_parallel_size=2, kv_cache_dtype=fp8\n"
        "INFO 05-01 10:00:05 utils.py:608] Found nccl from library /usr/lib/libnccl.so.2\n"
        "INFO 05-01 10:00:30 model_runner.py:172] Loading model weights took 12.1312 GB\n"
        "INFO 05-01 10:00:41 distributed_gpu_executor.py:45] # GPU blocks: 5120, # CPU blocks: 1310\n"),
        {"version": "0.4.1", "weights_gib": 12.1312, "blocks": 5120, "tp": 2, "kv_dtype": "fp8_e4m3"},
        1,
    ),
    "vllm 0.5, two ranks": (
        ("INFO 07-30 11:05:20 model_runner.py:720] Starting to load model /models/m...\n"
        "(VllmWorkerProcess pid=811) INFO 07-30 11:05:44 model_runner.py:732] Loading model weights took 65.7410 GB\n"
        "INFO 07-30 11:05:45 model_runner.py:732] Loading model weights took 65.7410 GB\n"
        "INFO 07-30 11:05:52 distributed_gpu_executor.py:56] # GPU blocks: 1932, # CPU blocks: 1638\n"),
        {"weights_gib": 65.741, "blocks": 1932, "pool_tokens": None},
        1,
    ),
    "sglang 0.4.1, the pool without its tokens": (
        ("[2025-01-23 19:35:00] server_args=ServerArgs(model_path='org/m', dtype='auto', kv_cache_dtype='auto', "
        "mem_fraction_static=0.88, max_running_requests=None, tp_size=1)\n"
        "[2025-01-23 19:35:10 TP0] Load weight begin. avail mem=78.81 GB\n"
        "[2025-01-23 19:35:20 TP0] Load weight end. type=X, dtype=torch.bfloat16, avail mem=63.72 GB\n"
        "[2025-01-23 19:35:20 TP0] KV Cache is allocated. K size: 27.13 GB, V size: 27.13 GB.\n"
        "[2025-01-23 19:35:20 TP0] Memory pool end. avail mem=8.34 GB\n"
        "[2025-01-23 19:35:40 TP0] max_total_num_tokens=444500, max_prefill_tokens=16384, "
        "max_running_requests=2049, context_len=131072\n"),
        {"pool_gib": 54.26, "pool_tokens": 444500, "context_tokens": 131072, "kv_dtype": None, "tp": 1},
        0,
    ),
    "sglang 0.5, the pool's format and no other": (
        ("[2026-09-12 00:22:30] server_args=ServerArgs(model_path='org/m', kv_cache_dtype='auto', tp_size=1)\n"
        "[2026-09-12 00:22:48 TP0] KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 454112, "
        "K size: 3.46 GB, V size: 3.46 GB\n"),
        {"pool_gib": 6.92, "pool_tokens": 454112, "kv_dtype": "fp8_e4m3"},
        0,
    ),
    "vllm, DeepSeek's own rows": (
        ("INFO 08-07 10:00:00 [attention.py:1] Using DeepSeek's fp8_ds_mla KV cache format.\n"
        "INFO 08-07 10:00:41 [gpu_worker.py:2] Available KV cache memory: 32.08 GiB\n"),
        {"pool_gib": 32.08, "kv_dtype": "fp8_ds_mla"},
        0,
    ),
    "vllm 0.6.3": (
        ("INFO 10-20 08:12:00 gpu_executor.py:122] # GPU blocks: 27895, # CPU blocks: 2048\n"
        "INFO 10-20 08:12:00 gpu_executor.py:126] Maximum concurrency for 131072 tokens per request: 3.41x\n"),
        {"blocks": 27895, "context_tokens": 131072, "concurrency": 3.41, "pool_tokens": 27895 * 16},
        0,
    ),
    "vllm 0.6.5": (
        ("(VllmWorkerProcess pid=1587462) INFO 12-13 02:10:28 worker.py:237] Memory profiling results: duration=71.88 "
        "seconds, total_gpu_memory=79.15GiB, initial_memory_usage=19.68GiB, peak_torch_memory=34.32GiB, "
        "memory_usage_post_profile=35.32GiB, non_torch_memory=1.96GiB, kv_cache_size=34.96GiB, "
        "gpu_memory_utilization=0.90.\n"
        "INFO 12-13 02:10:29 distributed_gpu_executor.py:58] # GPU blocks: 189945, # CPU blocks: 21845\n"
        "INFO 12-13 02:10:29 distributed_gpu_executor.py:62] Maximum concurrency for 1024 tokens per request: 2967.89x\n"),
        {"total_gib": 79.15, "pool_gib": 34.96, "runtime_gib": 1.96, "utilization": 0.9, "pool_tokens": 189945 * 16},
        0,
    ),
    "vllm 0.7 V0": (
        ("INFO 02-14 02:37:28 model_runner.py:1123] Loading model weights took 9.6884 GB\n"
        "INFO 02-14 02:38:02 worker.py:267] Memory profiling takes 5.10 seconds\n"
        "INFO 02-14 02:38:02 worker.py:267] the current vLLM instance can use total_gpu_memory (79.33GiB) x "
        "gpu_memory_utilization (0.90) = 71.39GiB\n"
        "INFO 02-14 02:38:02 worker.py:267] model weights take 9.69GiB; non_torch_memory takes 1.27GiB; PyTorch "
        "activation peak memory takes 2.95GiB; the rest of the memory reserved for KV Cache is 57.48GiB.\n"),
        {"budget_gib": 71.39, "activation_gib": 2.95, "runtime_gib": 1.27, "pool_gib": 57.48},
        1,
    ),
    "vllm 0.7 V1": (
        ("INFO 01-30 03:18:12 gpu_model_runner.py:848] Loading model weights took 67.7229 GB\n"
        "INFO 01-30 03:18:28 backends.py:309] Cache the graph of shape None for later use\n"
        "INFO 01-30 03:19:14 kv_cache_utils.py:395] # GPU blocks: 1381\n"
        "INFO 01-30 03:19:14 kv_cache_utils.py:398] Maximum concurrency for 2048 tokens per request: 10.79x\n"),
        {"weights_gib": 67.7229, "blocks": 1381, "concurrency": 10.79, "pool_tokens": 1381 * 16},
        1,
    ),
    "vllm 0.8.5 V0 configuration": (
        ("INFO 04-23 14:42:34 [llm_engine.py:243] Initializing a V0 LLM engine (v0.8.5.dev169+gce17db808) with config: "
        "model='/models/QwQ-32B-bnb-4bit', dtype=torch.bfloat16, max_seq_len=60000, tensor_parallel_size=1, "
        "pipeline_parallel_size=2, quantization=bitsandbytes, enforce_eager=False, kv_cache_dtype=auto,  device_config=cuda\n"
        "INFO 04-23 14:43:20 [executor_base.py:112] # cuda blocks: 4034, # CPU blocks: 2048\n"),
        {"version": "0.8.5.dev169+gce17db808", "model": "/models/QwQ-32B-bnb-4bit", "blocks": 4034, "kv_dtype": None},
        0,
    ),
    "vllm 0.8.5 V1": (
        ("INFO 05-02 01:02:03 [gpu_model_runner.py:1347] Model loading took 14.2487 GiB and 4.091 seconds\n"
        "INFO 05-02 01:02:40 [kv_cache_utils.py:634] GPU KV cache size: 936,192 tokens\n"
        "INFO 05-02 01:02:40 [kv_cache_utils.py:637] Maximum concurrency for 32,768 tokens per request: 28.57x\n"
        "INFO 05-02 01:03:01 [gpu_model_runner.py:1686] Graph capturing finished in 21 secs, took 0.45 GiB\n"),
        {"weights_gib": 14.2487, "pool_tokens": 936192, "concurrency": 28.57, "graph_gib": 0.45},
        0,
    ),
    "vllm 0.9, four ranks": (
        "".join(
            f"(VllmWorker rank={rank} pid={90 + rank}) INFO 07-22 09:00:0{rank} [gpu_worker.py:232] Available KV cache "
            f"memory: {size} GiB\n"
            for rank, size in enumerate(("8.11", "8.32", "8.32", "8.11"))
        )
        + "INFO 07-22 09:00:05 [kv_cache_utils.py:716] GPU KV cache size: 178,880 tokens\n" * 4,
        {"pool_gib": 8.11, "pool_tokens": 178880},
        0,
    ),
    "vllm 0.10, parallel ranks by name": (
        ("(EngineCore_0 pid=1) INFO 08-20 10:00:00 [core.py:74] Initializing a V1 LLM engine (v0.10.1) with config: "
        "model='org/m', max_seq_len=8192, tensor_parallel_size=2, kv_cache_dtype=fp8_e5m2\n"
        "(VllmWorker TP0 pid=12) INFO 08-20 10:00:20 [gpu_model_runner.py:2007] Model loading took 7.6065 GiB and 3 seconds\n"
        "(VllmWorker TP1 pid=13) INFO 08-20 10:00:20 [gpu_model_runner.py:2007] Model loading took 7.5065 GiB and 3 seconds\n"
        "(EngineCore_0 pid=1) INFO 08-20 10:00:40 [kv_cache_utils.py:829] GPU KV cache size: 1,024,000 tokens\n"),
        {"version": "0.10.1", "weights_gib": 7.6065, "pool_tokens": 1024000, "tp": 2, "kv_dtype": "fp8_e5m2"},
        0,
    ),
    "vllm 0.11, colours": (
        ("<36m(EngineCore_DP0 pid=271)<0;0m INFO 10-09 12:00:00 [gpu_worker.py:298] Available KV cache memory: <1m58.53<0m GiB\n"
        "<36m(EngineCore_DP0 pid=271)<0;0m INFO 10-09 12:00:00 [kv_cache_utils.py:1087] GPU KV cache size: 479,488 tokens\n"),
        {"pool_gib": 58.53, "pool_tokens": 479488},
        0,
    ),
    "vllm 0.12, Windows line ends": (
        ("(APIServer pid=7) INFO 12-01 09:00:00 [api_server.py:1772] vLLM API server version 0.12.0\r\n"
        "(APIServer pid=7) INFO 12-01 09:00:00 [utils.py:253] non-default args: {'model_tag': 'Qwen/Qwen3-8B', "
        "'max_model_len': 32768, 'gpu_memory_utilization': 0.85, 'tensor_parallel_size': 1}\r\n"
        "(EngineCore_DP0 pid=99) INFO 12-01 09:00:40 [gpu_worker.py:375] Available KV cache memory: 49.02 GiB\r\n"),
        {"version": "0.12.0", "model": "Qwen/Qwen3-8B", "utilization": 0.85, "pool_gib": 49.02, "context_tokens": 32768},
        0,
    ),
    "vllm 0.13, container timestamps": (
        ("2026-01-10T10:00:00.123456789Z (EngineCore_DP0 pid=99) INFO 01-10 10:00:00 [gpu_worker.py:375] Available KV "
        "cache memory: 3.25 GiB\n"
        "2026-01-10T10:00:01.123456789Z (EngineCore_DP0 pid=99) INFO 01-10 10:00:01 [kv_cache_utils.py:1291] GPU KV cache "
        "size: 26,624 tokens\n"),
        {"pool_gib": 3.25, "pool_tokens": 26624},
        0,
    ),
    "vllm, too little free": (
        ("ValueError: Free memory on device (59.32/79.15 GiB) on startup is less than desired GPU memory utilization "
        "(0.9, 71.24 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.\n"),
        {"refused": "not_free", "free_gib": 59.32, "total_gib": 79.15, "budget_gib": 71.24},
        0,
    ),
    "vllm, a request too long": (
        ("(EngineCore pid=316) ValueError: To serve at least one request with the model's max seq len (100000), (4.26 GiB "
        "KV cache is needed, which is larger than the available KV cache memory (4.25 GiB). Based on the available "
        "memory, the estimated maximum model length is 99712.\n"),
        {"refused": "too_long", "pool_gib": 4.25, "context_tokens": 100000},
        0,
    ),
    "vllm V0, a request too long": (
        ("ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV "
        "cache (87424). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`\n"),
        {"refused": "too_long", "pool_tokens": 87424},
        0,
    ),
    "vllm, nothing left": (
        ("INFO 06-06 [gpu_worker.py:232] Available KV cache memory: -2.52 GiB\n"
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`\n"),
        {"refused": "no_pool", "pool_gib": -2.52},
        0,
    ),
    "vllm 0.16, a hybrid": (
        ("INFO 02-02 [config.py:381] Setting attention block size to 1104 tokens to ensure that attention page size is >= "
        "mamba page size.\n"
        "INFO 02-02 [config.py:403] Padding mamba page size by 0.73% to ensure that mamba page size and attention page "
        "size are exactly equal.\n"
        "WARNING 02-02 [kv_cache_utils.py:1033] Add 3 padding layers, may waste at most 12.50% KV cache memory\n"
        "INFO 02-02 [kv_cache_utils.py:1087] GPU KV cache size: 290,864 tokens\n"
        "INFO 02-02 [kv_cache_utils.py:1091] Maximum concurrency for 32,768 tokens per request: 33.04x\n"),
        {"pool_tokens": 290864, "concurrency": 33.04, "context_tokens": 32768},
        0,
    ),
    "vllm 0.21, graphs in the budget": (
        ("(EngineCore pid=5) INFO 06-01 [gpu_model_runner.py:5876] Profiling CUDA graph memory: PIECEWISE=51 (largest=512), "
        "FULL=35 (largest=256)\n"
        "(EngineCore pid=5) INFO 06-01 [gpu_model_runner.py:5955] Estimated CUDA graph memory: 0.78 GiB total\n"
        "(EngineCore pid=5) INFO 06-01 [gpu_worker.py:470] CUDA graph memory profiling is enabled (default since v0.21.0). "
        "The current --gpu-memory-utilization=0.9200 is equivalent to --gpu-memory-utilization=0.9102 without CUDA graph "
        "memory profiling. To maintain the same effective KV cache size as before, increase --gpu-memory-utilization to "
        "0.9298.\n"),
        {"graph_gib": 0.78, "utilization": 0.92, "restoring_utilization": 0.9298},
        0,
    ),
    "vllm 0.33, both in one line": (
        ("(EngineCore pid=5) INFO 11-01 [kv_cache_utils.py:2100] GPU KV cache size: 302,945 tokens, Maximum concurrency for "
        "262,144 tokens per request: 1.16x\n"),
        {"pool_tokens": 302945, "concurrency": 1.16, "context_tokens": 262144},
        0,
    ),
    "vllm, cut in the middle of a number": (
        ("INFO 05-02 [gpu_model_runner.py:1347] Model loading took 14.2487 GiB and 4.091 seconds\n"
        "INFO 05-02 [gpu_worker.py:232] Available KV cache memory: 58."),
        {"weights_gib": 14.2487, "pool_gib": None, "pool_tokens": None},
        1,
    ),
    "sglang 0.4": (
        ("[2025-02-03 04:05:06] server_args=ServerArgs(model_path='meta-llama/Llama-3.1-8B-Instruct', tp_size=1, "
        "mem_fraction_static=0.88, kv_cache_dtype='auto', context_length=None)\n"
        "[2025-02-03 04:05:30 TP0] Load weight begin. avail mem=78.58 GB\n"
        "[2025-02-03 04:05:40 TP0] Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=63.50 GB\n"
        "[2025-02-03 04:05:41 TP0] Memory pool end. avail mem=8.44 GB\n"
        "[2025-02-03 04:05:50 TP0] max_total_num_tokens=443882, chunked_prefill_size=8192, max_prefill_tokens=16384, "
        "max_running_requests=2049, context_len=131072\n"),
        {"engine": "sglang", "free_gib": 78.58, "pool_tokens": 443882, "context_tokens": 131072, "utilization": 0.88},
        0,
    ),
    "sglang 0.5": (
        ("[2025-11-11 04:05:39] Load weight begin. avail mem=44.00 GB\n"
        "Loading safetensors checkpoint shards: 100% Completed | 4/4 [00:01<00:00,  2.08it/s]\n"
        "[2025-11-11 04:05:43] Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=28.91 GB, mem "
        "usage=15.09 GB.\n"
        "[2025-11-11 04:05:43] Using KV cache dtype: torch.bfloat16\n"
        "[2025-11-11 04:05:43] KV Cache is allocated. #tokens: 183133, K size: 11.18 GB, V size: 11.18 GB\n"
        "[2025-11-11 04:05:43] Memory pool end. avail mem=5.51 GB\n"
        "[2025-11-11 04:05:43] Capture cuda graph begin. This can take up to several minutes. avail mem=5.00 GB\n"),
        {"engine": "sglang", "weights_gib": 15.09, "pool_gib": 22.36, "pool_tokens": 183133, "kv_dtype": "bf16"},
        1,
    ),
    "sglang, latents": (
        ("[2026-02-01 00:00:00 DP0 TP0 EP0] KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 1,024,512, KV size: "
        "35.10 GB\n"),
        {"engine": "sglang", "pool_gib": 35.1, "pool_tokens": 1024512},
        0,
    ),
    "sglang, a hybrid": (
        ("[2026-03-01 TP0] Mamba Cache is allocated. max_mamba_cache_size: 160, conv_state size: 0.18GB, ssm_state size: "
        "11.30GB\n"
        "[2026-03-01 TP0] KV Cache is allocated. #tokens: 520000, K size: 5.95 GB, V size: 5.95 GB\n"),
        {"engine": "sglang", "pool_gib": 11.9, "pool_tokens": 520000},
        0,
    ),
    "sglang, windows": (
        ("[2026-04-01 TP1] SWAKVPool mem usage: 24.30 GB, swa size: 1040384, full size: 1300480\n"
        "[2026-04-01 TP1] Capture cuda graph end. Time elapsed: 13.09 s. mem usage=1.40 GB. avail mem=3.66 GB.\n"),
        {"engine": "sglang", "pool_gib": 24.3, "pool_tokens": 1300480, "graph_gib": 1.4},
        0,
    ),
}  # fmt: skip


def read(text: str) -> tuple[Account, int]:
    reading = read_log(
        text.replace("<", "\x1b[").splitlines(keepends=True) if "<36m" in text else text.splitlines()
    )
    return account(reading.facts), len(reading.unread)


def found(log: Account, name: str) -> Any:
    if not name.endswith("_gib"):
        return getattr(log, name)
    size = getattr(log, name.replace("_gib", "_bytes"))
    return None if size is None else size / GIB


@pytest.mark.parametrize("name", EXCERPTS)
def test_what_an_excerpt_says(name: str) -> None:
    text, expected, unread = EXCERPTS[name]
    log, left = read(text)
    for key, value in expected.items():
        close = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        assert found(log, key) == close, key
    assert left == unread


@pytest.mark.parametrize("name", EXCERPTS)
def test_every_excerpt_is_explained_in_words(name: str) -> None:
    text, _, _ = EXCERPTS[name]
    reading = read_log(text.splitlines())
    lines = explained_lines(reading.facts)
    assert lines
    assert all(line.says and line.means for line in lines)
    log = account(reading.facts)
    assert all(isinstance(reason, str) for reason in reasons(log))
    assert all(change.change and change.why for change in enlargements(log))


def test_ranks_that_repeat_a_line_are_one_line() -> None:
    text, _, _ = EXCERPTS["vllm 0.9, four ranks"]
    assert len(explained_lines(read_log(text.splitlines()).facts)) == 3  # two sizes of pool, one of tokens


@pytest.mark.parametrize(
    "text", ["", "\n\n", "hello\nworld\n", "Available KV cache memory: many GiB\n", "\x00\x01\x02"]
)
def test_text_that_is_no_log_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="no line of this log"):
        read_log(text.splitlines())


def test_a_byte_order_mark_and_bare_returns_do_no_harm() -> None:
    text = "\ufeffINFO # GPU blocks: 100, # CPU blocks: 10\rINFO Maximum concurrency for 400 tokens per request: 4.00x\r"
    log, unread = read(text)
    assert (log.blocks, log.pool_tokens, unread) == (100, 1600, 0)
