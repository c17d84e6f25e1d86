"""Every GPU and link: within what hardware can be, peaks in the ratios of its architecture, sources named."""

from __future__ import annotations

import pytest

from kvplan.errors import UnknownName
from kvplan.specs.catalog import entries, load_entry, load_gpu, load_link
from kvplan.specs.schema import GpuSpec, LinkSpec

GPUS = [entry for entry in entries("gpu") if entry.origin == "bundled"]
LINKS = [entry for entry in entries("link") if entry.origin == "bundled"]

REQUIRED = {
    "h100-sxm", "h200-sxm", "h100-pcie", "a100-80g", "a100-40g", "l40s", "l4", "rtx-4090", "rtx-3090",
    "rtx-5090", "rtx-pro-6000", "a10g", "a40", "h20", "b200", "b300", "gb200", "gb300", "mi300x", "mi325x",
    "mi350x", "mi355x", "h200-nvl", "h800-sxm", "a800-80g", "a30", "a10", "l20", "rtx-pro-6000-server", "gb10", "vr200",
}  # fmt: skip


def test_the_usual_gpus_are_there() -> None:
    assert {entry.name for entry in GPUS} >= REQUIRED


@pytest.mark.parametrize("entry", GPUS, ids=lambda entry: entry.name)
def test_a_gpu_is_within_what_hardware_can_be(entry: object) -> None:
    gpu = load_entry(entry, GpuSpec)  # type: ignore[arg-type]
    assert 0.85 < gpu.usable_memory_bytes / gpu.memory_bytes < 1.08
    assert 0.19e12 < gpu.bandwidth_bytes_per_s < 25e12
    assert gpu.sm_count is not None
    assert 10 <= gpu.sm_count <= 400
    assert gpu.l2_bytes is not None
    assert 2 << 20 <= gpu.l2_bytes <= 256 << 20
    peaks = {str(name): value for name, value in gpu.peak_flops.items()}
    matrix = peaks.get("bf16", peaks["fp16"])
    assert 15e12 < matrix <= 4000e12
    assert peaks["fp16"] == matrix
    intensity = matrix / gpu.bandwidth_bytes_per_s  # FLOP per byte at which a kernel stops being memory-bound
    assert 30 < intensity < 1000
    if "fp8" in peaks:
        # Rubin's units for fp8 and fp4 grew more than those for 16 bits.
        rubin = gpu.architecture == "rubin"
        assert peaks["fp8"] / matrix == pytest.approx(4.375 if rubin else 2, rel=0.02)
    if "fp4" in peaks:
        # Blackwell Ultra has half as much again, and GeForce cards accumulate fp8 in fp32 at half the rate.
        ultra, geforce = gpu.compute_capability == "10.3", any("GeForce" in alias for alias in gpu.aliases)
        assert peaks["fp4"] / peaks["fp8"] == pytest.approx(3 if ultra else 4 if geforce else 2, rel=0.02)
    joined, note = gpu.interconnect.fabric_gpus, gpu.source.note or ""
    assert (joined in (2, 4)) == ("bridge" in note or gpu.name == "h100-nvl")
    assert (joined == 72) == ("NVL72" in note)
    if gpu.interconnect.nvlink_bytes_per_s is not None:
        assert 50e9 <= gpu.interconnect.nvlink_bytes_per_s <= 1800e9
    assert gpu.source.url.startswith("https://")
    assert gpu.memory_source is not None
    assert gpu.memory_source.grade in ("measured", "estimated")


@pytest.mark.parametrize("entry", LINKS, ids=lambda entry: entry.name)
def test_a_link_is_within_what_links_can_be(entry: object) -> None:
    link = load_entry(entry, LinkSpec)  # type: ignore[arg-type]
    assert 0 < link.latency_s < 1e-2
    assert 1e9 < link.bandwidth_bytes_per_s < 2e12
    assert link.source.note


def test_no_name_means_two_gpus() -> None:
    names = [name.casefold() for entry in GPUS for name in (entry.name, *entry.aliases())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("h100", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H200", "h200-sxm"),
        ("4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_aliases_resolve(alias: str, name: str) -> None:
    assert load_gpu(alias).name == name


def test_an_h100_gives_less_than_its_name_says() -> None:
    assert load_gpu("h100-sxm").usable_memory_bytes == int(79.19 * 2**30)


def test_pcie_halves_with_every_generation() -> None:
    gen5, gen4 = load_link("pcie5"), load_link("pcie4")
    assert gen5.bandwidth_bytes_per_s == 2 * gen4.bandwidth_bytes_per_s == 55e9


@pytest.mark.parametrize("name", ["8xH100", "8 x h100", "h100x8", "H100:8"])
def test_a_number_of_gpus_is_no_part_of_the_name(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        load_gpu(name)
    assert caught.value.hint is not None
    assert "h100" in caught.value.hint
    assert "their number is --tp" in caught.value.hint


def test_an_unknown_gpu_suggests_near_ones() -> None:
    with pytest.raises(UnknownName, match="unknown gpu 'h1000'") as caught:
        load_gpu("h1000")
    assert "h100" in caught.value.suggestions
