"""Why a server did not start or went down, in the engines' own words: for want of memory or for another reason."""

from __future__ import annotations

import pytest

from kvplan.sizing.logs.account import Account, account
from kvplan.sizing.logs.explanation import explained_lines, reasons
from kvplan.sizing.logs.lines import read_log
from kvplan.sizing.logs.remedies import enlargements
from kvplan.sizing.logs.starts import starts
from kvplan.units import GIB

VLLM = """\
(APIServer pid=7) INFO 11-20 08:59:58 [api_server.py:1977] vLLM API server version 0.11.2
(APIServer pid=7) INFO 11-20 08:59:58 [utils.py:253] non-default args: {'model_tag': 'Qwen/Qwen3-8B', 'model': 'Qwen/Qwen3-8B', 'max_model_len': 32768}
"""

LOADED = "(EngineCore_DP0 pid=99) INFO 11-20 09:00:28 [gpu_model_runner.py:3562] Model loading took 15.2683 GiB memory and 5.1 seconds\n"

POOL = (
    "(EngineCore_DP0 pid=99) INFO 11-20 09:00:41 [gpu_worker.py:298] Available KV cache memory: 53.91 GiB\n"
)

CPU = """\
(APIServer pid=7) INFO 11-20 08:59:58 [startup.py:40] vLLM server version 0.33.0, serving model Qwen/Qwen3-8B
(EngineCore pid=99) INFO 11-20 09:00:01 [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: model='Qwen/Qwen3-8B', dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=1, kv_cache_dtype=auto, device_config=cpu
"""

SGLANG = """\
[2026-01-10 10:00:00] server_args=ServerArgs(model_path='Qwen/Qwen3-32B', context_length=None, kv_cache_dtype='auto', mem_fraction_static=0.85, max_running_requests=None, tp_size=1, chunked_prefill_size=8192)
[2026-01-10 10:00:10] Load weight begin. avail mem=78.50 GB
[2026-01-10 10:00:40] Load weight end. type=Qwen3ForCausalLM, dtype=torch.bfloat16, avail mem=47.60 GB, mem usage=30.90 GB.
"""

ALLOCATED = """\
[2026-01-10 10:00:41] KV Cache is allocated. #tokens: 143360, K size: 17.50 GB, V size: 17.50 GB
[2026-01-10 10:00:41] Memory pool end. avail mem=12.02 GB
"""


def broken(*lines: str) -> str:
    """A traceback as vLLM's engine core and its parent print it."""
    said = "".join(f"(EngineCore_DP0 pid=99) ERROR 11-20 09:01:00 [core.py:842] {line}\n" for line in lines)
    return (
        "(EngineCore_DP0 pid=99) ERROR 11-20 09:01:00 [core.py:842] EngineCore failed to start.\n"
        f"(EngineCore_DP0 pid=99) ERROR 11-20 09:01:00 [core.py:842] Traceback (most recent call last):\n{said}"
        "(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore_DP0': 1}\n"
    )


def hit(*lines: str) -> str:
    """A traceback as SGLang's scheduler prints it."""
    said = "".join(f"{line}\n" for line in lines)
    return (
        f"[2026-01-10 10:02:00] Scheduler hit an exception: Traceback (most recent call last):\n{said}\n"
        "[2026-01-10 10:02:01] Received sigquit from a child process. It usually means the child failed.\n"
    )


FREED = broken(
    "AssertionError: Error in memory profiling. Initial free memory 60.12 GiB, current free memory 62.40 GiB. "
    "This happens when other processes sharing the same container release GPU memory while vLLM is profiling."
)
CAP = hit(
    "RuntimeError: SWA pool cap (262144 tokens, 12.33 GiB) leaves no room for the full KV pool within the "
    "available 10.33 GiB. Reduce --max-running-requests, or increase --mem-fraction-static."
)
STATES = hit(
    "AssertionError: Not enough space for mamba cache, try to increase --mamba-full-memory-ratio or "
    "--max-mamba-cache-size. mid=None, self.mamba_pool.size=120"
)
DIED = (
    "[2026-01-10 10:00:30] Rank 0 scheduler died during initialization (exit code: -9). If exit code is -9 "
    "(SIGKILL), a common cause is the OS OOM killer.\n"
)
HOST = hit(
    "ValueError: Not enough host memory for DSA indexer hierarchical cache. Requesting 120.33 GB but only "
    "have 64.10 GB free."
)
NO_CPU = broken(
    "ValueError: The worker already uses 19.88 GiB (model weights and runtime), more than the 15.00 GiB of CPU "
    "memory reserved for it on node 0, leaving none for the KV cache. To resolve: increase "
    "`--gpu-memory-utilization` to more than 0.32, or set the KV cache size explicitly."
)
V0_TOO_LONG = (
    "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be "
    "stored in KV cache (29072). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`.\n"
)
NO_POOL = broken(
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."
)
IMAGES = broken(
    "ValueError: frontend multimodal GPU decoding reserves 60.00 GiB (40.00 GiB raw-frame budget, 20.00 GiB decoder "
    "cache budget), but only 53.91 GiB is available for the KV cache. Reduce mm_ipc_gpu_memory_gb."
)
KILLED = (
    "(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore_DP0': -9}\n"
)


