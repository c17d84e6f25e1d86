"""Logs that explain-log does not read are refused with what they are and what it reads; hostile ones are bounded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kvplan.cli.app import run

OTHERS = {
    "TensorRT-LLM": (
        "[TensorRT-LLM] TensorRT-LLM version: 1.0.0\n"
        "[TensorRT-LLM][INFO] [MemUsageChange] Allocated 44.38 GiB for max tokens in paged KV cache (363520).\n"
        "[10/12/2026-09:00:00] [TRT-LLM] [I] Estimated max memory in KV cache : 61.21 GiB\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    ),
    "LMDeploy": (
        "2026-10-12 09:00:00,123 - lmdeploy - INFO - turbomind.py:220 - turbomind model config: {}\n"
        "[TM][INFO] [BlockManager] block_size = 2 MB\n[TM][INFO] [BlockManager] max_block_count = 14335\n"
    ),
    "llama.cpp": (
        "ggml_cuda_init: found 1 CUDA devices:\nllama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB\n"
        "llama_kv_cache: size = 1024.00 MiB (  8192 cells,  32 layers,  1/1 seqs), K (f16):  512.00 MiB\n"
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 512.00 MiB on device 0: CUDA error: out of memory\n"
    ),
    "Ollama": 'time=2026-10-12T09:00:00.000Z level=INFO source=server.go:630 msg="llama runner started in 1.51 seconds"\n',
    "Text Generation Inference": (
        "2026-10-12T09:00:00.000000Z  INFO text_generation_launcher: Args { model_id: }\n"
        "2026-10-12T09:00:09.000000Z  INFO text_generation_launcher: KV-cache blocks: 363520, size: 1\n"
    ),
    "MLC LLM": "[2026-10-12 09:00:00] INFO engine_base.py:190: mlc_llm estimated KV cache 10.4 GB\n",
}


def said(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["explain-log", str(path)]) == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", OTHERS)
def test_another_engine_s_log_is_called_that(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start.log"
    path.write_text(OTHERS[name])
    error = said(path, capsys)
    assert f"this is a log of {name}" in error
    assert "vLLM and SGLang" in error


@pytest.mark.parametrize(
    ("line", "engine"),
    [
        (
            ("INFO 10-12 09:00:00 [loggers.py:123] Engine 000: Avg prompt throughput: 1.0 tokens/s, Avg generation "
            "throughput: 2.0 tokens/s, Running: 1 reqs, Waiting: 0 reqs, GPU KV cache usage: 0.1%"),
            "vLLM",
        ),
        ("[2026-10-12 09:00:00 TP0] Decode batch. #running-req: 1, #token: 20, token usage: 0.00", "SGLang"),
    ],
)  # fmt: skip
def test_a_server_at_work_says_nothing_of_its_start(
    line: str, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    path.write_text((line + "\n") * 9)
    error = said(path, capsys)
    assert f"a log of {engine} at work" in error
    assert "from its beginning" in error


def test_an_engine_that_another_serves_is_read(tmp_path: Path) -> None:
    path = tmp_path / "start.log"
    path.write_text(OTHERS["TensorRT-LLM"] + "INFO Available KV cache memory: 54.58 GiB\n")
    assert run(["explain-log", str(path)]) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 999, b"\xff\xfe\x00", b"(" * 4_000_000,
        b"Capture" * 600_000, b'{"log": ' * 500_000, b"graph end." * 400_000, b"{'a_config': {" * 300_000,
        b"[" + b"DP0 " * 900_000 + b"]", b"Load weight end." * 250_000, b"\x1b[" * 2_000_000, b"_config: (" * 400_000,
    ],
    ids=["binary", "half a character", "brackets", "captures", "objects", "ends", "nested", "ranks", "loads",
         "escapes", "configurations"],
)  # fmt: skip
def test_hostile_logs_end_soon(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "start.log"
    path.write_bytes(content)
    begin = time.monotonic()
    assert "understood" in said(path, capsys)
    assert time.monotonic() - begin < 10
