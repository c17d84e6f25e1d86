"""What would make it fit, or fit more: one change at a time, each computed by planning again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kvplan.errors import UsageError
from kvplan.sizing.capacity import FitReport, fit_model, gpus_needed
from kvplan.sizing.serving import Serving
from kvplan.units import format_tokens

MOST_UTILIZATION = 0.95
"""Highest share of memory suggested: beyond it captured graphs and fragmentation have no room."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change, the flag or option that makes it, and what the plan becomes."""

    change: str
    option: str
    report: FitReport

    @property
    def fits(self) -> bool:
        """Whether the change alone is enough."""
        return self.report.fits


def plan_again(report: FitReport, **changes: Any) -> FitReport:
    """The same question with other options (those of ``fit_model``)."""
    return fit_model(report.model, report.gpu, **(_options(report) | changes))


def _options(report: FitReport) -> dict[str, Any]:
    serving: Serving = report.serving
    return {
        "max_model_len": report.max_model_len,
        "parallel": report.parallel,
        "kv_dtype": report.kv_format,
        "weights_dtype": None
        if report.weights_format == report.model.weights.format
        else report.weights_format,
        "engine": serving.kind,
        "version": serving.version_text,
        "utilization": serving.utilization,
        "max_num_batched_tokens": serving.max_num_batched_tokens,
        "max_num_seqs": serving.max_num_seqs,
        "block_size": serving.block_size,
        "cuda_graphs": serving.cuda_graphs,
        "async_scheduling": serving.async_scheduling,
        "expert_parallel": report.expert_parallel,
        "draft": report.draft,
        "drafter": report.drafter,
    }


def remedies(report: FitReport) -> list[Remedy]:
    """Single changes that raise the concurrency, in order of how little they cost; none is guessed."""
    found = []
    for change, option, options in _candidates(report):
        try:
            after = plan_again(report, **options)
        except UsageError:
            continue
        if "utilization" in options and after.binding.bill.headroom_bytes < 0:
            continue  # graphs and activations outside the budget would not have their place
        if after.max_concurrency > report.max_concurrency or (after.fits and not report.fits):
            found.append(Remedy(change, option, after))
    if not report.fits and not any(remedy.fits for remedy in found):
        found += _more_gpus(report)
    return found


def _more_gpus(report: FitReport) -> list[Remedy]:
    """Tensor and pipeline parallelism together, where no single change is enough."""
    options = {name: value for name, value in _options(report).items() if name != "parallel"}
    after = gpus_needed(report.model, report.gpu, **options)
    if after is None:
        return []
    tp, pp = after.parallel.tp, after.parallel.pp
    return [Remedy(f"{after.parallel.gpus} GPUs", f"--tp {tp} --pp {pp}", after)]


def _candidates(report: FitReport) -> Iterator[tuple[str, str, dict[str, Any]]]:
    serving, parallel = report.serving, report.parallel
    shorter = report.longest_context()
    if not report.fits and shorter:
        block = report.block_size
        rounded = max(shorter // block * block, min(shorter, block))
        yield f"a context of {format_tokens(rounded)}", f"--ctx {rounded}", {"max_model_len": rounded}
    if serving.utilization < MOST_UTILIZATION:
        yield (
            f"utilization {MOST_UTILIZATION}", f"--utilization {MOST_UTILIZATION}",
            {"utilization": MOST_UTILIZATION},
        )  # fmt: skip
    if serving.kind == "vllm" and serving.max_num_seqs > 256:
        yield "256 sequences at a time", "--max-num-seqs 256", {"max_num_seqs": 256}
    if report.kv_format.bits > 8:
        yield "fp8 KV cache", "--dtype fp8", {"kv_dtype": "fp8"}
    for weights in ("fp8", "int4"):
        if _bits(weights) < _bits_of(report):
            yield f"{weights} checkpoint", f"--weights-dtype {weights}", {"weights_dtype": weights}
    if parallel.pp == 1:
        for tp in (2, 4, 8):
            if tp > parallel.tp:
                more = replace(parallel, tp=tp)
                yield f"tp {tp}: {tp} GPUs", f"--tp {tp}", {"parallel": more}


def _bits(name: str) -> int:
    from kvplan.sizing.weight_formats import weight_format

    return weight_format(name).bits


def _bits_of(report: FitReport) -> int:
    return _bits(report.weights_format)