def last(text: str) -> Account:
    return account(starts(read_log(text.splitlines()).facts)[-1])


@pytest.mark.parametrize(
    ("text", "refused", "why", "change"),
    [
        (VLLM + LOADED + FREED, "freed", "gave memory of the GPU back", "start it again"),
        (VLLM + KILLED, "killed", "it was killed", "more memory of the host"),
        (VLLM + LOADED + V0_TOO_LONG, "too_long", "smaller than one request", "--max-model-len 29072"),
        (VLLM + LOADED + NO_POOL, "no_pool", "nothing was left", "--gpu-memory-utilization 0.95"),
        (CPU + NO_CPU, "no_pool", "nothing was left", "--gpu-memory-utilization 0.95"),
        (VLLM + LOADED + POOL + IMAGES, "images_cap", "leaves the cache nothing", "a smaller --mm-ipc"),
        (SGLANG + DIED, "killed", "it was killed", "more memory of the host"),
        (SGLANG + CAP, "window_cap", "leave other layers nothing", "a smaller --max-running-requests"),
        (SGLANG + ALLOCATED + HOST, "no_host_memory", "the host has less", "a smaller --hicache-size"),
        (SGLANG + hit("AssertionError: Memory pool size is too small"), "no_pool", "nothing was", "--mem-fraction"),
        (
            SGLANG + ALLOCATED + hit("AssertionError: max_running_request is zero"),
            "no_pool", "does not serve one request", "--mem-fraction",
        ),
        (
            SGLANG + ALLOCATED + hit("RuntimeError: Decode out of memory. Try to lower your batch size."),
            "exhausted", "no room for a batch", "a smaller --max-running-requests",
        ),
        (SGLANG + ALLOCATED + STATES, "states_exhausted", "no slot of a state", "a larger --max-mamba-cache-size"),
    ],
)  # fmt: skip
def test_each_want_of_memory_is_named_with_what_helps(text: str, refused: str, why: str, change: str) -> None:
    found = last(text)
    assert found.refused == refused
    assert why in reasons(found)[-1]
    assert enlargements(found)[0].change.startswith(change)


def test_a_share_that_the_engine_names_itself_is_stepped_over() -> None:
    text = CPU + NO_CPU.replace("0.32", "0.97")
    assert enlargements(last(text))[0].change == "--gpu-memory-utilization 0.98"


def test_a_pool_that_was_given_is_what_to_make_smaller() -> None:
    """Its share of the memory decides nothing then."""
    text = VLLM + LOADED
    text += "(EngineCore_DP0 pid=99) INFO [gpu_worker.py:302] Initial free memory 78.60 GiB, reserved 60.00 GiB memory for KV Cache\n"
    text += broken("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    changes = [change.change for change in enlargements(last(text))]
    assert changes[0] == "a smaller --kv-cache-memory-bytes"
    assert not any("utilization" in change for change in changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            VLLM
            + "(APIServer pid=7) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "(APIServer pid=7)   Value error, User-specified max_model_len (131072) is greater than the derived "
            "max_model_len (max_position_embeddings=40960). [type=value_error, input_value=ArgsKwargs(())]\n",
            (
                "User-specified max_model_len (131072) is greater than the derived max_model_len "
                "(max_position_embeddings=40960)."
            ),
        ),
        (
            VLLM + "(APIServer pid=7) OSError: [Errno 98] Address already in use\n",
            "OSError: [Errno 98] Address",
        ),
        (
            VLLM + broken("torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:94"),
            "DistBackendError:",
        ),
        (
            SGLANG + hit("ImportError: libcuda.so.1: cannot open shared object file"),
            "ImportError: libcuda.so.1",
        ),
    ],
)
def test_another_error_is_quoted_instead_of_advice_about_memory(text: str, said: str) -> None:
    found = last(text)
    assert found.refused == "error"
    assert found.error is not None
    assert found.error.startswith(said)
    assert "no line says that memory was why" in reasons(found)[-1]
    assert enlargements(found) == []


