"""Where the time of steps goes, as a chart, a table and sentences."""

from __future__ import annotations

from kvplan.reporting.figure import Axis, Figure, Segment
from kvplan.reporting.result import Result
from kvplan.reporting.schema.step_time import StepTime
from kvplan.reporting.tables import Table
from kvplan.reporting.wording import count, percent, plural, seconds, sentence_list, significant

PARTS = {
    "weights": ("Weights", "matrices, experts and small kernels of all layers", 2),
    "decode_attention": ("Decode attention", "over the cache of requests that answer", 1),
    "prefill_attention": ("Prompt attention", "of prompts over themselves and what is cached of them", 3),
    "state": ("State", "recurrent layers", 4),
    "logits": ("Logits", "of the tokens sampled", 6),
    "exchanges": ("Exchanges", "between GPUs", 5),
    "drafts": ("Drafts", "made for the next step to verify", 7),
    "launches": ("Launches", "the GPU waits for the host to launch kernels", 8),
    "engine": ("Engine", "scheduling, sampling, detokenizing", 0),
}
"""Name, meaning and colour of each part; 0 is none."""

BOUNDS = {
    "bandwidth": "memory bandwidth", "compute": "arithmetic", "kernels": "kernels that use little of the GPU",
    "links": "links", "host": "the host",
}  # fmt: skip
"""What time is bound by, in words."""

LEAST = 0.005
"""Share below which a part is not named in a sentence."""


def busy_share(result: Result) -> float | None:
    """Share of the run in which an engine was at work, on average; None where nobody knows."""
    time, whole = result.step_time, result.totals.makespan_s
    if time is None or not whole:
        return None
    return min(1.0, time.busy_s / (time.instances * whole))


def parts_text(time: StepTime) -> str:
    """``weights 69%, decode attention 15% and engine 10%``, largest first."""
    shares = sorted(time.parts.model_dump().items(), key=lambda item: -item[1])
    named = [f"{PARTS[name][0].lower()} {percent(share, 0)}" for name, share in shares if share >= LEAST]
    return sentence_list(named)


def bounds_text(time: StepTime) -> str:
    """``memory bandwidth 86%, the host 10% and arithmetic 4%``, largest first."""
    shares = sorted(time.bound.model_dump().items(), key=lambda item: -item[1])
    named = [f"{BOUNDS[name]} {percent(share, 0)}" for name, share in shares if share >= LEAST]
    return sentence_list(named)


def peaks_text(time: StepTime) -> str:
    """How much of the datasheet's peaks the work uses while an engine is busy."""
    return (
        f"{percent(time.peak_bandwidth, 0)} of the GPU's memory bandwidth and "
        f"{percent(time.peak_compute, 0)} of its peak arithmetic"
    )


def step_time(result: Result) -> Figure | None:
    """The parts of a step as one stacked bar, in per cent of the time in which an engine was busy."""
    time = result.step_time
    if time is None:
        return None
    segments = []
    for name, share in time.parts.model_dump().items():
        title, _, colour = PARTS[name]
        if share > 0:
            shown = percent(share)
            segments.append(Segment(title, significant(100 * share), colour, shown, quiet=not colour))
    whose = "Replicas were at work" if time.instances > 1 else "The engine was at work"
    summary = (
        f"{whose} {percent(busy_share(result))} of the time. What binds that time: {bounds_text(time)}. "
        f"It uses {peaks_text(time)}."
    )
    return Figure(
        "step_time", "Where the time of steps goes", summary, Axis("%", "whole", 0, 100),
        Axis("", "count", 0, 1), segments=tuple(segments),
    )  # fmt: skip


def step_time_table(result: Result) -> Table | None:
    """Share and seconds of every part; ``None`` where nobody knows."""
    time = result.step_time
    if time is None:
        return None
    rows = [
        (PARTS[name][0], percent(share), seconds(share * time.busy_s), PARTS[name][1])
        for name, share in time.parts.model_dump().items()
        if share > 0
    ]
    some = time.sampled_steps < result.totals.steps
    of = f"a sample of {count(time.sampled_steps)} of" if some else "all"
    caption = f"Parts of the busy time, from {of} {plural(result.totals.steps, 'step')}"
    return Table(caption, ("Part", "Share", "Time", "What"), tuple(rows), (1, 2))
