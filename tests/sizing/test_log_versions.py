"""Start-ups in the wordings of single versions: what each says, and what the account makes of it.

Every log is written in the form of its version; its numbers follow from the version's own rule of allocation.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sizing.logs.account import Account, account
from kvplan.sizing.logs.explanation import reasons
from kvplan.sizing.logs.lines import read_log
from kvplan.sizing.logs.remedies import enlargements
from kvplan.sizing.logs.starts import starts
from kvplan.units import GIB

VLLM_V0 = """\
INFO 01-10 09:00:28 model_runner.py:1099] Loading model weights took 7.5122 GB
(VllmWorkerProcess pid=421) INFO 01-10 09:00:28 model_runner.py:1099] Loading model weights took 7.5122 GB
INFO 01-10 09:00:33 worker.py:241] the current vLLM instance can use total_gpu_memory (79.10GiB) x gpu_memory_utilization (0.90) = 71.19GiB
INFO 01-10 09:00:33 worker.py:241] model weights take 7.51GiB; non_torch_memory takes 2.21GiB; PyTorch activation peak memory takes 1.20GiB; the rest of the memory reserved for KV Cache is 60.27GiB.
(VllmWorkerProcess pid=421) INFO 01-10 09:00:33 worker.py:241] model weights take 7.51GiB; non_torch_memory takes 1.11GiB; PyTorch activation peak memory takes 1.20GiB; the rest of the memory reserved for KV Cache is 61.37GiB.
INFO 01-10 09:00:33 distributed_gpu_executor.py:57] # GPU blocks: 61716, # CPU blocks: 4096
INFO 01-10 09:00:33 distributed_gpu_executor.py:61] Maximum concurrency for 32768 tokens per request: 30.13x
"""

VLLM_BY_HAND = """\
(APIServer pid=7) INFO 12-21 09:00:00 [utils.py:253] non-default args: {'model': 'Qwen/Qwen3-8B', 'max_model_len': 32768, 'kv_cache_memory_bytes': 21474836480}
(EngineCore_DP0 pid=99) INFO 12-21 09:00:30 [gpu_model_runner.py:3562] Model loading took 15.2683 GiB memory and 5.1 seconds
(EngineCore_DP0 pid=99) INFO 12-21 09:00:41 [gpu_worker.py:302] Initial free memory 78.60 GiB, reserved 20.00 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped memory profiling. This does not respect the gpu_memory_utilization config.
(EngineCore_DP0 pid=99) INFO 12-21 09:00:42 [kv_cache_utils.py:1291] GPU KV cache size: 145,632 tokens
(EngineCore_DP0 pid=99) INFO 12-21 09:00:42 [kv_cache_utils.py:1296] Maximum concurrency for 32,768 tokens per request: 4.44x
"""

VLLM_0_33 = """\
(APIServer pid=7) INFO 11-11 09:00:00 [startup.py:40] vLLM server version 0.33.0, serving model Qwen/Qwen3-32B
(APIServer pid=7) INFO 11-11 09:00:00 [utils.py:233] non-default args: {'model_tag': 'Qwen/Qwen3-32B', 'model': 'Qwen/Qwen3-32B', 'max_model_len': 40960, 'tensor_parallel_size': 2, 'kv_cache_dtype': 'fp8', 'max_num_seqs': 256}
(APIServer pid=7) INFO 11-11 09:00:03 [scheduler.py:250] Chunked prefill is enabled with max_num_batched_tokens=8192.
(EngineCore pid=99) INFO 11-11 09:00:10 [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: model='Qwen/Qwen3-32B', speculative_config=None, dtype=torch.bfloat16, max_seq_len=40960, tensor_parallel_size=2, pipeline_parallel_size=1, data_parallel_size=1, quantization=None, quantization_config=None, kv_cache_dtype=fp8, device_config=cuda
(Worker_TP0 pid=201) INFO 11-11 09:01:00 [gpu_model_runner.py:6001] Model loading took 30.59 GiB memory and 20.113452 seconds
(Worker_TP1 pid=202) INFO 11-11 09:01:01 [gpu_model_runner.py:6001] Model loading took 30.59 GiB memory and 20.613452 seconds
(Worker_TP0 pid=201) INFO 11-11 09:01:35 [gpu_model_runner.py:6477] Estimated CUDA graph memory: 1.10 GiB total
(Worker_TP0 pid=201) INFO 11-11 09:01:36 [gpu_worker.py:760] Available KV cache memory: 37.4 GiB
(Worker_TP1 pid=202) INFO 11-11 09:01:36 [gpu_worker.py:760] Available KV cache memory: 37.35 GiB
(EngineCore pid=99) INFO 11-11 09:01:37 [kv_cache_utils.py:1147] GPU KV cache size: 611,936 tokens, Maximum concurrency for 40,960 tokens per request: 14.94x
(Worker_TP0 pid=201) INFO 11-11 09:02:10 [gpu_model_runner.py:6326] Graph capturing finished in 29 secs, took 0.86 GiB
(Worker_TP1 pid=202) INFO 11-11 09:02:10 [gpu_worker.py:950] Free memory on device (78.6/79.19 GiB) on startup. Desired GPU memory utilization is (0.92, 72.85 GiB). Actual usage is 32.49 GiB for consumed memory (weights + non-torch), 3.01 GiB for peak activation, and 0.86 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=39947456512` (37.2 GiB) to fit into requested memory, or `--kv-cache-memory=46121369600` (42.95 GiB) to fully utilize gpu memory. Current kv cache memory in use is 37.35 GiB.
(Worker_TP0 pid=201) INFO 11-11 09:02:10 [gpu_worker.py:950] Free memory on device (78.6/79.19 GiB) on startup. Desired GPU memory utilization is (0.92, 72.85 GiB). Actual usage is 32.44 GiB for consumed memory (weights + non-torch), 3.01 GiB for peak activation, and 0.86 GiB for CUDAGraph memory.
"""

LOGO = """\
(APIServer pid=7) INFO 02-11 09:00:00 [utils.py:300]
(APIServer pid=7) INFO 02-11 09:00:00 [utils.py:300]        █     █     █▄   ▄█
(APIServer pid=7) INFO 02-11 09:00:00 [utils.py:300]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.16.0
(APIServer pid=7) INFO 02-11 09:00:00 [utils.py:300]   █▄█▀ █     █     █     █  model   Qwen/Qwen3-8B
(EngineCore_DP0 pid=99) INFO 02-11 09:00:41 [gpu_worker.py:374] Available KV cache memory: 4.5 GiB
(EngineCore_DP0 pid=99) INFO 02-11 09:00:42 [kv_cache_utils.py:1490] Auto-fit max_model_len: reduced from 40960 to 32768 to fit in available GPU memory (4.5 GiB available for KV cache)
"""

SGLANG_0_4_1 = """\
[2025-01-23 19:35:00] server_args=ServerArgs(model_path='Qwen/Qwen2.5-7B-Instruct', context_length=None, dtype='auto', kv_cache_dtype='auto', mem_fraction_static=0.88, max_running_requests=None, tp_size=1)
[2025-01-23 19:35:10 TP0] Load weight begin. avail mem=78.81 GB
[2025-01-23 19:35:20 TP0] Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=64.43 GB
[2025-01-23 19:35:20 TP0] KV Cache is allocated. K size: 27.48 GB, V size: 27.48 GB.
[2025-01-23 19:35:20 TP0] Memory pool end. avail mem=8.43 GB
[2025-01-23 19:35:40 TP0] max_total_num_tokens=1029120, max_prefill_tokens=16384, max_running_requests=4021, context_len=32768
"""

SGLANG_0_4_4 = """\
[2025-03-20 10:00:10 TP0] Load weight begin. avail mem=78.81 GB
[2025-03-20 10:00:20 TP0] Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=64.43 GB, mem usage=14.38 GB.
[2025-03-20 10:00:20 TP0] KV Cache is allocated. #tokens: 1029120, K size: 27.48 GB, V size: 27.48 GB
[2025-03-20 10:00:21 TP0] Capture cuda graph begin. This can take up to several minutes. avail mem=8.43 GB
[2025-03-20 10:00:40 TP0] Capture cuda graph end. Time elapsed: 8.95 s. avail mem=7.53 GB. mem usage=0.90 GB.
"""

SGLANG_DICT = """\
[2026-10-10 09:00:00] server_args={'model_path': 'openai/gpt-oss-20b', 'tokenizer_path': 'openai/gpt-oss-20b', 'context_length': None, 'quantization': None, 'dtype': 'auto', 'kv_cache_dtype': 'auto', 'mem_fraction_static': 0.86, 'max_running_requests': None, 'tp_size': 2, 'pp_size': 1, 'speculative_draft_model_path': None, 'cuda_graph_config': {'decode': {'backend': 'full', 'max_bs': 256}}}
[2026-10-10 09:00:11 TP0] Load weight begin. avail mem=78.50 GB
[2026-10-10 09:00:31 TP0] Load weight end. elapsed=20.00 s, type=GptOssForCausalLM, quant=mxfp4, avail mem=71.50 GB, mem usage=7.00 GB.
[2026-10-10 09:00:31 TP0] SWA KV Cache is allocated. dtype: torch.bfloat16, #tokens: 1007718, K size: 11.53 GB, V size: 11.53 GB
[2026-10-10 09:00:31 TP0] Full KV Cache is allocated. dtype: torch.bfloat16, #tokens: 1259648, K size: 14.42 GB, V size: 14.42 GB
[2026-10-10 09:00:31 TP0] SWAKVPool mem usage: 51.90 GB, swa size: 1007718, full size: 1259648
[2026-10-10 09:00:42 TP0] Capture target decode CUDA graph begin. backend=full, num_tokens_per_req=1, avail mem=13.00 GB
[2026-10-10 09:00:44 TP0] Capture target decode CUDA graph end. bs=[1, 2, 4], elapsed=2.10 s, mem usage=1.61 GB, avail mem=11.39 GB.
[2026-10-10 09:00:44 TP0] Capture target prefill CUDA graph begin. backend=breakable, num_tokens=[4, 8], avail mem=11.39 GB
[2026-10-10 09:00:46 TP0] Capture target prefill CUDA graph end. elapsed=2.10 s, mem usage=1.02 GB, avail mem=10.37 GB.
"""

SGLANG_AFTER_CAPTURE = """\
[2026-08-10 09:00:10] Load weight begin. avail mem=78.50 GB
[2026-08-10 09:00:20] Load weight end. elapsed=9.80 s, type=GptOssForCausalLM, avail mem=71.50 GB, mem usage=7.00 GB.
[2026-08-10 09:00:21] SWA KV Cache {set_aside}. dtype: torch.bfloat16, #tokens: 1100000, K size: 12.59 GB, V size: 12.59 GB
[2026-08-10 09:00:21] Full KV Cache {set_aside}. dtype: torch.bfloat16, #tokens: 1375000, K size: 15.74 GB, V size: 15.74 GB
[2026-08-10 09:00:53] Post-capture KV sizing: full_layer_tokens=1259648, swa_layer_tokens=1007718
[2026-08-10 09:00:53] Post-capture KV sizing: KV cache allocated. dtype: torch.bfloat16, #tokens: 1259648, KV size: 51.90 GB, avail mem=12.27 GB
[2026-08-10 09:00:54] max_total_num_tokens=1259648, chunked_prefill_size=8192, max_running_requests=2048, context_len=131072
"""

LOGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vllm 0.6.6: the bill is the rank's with the smallest pool": (
        VLLM_V0,
        {"pool_gib": 60.27, "runtime_gib": 2.21, "activation_gib": 1.2, "pool_tokens": 987456},
    ),
    "vllm 0.13: a pool by hand": (
        VLLM_BY_HAND,
        {"pool_gib": 20.0, "pool_tokens": 145632, "free_gib": 78.6, "pool_option": "--kv-cache-memory-bytes"},
    ),
    "vllm 0.16: the logo names the version, and the length is fitted": (
        LOGO,
        {"version": "0.16.0", "context_tokens": 32768, "pool_gib": 4.5},
    ),
    "vllm 0.33: weights and runtime in one number": (
        VLLM_0_33,
        {
            "version": "0.33.0", "model": "Qwen/Qwen3-32B", "tp": 2, "weights_gib": 30.59, "activation_gib": 3.01,
            "runtime_gib": 1.9, "graph_gib": 0.86, "pool_gib": 37.35, "pool_tokens": 611936, "utilization": 0.92,
            "kv_dtype": "fp8_e4m3", "max_num_seqs": 256, "max_num_batched_tokens": 8192, "concurrency": 14.94,
        },
    ),
    "vllm 0.33 on a CPU": (
        ("(EngineCore pid=99) INFO 11-11 09:01:37 [kv_cache_utils.py:1147] CPU KV cache size: 149,792 tokens, "
        "Maximum concurrency for 40,960 tokens per request: 3.65x\n"),
        {"pool_tokens": 149792, "concurrency": 3.65},
    ),
    "vllm 0.26: what decoding images takes is not the cache's": (
        ("(EngineCore pid=9) INFO [gpu_worker.py:1] Available KV cache memory: 40.0 GiB\n"
        "(EngineCore pid=9) INFO [gpu_worker.py:2] Reserving 4.0 GiB of GPU memory for frontend multimodal decoding "
        "(2.0 GiB raw-frame semaphore budget, 2.0 GiB decoder+CUDA-context across 1 API server(s) @ 2.0 GiB/server); "
        "KV cache memory reduced to 36.0 GiB.\n"),
        {"pool_gib": 36.0},
    ),
    "sglang 0.4.1: weights are what is gone": (
        SGLANG_0_4_1,
        {"weights_gib": 14.38, "pool_gib": 54.96, "pool_tokens": 1029120, "free_gib": 78.81},
    ),
    "sglang 0.4.4: graphs after what is left": (SGLANG_0_4_4, {"graph_gib": 0.9, "weights_gib": 14.38}),
    "sglang 0.5.19: the options as a dictionary, graphs of two kinds": (
        SGLANG_DICT,
        {
            "model": "openai/gpt-oss-20b", "tp": 2, "utilization": 0.86, "pool_gib": 51.9, "pool_tokens": 1259648,
            "window_tokens": 1007718, "graph_gib": 2.63,
        },
    ),
    **{
        f"sglang 0.5.{version}: the pool after graphs": (
            SGLANG_AFTER_CAPTURE.format(set_aside=words),
            {"pool_gib": 51.9, "pool_tokens": 1259648, "window_tokens": 1007718, "kv_dtype": "bf16"},
        )
        for version, words in ((17, "is allocated"), (23, "VA upper bound"))
    },
    "sglang 0.5.15: DeepSeek-V4's pool of many parts": (
        ("[09:00:21 TP0] DSV4 memory calculation: bytes_per_full_token=3915.00, available_bytes=33.41 GB, "
        "c128_state_fixed=0.50 GB, full_token=9026048\n"
        "[09:00:54 TP0] max_total_num_tokens=9026048, chunked_prefill_size=8192, max_prefill_tokens=16384, "
        "max_running_requests=2048, context_len=1048576, available_gpu_mem=12.27 GB\n"),
        {"pool_gib": 33.41, "pool_tokens": 9026048, "left_gib": 12.27},
    ),
    "sglang 0.5.16: tokens after graphs, in no bytes": (
        ("[09:00:21] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 1375000, K size: 15.74 GB, V size: 15.74 GB\n"
        "[09:00:53] Post-capture KV sizing: max_total_num_tokens=1259648, free memory=12.27 GB\n"),
        {"pool_gib": None, "pool_tokens": 1259648},
    ),
}  # fmt: skip


def told(text: str) -> Account:
    begun = starts(read_log(text.splitlines()).facts)
    assert len(begun) == 1
    return account(begun[0])


def value(log: Account, name: str) -> Any:
    if not name.endswith("_gib"):
        return getattr(log, name)
    size = getattr(log, name.replace("_gib", "_bytes"))
    return None if size is None else size / GIB


@pytest.mark.parametrize("name", LOGS)
def test_what_a_version_says(name: str) -> None:
    text, expected = LOGS[name]
    log = told(text)
    for key, wanted in expected.items():
        close = pytest.approx(wanted, abs=1e-6) if isinstance(wanted, float) else wanted
        assert value(log, key) == close, key


def test_nothing_is_left_over_where_the_log_itemises_everything() -> None:
    assert "not itemise" not in " ".join(reasons(told(VLLM_0_33)))
    assert "not itemise" not in " ".join(reasons(told(VLLM_V0)))


def test_a_share_of_the_memory_does_not_enlarge_a_pool_given_by_hand() -> None:
    log = told(VLLM_BY_HAND.replace("'kv_cache_memory", "'gpu_memory_utilization': 0.8, 'kv_cache_memory"))
    changes = [change.change for change in enlargements(log)]
    assert not any("utilization" in change for change in changes)
    assert changes[0] == "--kv-cache-memory-bytes"
    assert any("set by hand" in reason for reason in reasons(log))
    assert not any("utilization" in reason for reason in reasons(log))


def test_what_a_crashed_engine_dumps_is_no_other_start() -> None:
    crash = (
        "(EngineCore pid=99) ERROR 11-11 11:00:41 [dump_input.py:72] Dumping input data for V1 LLM engine (v0.33.0) with "
        "config: model='Qwen/Qwen3-32B', max_seq_len=40960, tensor_parallel_size=2\n"
    )
    assert told(VLLM_0_33 + crash).pool_tokens == 611936


@pytest.mark.parametrize("rank", ["ATTN_CP{} MOE_DP0 TP{}", "DP{} PP0 TP{} EP{}"])
def test_ranks_of_every_kind_are_ranks(rank: str) -> None:
    lines = SGLANG_0_4_4.splitlines(keepends=True)
    names = [rank.replace("{}", str(number)) for number in (0, 1)]
    both = "".join(line.replace("TP0", name) for line in lines for name in names)
    log = told(both)
    assert (log.pool_bytes, log.graph_bytes) == (round(54.96 * GIB), round(0.9 * GIB))
    assert (log.draft_weights_bytes, log.draft_pool_bytes) == (None, None)


HYBRID = """\
[2026-04-10 09:00:00] server_args=ServerArgs(model_path='Qwen/Qwen3-Next-80B-A3B-Instruct', kv_cache_dtype='auto', mem_fraction_static=0.8, tp_size=4, speculative_algorithm='NEXTN', max_mamba_cache_size=None)
[2026-04-10 09:00:11 TP0] Load weight begin. avail mem=78.50 GB
[2026-04-10 09:00:31 TP0] Load weight end. elapsed=20.00 s, type=Qwen3NextForCausalLM, avail mem=41.10 GB, mem usage=37.40 GB.
[2026-04-10 09:00:31 TP0] Mamba Cache is allocated. max_mamba_cache_size: 320, conv_state size: 0.10GB, ssm_state size: 5.63GB intermediate_ssm_state_cache size: 3.38GB intermediate_conv_window_cache size: 0.05GB
[2026-04-10 09:00:31 TP0] KV Cache is allocated. #tokens: 1100000, K size: 6.29 GB, V size: 6.29 GB
[2026-04-10 09:00:33 TP0] Load weight begin. avail mem=17.50 GB
[2026-04-10 09:00:43 TP0] Load weight end. elapsed=10.00 s, type=Qwen3NextForCausalLMMTP, avail mem=16.30 GB, mem usage=1.20 GB.
[2026-04-10 09:00:43 TP0] KV Cache is allocated. #tokens: 1100000, K size: 0.52 GB, V size: 0.52 GB
[2026-04-10 09:00:45 TP0] max_total_num_tokens=1100000, chunked_prefill_size=8192, max_prefill_tokens=16384, max_running_requests=64, context_len=262144, available_gpu_mem=13.20 GB
"""


def test_states_of_recurrent_layers_are_counted_beside_the_pool() -> None:
    log = told(HYBRID)
    assert value(log, "state_gib") == pytest.approx(9.16)
    assert (value(log, "pool_gib"), value(log, "draft_pool_gib")) == pytest.approx((12.58, 1.04))
    assert "9.16 GiB hold the states of recurrent layers" in reasons(log)[0]


def test_weights_of_a_draft_that_is_loaded_first_are_taken_out_of_the_share() -> None:
    lines = HYBRID.splitlines(keepends=True)
    early = "".join([*lines[:3], *lines[5:7], *lines[3:5], *lines[7:]])
    assert "37.40 GiB weights = 25.40 GiB for the pool" in reasons(told(HYBRID))[0]
    assert "37.40 GiB weights - 1.20 GiB of the draft model's = 24.20 GiB" in reasons(told(early))[0]


@pytest.mark.parametrize(
    "line",
    [
        "Automatically reduce --mem-fraction-static to 0.720 because this is a multimodal model.",
        "Multimodal model: Dynamically adjusted --mem-fraction-static from: 0.800 to: 0.720.",
    ],
)
def test_a_share_that_is_cut_is_the_one_that_counts(line: str) -> None:
    first, rest = HYBRID.split("\n", 1)
    assert told(f"{first}\n[2026-04-10 09:00:01 TP0] {line}\n{rest}").utilization == 0.72


def changes_of(text: str) -> list[str]:
    return [change.change for change in enlargements(told(text))]


def test_no_more_is_advised_than_sglang_can_spare() -> None:
    """13.2 GiB are left of 78.5: 7.2 more than it needs, which are 0.09 of what was free."""
    assert changes_of(HYBRID)[0] == "--mem-fraction-static 0.89"
    assert "--mem-fraction-static" not in " ".join(changes_of(HYBRID.replace("mem=13.20", "mem=5.90")))


def test_formats_are_advised_in_the_engine_s_own_words() -> None:
    assert "--kv-cache-dtype fp8_e4m3" in changes_of(HYBRID)
    assert "--kv-cache-dtype fp8" in changes_of(VLLM_BY_HAND)


REFUSED = "[09:00:00] server_args=ServerArgs(model_path='a/b', mem_fraction_static=0.5, tp_size=1)\n"


@pytest.mark.parametrize(
    ("log", "refused", "change"),
    [
        (
            REFUSED
            + "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.5. Raise "
            "--mem-fraction-static above 0.963 (minimum viable = 1 - available/pre = 0.9628). If using speculative "
            "decoding, draft weights are now counted.\n",
            "no_pool",
            "--mem-fraction-static 0.97",
        ),
        (
            REFUSED + "ValueError: Not enough GPU memory for hybrid (mamba/linear-attention) state cache. Computed "
            "max_mamba_cache_size=-3 (total_rest_memory=-1.10 GB, mamba_cache_per_req=75.10 MB).\n",
            "no_pool",
            "--mem-fraction-static 0.95",
        ),
        (
            ("(EngineCore pid=9) ERROR ValueError: max_num_seqs (256) exceeds available Mamba cache blocks (180). Each "
            "decode sequence requires one Mamba cache block, so CUDA graph capture cannot proceed.\n"),
            "too_many",
            "--max-num-seqs 180",
        ),
        (
            ("(EngineCore pid=9) ERROR ValueError: Free memory on device cuda:0 (40.5/94.97 GiB) on startup is less than "
            "the engine's budget after excluding external process's weights (0.92, 60.37 GiB). Decrease GPU memory "
            "utilization or reduce GPU memory used by other processes.\n"),
            "not_free",
            "end the processes that hold the GPU",
        ),
        (
            ("ERROR ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GB KV cache is "
            "needed, which is larger than the available KV cache memory (3.81 GB). Try increasing.\n"),
            "too_long",
            None,
        ),
    ],
    ids=["weights take the share", "no states", "fewer states than sequences", "a budget beside others", "vllm 0.7"],
)  # fmt: skip
def test_what_is_said_of_a_server_that_did_not_start(log: str, refused: str, change: str | None) -> None:
    assert told(log).refused == refused
    assert any("it did not start" in reason for reason in reasons(told(log)))
    assert change is None or changes_of(log)[0] == change


VLLM_0_24 = """\
(EngineCore pid=9) INFO [core.py:110] Initializing a V1 LLM engine (v0.24.0) with config: model='a/b', max_seq_len=40960, data_parallel_size=4
(EngineCore pid=9) INFO [gpu_model_runner.py:1] Model loading took 15.27 GiB memory and 5.1 seconds
(EngineCore pid=9) INFO [gpu_model_runner.py:2] Estimated CUDA graph memory: 0.78 GiB total
(EngineCore pid=9) INFO [gpu_worker.py:3] Available KV cache memory: 52.9 GiB
(EngineCore pid=9) INFO [gpu_worker.py:4] CUDA graph memory profiling is enabled (default since v0.21.0). The current --gpu-memory-utilization=0.9200 is equivalent to --gpu-memory-utilization=0.9102 without CUDA graph memory profiling. To maintain the same effective KV cache size as before, increase --gpu-memory-utilization to 0.9298.
(EngineCore pid=9) INFO [kv_cache_utils.py:5] GPU KV cache size: 385,120 tokens
(EngineCore pid=9) INFO [gpu_model_runner.py:6] Graph capturing finished in 12 secs, took 0.61 GiB
(EngineCore pid=9) DEBUG [gpu_worker.py:7] Free memory on device (78.6/79.19 GiB) on startup. Desired GPU memory utilization is (0.92, 72.85 GiB). Actual usage is 15.27 GiB for weight, 3.60 GiB for peak activation, 0.30 GiB for non-torch memory, and 0.61 GiB for CUDAGraph memory.
"""


def test_graphs_that_the_budget_holds_are_a_part_of_the_bill() -> None:
    log = told(VLLM_0_24)
    assert (value(log, "planned_graph_gib"), value(log, "graph_gib")) == pytest.approx((0.78, 0.61))
    shares = "72.85 GiB - 15.27 GiB weights - 3.60 GiB activation peak - 307.20 MiB outside PyTorch - 798.72 MiB CUDA graphs"
    assert f"{shares} = 52.90 GiB for the cache" in reasons(log)


def test_graphs_are_not_missed_where_no_version_plans_them() -> None:
    """Before 0.20 they are captured outside the budget: what is missing from it is something else."""
    lines = [line for line in VLLM_0_24.splitlines() if "CUDA graph memory" not in line]
    text = " ".join(reasons(told("\n".join(lines).replace("v0.24.0", "v0.16.0"))))
    assert "798.72 MiB the log does not itemise = 52.90 GiB" in text


def test_pools_of_data_parallel_ranks_add_up() -> None:
    assert "each of 4 data-parallel ranks has such a pool: 1,540,480 tokens in all" in reasons(
        told(VLLM_0_24)
    )


OVERRIDDEN = """\
(APIServer pid=7) INFO [utils.py:253] non-default args: {'model': 'Qwen/Qwen3-8B', 'num_gpu_blocks_override': 2048, 'gpu_memory_utilization': 0.8}
(EngineCore pid=9) INFO [gpu_worker.py:3] Available KV cache memory: 45.0 GiB
(EngineCore pid=9) INFO [kv_cache_utils.py:4] Overriding num_gpu_blocks=20480 with num_gpu_blocks_override=2048
(EngineCore pid=9) INFO [kv_cache_utils.py:5] GPU KV cache size: 32,768 tokens
"""


def test_a_pool_of_blocks_set_by_hand_is_no_larger_than_they() -> None:
    log = told(OVERRIDDEN)
    assert (log.pool_option, value(log, "pool_gib")) == ("--num-gpu-blocks-override", 4.5)
    assert log.bytes_per_token == pytest.approx(147_456)
    assert changes_of(OVERRIDDEN)[0] == "--num-gpu-blocks-override"


def test_blocks_of_the_measuring_of_graphs_are_not_set_by_hand() -> None:
    measured = told(OVERRIDDEN.replace("'num_gpu_blocks_override': 2048, ", ""))
    assert (measured.pool_option, value(measured, "pool_gib")) == (None, 45.0)


def test_tokens_of_sglang_set_by_hand_are_no_share_of_the_memory() -> None:
    log = SGLANG_0_4_1.replace("max_running_requests=None", "max_total_tokens=1029121")
    assert told(log).pool_option == "--max-total-tokens"
    assert told(log.replace("1029121", "9000000")).pool_option is None


def test_a_pool_shorter_than_a_request_is_said_to_be() -> None:
    text = " ".join(reasons(told(SGLANG_0_4_1.replace("=1029120", "=20000"))))
    assert "requests may have 32,768 tokens, and the pool holds fewer" in text


def test_blocks_of_other_devices_and_shards_are_read() -> None:
    log = told(
        "INFO 04-23 executor_base.py:112] # hpu blocks: 4034, # CPU blocks: 2048\n"
        "INFO 04-23 kv_cache_utils.py:9] Multiplying the GPU KV cache size by the dcp_world_size 4.\n"
        "INFO 04-23 kv_cache_utils.py:9] Auto-fit max_model_len: full model context length 32768 fits in available GPU memory\n"
    )
    assert (log.blocks, log.cp, log.context_tokens) == (4034, 4, 32768)


def test_a_line_is_explained_once() -> None:
    facts = read_log(SGLANG_AFTER_CAPTURE.format(set_aside="VA upper bound").splitlines()).facts
    assert len({fact.line for fact in facts}) == len(facts) == 7
