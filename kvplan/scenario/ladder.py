"""The ladder beside a simulation: is it the policy or the capacity that holds its hit ratio back?"""

from __future__ import annotations

from kvplan.engine.cache_replay import collect
from kvplan.engine.config import EngineConfig
from kvplan.engine.frontend import rejection
from kvplan.engine.instance import one_full_group
from kvplan.engine.ladder import Ladder, climb
from kvplan.engine.recorder import Metric
from kvplan.engine.replacement.catalog import OPTIMUM
from kvplan.errors import UsageError
from kvplan.scenario.run import Run
from kvplan.scenario.workload import open_workload

SECTION = "ladder"


def check_ladder(run: Run) -> EngineConfig:
    """Refuse before anything is simulated what has no ladder.

    Raises:
        UsageError: the cache is no cache of blocks, there are several, or its content is not known.
    """
    config, part = run.deployment.config, run.scenario.workload
    where = "--ladder"
    if not isinstance(config, EngineConfig) or not config.enable_prefix_caching:
        raise UsageError(
            "the ladder is one of a cache of hashed blocks", where=where, hint="cache.prefix: hash"
        )
    if not one_full_group(config):
        raise UsageError("the ladder is one of a pool with one group of full attention", where=where)
    if len(run.system.instances) != 1:
        raise UsageError(
            "the ladder is one of a single cache, and this deployment has several", where=where,
            hint="leave --ladder out, or simulate one replica",
        )  # fmt: skip
    if part.gives_up:
        raise UsageError(
            "the ladder is one of requests that are all served, once", where=where,
            hint="leave out workload.timeout_s and workload.first_token_timeout_s",
        )  # fmt: skip
    if part.reads_once:
        raise UsageError(
            "the ladder reads the trace a second time, and standard input or a pipe can be read once",
            where=where,
            hint="save the trace to a file",
        )
    if run.workload.trace is not None and not run.workload.trace.reuse_known:
        raise UsageError(
            "the trace does not say what its prompts contain: it has no ladder",
            where=where,
            hint="use a trace with block ids or token ids (kvplan trace formats), or a synthetic workload",
        )
    return config


def add_ladder(run: Run) -> None:
    """Climb the ladder of a finished run's prompts at its capacity; the result then has it as a section.

    Raises:
        UsageError: as :func:`check_ladder`, or the workload is too long to be kept in memory.
    """
    config, totals = check_ladder(run), run.recorder.totals
    asked = open_workload(run.scenario.workload, run.scenario.seed).requests()
    # Who is turned away reaches no cache.
    requests = (request for request in asked if rejection(request, config) is None)
    (ladder,) = climb(collect(requests, config.block_size), [config.usable_blocks])
    simulated = totals.hit_tokens / totals.queried_tokens if totals.queried_tokens else 0.0
    run.recorder.sections[SECTION] = ladder_metrics(ladder, config.eviction, simulated)


def ladder_metrics(ladder: Ladder, eviction: str, simulated: float) -> list[Metric]:
    """The rungs, from the top; ratios are of prompt tokens, as the result's own hit ratio is."""
    alone = "one request at a time, answers not cached"
    bound = ladder.bound_tokens / ladder.input_tokens if ladder.input_tokens else 0.0
    best = ladder.best_online
    rungs = [
        Metric("content_bound", bound, "1", f"asked for before: a cache without limit, {alone}"),
        Metric("optimum", ladder.token_ratio(OPTIMUM), "1", "the best at this capacity, knowing the future"),
        Metric("best_online", ladder.token_ratio(best), "1", f"{best}, the best policy that can be built"),
    ]
    rungs += [
        Metric(policy, ladder.token_ratio(policy), "1", note)
        for policy, note in {"lru": "vLLM's own policy", eviction: "the policy simulated"}.items()
        if policy not in (best, OPTIMUM)
    ]
    return [
        *rungs,
        Metric("simulated", simulated, "1",
               "this run: requests share the pool with what is running, and answers are cached"),
        Metric("verdict", ladder.verdict, "", ladder.sentence),
    ]  # fmt: skip
