"""A plan as one self-contained page: what to rent, every candidate, and what each costs and gives."""

from __future__ import annotations

import json
from typing import Any

from kvplan.reporting import tables
from kvplan.reporting.cost import money
from kvplan.reporting.figure import COLOURS, SYMBOLS, Axis, Figure, Line, Mark, Rule, Unit
from kvplan.reporting.plan import (
    commands,
    deployment_text,
    instances_texts,
    judged_latencies,
    latency_of,
    plan_csv,
    plan_remarks,
    plan_table,
    plan_verdict,
    sought,
)
from kvplan.reporting.schema.plan import Candidate, Plan
from kvplan.reporting.wording import count, decimal, label, plain, plural, seconds, sentence_list, significant

MAX_LISTED = 100


def render_plan(plan: Plan) -> str:
    """The page of a plan.

    Raises:
        EnvironmentLacks: the installed plotly came without plotly.js.
    """
    from kvplan.reporting.html import page

    embedded = json.dumps(plan.document(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    charts = {
        figure.key: figure for key in judged_latencies(plan) if (figure := _chart(plan, key)) is not None
    }
    return page("listing.html.j2", charts, _content(plan), embedded=embedded, csv=plan_csv(plan))


def _content(plan: Plan) -> dict[str, Any]:
    provenance, notes = plan.provenance, plan_remarks(plan)
    said = plan_verdict(plan)
    varied = tuple(axis.key for axis in plan.axes)
    return {
        "kind": "deployment plan",
        "schema": plan.schema_,
        "whole": "plan.json",
        "stem": "plan",
        "title": f"{said.headline} · kvplan",
        "verdict": said,
        "key_figures": _key_figures(plan),
        "steps": commands(plan),
        "remarks": notes[:MAX_LISTED],
        "remarks_left": max(0, len(notes) - MAX_LISTED),
        "heading": "Candidates",
        "points": plan_table(plan),
        "same": "What is the same for every candidate",
        "assumptions": tables.assumptions_table(plan.assumptions) if plan.assumptions else None,
        "scenario": tables.unvaried_table(plan.scenario, (*varied, *sought(plan), "workload.requests")),
        "files": tables.files_of(provenance),
        "versions": tables.versions_of(provenance),
        "command": plain(provenance.command, 4000),
        "absent": {},
        "charts_first": False,
    }


def _key_figures(plan: Plan) -> list[tuple[str, str, str]]:
    best = plan.answer
    if best is None or best.figures is None:
        return []
    figures, found = best.figures, []
    gpus = count(best.gpus or 0)
    texts = instances_texts(best, best.sizes or [])
    each = [f"{text} of {plural(pool.gpus, 'GPU')}" for text, pool in zip(texts, best.pools, strict=True)]
    found.append(("GPUs", gpus, sentence_list(each)))
    if plan.currency is not None and figures.cost_per_hour is not None:
        tokens = money(figures.cost_per_million_output_tokens, plan.currency)
        found.append(("Cost", money(figures.cost_per_hour, plan.currency), "an hour"))
        found.append(("Cost of tokens", tokens, "per million output tokens"))
    for item in figures.objectives:
        found.append((label(item.name), seconds(item.value_s), f"limit {seconds(item.limit_s)}"))
    found.append(("Output tokens", decimal(figures.output_tokens_per_s), "per second"))
    return found


def _chart(plan: Plan, key: str) -> Figure | None:
    """A latency against the cost, or against the GPUs where nothing has a price; a colour a GPU."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for item in plan.candidates:
        at = _place(item, key)
        if at is not None:
            groups.setdefault(str(item.values.get("gpu", "")), []).append(at)
    seen = [pair for pairs in groups.values() for pair in pairs]
    if len(seen) < 2:
        return None
    priced = plan.currency is not None
    limit = _limit(plan, key)
    rules = () if limit is None else (Rule("y", limit, f"limit {seconds(limit)}"),)
    xs, ys = [x for x, _ in seen], [y for _, y in seen] + [rule.value for rule in rules]
    lines = tuple(
        Line(
            plain(group, 40),
            [x for x, _ in pairs],
            [significant(y) for _, y in pairs],
            index % COLOURS + 1,
            SYMBOLS[index % len(SYMBOLS)],
            joined=False,
        )
        for index, (group, pairs) in enumerate(groups.items())
    )
    name = label(key)
    wide, steep = max(xs) > 8 * min(xs), max(ys) > 8 * min(ys) > 0
    along = f"{plan.currency} an hour" if priced else "GPUs"
    unit: Unit = "count" if priced else "whole"
    x = Axis(f"{along}, log scale" if wide else along, unit, *_ends(xs, log=wide), log=wide)
    y = Axis(f"{name}, log scale" if steep else name, "seconds", *_ends(ys, log=steep), log=steep)
    title = f"{name} against {'cost' if priced else 'GPUs'}"
    best = plan.answer
    at = None if best is None else _place(best, key)
    marks = () if at is None else (Mark(*at, "best", 0, "diamond"),)
    summary = f"Candidates that meet every objective; down and left is better. {_said(best)}"
    return Figure(key.removesuffix("_s"), title, summary.strip(), x, y, lines, rules, marks)


def _limit(plan: Plan, key: str) -> float | None:
    """Of an objective, as candidates were judged by it; a scenario from elsewhere may say anything."""
    judged = (o for item in plan.candidates if item.figures for o in item.figures.objectives)
    return next((objective.limit_s for objective in judged if objective.name == key), None)


def _said(best: Candidate | None) -> str:
    return "" if best is None else f"Best: {deployment_text(best)}."


def _place(item: Candidate, key: str) -> tuple[float, float] | None:
    """Cost and latency of a candidate that meets every objective."""
    figures = item.figures
    if figures is None or item.status != "meets" or item.gpus is None:
        return None
    value = latency_of(item, key)
    cost = item.gpus if figures.cost_per_hour is None else figures.cost_per_hour
    return None if value is None or not cost else (float(cost), float(value))


def _ends(values: list[float], *, log: bool) -> tuple[float, float]:
    return (min(values) / 1.3, max(values) * 1.3) if log else (0.0, max(values) * 1.08)
