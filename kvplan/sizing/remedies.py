"""What would make it fit, or fit more: each change is computed by planning again, none is guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kvplan.errors import UsageError
from kvplan.sizing.capacity import FitReport, fit_model
from kvplan.sizing.flags import no_command
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.serving import Serving
from kvplan.sizing.stages import has_experts
from kvplan.sizing.support import kv_means, weights_means
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.attention import LatentAttention
from kvplan.specs.formats import kv_format
from kvplan.units import format_tokens

MOST_UTILIZATION = 0.95
"""Highest share of memory suggested: beyond it captured graphs and fragmentation have no room."""

HOST = 8
"""GPUs of one host: tensor parallelism is tried within it first."""

MOST_GPUS = 64
"""Where the search for enough GPUs ends."""

Candidate = tuple[str, str, dict[str, Any]]
"""What changes, the options that say so, and the arguments of ``fit_model``."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change, the options that make it when added to the same command, and what the plan becomes."""

    change: str
    option: str
    report: FitReport

    @property
    def fits(self) -> bool:
        """Whether the change alone is enough."""
        return self.report.fits


def plan_again(report: FitReport, **changes: Any) -> FitReport:
    """The same question with other options (those of ``fit_model``); what was left to defaults is again."""
    return fit_model(report.model, report.gpu, **(_options(report) | changes))


def _options(report: FitReport) -> dict[str, Any]:
    serving: Serving = report.serving
    own = report.weights_format == report.model.weights.format
    said = {
        "max_model_len": report.max_model_len,
        "utilization": serving.utilization,
        "max_num_batched_tokens": serving.max_num_batched_tokens,
        "max_num_seqs": serving.max_num_seqs,
        "block_size": serving.block_size,
        "async_scheduling": serving.async_scheduling,
        "prefix_caching": serving.prefix_caching,
    }
    return {
        "parallel": report.parallel,
        "kv_dtype": report.kv_format if report.kv_asked else None,
        "weights_dtype": None if own else report.weights_format,
        "engine": serving.kind,
        "version": serving.version_text,
        "cuda_graphs": serving.cuda_graphs,
        "expert_parallel": report.expert_parallel,
        "draft": report.draft,
        "drafter": report.drafter,
        "lookup": report.lookup,
        "draft_tokens": max(1, serving.decode_tokens - 1),
    } | {name: value for name, value in said.items() if name in serving.given}


def remedies(report: FitReport) -> list[Remedy]:
    """What raises the concurrency, in order of how little it costs: options, formats, then other GPUs.

    Two formats at once are tried where nothing less is enough at this context.
    """
    found = _tried(report, _candidates(report))
    enough = any(way.fits and way.report.max_model_len == report.max_model_len for way in found)
    if not report.fits and not enough:
        found += [way for way in _tried(report, _pairs(report)) if way.fits][:1]
    if report.fits:
        return found + _tried(report, _wider(report))
    return found + _same_gpus(report) + _more_gpus(report)


def _tried(report: FitReport, candidates: Iterable[Candidate]) -> list[Remedy]:
    """Those that are possible and better, and of which the engine refuses no more than it does already."""
    found = []
    refused = no_command(report, report.serving.kind) is not None
    for change, option, options in candidates:
        try:
            after = plan_again(report, **options)
        except UsageError:
            continue
        if "utilization" in options and after.binding.bill.headroom_bytes < 0:
            continue  # graphs and activations outside the budget would not have their place
        if not refused and no_command(after, report.serving.kind) is not None:
            continue
        if after.total_concurrency > report.total_concurrency or (after.fits and not report.fits):
            found.append(Remedy(change, option, after))
    return found


def _candidates(report: FitReport) -> Iterator[Candidate]:
    serving = report.serving
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
    if _latents_are_copied(report):
        tp = report.parallel.tp
        yield (
            "sequences dealt to ranks", f"--tp {tp} --dp-attention --expert-parallel",
            {"parallel": replace(report.parallel, attention_ranks=tp), "expert_parallel": True},
        )  # fmt: skip
    yield from _formats_of_kv(report)
    yield from _formats_of_weights(report)


