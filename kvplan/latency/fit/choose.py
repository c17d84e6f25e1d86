"""Which structure fits which family of measurements, on which hardware."""

from __future__ import annotations

from kvplan.errors import DataError, SpecError
from kvplan.latency.fit.collective import AllReduce
from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.fixed_splits import FixedSplits
from kvplan.latency.fit.gemm import Gemm
from kvplan.latency.fit.prefill import PrefillAttention
from kvplan.latency.fit.structure import Hardware, Structure
from kvplan.latency.fit.tables import Family
from kvplan.specs.schema import GpuSpec


def hardware_of(gpu: GpuSpec, compute: str = "bf16") -> Hardware:
    """The facts a structure needs.

    Raises:
        SpecError: the spec lacks the number of multiprocessors, the L2 size or the peak.
    """
    peaks = dict(gpu.peak_flops)
    peak = next((value for name, value in peaks.items() if name == compute), None)
    peak = peak or next((value for name, value in peaks.items() if name in ("bf16", "fp16")), None)
    facts = {"sm_count": gpu.sm_count, "l2_bytes": gpu.l2_bytes, "peak_flops.bf16": peak}
    for name, value in facts.items():
        if value is None:
            raise SpecError(
                f"fitting kernels on {gpu.name} needs {name}", where=f"gpus/{gpu.name}: {name}",
                hint="add it to the GPU spec",
            )  # fmt: skip
    assert gpu.sm_count is not None
    assert gpu.l2_bytes is not None
    assert peak is not None
    return Hardware(gpu.name, gpu.sm_count, gpu.bandwidth_bytes_per_s, float(gpu.l2_bytes), peak)


def structures_for(family: Family, gpu: GpuSpec) -> tuple[Structure, ...]:
    """What may describe a family: ways in which kernels of its op are launched, the usual one first."""
    if family.op in ("generation_attention", "mla_generation"):
        return (DecodeAttention(hardware_of(gpu)), FixedSplits(hardware_of(gpu)))
    return (_only_structure(family, gpu),)


def _only_structure(family: Family, gpu: GpuSpec) -> Structure:
    if family.op in ("context_attention", "mla_context"):
        return PrefillAttention(hardware_of(gpu))
    if family.op == "gemm":
        narrow = family.labels.get("gemm_dtype", "").startswith("fp8")
        return Gemm(hardware_of(gpu, "fp8" if narrow else "bf16"), 1.0 if narrow else 2.0)
    if family.op == "all_reduce":
        rate = gpu.interconnect.nvlink_bytes_per_s or gpu.interconnect.pcie_bytes_per_s
        if rate is None:
            raise SpecError(f"{gpu.name} has no link between GPUs", where=f"gpus/{gpu.name}: interconnect")
        return AllReduce(rate)
    raise DataError(f"no structure fits measurements of {family.op!r}")
