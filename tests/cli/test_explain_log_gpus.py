"""``kvplan explain-log``: which GPU a log is of, by what it names and by the memory that it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run

LOOKED_FOR = (
    "WARNING Using default MoE config. Config file not found at /a/configs/E=128,N=768,device_name={}.json\n"
)
"""What vLLM says of the kernels that nobody tuned on a GPU."""

SERVED = "INFO non-default args: {'model': 'meta-llama/Llama-3.1-8B-Instruct'}\n"
POOL = "INFO Available KV cache memory: 60.00 GiB\nINFO GPU KV cache size: 491,520 tokens\n"
MEASURED = (
    "INFO Free memory on device ({free}/{total} GiB) on startup. Desired GPU memory utilization is (0.9, 71.27 GiB). "
    "Actual usage is 14.99 GiB for weight, 1.5 GiB for peak activation, 0.1 GiB for non-torch memory, and 0.5 GiB for "
    "CUDAGraph memory\n"
)
SGLANG = (
    "[09:00:00] server_args=ServerArgs(model_path='meta-llama/Llama-3.1-8B-Instruct', tp_size=1)\n"
    "[09:00:10] Load weight begin. avail mem={free} GB\n"
    "[09:00:20] KV Cache is allocated. #tokens: 491520, K size: 30.00 GB, V size: 30.00 GB\n"
)


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(text: str, *arguments: str) -> tuple[dict[str, Any], str]:
        path = tmp_path / "start.log"
        path.write_text(text)
        assert run(["explain-log", str(path), *arguments]) == 0
        shown = capsys.readouterr().out
        assert run(["explain-log", str(path), "--format", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out), " ".join(shown.split())

    return ask


def start(total: float, name: str | None = None) -> str:
    return (
        SERVED
        + POOL
        + MEASURED.format(free=total - 0.5, total=total)
        + (LOOKED_FOR.format(name) if name else "")
    )


@pytest.mark.parametrize(("total_gib", "gpu"), [(79.19, "h100-sxm"), (139.8, "h200-sxm"), (44.39, "l40s")])
def test_of_gpus_with_the_memory_that_a_log_says_the_fastest_is_meant(
    explain: Any, total_gib: float, gpu: str
) -> None:
    found, text = explain(start(total_gib))
    assert (found["gpu"]["name"], found["gpu"]["known_by"]) == (gpu, "memory")
    assert found["gpu"]["alike"]
    assert found["comparison"]["gpu"] == gpu
    assert f"{gpu} (by its memory; or {found['gpu']['alike'][0]}" in text


@pytest.mark.parametrize(
    ("file", "gpu"),
    [
        ("E=128,N=768,device_name=NVIDIA_H20.json", "h20"),
        ("N=1536,K=7168,device_name=NVIDIA_H20,dtype=fp8_w8a8,block_shape=[128,128].json", "h20"),
    ],
)
def test_a_gpu_is_known_by_the_kernels_that_were_looked_up_for_it(explain: Any, file: str, gpu: str) -> None:
    found, text = explain(SERVED + POOL + f"WARNING Config file not found at /a/configs/{file}\n")
    assert found["gpu"] == {"name": gpu, "known_by": "name", "alike": [], "doubt": None}
    assert found["comparison"]["gpu"] == gpu
    assert f"meta-llama/Llama-3.1-8B-Instruct {gpu}" in text


def test_a_log_that_says_nothing_of_its_gpu_is_compared_by_the_usual_one(explain: Any) -> None:
    found, _ = explain(SERVED + POOL + LOOKED_FOR.format("Some_Other_GPU"))
    assert found["gpu"] is None
    assert found["comparison"]["gpu"] == "h100-sxm"


@pytest.mark.parametrize(
    ("total_gib", "name", "gpu", "why"),
    [
        (139.8, "NVIDIA_H100_80GB_HBM3", "h200-sxm", "from the lines of another server"),
        (23.53, "NVIDIA_H20", "rtx-4090", "a part of one (MIG, a partition, a vGPU)"),
    ],
)
def test_a_name_that_the_memory_contradicts_is_not_believed(
    explain: Any, total_gib: float, name: str, gpu: str, why: str
) -> None:
    found, text = explain(start(total_gib, name))
    assert (found["gpu"]["name"], found["gpu"]["known_by"]) == (gpu, "memory")
    assert found["comparison"]["gpu"] == gpu
    assert f"files of tuned kernels name {name}, which has" in text
    assert why in text


@pytest.mark.parametrize(("total_gib", "name"), [(79.32, "NVIDIA_H100_PCIe"), (23.69, "NVIDIA_L4")])
def test_drivers_and_ecc_are_no_contradiction(explain: Any, total_gib: float, name: str) -> None:
    found, _ = explain(start(total_gib, name))
    assert (found["gpu"]["known_by"], found["gpu"]["doubt"]) == ("name", None)


def test_what_was_free_says_how_large_a_gpu_is_at_least(explain: Any) -> None:
    assert explain(SGLANG.format(free=78.61))[0]["gpu"]["name"] == "h100-sxm"
    assert explain(SGLANG.format(free=138.90))[0]["gpu"] == {
        "name": "h200-sxm", "known_by": "free memory", "alike": ["h20-141g", "h200-nvl"], "doubt": None,
    }  # fmt: skip
    found, text = explain(SGLANG.format(free=138.90) + LOOKED_FOR.format("NVIDIA_H100_80GB_HBM3"))
    assert found["gpu"]["name"] == "h200-sxm"
    assert "but 138.90 GiB were free on this one" in text
    # Less may be free than there is.
    found, _ = explain(SGLANG.format(free=38.90) + LOOKED_FOR.format("NVIDIA_H100_80GB_HBM3"))
    assert (found["gpu"]["name"], found["gpu"]["doubt"]) == ("h100-sxm", None)


def test_an_option_is_believed(explain: Any) -> None:
    found, _ = explain(start(139.8, "NVIDIA_H100_80GB_HBM3"), "--gpu", "b200")
    assert found["gpu"] == {"name": "b200", "known_by": "option", "alike": [], "doubt": None}
