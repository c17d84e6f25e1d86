"""A plan in words and rows: the cheapest deployment, what it rests on, and the other candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvplan.reporting.command import command
from kvplan.reporting.cost import amount_text, money
from kvplan.reporting.csv import table_csv
from kvplan.reporting.highest import few_slowest, more_text, objective_text
from kvplan.reporting.markdown import escape, fenced, table_markdown
from kvplan.reporting.schema.plan import Candidate, Plan
from kvplan.reporting.sweep import failure_text, unserved_text, warnings_of
from kvplan.reporting.tables import Table
from kvplan.reporting.verdict import Tone, Verdict
from kvplan.reporting.wording import (
    count,
    label,
    numbers_text,
    plain,
    plural,
    seconds,
    sentence_list,
    setting_text,
)
from kvplan.scenario.figures import FIGURES

MISSES, NONE = "misses", "–"
_ENDED = {"meets": "fewer", MISSES: "more"}
"""What could not be simulated of a candidate with figures."""
_POOLS = {
    "parallel.replicas": "replica",
    "disaggregation.prefill.instances": "prefill instance",
    "disaggregation.decode.instances": "decode instance",
}
"""What an instance of a pool is called, by the field that says how many there are."""


def ranked(plan: Plan) -> list[Candidate]:
    """Those that meet every objective, cheapest first; then those that miss one; then the others."""
    return sorted(plan.candidates, key=Candidate.rank)


def plan_table(plan: Plan, *, without: Sequence[str] = (), axes: bool = True) -> Table:
    """One row a candidate; costs only where there are prices. ``without``: latencies that are left out.

    Without ``axes`` the candidates are numbers, to be looked up in :func:`legend`.
    """
    keys = [axis.key for axis in plan.axes] if axes else []
    priced = plan.currency is not None
    costs = (f"{plan.currency}/h", f"{plan.currency}/M out") if priced else ()
    latencies = [name for name in judged_latencies(plan) if name not in without]
    fields = sought(plan)
    columns = ("", *map(_short, keys), *map(_pool_head, fields), "GPUs", *costs, *map(label, latencies))
    rows = [
        (
            str(item.candidate),
            *(setting_text(item.values[key]) for key in keys),
            *_needs(item, fields),
            *(_costs(item) if priced else ()),
            *(seconds(latency_of(item, name)) for name in latencies),
        )
        for item in ranked(plan)
    ]
    numeric = (0, *range(1 + len(keys), len(columns)))
    return Table("Candidates, cheapest first", columns, tuple(rows), numeric)


def _short(key: str) -> str:
    return plain(key.rpartition(".")[2], 40)


def sought(plan: Plan) -> list[str]:
    """Fields of the sizes that were sought: candidates may be of replicas and of pools."""
    return list(dict.fromkeys(pool.field for item in plan.candidates for pool in item.pools))


def _pool_head(field: str) -> str:
    """``Replicas``, ``Prefill`` or ``Decode``."""
    return _POOLS[field].removesuffix(" instance").capitalize() + ("s" if " " not in _POOLS[field] else "")


def _needs(item: Candidate, fields: Sequence[str]) -> tuple[str, ...]:
    """Instances of every pool, and GPUs; more than so many where even those miss, none where none can do."""
    sizes: dict[str, int] = {} if _hopeless(item) else {pool.field: size for pool, size in item.sized}
    numbers = [*(sizes.get(field) for field in fields), item.gpus if sizes else None]
    more = "> " if item.status == MISSES else ""
    return tuple(NONE if number is None else f"{more}{count(number)}" for number in numbers)


def _hopeless(item: Candidate) -> bool:
    """Whether it turns requests away as too long, which no number of instances changes."""
    return item.figures is not None and item.figures.rejected > 0


def _costs(item: Candidate) -> tuple[str, str]:
    figures = item.figures
    if figures is None or figures.cost_per_hour is None or item.status == MISSES:
        return NONE, NONE
    each = figures.cost_per_million_output_tokens
    return amount_text(figures.cost_per_hour), NONE if each is None else _small(each)


def _small(amount: float) -> str:
    """Costs of tokens differ in the third decimal."""
    return f"{amount:.3f}" if 0.001 <= amount < 10 else amount_text(amount)


def judged_latencies(plan: Plan) -> tuple[str, ...]:
    """The latencies with an objective, and p99 of TTFT and of TPOT where that has none: ``ttft_p99_s``."""
    objectives = (o.name for item in plan.candidates if item.figures for o in item.figures.objectives)
    names = tuple(dict.fromkeys(objectives))
    metrics = {name.partition("_")[0] for name in names}
    return (*names, *(f"{metric}_p99_s" for metric in ("ttft", "tpot") if metric not in metrics))


def loosest_first(plan: Plan) -> list[str]:
    """The judged latencies, those first that no objective limits, and last the one nearest to its limit."""
    shown = next((item.figures for item in ranked(plan) if item.figures), None)
    tight = {} if shown is None else {
        o.name: (o.value_s or 0.0) / o.limit_s if o.limit_s else 1.0 for o in shown.objectives
    }  # fmt: skip
    return sorted(judged_latencies(plan), key=lambda name: tight.get(name, -1.0))


def latency_of(item: Candidate, name: str) -> float | None:
    """One of the judged latencies, in seconds; None where it has none."""
    if item.figures is None:
        return None
    judged = {objective.name: objective.value_s for objective in item.figures.objectives}
    return judged[name] if name in judged else getattr(item.figures, name, None)


def deployment_text(item: Candidate) -> str:
    """``4 x h100-sxm (2 replicas, tp 2)``."""
    others = [
        f"{_short(key)} {setting_text(value)}"
        for key, value in item.values.items()
        if key != "gpu" and value is not None
    ]
    numbers: dict[str | None, int] = {}
    for pool, size in item.sized:
        numbers[pool.gpu] = numbers.get(pool.gpu, 0) + size * pool.gpus
    named = [
        plural(number, "GPU") if gpu is None else f"{count(number)} x {plain(gpu, 40)}"
        for gpu, number in numbers.items()
    ]
    return f"{sentence_list(named)} ({', '.join([*instances_texts(item, item.sizes or []), *others])})"


def instances_texts(item: Candidate, sizes: Sequence[int]) -> list[str]:
    """``2 replicas``, or ``1 prefill instance`` and ``3 decode instances``."""
    return [plural(size, _POOLS[pool.field]) for pool, size in zip(item.pools, sizes, strict=True)]


def _called(item: Candidate) -> str:
    """What it has some number of."""
    return f"{_POOLS[item.pools[0].field].rpartition(' ')[2]}s"


def plan_verdict(plan: Plan) -> Verdict:
    """What to rent, in plain words."""
    best, model = plan.answer, plan.scenario.get("model")
    who = plain(model, 80) if isinstance(model, str) else "The engine"
    varied = sentence_list([_short(axis.key) for axis in plan.axes])
    looked = f"{plural(len(plan.candidates), 'candidate')} ({varied}){_up_to(plan)}"
    if best is None or best.figures is None:
        return Verdict(_of_none(plan, who, looked), (), (), "missed")
    cost = best.figures.cost_per_hour
    rent = "" if cost is None or plan.currency is None else f" for {money(cost, plan.currency)} an hour"
    tone: Tone = "partial" if plan.settled is False or not plan.complete else "met"
    least = "at least " if plan.settled is False else ""
    by = "cheapest" if rent else "fewest GPUs"
    meet = sum(item.status == "meets" for item in plan.candidates)
    among = "" if meet == len(plan.candidates) else f"{meet} that {'do' if meet > 1 else 'does'} among "
    return Verdict(
        f"{who} meets every objective on {least}{deployment_text(best)}{rent}.",
        (
            f"The {by} of {among}{looked}.",
            *(f"{text[:1].upper()}{text[1:]}." for text in _rests_on(plan, best)),
        ),
        (),
        tone,
    )


def _of_none(plan: Plan, who: str, looked: str) -> str:
    """Why there is no answer: one that is no matter of objectives is not said to be one."""
    if not plan.complete:
        return f"{who}: none of {looked} meets every objective before the plan was stopped."
    if all(item.status == "does not fit" for item in plan.candidates):
        return f"{who} fits on none of {looked}."
    if not any(item.figures for item in plan.candidates):
        return f"{who}: none of {looked.removesuffix(_up_to(plan))} could be simulated."
    return f"{who}: none of {looked} meets every objective."


def _up_to(plan: Plan) -> str:
    return f" up to {plural(plan.most_gpus, 'GPU')}"


def _rests_on(plan: Plan, best: Candidate) -> Iterator[str]:
    """The objectives at the answer, and how far the answer moves with the clock."""
    assert best.figures is not None
    if best.figures.objectives:
        yield sentence_list([objective_text(item.model_dump()) for item in best.figures.objectives])
    found = plan.range
    if found is None:
        return
    if found.low == found.high == best.sizes:
        yield f"the same number of {_called(best)} is needed at either end of the clock's band"
        return
    fast, slow = (
        f"more than the {plan.most_gpus:,} GPUs allowed"
        if sizes is None else sentence_list(instances_texts(best, sizes))
        for sizes in (found.low, found.high)
    )  # fmt: skip
    yield f"it takes {fast} at the fast end of the clock's band and {slow} at its slow end"


def plan_remarks(plan: Plan) -> list[str]:
    """What makes the answer doubtful, and what the table does not say of the others."""
    said: dict[str, list[int]] = {}
    for item in plan.candidates:
        for text in _about(item, plan.most_gpus):
            said.setdefault(text, []).append(item.candidate)
    whose = [f"{numbers_text(numbers)}: {text}" for text, numbers in said.items()]
    warned = [(item.candidate, item.warnings) for item in plan.candidates if item.figures]
    return [*_doubts(plan), *whose, *warnings_of(warned, "candidates")]


def _doubts(plan: Plan) -> Iterator[str]:
    best = plan.answer
    if not plan.complete:
        yield "the plan was stopped early: cheaper candidates may not have been tried"
    if best is None or best.figures is None:
        return
    if plan.settled is False:
        yield f"the run is too short to show what its load does; {more_text(plan.requests)} would tell"
    yield from few_slowest(best.figures.model_dump())
    eviction = _set(plan, best, "cache", "eviction") or "lru"
    if None in plan.serve and eviction != "lru":
        if _set(plan, best, "engine", "kind") in (None, "vllm"):
            why = "vLLM evicts least recently used blocks first, in no other order"
        else:
            why = "of this order SGLang's command line, in this version, knows nothing"
        yield f"{why}: no command for {eviction}"
    kinds = {str(item.values.get("gpu")) for item in plan.candidates}
    if plan.currency is None and len(kinds) > 1:
        yield "no prices were given, so GPUs of different kinds count alike: say --price h100-sxm=2.5,..."


def _set(plan: Plan, item: Candidate, part: str, field: str) -> object:
    """What a candidate has for a field of a part of the scenario; None where nothing was said."""
    given = plan.scenario.get(part)
    return item.values.get(f"{part}.{field}", given.get(field) if isinstance(given, dict) else None)


def _about(item: Candidate, most_gpus: int) -> Iterator[str]:
    if item.status == MISSES and item.figures is not None:
        lost = unserved_text(item.figures.model_dump())
        missed = [objective_text(o.model_dump()) for o in item.figures.objectives if not o.passed]
        gpus = f"{plural(item.gpus or 0, 'GPU')} of at most {most_gpus}"
        why = f"misses with any number of {_called(item)}" if _hopeless(item) else f"misses with {gpus}"
        reasons = [*missed, *([lost] if lost else [])]
        yield f"{why}: {sentence_list(reasons)}" if reasons else why
    if item.error is not None:
        fewer, why = _ENDED.get(item.status), failure_text(item.error.model_dump())
        ended = item.status if fewer is None else f"{fewer} {_called(item)} could not be simulated"
        yield why if ended in why else f"{ended}: {why}"
    if item.status == "not run":
        yield "not tried: the plan was interrupted"


def commands(plan: Plan) -> list[tuple[str, str]]:
    """What starts the engines of the best deployment and what simulates it, each with what it is for."""
    best = plan.answer
    if best is None:
        return []
    found = [
        (f"Start each {_POOLS[pool.field]}", plain(line, 4000))
        for pool, line in zip(best.pools, plan.serve, strict=True)
        if line is not None
    ]
    changes: dict[str, object] = {**best.values, **{pool.field: size for pool, size in best.sized}}
    if plan.requests is not None:
        changes["workload.requests"] = plan.requests
    line = command(plan.scenario, "simulate", changes, "--html", "report.html")
    return found if line is None else [*found, ("Simulate all of it, with a report", line)]


def plan_markdown(plan: Plan) -> str:
    """The answer, the candidates and the remarks as GitHub-flavoured Markdown."""
    said = plan_verdict(plan)
    parts = [f"**{escape(said.headline)}**", escape(" ".join(said.detail)), table_markdown(plan_table(plan))]
    notes = [f"- {escape(note)}" for note in plan_remarks(plan)]
    asked = [f"{why}:\n\n```sh\n{fenced(line)}\n```" for why, line in commands(plan)]
    return "\n\n".join([part for part in [*parts, "\n".join(notes), *asked] if part]) + "\n"


def plan_csv(plan: Plan) -> str:
    """One row a candidate, raw numbers in base units."""
    return table_csv(_columns(plan), _rows(plan))


def _columns(plan: Plan) -> list[str]:
    keys = [axis.key for axis in plan.axes]
    sizes = [
        name
        for field in sought(plan)
        for name in (f"gpus_per_{_POOLS[field]}".replace(" ", "_"), f"{_POOLS[field]}s".replace(" ", "_"))
    ]
    return ["candidate", *keys, "status", *sizes, "gpus", "best", *FIGURES, "error"]


def _rows(plan: Plan) -> list[list[object]]:
    fields, rows = sought(plan), list[list[object]]()
    for item in plan.candidates:
        figures = {} if item.figures is None else item.figures.model_dump()
        values = [plain(value) if isinstance(value, str) else value for value in item.values.values()]
        numbers = [figures.get(name) for name in FIGURES]
        error = None if item.error is None else plain(item.error.message)
        best = item.candidate == plan.best
        each: dict[str, int] = {pool.field: pool.gpus for pool in item.pools}
        many: dict[str, int] = {pool.field: size for pool, size in item.sized}
        sizes = [cell for field in fields for cell in (each.get(field), many.get(field))]
        rows.append([item.candidate, *values, item.status, *sizes, item.gpus, best, *numbers, error])
    return rows