def test_a_server_that_went_down_without_a_reason_is_told_so() -> None:
    found = last(SGLANG + ALLOCATED + "[10:03:00] Received sigquit from a child process.\n")
    assert found.refused == "error"
    assert reasons(found)[-1] == "it went down, and no line says why"


def test_only_the_last_error_is_listed() -> None:
    text = VLLM + LOADED + broken("KeyError: 'a'", "TypeError: b", "ValueError: c")
    lines = [line for line in explained_lines(read_log(text.splitlines()).facts) if line.name == "error"]
    assert [line.says for line in lines] == ["ValueError: c"]


def test_an_error_that_was_caught_ends_nothing() -> None:
    found = last(
        VLLM + "(APIServer pid=7) WARNING: ImportError: No module named 'flashinfer'\n" + LOADED + POOL
    )
    assert found.refused is None
    assert last(VLLM + "ImportError: No module named 'deep_gemm'\n" + LOADED).refused is None
    caught = "(EngineCore_DP0 pid=9) WARNING 11-20 09:00:05 [x.py:3] Failed to import: ImportError: No module named 'a'\n"
    assert last(VLLM + caught).refused is None


def test_what_clients_send_is_no_error() -> None:
    text = VLLM + LOADED + POOL + "INFO Received request cmpl-1: prompt: 'ValueError: why?', params: x\n"
    assert last(text).refused is None


def test_a_start_that_failed_before_it_measured_is_one_of_its_own() -> None:
    text = VLLM + "(APIServer pid=7) OSError: [Errno 98] Address already in use\n"
    found = starts(read_log((text + VLLM.replace("32768", "16384") + LOADED + POOL).splitlines()).facts)
    assert len(found) == 2
    assert account(found[0]).refused == "error"
    assert account(found[1]).pool_bytes == round(53.91 * GIB)
    assert account(found[1]).context_tokens == 16384


def test_the_pool_of_a_cpu_is_read_as_newer_versions_say_it() -> None:
    auto = (
        "(EngineCore pid=99) INFO [cpu_worker.py:199] Auto set (40.12/251.50) GiB for KV cache on node 0, with "
        "60.00 GiB requested memory for the worker. 19.88 GiB memory was consumed by non-kv usages.\n"
    )
    by_hand = "(EngineCore pid=99) INFO [cpu_worker.py:177] Explicitly set (40.00/251.50) GiB for KV cache on node 0.\n"
    found = last(CPU + auto)
    assert (found.pool_bytes, found.budget_bytes) == (round(40.12 * GIB), 60 * GIB)
    assert last(CPU + by_hand).pool_option == "VLLM_CPU_KVCACHE_SPACE"


def test_memory_of_the_host_is_read_in_the_unit_of_each_line() -> None:
    simple = "(EngineCore_DP0 pid=99) INFO [worker.py:209] SimpleCPUOffloadWorker [CPU]: 36 tensors, 4096 CPU blocks (64.00 GB)\n"
    assert last(VLLM + LOADED + POOL + simple).host_bytes == 64 * GIB


def test_lines_without_numbers_are_listed_once_and_without_what_stands_before_them() -> None:
    """A process and its parents print the same, each behind a prefix of its own."""
    said = [line.says for line in explained_lines(read_log((VLLM + LOADED + NO_POOL * 2).splitlines()).facts)]
    assert said[-2:] == [
        "EngineCore failed to start.",
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Killed\n",
        "exit code 137\n",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
    ],
)
def test_a_log_that_no_engine_speaks_in_is_of_neither(text: str) -> None:
    assert last(text).engine is None


@pytest.mark.parametrize(("log", "engine"), [(VLLM, "vllm"), (SGLANG, "sglang")])
def test_what_stands_before_the_first_line_of_an_engine_is_of_that_one(log: str, engine: str) -> None:
    assert {fact.engine for fact in read_log(("exit code 137\n" + log).splitlines()).facts} == {engine}


@pytest.mark.parametrize("before", ["(RayWorkerWrapper pid=123, ip=10.0.0.2) ", "(pid=123) "])
def test_a_process_of_ray_is_killed_as_others_are(before: str) -> None:
    assert last(VLLM + before + "Killed\n").refused == "killed"
