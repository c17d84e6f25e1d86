"""Which structure fits which family of measurements, on which hardware."""

from __future__ import annotations

from kvplan.errors import DataError, SpecError
from kvplan.latency.fit.collective import Collective
from kvplan.latency.fit.decode import DecodeAttention
from kvplan.latency.fit.dispatch import Dispatch
from kvplan.latency.fit.experts import Experts
from kvplan.latency.fit.fixed_splits import FixedSplits
from kvplan.latency.fit.gemm import Gemm
from kvplan.latency.fit.possible import computes_in
from kvplan.latency.fit.prefill import PrefillAttention
from kvplan.latency.fit.structure import Hardware, Structure
from kvplan.latency.fit.tables import Family
from kvplan.latency.table_formats import multiplication
from kvplan.specs.schema import GpuSpec

ROUNDS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
"""How often a tensor goes round the ring."""
LAST_LEVEL_BYTES = {"cdna3": 256.0 * (1 << 20), "cdna4": 256.0 * (1 << 20)}
"""Caches behind the L2: Infinity Cache of AMD's MI300 and MI350 series, from their data sheets."""


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
    cache = max(float(gpu.l2_bytes), LAST_LEVEL_BYTES.get(gpu.architecture or "", 0.0))
    return Hardware(gpu.name, gpu.sm_count, gpu.bandwidth_bytes_per_s, cache, peak)


def structures_for(family: Family, gpu: GpuSpec) -> tuple[Structure, ...]:
    """What may describe a family: ways in which kernels of its op are launched, the usual one first."""
    if family.op in ("generation_attention", "mla_generation", "mla_generation_module"):
        hardware = hardware_of(gpu, computes_in(family, dict(gpu.peak_flops)))
        return (DecodeAttention(hardware), FixedSplits(hardware))
    return (_only_structure(family, gpu),)


def _only_structure(family: Family, gpu: GpuSpec) -> Structure:
    if family.op in ("context_attention", "mla_context", "mla_context_module"):
        return PrefillAttention(hardware_of(gpu, computes_in(family, dict(gpu.peak_flops))))
    if family.op == "gemm":
        form = multiplication(family.labels["gemm_dtype"])
        assert form is not None  # families of unknown formats are not made
        return Gemm(hardware_of(gpu, form.peak), form.weight_bytes, form.input_bytes)
    if family.op == "moe":
        form = multiplication(family.labels["moe_dtype"])
        assert form is not None
        return Experts(hardware_of(gpu, form.peak), form.weight_bytes)
    if family.op in (*ROUNDS, "moe_a2a"):
        rate = gpu.interconnect.nvlink_bytes_per_s or gpu.interconnect.pcie_bytes_per_s
        if rate is None:
            raise SpecError(
                f"{gpu.name} has no link between GPUs", where=f"gpus/{gpu.name}: interconnect",
                hint="add interconnect.pcie_bytes_per_s or nvlink_bytes_per_s to the GPU spec",
            )  # fmt: skip
        return Collective(rate, ROUNDS[family.op]) if family.op in ROUNDS else Dispatch(rate)
    raise DataError(f"no structure fits measurements of {family.op!r}")
