"""What a sweep says in a sentence: how many points meet the objectives, or what a search found."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.reporting.highest import REQUESTS, highest_sentence
from kvplan.reporting.schema.sweep import Highest, Sweep
from kvplan.reporting.sweep_figures import done_points, is_numeric, limit_of, values_text
from kvplan.reporting.verdict import Tone, Verdict
from kvplan.reporting.wording import label, plain, plural, seconds, sentence_list


def subject(sweep: Sweep) -> str:
    """``llama-3.1-8b on h100-sxm``, as far as it is the same at every point."""
    scenario = sweep.scenario or {}
    varied = {axis.key for axis in sweep.axes}
    model, gpu = (scenario.get(key) if key not in varied else None for key in ("model", "gpu"))
    name = (
        plain(model, 80)
        if isinstance(model, str)
        else "Several models"
        if "model" in varied
        else "The engine"
    )
    return f"{name} on {plain(gpu, 60)}" if isinstance(gpu, str) else name


def sweep_verdict(sweep: Sweep) -> Verdict:
    """What the sweep says, in plain words."""
    done, number = done_points(sweep), len(sweep.points)
    judged = [(point, figures) for point, figures in done if figures.slo_met is not None]
    met = [point for point, figures in judged if figures.slo_met and figures.served]
    tone: Tone = "neutral"
    if sweep.highest is not None:
        headline = f"{subject(sweep)}: {highest_sentence(sweep.document())}."
        tone = _tone(sweep.highest)
    elif not done:
        headline, tone = f"None of the {plural(number, 'point')} could be simulated.", "missed"
    elif judged:
        points = plural(number, "point")
        who = f"All {points}" if len(met) == number else f"{len(met) or 'None'} of the {points}"
        headline = f"{who} of {subject(sweep)} meet every objective."
        if number == 1:
            headline = f"The one point of {subject(sweep)} {'meets' if met else 'misses'} its objectives."
        tone = "met" if len(met) == number else "partial" if met else "missed"
    else:
        spread = _spread([figures.ttft_p99_s for _, figures in done])
        headline = f"{subject(sweep)} at {plural(number, 'point')}" + (
            f": TTFT p99 {spread}." if spread else "."
        )
    axes = [f"{plain(a.key, 80)} ({values_text(a.values)})" for a in sweep.axes]
    detail = [f"Varied: {sentence_list(axes)}." if sweep.highest is None else _searched(sweep, sweep.highest)]
    if sweep.highest is None and judged and 0 < len(met) <= 12 and len(met) < number:
        said = "point" if len(met) == 1 else "points"
        detail.append(f"Every objective is met by {said} {sentence_list([str(p.point) for p in met])}.")
    if judged and (limits := _objectives(sweep)):
        said = "The objectives are" if len(limits) > 1 else "The objective is"
        detail.append(f"{said} {sentence_list(limits)}.")
    if sweep.highest is not None and sweep.highest.passed is not None:
        detail.append("The figures below are those at the answer.")
    elif judged and met:
        detail.append("The figures below are the best among points that meet them.")
    missing = number - len(done)
    if missing:
        detail.append(f"{plural(missing, 'point')} {'has' if missing == 1 else 'have'} no figures.")
    if not sweep.complete:
        detail.append("The sweep was stopped early.")
    return Verdict(headline, tuple(detail), (), tone)


def _searched(sweep: Sweep, found: Highest) -> str:
    """Where the answer was looked for, in how many runs and of how many requests."""
    tried = [value for axis in sweep.axes if axis.key == found.key for value in axis.values]
    lengths = [value for axis in sweep.axes if axis.key == REQUESTS != found.key for value in axis.values]
    said = f"Searched: {plain(found.key, 80)} in {plural(len(sweep.points), 'run')}"
    if is_numeric(tried):
        said += f", from {min(tried):g} to {max(tried):g}"
    if is_numeric(lengths):
        said += f"; the runs have {min(lengths):,} to {max(lengths):,} requests"
    return f"{said}."


def _objectives(sweep: Sweep) -> list[str]:
    """What every point was judged by, where it is the same for all."""
    slo = (sweep.scenario or {}).get("slo")
    limits = {key: limit_of(sweep, key) for key in (slo if isinstance(slo, dict) else ())}
    return [f"{label(key)} within {seconds(limit)}" for key, limit in limits.items() if limit is not None]


def _tone(found: Highest) -> Tone:
    """Met without reserve only where nothing that was looked at fails, even with the clock at its slowest."""
    if found.passed is None:
        return "missed"
    if found.settled is False:
        return "partial"
    if found.range is None:
        return "met"
    return "met" if found.missed is None and found.range.low == found.passed else "neutral"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = seconds(min(known)), seconds(max(known))
    return low if low == high else f"from {low} to {high}"
