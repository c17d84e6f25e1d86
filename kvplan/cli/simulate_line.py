"""From a plan to its simulation: the ``kvplan simulate`` command that has the same pool."""

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

EAGER = {"vllm": "enforce_eager", "sglang": "disable_cuda_graph"}
"""What a scenario calls running without CUDA graphs: the engine's own words."""

SIMULATED = {
    "vllm": ("context", "window", "chunk", "state", "remainder"),
    "sglang": ("context", "window", "chunk", "state"),
}
"""What layers may keep of a request for the simulated engine to have their pool."""

WORKLOAD = "--synthesize chat"
"""Traffic to begin with; the user's own comes by ``--trace``."""


ACCEPTANCE = 0.7
"""Chance of a draft to be accepted in the printed command: an example, as only the workload's own holds."""


def simulate_line(report: "FitReport", model: str, drafter: str | None = None) -> str | None:
    """The command for this plan, ``None`` where it is not simulated.

    Options left at the engine's defaults are left out: the scenario has the same defaults.

    Args:
        model, drafter: what the user called them.
    """
    if "-" in (model, drafter) or _not_simulated(report):
        return None
    settings = " ".join(f"--set {shlex.quote(text)}" for text in _settings(report, drafter))
    return " ".join(part for part in (" ".join(_flags(report, model)), settings, WORKLOAD) if part)


def _not_simulated(report: "FitReport") -> bool:
    from kvplan.sizing.flags import chunk_splits_pages

    known = SIMULATED[report.serving.kind]
    kept = {reach for reach, _ in _kept(report)}
    if not report.fits or not kept <= set(known) or chunk_splits_pages(report):
        return True
    if drafts(report) and not _drafts_simulated(report):
        return True
    if report.serving.kind == "sglang" and not _pools_of_sglang(report):
        return True
    return report.parallel.dp_attention and not _ranks_in_step(report)


def drafts(report: "FitReport") -> bool:
    """Whether somebody drafts."""
    return report.draft or report.drafter is not None


def _drafts_simulated(report: "FitReport") -> bool:
    """Whether drafts are simulated: of one drafter, and as many as its rules allow."""
    from kvplan.engine.speculation.rules import rules_of
    from kvplan.errors import UsageError
    from kvplan.scenario.speculation import prediction_layers
    from kvplan.sizing.flags import drafts_of, engine_flags

    if report.draft and report.drafter is not None:
        return False
    if engine_flags(report)[report.serving.kind] is None:  # the engine would not draft so
        return False
    serving, tokens = report.serving, drafts_of(report.serving)
    reaches = {reach for reach, _ in _kept(report)}
    if serving.kind == "sglang" and "state" in reaches and reaches & {"window", "chunk"}:
        return False
    try:
        if report.draft:
            modules = prediction_layers(report.model, tokens)
            if serving.kind == "vllm":
                rules_of("mtp", tokens, serving.version, modules=modules)
    except UsageError:
        return False
    return True


def _kept(report: "FitReport") -> set[tuple[str, int | None]]:
    """What layers keep of a request, and of windows and chunks how long they are."""
    stores = [page.store for stage in report.stages for page in stage.pool.pages]
    return {
        ("state", None) if s is None else (s.reach, s.limit if s.reach in ("window", "chunk") else None)
        for s in stores
    }


def _pools_of_sglang(report: "FitReport") -> bool:
    """Whether pools beside the full one are simulated: of windows of one length, of states it knows."""
    from kvplan.sizing.sglang.page import SPARE_STATES
    from kvplan.sizing.sglang.states import caches_states
    from kvplan.specs.schema import CompressedAttention

    kept, model, serving = _kept(report), report.model, report.serving
    beside = kept - {("context", None), ("state", None)}
    if ("context", None) not in kept or len(beside) > 1:
        return False
    if beside and any(isinstance(group.block.attention, CompressedAttention) for group in model.groups()):
        return False
    states = ("state", None) in kept
    return not states or (serving.version >= SPARE_STATES and caches_states(model, serving))


def _ranks_in_step(report: "FitReport") -> bool:
    """Whether data-parallel attention is simulated: of one group of full attention, in one replica."""
    if report.parallel.dp > 1:
        return False
    if report.serving.kind == "sglang":
        pages = report.binding.pool.pages
        return all(page.store is not None and page.store.reach == "context" for page in pages)
    groups = report.binding.pool.layout(report.max_model_len).groups
    return [reach for page in groups if (reach := page.reach[0]) != "remainder"] == ["context"]


def _flags(report: "FitReport", model: str) -> Iterator[str]:
    """The options that ``fit`` and ``simulate`` spell alike, on either engine."""
    serving, parallel = report.serving, report.parallel
    yield f"kvplan simulate --model {shlex.quote(model)} --gpu {report.gpu.name}"
    if serving.kind != "vllm":
        yield f"--engine {serving.kind}"
    for option, size in (("tp", parallel.tp), ("pp", parallel.pp)):
        if size > 1:
            yield f"--{option} {size}"
    if "max_model_len" in serving.given or serving.kind == "vllm" or report.model.max_context is None:
        yield f"--ctx {report.max_model_len}"  # SGLang decides otherwise where it is told its own limit
    if report.kv_asked:
        yield f"--dtype {report.kv_format.name}"
    if report.weights_format != report.model.weights.format:
        yield f"--weights-dtype {report.weights_format}"
    for option in ("utilization", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        if option in serving.given:
            yield f"--{option.replace('_', '-')} {getattr(serving, option)}"


def _settings(report: "FitReport", drafter: str | None) -> Iterator[str]:
    """What only a scenario can say."""
    from kvplan.sizing.flags import drafts_of

    serving, parallel = report.serving, report.parallel
    if drafts(report):
        how = "method: mtp" if drafter is None else f"method: draft_model, model: {json.dumps(drafter)}"
        yield f"speculative={{{how}, tokens: {drafts_of(serving)}, acceptance: {ACCEPTANCE}}}"
    if "version" in serving.given:
        yield f'engine.version="{serving.version_text}"'
    if not serving.cuda_graphs:
        yield f"engine.{EAGER[serving.kind]}=true"
    if serving.kind == "vllm" and serving.prefix_caching is not None:
        yield f"cache.prefix={'hash' if serving.prefix_caching else 'none'}"
    if parallel.dp > 1:
        yield f"parallel.replicas={parallel.dp}"
    if report.expert_parallel:
        yield "parallel.expert_parallel=true"
    if parallel.dp_attention:
        each = parallel.attention_tp == 1
        yield "parallel.dp_attention=true" if each else f"parallel.attention_ranks={parallel.attention_ranks}"