def _latents_are_copied(report: FitReport) -> bool:
    """Whether every tensor-parallel rank keeps the same latents, and experts could be dealt out instead."""
    parallel = report.parallel
    latent = any(isinstance(group.block.attention, LatentAttention) for group in report.model.groups())
    return (
        latent
        and has_experts(report.model)
        and parallel.tp > 1
        and parallel.pp == 1
        and not parallel.dp_attention
    )


def _formats_of_kv(report: FitReport) -> Iterator[Candidate]:
    serving, narrow = report.serving, kv_format("fp8")
    means = kv_means(report.model, narrow, report.gpu, serving, serving.kind)
    if report.kv_format.bits > narrow.bits and means != "none":
        yield "fp8 KV cache", "--dtype fp8", {"kv_dtype": "fp8"}


def _formats_of_weights(report: FitReport) -> Iterator[Candidate]:
    serving = report.serving
    for name in ("fp8", "int4"):
        narrower = weight_format(name).bits < weight_format(report.weights_format).bits
        if narrower and weights_means(name, report.gpu, serving, serving.kind) != "none":
            yield f"{name} checkpoint", f"--weights-dtype {name}", {"weights_dtype": name}


def _pairs(report: FitReport) -> Iterator[Candidate]:
    for change, option, options in _formats_of_kv(report):
        for also, more, others in _formats_of_weights(report):
            yield f"{change}, {also}", f"{option} {more}", options | others


def _layout(report: FitReport, parallel: Parallel) -> Candidate:
    """Another layout in options that hold whatever the command said before."""
    tp, pp = parallel.tp, parallel.pp
    option = f"--gpus {parallel.gpus} --tp {tp}"
    if pp > 1 or report.parallel.pp > 1:
        option += f" --pp {pp}"
    words = " x ".join(f"{name} {size}" for name, size in (("tp", tp), ("pp", pp)) if size > 1)
    return f"{words or 'tp 1'}: {parallel.gpus} GPUs", option, {"parallel": parallel}


def _wider(report: FitReport) -> Iterator[Candidate]:
    """More tensor parallelism within a host, for as many replicas as there are."""
    for tp in (2, 4, 8):
        if tp > report.parallel.tp:
            yield _layout(report, replace(report.parallel, tp=tp))


def _same_gpus(report: FitReport) -> list[Remedy]:
    """The GPUs there are, divided otherwise: as few pipeline stages as are enough."""
    gpus = report.parallel.gpus
    for pp in range(1, gpus + 1):
        sizes = [tp for tp in range(1, gpus // pp + 1) if gpus % (tp * pp) == 0]
        layouts = [replace(report.parallel, tp=tp, pp=pp, dp=gpus // (tp * pp)) for tp in sizes]
        ways = _tried(report, (_layout(report, one) for one in layouts if one != report.parallel))
        if fitting := [way for way in ways if way.fits]:
            return [max(fitting, key=lambda way: way.report.total_concurrency)]
    return []


def _more_gpus(report: FitReport) -> list[Remedy]:
    """Layouts of one replica on more GPUs that fit: within a host all of them, of hosts the fewest."""
    there = report.parallel.gpus
    one = replace(report.parallel, pp=1, dp=1)
    within = [replace(one, tp=tp) for tp in (2, 4, HOST) if tp > there]
    found = [way for way in _tried(report, (_layout(report, layout) for layout in within)) if way.fits]
    for gpus in range(2 * HOST, MOST_GPUS + 1, HOST):
        if found:
            break
        if gpus > there:
            across = [replace(one, tp=gpus), replace(one, tp=HOST, pp=gpus // HOST)]
            found = [way for way in _tried(report, (_layout(report, it) for it in across)) if way.fits]
    return found
